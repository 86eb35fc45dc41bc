"""Errors of single values, and means over some of them."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

ROBUST_ALPHA, ROBUST_WIDTH = 0.5, 0.05
"""Shape and width of the general robust loss, as upstream; the width in the unit of what is compared."""
CONFIDENCE_ALPHA = 0.2
"""Of -alpha ln c: the best confidence for a loss l is alpha / l (DUSt3R, Wang et al. 2024, eq. 4)."""
KEPT_SHARE = 0.95
"""Of the valid pixels of a real sample, those with the least loss, as upstream."""

Errors = Float[Tensor, "*batch"]


def robust_error(prediction: Float[Tensor, "*batch channel"], truth: Float[Tensor, "*batch channel"]) -> Errors:
    """General robust loss of the length of the difference (Barron 2019, eq. 1) with alpha 1/2 and width 0.05.

    3 ((|d / 0.05|^2 / 1.5 + 1)^(1/4) - 1): a difference of 0.05 costs 3 (1.667^0.25 - 1) = 0.4086.
    """
    squared = ((prediction - truth) / ROBUST_WIDTH).square().sum(-1)
    beta = abs(ROBUST_ALPHA - 2)
    return beta / ROBUST_ALPHA * ((squared / beta + 1) ** (ROBUST_ALPHA / 2) - 1)


def distance(prediction: Float[Tensor, "*batch channel"], truth: Float[Tensor, "*batch channel"]) -> Errors:
    """Length of the difference."""
    return (prediction - truth).norm(dim=-1)


def masked_mean(
    values: Float[Tensor, "*batch"], mask: Bool[Tensor, "*batch"], dims: tuple[int, ...]
) -> Float[Tensor, "*rest"]:
    """Mean over `dims` of the values that are valid; 0 where none is."""
    return torch.where(mask, values, 0.0).sum(dims) / mask.sum(dims).clamp(min=1)


def confident_error(errors: Float[Tensor, "*batch"], confidence: Float[Tensor, "*batch"]) -> Errors:
    """c l - 0.2 ln c: a loss of 0.1 is least, 0.0614, at a confidence of 2."""
    return confidence * errors - CONFIDENCE_ALPHA * confidence.log()


def mean_of_least(
    errors: Float[Tensor, "batch view height width"],
    mask: Bool[Tensor, "batch view height width"],
    keeps_all: Bool[Tensor, " batch"],
) -> Float[Tensor, " view"]:
    """Mean of the valid errors of each view over the batch, without the largest 5 % of each sample.

    Of n valid pixels of a sample the int(0.95 n) with the least error count, all of them where `keeps_all`.
    """
    sorted_errors, counts = sorted_valid(errors, mask)
    kept = torch.where(keeps_all[:, None], counts, (KEPT_SHARE * counts.double()).long())
    is_kept = torch.arange(sorted_errors.shape[-1], device=errors.device) < kept[..., None]
    return masked_mean(sorted_errors, is_kept, (0, 2))


def sorted_valid(
    errors: Float[Tensor, "*batch height width"], mask: Bool[Tensor, "*batch height width"]
) -> tuple[Float[Tensor, "*batch pixel"], Tensor]:
    """Errors in ascending order, valid ones first, and how many are valid."""
    flat_mask = mask.flatten(-2)
    behind = torch.where(flat_mask, errors.flatten(-2), torch.inf)
    order = behind.detach().argsort(dim=-1)
    return torch.where(flat_mask, errors.flatten(-2), 0.0).gather(-1, order), flat_mask.sum(-1)
