"""Image and depth metrics. Images are RGB in [0, 1]; nothing is rescaled silently."""

import functools
import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from skimage.metrics import structural_similarity
from torch import Tensor


def psnr(
    prediction: Float[Tensor, "height width 3"],
    truth: Float[Tensor, "height width 3"],
    mask: Bool[Tensor, "height width"] | None = None,
) -> float:
    """Peak signal-to-noise ratio in dB for peak 1, over all pixels or those of the mask (nan when it is empty)."""
    squared = (prediction - truth).double().square()
    error = (squared if mask is None else squared[mask]).mean().item()
    return -10 * math.log10(max(error, 1e-12)) if not math.isnan(error) else math.nan


def ssim(prediction: Float[Tensor, "height width 3"], truth: Float[Tensor, "height width 3"]) -> float:
    """Structural similarity (Wang et al. 2004) as scikit-image computes it by default: 7x7 uniform window.

    Images are at least 7 pixels a side.
    """
    pair = prediction.cpu().numpy(), truth.cpu().numpy()
    similarity: Any = structural_similarity(*pair, channel_axis=-1, data_range=1.0)
    return float(similarity)


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
def lpips_metric() -> Any | str:
    """LPIPS with the VGG backbone (Zhang et al. 2018), or one line saying why it is not available.

    The backbone's weights are downloaded by torchvision on first use; without network put vgg16-397923af.pth into
    `$TORCH_HOME/hub/checkpoints`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import lpips

            return lpips.LPIPS(net="vgg", verbose=False).eval()
    except (ImportError, OSError, RuntimeError) as error:
        return f"unavailable ({type(error).__name__}: {' '.join(str(error).split())[:120]})"


def lpips_distance(prediction: Float[Tensor, "height width 3"], truth: Float[Tensor, "height width 3"]) -> float | str:
    """LPIPS-VGG of images in [0, 1] (scaled to [-1, 1] here), or why there is none."""
    metric = lpips_metric()
    if isinstance(metric, str):
        return metric
    with torch.no_grad():
        pair = [image.cpu().permute(2, 0, 1)[None] * 2 - 1 for image in (prediction, truth)]
        return metric(*pair).item()
