"""Image and depth metrics. Images are RGB in [0, 1]; nothing is rescaled silently."""

import contextlib
import copy
import functools
import io
import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

SSIM_WINDOW = 7
"""Pixels a side: scikit-image's default."""


def psnr(
    prediction: Float[Tensor, "height width 3"],
    truth: Float[Tensor, "height width 3"],
    mask: Bool[Tensor, "height width"] | None = None,
) -> float:
    """Peak signal-to-noise ratio in dB for peak 1, over all pixels or those of the mask (nan when it is empty)."""
    squared = (prediction - truth).double().square()
    error = (squared if mask is None else squared[mask]).mean().item()
    return -10 * math.log10(max(error, 1e-12)) if not math.isnan(error) else math.nan


def ssim(
    prediction: Float[Tensor, "height width 3"], truth: Float[Tensor, "height width 3"], data_range: float = 1.0
) -> float:
    """Structural similarity (Wang et al. 2004, eq. 13) as scikit-image computes it by default, on the images' device.

    Means, sample variances and covariance (divided by n - 1) over a uniform 7x7 window, K1 = 0.01 and K2 = 0.03; the
    mean over all windows that lie in the image and over the three color channels. Images are at least 7 pixels a side.

    `data_range`: the span of values that the constants C = (K * data_range)^2 are for. Images in [0, 1] have 1. With 2,
    which scikit-image assumed for floating-point images up to version 0.19, similarity comes out higher.
    """
    x, y = (image.double().permute(2, 0, 1)[None] for image in (prediction, truth))
    return ssim_map(x, y, data_range).mean().item()


def ssim_map(
    x: Float[Tensor, "batch channel height width"],
    y: Float[Tensor, "batch channel height width"],
    data_range: float = 1.0,
) -> Float[Tensor, "batch channel rows cols"]:
    """Structural similarity of every window that lies in the images, see `ssim`."""
    window = SSIM_WINDOW
    mean_x, mean_y, xx, yy, xy = (F.avg_pool2d(one, window, stride=1) for one in (x, y, x * x, y * y, x * y))
    unbiased = window**2 / (window**2 - 1)
    var_x, var_y, cov = (unbiased * one for one in (xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y))
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    return (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))


@dataclass(frozen=True)
class DepthErrors:
    """Errors of camera-z depth over pixels with known depth, in scene units."""

    mean_abs: float
    accuracy: tuple[float, ...]
    """Share of pixels whose error is below each threshold."""


def depth_errors(
    prediction: Float[Tensor, "height width"],
    truth: Float[Tensor, "height width"],
    mask: Bool[Tensor, "height width"],
    thresholds: tuple[float, ...] = (),
) -> DepthErrors:
    """Compare depth over the mask; all nan when the mask is empty."""
    errors = (prediction - truth)[mask].abs()
    shares = tuple((errors < threshold).float().mean().item() for threshold in thresholds)
    return DepthErrors(errors.mean().item(), shares)


@functools.cache
def lpips_metric(device: torch.device | None = None) -> Any | str:
    """LPIPS with the VGG backbone (Zhang et al. 2018), or one line saying why it is not available; one per device.

    The backbone's weights are downloaded by torchvision on first use; without network put vgg16-397923af.pth into
    `$TORCH_HOME/hub/checkpoints`.
    """
    if device is not None:
        on_cpu = lpips_metric()
        return on_cpu if isinstance(on_cpu, str) or device.type == "cpu" else copy.deepcopy(on_cpu).to(device)
    try:
        # without network the only trace of torch.hub's attempt would be its "Downloading ..." on stdout; the bar of a
        # download that goes on is on stderr
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            import lpips

            return lpips.LPIPS(net="vgg", verbose=False).eval().requires_grad_(False)
    except (ImportError, OSError, RuntimeError) as error:
        return f"unavailable ({type(error).__name__}: {' '.join(str(error).split())[:120]})"


@torch.no_grad()
def lpips_distance(prediction: Float[Tensor, "height width 3"], truth: Float[Tensor, "height width 3"]) -> float | str:
    """LPIPS-VGG of images in [0, 1] (scaled to [-1, 1] here), on the device of `truth`, or why there is none."""
    metric = lpips_metric(truth.device)
    if isinstance(metric, str):
        return metric
    return metric(*(image.to(truth.device).permute(2, 0, 1)[None] * 2 - 1 for image in (prediction, truth))).item()
