"""Where along a ray the field is evaluated.

A sampler is any function from rays (and what an earlier pass found) to ascending positions; depth-guided sampling
is one more of them.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geometry import RayBundle, RaySamples
from models.nerf.depth_range import FARTHER, NEARER

_INNER_BINS = (0.1, 0.7)
"""Share of the samples of an open ray before the bounds that were opened, and up to their end."""


def stratified_samples(
    rays: RayBundle,
    count: int,
    jitter: Float[Tensor, "*batch ray count"] | None = None,
    *,
    is_open: bool = False,
) -> RaySamples:
    """One position in each of `count` bins between t_near and t_far (Mildenhall et al. 2020, eq. 2).

    `jitter` in [0, 1) places it in its bin; None means the middle. The bins are equal or, on rays of
    `DepthRange.opened`, three fifths of them are, between the bounds that were opened. A tenth lies before them, the
    rest behind, both equal in 1 / t, as parallax tells distances apart (cf. Barron et al. 2022, eq. 11).
    """
    bins = torch.arange(count, device=rays.t_near.device, dtype=rays.t_near.dtype)
    fraction = (bins + (0.5 if jitter is None else jitter)) / count
    near, far = rays.t_near[..., None], rays.t_far[..., None]
    if not is_open:
        return RaySamples.from_positions(near + (far - near) * fraction, rays.t_near, rays.t_far)
    first, last = near / NEARER, far / FARTHER
    low, high = _INNER_BINS
    before = 1 / torch.lerp(1 / near, 1 / first, fraction / low)
    between = torch.lerp(first, last, (fraction - low) / (high - low))
    behind = 1 / torch.lerp(1 / last, 1 / far, (fraction - high) / (1 - high))
    t = torch.where(fraction < low, before, torch.where(fraction < high, between, behind))
    return RaySamples.from_positions(t, rays.t_near, rays.t_far)


def widened(weights: Float[Tensor, "*batch sample"]) -> Float[Tensor, "*batch sample"]:
    """Smoothed upper envelope of the weights, so that a surface between two samples is not missed.

    Barron et al. 2021 (mip-NeRF), eq. 18, with their padding constant 0.01.
    """
    padded = torch.cat([weights[..., :1], weights, weights[..., -1:]], dim=-1)
    upper = torch.maximum(padded[..., :-1], padded[..., 1:])
    return (upper[..., :-1] + upper[..., 1:]) / 2 + 0.01


def importance_positions(
    samples: RaySamples,
    weights: Float[Tensor, "*batch ray sample"],
    count: int,
    jitter: Float[Tensor, "*batch ray count"] | None = None,
) -> Float[Tensor, "*batch ray count"]:
    """Ascending positions distributed like `weights` over the intervals of `samples`, by inverting the CDF.

    Quantiles are stratified; `jitter` in [0, 1) places each in its stratum, None means the middle.
    """
    mass = weights / weights.sum(-1, keepdim=True)
    cdf = torch.cat([torch.zeros_like(mass[..., :1]), torch.cumsum(mass, dim=-1)], dim=-1)
    strata = torch.arange(count, device=weights.device, dtype=weights.dtype)
    offset = torch.full_like(weights[..., :1], 0.5) if jitter is None else jitter
    quantiles = ((strata + offset) / count).expand(*weights.shape[:-1], count).contiguous()
    interval = (torch.searchsorted(cdf, quantiles, right=True) - 1).clamp(0, weights.shape[-1] - 1)
    inside = (quantiles - cdf.gather(-1, interval)) / mass.gather(-1, interval).clamp_min(1e-8)
    starts, deltas = samples.t_starts.gather(-1, interval), samples.deltas.gather(-1, interval)
    return starts + deltas * inside.clamp(0, 1)


def merged(
    samples: RaySamples, extra: Float[Tensor, "*batch ray count"], rays: RayBundle
) -> tuple[RaySamples, Int[Tensor, "*batch ray merged"]]:
    """Union of both sets of positions in ascending order, and the permutation of [samples, extra] that gives it."""
    t, order = torch.sort(torch.cat([samples.t, extra], dim=-1), dim=-1, stable=True)
    return RaySamples.from_positions(t, rays.t_near, rays.t_far), order
