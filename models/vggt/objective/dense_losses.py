"""Loss of a map with confidence against the truth (DUSt3R, eq. 4; docs/vggt.md, "Depth and point losses").

e = |predicted - true|; loss = mean(gamma e conf - alpha ln conf) + mean(e) + a term on neighboring pixels.
Differences from the reference: no neighbor term is `term=None` (there: a TypeError), the term is an enum and not
picked by substrings, and NaN in a prediction makes the loss NaN, so that training can stop, instead of counting 0.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geometry.precision import full_precision
from models.vggt.objective.ground_truth import finite_or_zero
from models.vggt.objective.surface_terms import MAX_ERROR, SurfaceTerm, surface_loss

MIN_VALID_PIXELS = 100
"""In the whole batch; with fewer the losses are zero, as upstream."""
MIN_QUANTILE_VALUES = 1000
"""The quantile filter neither looks at nor leaves so few values, as upstream: they would give a poor quantile."""


@dataclass(frozen=True)
class DenseOptions:
    """How a map is compared with the truth."""

    term: SurfaceTerm | None = SurfaceTerm.GRADIENT
    quantile: float | None = 0.98
    """Errors at or above this quantile are left out; None keeps all."""
    gamma: float = 1.0
    alpha: float = 0.2


class DenseLoss(NamedTuple):
    """Means over the valid pixels of the batch."""

    conf: Float[Tensor, ""]
    """Error weighted by the confidence, minus alpha ln confidence."""
    reg: Float[Tensor, ""]
    """Plain error."""
    surface: Float[Tensor, ""]
    """Gradient or normal term."""

    @property
    def total(self) -> Float[Tensor, ""]:
        """What is minimized."""
        return self.conf + self.reg + self.surface


def depth_loss(
    depth: Float[Tensor, "batch view height width 1"],
    confidence: Float[Tensor, "batch view height width"],
    true_depth: Float[Tensor, "batch view height width"],
    mask: Bool[Tensor, "batch view height width"],
    options: DenseOptions | None = None,
) -> DenseLoss:
    """Loss of depth maps in normalized units; by default with the gradient term."""
    return dense_loss(depth, confidence, true_depth[..., None], mask, options or DenseOptions())


def point_loss(
    points: Float[Tensor, "batch view height width 3"],
    confidence: Float[Tensor, "batch view height width"],
    true_points: Float[Tensor, "batch view height width 3"],
    mask: Bool[Tensor, "batch view height width"],
    options: DenseOptions | None = None,
) -> DenseLoss:
    """Loss of point maps in the first camera's frame, in normalized units; by default with the normal term."""
    return dense_loss(points, confidence, true_points, mask, options or DenseOptions(SurfaceTerm.NORMAL))


@full_precision
def dense_loss(
    predicted: Float[Tensor, "batch view height width channel"],
    confidence: Float[Tensor, "batch view height width"],
    true: Float[Tensor, "batch view height width channel"],
    mask: Bool[Tensor, "batch view height width"],
    options: DenseOptions,
) -> DenseLoss:
    """Three losses in float32; zeros that keep the graph when fewer than `MIN_VALID_PIXELS` are valid.

    conf = mean(gamma e C - alpha ln C), reg = mean(e): an error of 0.25 at confidence 3 costs
    0.75 - 0.2 ln 3 = 0.530 and 0.25.
    """
    predicted, confidence = predicted.float().flatten(0, 1), confidence.float().flatten(0, 1)
    true, mask = finite_or_zero(true.float()).clamp(-MAX_ERROR, MAX_ERROR).flatten(0, 1), mask.flatten(0, 1)
    is_enough = mask.sum() >= MIN_VALID_PIXELS  # not read by the host: it would wait for the device
    mask = mask & is_enough
    predicted, confidence = torch.where(is_enough, predicted, 0.0), torch.where(is_enough, confidence, 1.0)
    error = (true - predicted).norm(dim=-1).clamp(max=MAX_ERROR)
    weighted = (options.gamma * error * confidence - options.alpha * confidence.log()).clamp(-MAX_ERROR, MAX_ERROR)
    surface = error.new_zeros(())
    if options.term is not None:
        surface = surface_loss(
            options.term, predicted, true, confidence, mask, gamma=options.gamma, alpha=options.alpha
        )
    return DenseLoss(_mean(weighted, mask, options.quantile), _mean(error, mask, options.quantile), surface)


def quantile_filter(
    values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], quantile: float
) -> Bool[Tensor, "*shape"]:
    """Where `mask` holds and the value is below the quantile of such values; `mask` if too few of them would remain.

    The quantile is the value of rank round(q (n - 1)), exact for any number of values (the reference draws a random
    million of more than 10^8): of 0.00, 0.01, ..., 24.99 the quantile 0.9 is 22.49. NaN is
    kept: it must reach the loss.
    """
    if mask.numel() <= MIN_QUANTILE_VALUES:
        return mask
    values, last = values.detach(), mask.sum() - 1
    candidates = torch.where(mask, values, -torch.inf).flatten()  # what is masked ranks behind all others
    most = min(mask.numel(), mask.numel() - round(quantile * (mask.numel() - 1)) + 1)  # ranks, if all are valid
    rank = last - (quantile * last.double()).round().long()  # from the largest
    largest = candidates.topk(most).values
    threshold = largest.gather(0, rank.clamp(0, most - 1)[None])[0].clamp(max=MAX_ERROR)
    kept = mask & ~(values >= threshold)
    return torch.where(kept.sum() > MIN_QUANTILE_VALUES, kept, mask)


def _mean(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], quantile: float | None) -> Float[Tensor, ""]:
    """Mean of the values that are valid and not filtered out, without gathering them: indices are slow."""
    if quantile is not None:
        mask = quantile_filter(values, mask, quantile)
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def zero_of(values: Tensor) -> Float[Tensor, ""]:
    """A zero that depends on `values` for autograd, with gradient zero, whatever they are."""
    return values.flatten()[:0].sum()
