"""Scores of a picture of a view: what `metrics.json` says about the model and about the trivial baselines."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float
from torch import Tensor

from data.novel_view.reference import Reference
from geometry import Views
from models.nerf.vggt_nerf import RenderedImage
from training.metrics import SSIM_WINDOW, depth_errors, lpips_distance, psnr, ssim

_MILLIMETER_THRESHOLDS = (2.0, 10.0, 20.0)
"""Depth errors below which a pixel counts as right; DTU only. Chosen by hand."""
_MVSNERF_RANGE = 2.0
"""The span of values for which MVSNeRF's notebook has SSIM's constants: it names none, and its scikit-image takes the
span of floating-point images to be -1 to 1."""


@dataclass(frozen=True)
class Scores:
    """Of one view, or the mean over views. None = does not apply; a string says why there is no number."""

    psnr: float | None
    """dB over the pixels that count."""
    ssim: float | str | None
    """Over the whole (painted, cropped) image; constants for values in [0, 1], see `training.metrics.ssim`."""
    lpips: float | str | None
    """VGG; over the whole (painted, cropped) image."""
    ssim_mvsnerf: float | str | None = None
    """`ssim` with the constants of MVSNeRF's notebook: higher, and comparable with the numbers it published."""
    depth_abs: float | None = None
    """Mean absolute error over pixels with true depth, scene units."""
    acc_2mm: float | None = None
    """Share of those pixels with an error below 2 mm; DTU only, whose unit is the millimeter."""
    acc_10mm: float | None = None
    acc_20mm: float | None = None
    psnr_object: float | None = None
    """dB over the object's mask alone."""


def score_image(image: Float[Tensor, "full_height full_width 3"], reference: Reference) -> Scores:
    """Scores of a picture without depth; none where no pixel counts."""
    if not reference.has_pixels:
        return Scores(psnr=None, ssim=None, lpips=None)
    shown = reference.shown(image)
    has_object = reference.object_mask is not None
    return Scores(
        psnr=_number(psnr(shown, reference.image, reference.mask)),
        ssim=_ssim(shown, reference.image, 1.0),
        ssim_mvsnerf=_ssim(shown, reference.image, _MVSNERF_RANGE),
        lpips=_number(lpips_distance(shown, reference.image)),
        psnr_object=_number(psnr(shown, reference.image, reference.object_mask)) if has_object else None,
    )


def score_rendering(rendered: RenderedImage, reference: Reference, *, is_millimeter: bool) -> Scores:
    """Scores of a rendered view: those of its colors, and of its depth where the true depth is known."""
    scores = score_image(rendered.rgb, reference)
    if reference.depth is None:
        return scores
    depth = reference.cut(rendered.depth)
    thresholds = _MILLIMETER_THRESHOLDS if is_millimeter else ()
    errors = depth_errors(depth, reference.depth, reference.depth > 0, thresholds)
    shares = [_number(share) for share in errors.accuracy] or [None] * 3
    return replace(
        scores,
        depth_abs=_number(errors.mean_abs),
        acc_2mm=shares[0],
        acc_10mm=shares[1],
        acc_20mm=shares[2],
    )


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """Mean of every score over the views that have it; a reason stands for a score that no view has."""
    return Scores(**{field.name: _mean([getattr(one, field.name) for one in scores]) for field in fields(Scores)})


def nearest_source(source: Views, target: Views) -> Float[Tensor, "height width 3"]:
    """Baseline: the source image whose camera center is nearest (L1), at the target's size, copied.

    Of the sources that are held as the target is, where there are any: an image that lies on its side beside the target
    would be no baseline. `source` and `target` have one leading axis, which is one view for `target`.
    """
    offsets = (source.cameras.centers - target.cameras.centers).abs().sum(-1)
    axes, down = source.cameras.w2c[:, :2, :3], target.cameras.w2c[0, 1, :3]
    across, along = (axes @ down).unbind(-1)
    is_alike = along >= across.abs()
    offsets = torch.where(is_alike | ~is_alike.any(), offsets, torch.inf)
    image = source.images[int(offsets.argmin())]
    if image.shape != target.images.shape[1:]:
        image = torch.nn.functional.interpolate(image[None], target.images.shape[-2:], mode="area")[0]
    return image.permute(1, 2, 0)


def mean_color(source: Views, target: Views) -> Float[Tensor, "height width 3"]:
    """Baseline: the mean color of the source images everywhere; only the size of the target is looked at."""
    color = source.images.mean(dim=(0, 2, 3))
    return color.expand(*target.images.shape[-2:], 3)


def _ssim(
    image: Float[Tensor, "height width 3"], truth: Float[Tensor, "height width 3"], data_range: float
) -> float | str | None:
    height, width = truth.shape[:2]
    if min(height, width) < SSIM_WINDOW:
        return f"unavailable (image of {width}x{height} is smaller than the window of {SSIM_WINDOW})"
    return _number(ssim(image, truth, data_range))


def _number(value: float | str) -> float | str | None:
    """None instead of nan, which JSON does not know."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _mean(values: Sequence[float | str | None]) -> float | str | None:
    numbers = [value for value in values if isinstance(value, float)]
    if numbers:
        return sum(numbers) / len(numbers)
    return next((value for value in values if isinstance(value, str)), None)
