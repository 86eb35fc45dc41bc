"""Where on a ray to look: an interval of disparity per ray, from what the sweep says about the pixel.

In the spirit of ENeRF (Lin et al. 2022, sec. 3.2); besides, intervals are wider where the sweep is unsure and at edges,
where a pixel's neighbors see something else.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from geometry import RayBundle, RaySamples, TensorStruct
from models.nerf.guided.cost_volume import DepthEstimate
from models.nerf.guided.plane_sweep import DisparityRange

_SPREADS = 2.0
"""Half an interval in standard deviations of the estimate."""


@dataclass(frozen=True)
class Intervals(TensorStruct):
    """Disparity fractions around which a surface is to be found; `shape` is batch rows cols or batch ray."""

    center: Float[Tensor, "*shape"]
    half: Float[Tensor, "*shape"]
    """Half the length, disparity fraction."""

    def at(self, offset: Float[Tensor, "*any_shape count"]) -> Float[Tensor, "*shape count"]:
        """Disparity fractions at offsets from 1 (near end) to -1; intervals that reach beyond far move nearer."""
        return torch.maximum(self.center, self.half)[..., None] + self.half[..., None] * offset


def intervals(
    estimate: DepthEstimate, spacing: Float[Tensor, "batch rows cols"], *, floor: float, ceiling: float
) -> Intervals:
    """Center and twice the spread, plus what the 3x3 neighbors differ by, up to the ceiling where nothing is sure.

    `floor` and `ceiling` of half the length in units of `spacing`, that of the planes of the estimate.
    """
    center = estimate.center.detach()
    differs = torch.maximum(
        F.max_pool2d(center[:, None], 3, 1, 1)[:, 0] - center, center + F.max_pool2d(-center[:, None], 3, 1, 1)[:, 0]
    )
    sure = _SPREADS * estimate.spread.detach() + 0.5 * differs
    half = sure + (1 - estimate.confidence.detach()) * ceiling * spacing
    return Intervals(estimate.center, torch.minimum(torch.maximum(half, floor * spacing), ceiling * spacing))


def fractions(around: Intervals, count: int, jitter: Float[Tensor, "*shape count"] | None = None) -> Tensor:
    """`count` disparity fractions per interval, descending (from near to far), one in each of its equal parts."""
    step = torch.arange(count, device=around.half.device, dtype=around.half.dtype)
    return around.at(1 - 2 * (step + (0.5 if jitter is None else jitter)) / count)


def guided_samples(
    around: Intervals,
    planes: DisparityRange,
    rays: RayBundle,
    count: int,
    jitter: Float[Tensor, "batch ray count"] | None = None,
) -> RaySamples:
    """Samples of equal disparity steps that cover the interval of every ray and nothing else."""
    edge = torch.arange(count + 1, device=around.half.device, dtype=around.half.dtype)
    edges = around.at(1 - 2 * edge / count)
    cos = rays.cos_optical[..., None]
    t_edges = 1 / (planes.inverse_depth(edges) * cos)
    t = 1 / (planes.inverse_depth(fractions(around, count, jitter)) * cos)
    return RaySamples(t, t_edges[..., :-1], t_edges[..., 1:])
