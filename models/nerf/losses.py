"""Losses of rendered rays against target pixels."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from models.nerf.compositing import RenderOutput


class Losses(NamedTuple):
    """Unweighted terms, each summed over the fine and the coarse pass."""

    photometric: Float[Tensor, ""]
    depth: Float[Tensor, ""]


def render_losses(
    output: RenderOutput,
    rgb: Float[Tensor, "batch ray 3"],
    depth: Float[Tensor, "batch ray"] | None,
    extent: Float[Tensor, "batch ray"],
) -> Losses:
    """Mean squared colour error, and smooth L1 of depth as a fraction of `extent` = far - near (depth 0 = unknown)."""
    passes = [output] if output.coarse is None else [output, output.coarse]
    photometric = sum(F.mse_loss(one.rgb, rgb) for one in passes)
    if depth is None:
        return Losses(photometric, torch.zeros_like(photometric))
    known = (depth > 0).to(depth)
    errors = [F.smooth_l1_loss(one.depth / extent, depth / extent, beta=0.02, reduction="none") for one in passes]
    return Losses(photometric, sum((error * known).sum() / known.sum().clamp_min(1) for error in errors))
