"""Where along a ray the field is evaluated.

A sampler is any function from rays (and what an earlier pass found) to ascending positions; depth-guided sampling
is one more of them.
"""

from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geometry import RayBundle, RaySamples

_INNER_BINS = (0.1, 0.7)
"""Share of the samples of an open ray at which its inner part begins and ends."""


def stratified_samples(
    rays: RayBundle, count: int, jitter: Float[Tensor, "*batch ray count"] | None = None
) -> RaySamples:
    """One position in each of `count` equal bins between t_near and t_far (Mildenhall et al. 2020, eq. 2).

    `jitter` in [0, 1) places it in its bin; None means the middle.
    """
    bins = torch.arange(count, device=rays.t_near.device, dtype=rays.t_near.dtype)
    fraction = (bins + (0.5 if jitter is None else jitter)) / count
    t = rays.t_near[..., None] + (rays.t_far - rays.t_near)[..., None] * fraction
    return RaySamples.from_positions(t, rays.t_near, rays.t_far)


def open_samples(
    rays: RayBundle,
    count: int,
    inner: tuple[Float[Tensor, "*batch ray"], Float[Tensor, "*batch ray"]],
    jitter: Float[Tensor, "*batch ray count"] | None = None,
) -> RaySamples:
    """Stratified as `stratified_samples`, in bins that are equal between the two distances `inner` alone.

    Three fifths of the bins lie there. A tenth lies before them, the rest behind, both equal in 1 / t, as what parallax
    can tell apart grows with the distance (Barron et al. 2022, eq. 11).
    """
    starts, ends = (1 / rays.t_near, inner[0], 1 / inner[1]), (1 / inner[0], inner[1], 1 / rays.t_far)
    bins = torch.arange(count, device=rays.t_near.device, dtype=rays.t_near.dtype)
    fraction = ((bins + (0.5 if jitter is None else jitter)) / count).expand(*rays.t_near.shape, count)
    shares = [((fraction - low) / (high - low)) for low, high in pairwise((0, *_INNER_BINS, 1))]
    before, between, behind = (
        start[..., None] + (end - start)[..., None] * share
        for start, end, share in zip(starts, ends, shares, strict=True)
    )
    low, high = _INNER_BINS
    t = torch.where(fraction < low, 1 / before, torch.where(fraction < high, between, 1 / behind))
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
