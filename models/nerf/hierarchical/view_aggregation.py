"""Order-free fusion of what the source views show of a point."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from models.layers import masked_mean_and_variance, masked_softmax
from models.nerf.hierarchical.point_features import PointFeatures

_VARIANCE_FLOOR = 1e-3
"""Added to variances of features of unit variance before the logarithm."""


class AggregatedPoints(NamedTuple):
    """Points after fusion."""

    fused: Float[Tensor, "batch point fused"]
    per_view: Float[Tensor, "batch view point hidden"]


class ViewAggregation(nn.Module):
    """Mean and variance over the visible views tell whether the views agree; a learned attention pools the rest.

    In the spirit of IBRNet (Wang et al. 2021, sec. 3.2): statistics first, then weights that depend on them. Views
    that do not see a point do not take part; the result does not depend on the order of the views.
    """

    def __init__(self, channels: int, hidden: int, fused: int) -> None:
        super().__init__()
        observed = channels + 3
        self.view_in = nn.Linear(observed + 4, hidden)
        # a Linear on [view, mean, variance], without repeating the statistics for every view
        self.statistics_in = nn.Linear(2 * observed, hidden, bias=False)
        self.view_hidden = nn.Linear(hidden, hidden)
        self.attention = nn.Linear(hidden, 1)
        self.fuse = nn.Linear(2 * hidden + 2 * observed + 1, fused)

    def forward(self, points: PointFeatures) -> AggregatedPoints:
        """Fuse over views."""
        visible = points.visible[..., None]
        observed = torch.cat([points.features, points.colors], dim=-1)
        share = visible / visible.sum(1, keepdim=True).clamp_min(1)
        mean, variance = masked_mean_and_variance(observed, share.to(observed.dtype))
        # views that agree differ from views that nearly agree by orders of magnitude of the variance
        disagreement = torch.log(variance.float() + _VARIANCE_FLOOR).to(mean.dtype) / 4 + 1
        statistics = torch.cat([mean, disagreement], dim=-1)
        hidden = self.view_in(torch.cat([observed, points.direction_offsets], dim=-1))
        hidden = F.relu(hidden + self.statistics_in(statistics)[:, None])
        hidden = F.relu(self.view_hidden(hidden))
        pooled = masked_mean_and_variance(hidden, masked_softmax(self.attention(hidden), visible))
        seen = visible.to(observed.dtype).mean(1)
        return AggregatedPoints(F.relu(self.fuse(torch.cat([*pooled, statistics, seen], dim=-1))), hidden)
