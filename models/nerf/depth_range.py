"""Near and far of a view, where they are not the data's.

`--near_far auto`: from the depth that VGGT sees in the source views; `--near_far open`: beyond the data's.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geometry import Cameras, TensorStruct
from models.nerf.depth_prior import DepthPrior, surface_points
from models.vggt.alignment import weighted_quantile

_QUANTILE = 0.005
"""Share of the points that may lie before near, and as many beyond far: outliers of VGGT's depth."""
_MARGIN_OF_EXTENT = 0.15
"""By which share of far - near each end moves outwards."""
_MARGIN_IN_RESIDUALS = 1.5
"""And by how many residuals of the alignment, relative to the depth."""
_MAX_RESIDUAL = 0.15
"""Relative residual above which the views contradict each other; the data set's bounds stay. Chosen by hand."""
_MIN_SHARE = 0.02
"""Of the source views' points, by weight, that must fall into the target view."""
_MIN_TRUST = 0.2
"""See `DepthPrior.trust`; below it the data set's bounds stay."""
_MAX_POINTS_PER_VIEW = 2000
"""Points whose quantiles are taken; chosen for speed."""
NEARER, FARTHER = 0.6, 10.0
"""Open ranges start at so many times the data's near and end at so many times its far."""


@dataclass(frozen=True)
class DepthRange(TensorStruct):
    """Between which depths the rays of a target view are marched."""

    near: Float[Tensor, " batch"]
    """Camera z, scene units, as is `far`."""
    far: Float[Tensor, " batch"]
    is_auto: Bool[Tensor, " batch"]
    """From VGGT's depth; else the bounds of the data set."""

    @classmethod
    def of_data(cls, near: Float[Tensor, " batch"], far: Float[Tensor, " batch"]) -> "DepthRange":
        """The bounds of the data set."""
        return cls(near, far, torch.zeros_like(near, dtype=torch.bool))

    def opened(self) -> "DepthRange":
        """For photographs, of which points are known mostly on what they are about: a table before it, a room behind.

        Ten times as far nothing moves any more between neighboring views.
        """
        return replace(self, near=self.near * NEARER, far=self.far * FARTHER)


@torch.no_grad()
def automatic_range(prior: DepthPrior, source: Cameras, target: Cameras, data: DepthRange) -> DepthRange:
    """Quantiles of the depth that the source views' surfaces have in the target view, widened.

    Each end moves outwards by 15 % of the extent and by 1.5 times the prior's residual (relative to the depth).
    The bounds of the data set stay where the residual is above 0.15 or the trust below 0.2, that is where VGGT's views
    contradict each other or the given cameras, and where the target sees next to nothing of what the sources saw.
    `target` has one camera per scene.
    """
    step = max(1, round((prior.depth[0, 0].numel() / _MAX_POINTS_PER_VIEW) ** 0.5))
    points_world, weight = surface_points(prior, source, step)
    projection = target.project(points_world)
    visible = weight * projection.visible
    low, high = (
        weighted_quantile(projection.depth, visible, fraction).nan_to_num(1.0)
        for fraction in (_QUANTILE, 1 - _QUANTILE)
    )
    margin = _MARGIN_OF_EXTENT * (high - low)
    spread = 1 + _MARGIN_IN_RESIDUALS * prior.residual.clamp_max(_MAX_RESIDUAL)
    near, far = (low - margin).clamp_min(0.3 * low) / spread, (high + margin) * spread
    is_trusted = (prior.residual <= _MAX_RESIDUAL) & (prior.trust > _MIN_TRUST)
    is_auto = is_trusted & (visible.sum(-1) > _MIN_SHARE * weight.sum(-1)) & (far > near)
    return DepthRange(torch.where(is_auto, near, data.near), torch.where(is_auto, far, data.far), is_auto)
