"""Loss of point tracks (docs/vggt.md, "Track loss"), which the reference has only as commented-out code.

Its binary cross entropies expect logits while its tracker yields probabilities; here they get the tracker's logits.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from geometry.precision import full_precision
from models.vggt.objective.dense_losses import zero_of

ITERATION_DECAY = 0.8
"""Weight of an iteration over that of the next, as upstream (docs/vggt.md, "Track loss")."""
MIN_TRACK_POINTS = 3
"""With fewer visible points the coordinates do not count, as upstream."""
RIGHT_WITHIN = 3.0
"""Pixels: a prediction closer to the truth is one that the confidence should call right; as upstream."""


class TrackLoss(NamedTuple):
    """Means over the tracks whose point is visible in the first view."""

    coords: Float[Tensor, ""]
    """Pixels, summed over the iterations with their weights, divided by their number."""
    vis: Float[Tensor, ""]
    conf: Float[Tensor, ""]

    @property
    def total(self) -> Float[Tensor, ""]:
        """What is minimized."""
        return self.coords + self.vis + self.conf


@full_precision
def track_loss(
    coords: Float[Tensor, "iteration batch view point 2"],
    vis_logits: Float[Tensor, "batch view point"],
    conf_logits: Float[Tensor, "batch view point"] | None,
    true_coords: Float[Tensor, "batch view point 2"],
    visible: Bool[Tensor, "batch view point"],
) -> TrackLoss:
    """Coordinates where visible; visibility and confidence in every view of a track that starts visible.

    coords = sum_i 0.8^(n-1-i) / n mean |difference| over iterations i = 0..n-1: off by (1, 2) pixels in both of 2
    iterations costs 1.5 (0.8 + 1) / 2 = 1.35. The others are binary cross-entropies, ln 2 for a guess.
    """
    coords, vis_logits = coords.float(), vis_logits.float()
    is_valid = visible[:, :1].expand_as(visible)
    counted = is_valid & visible
    counted = counted & (counted.sum() >= MIN_TRACK_POINTS)
    exponents = torch.arange(len(coords) - 1, -1, -1, device=coords.device)
    weights = ITERATION_DECAY ** exponents.to(coords.dtype)
    errors = torch.where(counted[..., None], coords - true_coords, 0.0).abs().mean(-1)
    coords_loss = (weights * errors.flatten(1).sum(-1)).mean() / counted.sum().clamp(min=1)
    vis = _cross_entropy(vis_logits, visible, is_valid)
    if conf_logits is None:
        return TrackLoss(coords_loss, vis, zero_of(coords))
    is_right = (coords[-1].detach() - true_coords).norm(dim=-1) < RIGHT_WITHIN
    return TrackLoss(coords_loss, vis, _cross_entropy(conf_logits.float(), is_right, is_valid))


def _cross_entropy(logits: Tensor, truth: Tensor, mask: Tensor) -> Float[Tensor, ""]:
    """Mean where `mask` holds, without gathering: the host would wait for the number of values; 0 if nowhere."""
    values = F.binary_cross_entropy_with_logits(torch.where(mask, logits, 0.0), truth.float(), reduction="none")
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)
