"""Scores of a picture of a view: what `metrics.json` says about the model and about the trivial baselines."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geometry import TensorStruct, Views
from models.nerf.vggt_nerf import RenderedImage
from render.protocols import MaskKind, Protocol, mask_of
from training.metrics import depth_errors, lpips_distance, psnr, ssim

_MILLIMETER_THRESHOLDS = (2.0, 10.0, 20.0)
"""Depth errors below which a pixel counts as right; DTU only. Chosen by hand."""
_SSIM_WINDOW = 7
"""Pixels a side: scikit-image's default window."""


@dataclass(frozen=True)
class Scores:
    """Of one view, or the mean over views. None = does not apply; a string says why there is no number."""

    psnr: float | None
    """dB over the pixels that count."""
    ssim: float | str | None
    """Over the whole (painted, cropped) image."""
    lpips: float | str | None
    """VGG; over the whole (painted, cropped) image."""
    depth_abs: float | None = None
    """Mean absolute error over pixels with true depth, scene units."""
    acc_2mm: float | None = None
    """Share of those pixels with an error below 2 mm; DTU only, whose unit is the millimeter."""
    acc_10mm: float | None = None
    acc_20mm: float | None = None
    psnr_object: float | None = None
    """dB over the object's mask alone."""


@dataclass(frozen=True)
class Reference(TensorStruct):
    """The truth of one target as a protocol sees it: painted black where pixels do not count, margins cut off."""

    image: Float[Tensor, "height width 3"]
    mask: Bool[Tensor, "height width"] | None
    """Pixels that count; None = all."""
    mask_kind: MaskKind
    depth: Float[Tensor, "height width"] | None
    """0 = unknown."""
    object_mask: Bool[Tensor, "height width"] | None
    """For `psnr_object`, where the protocol asks for it."""
    margins: tuple[int, int]
    """Rows and columns cut off at each side."""

    def shown(self, image: Float[Tensor, "full_height full_width 3"]) -> Float[Tensor, "height width 3"]:
        """Another picture of the same view, cut and painted alike."""
        cut = _cut(image, self.margins)
        return cut if self.mask is None else cut * self.mask[..., None]


def reference_of(protocol: Protocol, target: Views) -> Reference:
    """What to compare with; the leading axis of `target` is one view."""
    height, width = target.images.shape[-2:]
    margins = int(protocol.crop_margin * height), int(protocol.crop_margin * width)
    mask_kind, mask = mask_of(protocol, target)
    mask = None if mask is None else _cut(mask, margins).cpu()
    image = _cut(target.images[0].permute(1, 2, 0), margins).cpu()
    has_object = protocol.has_object_psnr and target.mask is not None
    return Reference(
        image=image if mask is None else image * mask[..., None],
        mask=mask,
        mask_kind=mask_kind,
        depth=None if target.depth is None else _cut(target.depth[0], margins).cpu(),
        object_mask=_cut(target.mask[0], margins).cpu() if has_object else None,
        margins=margins,
    )


def score_image(image: Float[Tensor, "full_height full_width 3"], reference: Reference) -> Scores:
    """Scores of a picture without depth."""
    shown = reference.shown(image.cpu())
    has_object = reference.object_mask is not None
    return Scores(
        psnr=_number(psnr(shown, reference.image, reference.mask)),
        ssim=_ssim(shown, reference.image),
        lpips=_number(lpips_distance(shown, reference.image)),
        psnr_object=_number(psnr(shown, reference.image, reference.object_mask)) if has_object else None,
    )


def score_rendering(rendered: RenderedImage, reference: Reference, *, is_millimeter: bool) -> Scores:
    """Scores of a rendered view: those of its colors, and of its depth where the true depth is known."""
    scores = score_image(rendered.rgb, reference)
    if reference.depth is None:
        return scores
    depth = _cut(rendered.depth, reference.margins)
    thresholds = _MILLIMETER_THRESHOLDS if is_millimeter else ()
    errors = depth_errors(depth, reference.depth, reference.depth > 0, thresholds)
    shares = [_number(share) for share in errors.accuracy] or [None] * 3
    return Scores(
        psnr=scores.psnr,
        ssim=scores.ssim,
        lpips=scores.lpips,
        depth_abs=_number(errors.mean_abs),
        acc_2mm=shares[0],
        acc_10mm=shares[1],
        acc_20mm=shares[2],
        psnr_object=scores.psnr_object,
    )


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """Mean of every score over the views that have it; a reason stands for a score that no view has."""
    return Scores(**{field.name: _mean([getattr(one, field.name) for one in scores]) for field in fields(Scores)})


def nearest_source(source: Views, target: Views) -> Float[Tensor, "height width 3"]:
    """Baseline: the source image whose camera center is nearest (L1), at the target's size, copied.

    `source` and `target` have one leading axis, which is one view for `target`.
    """
    offsets = (source.cameras.centers - target.cameras.centers).abs().sum(-1)
    image = source.images[int(offsets.argmin())]
    if image.shape != target.images.shape[1:]:
        image = torch.nn.functional.interpolate(image[None], target.images.shape[-2:], mode="area")[0]
    return image.permute(1, 2, 0)


def mean_color(source: Views, target: Views) -> Float[Tensor, "height width 3"]:
    """Baseline: the mean color of the source images everywhere; only the size of the target is looked at."""
    color = source.images.mean(dim=(0, 2, 3))
    return color.expand(*target.images.shape[-2:], 3)


def _cut(image: Tensor, margins: tuple[int, int]) -> Tensor:
    """Without `margins` rows and columns at each side of an image whose first axes are height and width."""
    (rows, cols), (height, width) = margins, image.shape[:2]
    return image[rows : height - rows, cols : width - cols]


def _ssim(image: Float[Tensor, "height width 3"], truth: Float[Tensor, "height width 3"]) -> float | str | None:
    height, width = truth.shape[:2]
    if min(height, width) < _SSIM_WINDOW:
        return f"unavailable (image of {width}x{height} is smaller than the window of {_SSIM_WINDOW})"
    return _number(ssim(image, truth))


def _number(value: float | str) -> float | str | None:
    """None instead of nan, which JSON does not know."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _mean(values: Sequence[float | str | None]) -> float | str | None:
    numbers = [value for value in values if isinstance(value, float)]
    if numbers:
        return sum(numbers) / len(numbers)
    return next((value for value in values if isinstance(value, str)), None)
