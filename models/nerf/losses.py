"""Losses of rendered rays against target pixels."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from geometry import RayBundle
from models.nerf.compositing import RenderOutput

_RELATIVE_WIDTH = 0.01
"""Least width (standard deviation) of the bell around a known depth, as a share of the ray's range."""


def photometric_loss(output: RenderOutput, rgb: Float[Tensor, "batch ray 3"]) -> Float[Tensor, ""]:
    """Mean squared error of colors, summed over the fine and the coarse pass (Mildenhall et al. 2020, eq. 6)."""
    return sum(F.mse_loss(one.rgb, rgb) for one in output.passes)


def termination_loss(output: RenderOutput, rays: RayBundle, depth: Float[Tensor, "batch ray"]) -> Float[Tensor, ""]:
    """Cross entropy between where a ray ends and a narrow bell around its known depth (Deng et al. 2022, eq. 8).

    The bell is as wide as the larger of 1 % of the ray's range and the interval it falls into. Mean over the rays
    whose depth is known.
    """
    samples, known = output.samples, (depth > 0).to(depth)
    t_true = (depth / rays.cos_optical)[..., None]
    width = torch.maximum(_RELATIVE_WIDTH * (rays.t_far - rays.t_near)[..., None], samples.deltas)
    bell = torch.exp(-0.5 * ((samples.t - t_true) / width).square()) * samples.deltas
    bell = bell / bell.sum(-1, keepdim=True).clamp_min(1e-12)
    entropy = -(bell * torch.log(output.weights + 1e-4)).sum(-1)
    return (entropy * known).sum() / known.sum().clamp_min(1)
