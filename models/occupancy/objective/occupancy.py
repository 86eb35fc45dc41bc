"""Losses of predicted occupancy, all computed from logits, so that none saturates or overflows.

Binary: logits (batch, step, x, y, z) against 0 / 1 of the same shape. Semantic: logits with a last axis of classes
against class numbers. Sums and means run over the whole batch.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

Logits = Float[Tensor, "*grid"]
Targets = Float[Tensor, "*grid"]

MIN_DYNAMIC_ALPHA, MAX_DYNAMIC_ALPHA = 0.5, 0.999
"""Range of the weight of occupied voxels that follows the share of empty ones."""
_DICE_SMOOTH = 1.0
"""Voxels added to numerator and denominator of the Dice coefficient."""
_LOVASZ_EPSILON = 1e-8
"""Voxels added to the union of the binary Lovasz loss."""
_MIN_RECALLED = 1e-6
"""Probability below which the recall loss does not grow further."""


def focal_loss(
    logits: Logits, target: Targets, *, alpha: float | None, gamma: float, decay: float = 0.0
) -> Float[Tensor, ""]:
    """Mean of a_t (1 - p_t)^gamma (-log p_t) (Lin et al. 2017, eq. 5): a_t is alpha where occupied, else 1 - alpha.

    `alpha` None: the share of empty voxels in the batch, between 0.5 and 0.999. `decay`: step t (the second axis)
    counts exp(-decay t), scaled to a mean of 1.
    """
    if alpha is None:
        share: Tensor | float = (1 - target.mean()).clamp(MIN_DYNAMIC_ALPHA, MAX_DYNAMIC_ALPHA)
    else:
        share = alpha
    signed = torch.where(target > 0, logits, -logits)
    weight = torch.where(target > 0, share, 1 - share)
    # the power of a probability that is exactly 0 would have an infinite gradient for gamma below 1
    losses = weight * torch.exp(gamma * F.logsigmoid(-signed)) * -F.logsigmoid(signed)
    if decay:
        steps = torch.exp(-decay * torch.arange(logits.shape[1], dtype=logits.dtype, device=logits.device))
        losses = losses * (steps / steps.mean()).view(1, -1, *[1] * (logits.ndim - 2))
    return losses.mean()


def dice_loss(logits: Logits, target: Targets) -> Float[Tensor, ""]:
    """1 - (2 sum(p y) + 1) / (sum(p) + sum(y) + 1)."""
    probability = logits.sigmoid()
    overlap = (probability * target).sum()
    return 1 - (2 * overlap + _DICE_SMOOTH) / (probability.sum() + target.sum() + _DICE_SMOOTH)


def mean_match_loss(logits: Logits, target: Targets) -> Float[Tensor, ""]:
    """(mean p - mean y)^2. At 0.8 % occupancy predicting nothing costs 6e-5: it is `dice_loss` that prevents that."""
    return (logits.sigmoid().mean() - target.mean()).square()


def lovasz_loss(logits: Logits, target: Targets) -> Float[Tensor, ""]:
    """Lovasz extension of the Jaccard loss on |y - p| (Berman et al. 2018, eq. 9); without positives the worst one."""
    errors = (target - logits.sigmoid()).abs().flatten()
    if not bool((target > 0).any()):
        return errors.max()
    return _lovasz(errors, target.flatten(), _LOVASZ_EPSILON)


def recall_loss(logits: Logits, target: Targets) -> Float[Tensor, ""]:
    """Mean of -log max(p, 1e-6) over the occupied voxels; 0 without one."""
    occupied = target > 0
    missed = (-F.logsigmoid(logits)).clamp(max=-math.log(_MIN_RECALLED))
    return torch.where(occupied, missed, 0.0).sum() / occupied.sum().clamp(min=1)


def class_loss(
    logits: Float[Tensor, "*grid cls"], labels: Integer[Tensor, "*grid"], weights: Float[Tensor, " cls"] | None = None
) -> Float[Tensor, ""]:
    """Cross-entropy over classes; with `weights` per class their weighted mean."""
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten().long(), weights)


def lovasz_softmax_loss(logits: Float[Tensor, "*grid cls"], labels: Integer[Tensor, "*grid"]) -> Float[Tensor, ""]:
    """Mean over the classes that occur of the Lovasz extension of their Jaccard loss (Berman et al. 2018, eq. 11)."""
    probability = logits.flatten(0, -2).softmax(-1)
    flat = labels.flatten()
    losses = []
    for index in range(logits.shape[-1]):
        is_class = (flat == index).to(probability.dtype)
        if bool(is_class.any()):
            losses.append(_lovasz((is_class - probability[:, index]).abs(), is_class, 0.0))
    return torch.stack(losses).mean()


def _lovasz(errors: Float[Tensor, " voxel"], is_true: Float[Tensor, " voxel"], epsilon: float) -> Float[Tensor, ""]:
    """Errors in descending order times the increments of the Jaccard loss of the voxels so far."""
    errors, order = errors.sort(descending=True)
    is_true = is_true[order]
    total = is_true.sum()
    intersection = total - is_true.cumsum(0)
    union = total + (1 - is_true).cumsum(0)
    jaccard = 1 - intersection / (union + epsilon)
    return (errors * torch.cat([jaccard[:1], jaccard.diff()])).sum()


@dataclass(frozen=True, kw_only=True)
class OccupancyWeights:
    """Weights of the losses of binary occupancy; the defaults are those of the AerialWorld training guide."""

    focal: float = 1.0
    alpha: float | None = 0.99
    """Of the focal loss; None: follows the share of empty voxels."""
    gamma: float = 2.0
    decay: float = 0.0
    """Of the focal loss over the steps."""
    dice: float = 1.0
    mean_match: float = 10.0
    lovasz: float = 0.0
    recall: float = 0.0


REPOSITORY_WEIGHTS = OccupancyWeights(alpha=None, lovasz=1.0, recall=2.0)
"""What VeryLargeWeebModel's trainer adds up unless told otherwise."""


def occupancy_losses(logits: Logits, target: Targets, weights: OccupancyWeights) -> dict[str, Float[Tensor, ""]]:
    """Losses by name, each times its weight; those of weight 0 are not computed."""
    losses = {
        "focal": lambda: focal_loss(logits, target, alpha=weights.alpha, gamma=weights.gamma, decay=weights.decay),
        "dice": lambda: dice_loss(logits, target),
        "mean_match": lambda: mean_match_loss(logits, target),
        "lovasz": lambda: lovasz_loss(logits, target),
        "recall": lambda: recall_loss(logits, target),
    }
    return {name: getattr(weights, name) * loss() for name, loss in losses.items() if getattr(weights, name)}
