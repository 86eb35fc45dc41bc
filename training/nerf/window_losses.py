"""Losses of rendered image windows: what single rays cannot say, such as whether edges are sharp.

Weights are the options `<name>_loss`. All need rays that lie in square windows, see `draw_target_windows`.
"""

from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from geometry import InputError
from training.metrics import lpips_metric, ssim_map

WINDOW_LOSS_NAMES = ("ssim", "gradient", "perceptual")
MIN_WINDOW = 8
"""Pixels a side: one of SSIM's windows, and two of the coarsest gradients."""
_GRADIENT_SCALES = 3
"""1, 1/2 and 1/4 of the window."""


def window_losses(
    rgb: Float[Tensor, "batch ray 3"], truth: Float[Tensor, "batch ray 3"], side: int, wanted: Collection[str]
) -> dict[str, Float[Tensor, ""]]:
    """Unweighted terms by name; rays are windows of side x side pixels, each row by row, unless none is wanted."""
    if not wanted:
        return {}
    rendered, reference = (
        rays.float().reshape(-1, side, side, 3).permute(0, 3, 1, 2).contiguous() for rays in (rgb, truth)
    )
    return {name: _TERMS[name](rendered, reference) for name in wanted}


def ssim_loss(rendered: Float[Tensor, "window 3 side side"], truth: Float[Tensor, "window 3 side side"]) -> Tensor:
    """1 - SSIM (Wang et al. 2004, eq. 13), as `training.metrics.ssim` takes it."""
    return 1 - ssim_map(rendered, truth).mean()


def gradient_loss(rendered: Float[Tensor, "window 3 side side"], truth: Float[Tensor, "window 3 side side"]) -> Tensor:
    """Mean absolute error of horizontal and vertical differences of neighbors, summed over scales.

    On windows of the whole, half and a quarter of the size, as Ranftl et al. (2022, MiDaS, eq. 11) do with depth.
    """
    error = rendered - truth
    total = error.new_zeros(())
    for _ in range(_GRADIENT_SCALES):
        total = total + error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        error = F.avg_pool2d(error, 2)
    return total


def perceptual_loss(
    rendered: Float[Tensor, "window 3 side side"], truth: Float[Tensor, "window 3 side side"]
) -> Tensor:
    """LPIPS with the VGG backbone (Zhang et al. 2018)."""
    return perceptual_network(rendered.device)(rendered.clamp(0, 1) * 2 - 1, truth * 2 - 1).mean()


def perceptual_network(device: torch.device | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """LPIPS-VGG; refuses a loss whose network is not there.

    Raises:
        InputError: naming --perceptual_loss, with the reason.
    """
    metric = lpips_metric(device)
    if isinstance(metric, str):
        raise InputError(f"--perceptual_loss: expected the weights of LPIPS-VGG, got {metric}")
    return metric


_TERMS = {"ssim": ssim_loss, "gradient": gradient_loss, "perceptual": perceptual_loss}
