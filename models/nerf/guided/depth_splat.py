"""VGGT's depth of the source views carried over into the target view: where its surfaces are, and how sure that is."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from geometry import Cameras, TensorStruct, full_precision
from models.nerf.depth_prior import DepthPrior, surface_points
from models.nerf.guided.depth_fit import ViewFit

_SAME_SURFACE = 0.03
"""Relative difference of inverse depths within which points are taken for one surface."""
BELL_WIDTHS = (0.01, 0.04)
"""Default widths of `depth_evidence`: about one and four planes of a coarse sweep."""
_MIN_WEIGHT = 1e-3
"""Of all points in a pixel together, below which nothing is known there."""


@dataclass(frozen=True)
class SplattedDepth(TensorStruct):
    """Depth of a target view, from points that the source views see."""

    inverse_depth: Float[Tensor, "batch rows cols"]
    """1 / scene unit; 0 where the confidence is 0."""
    spread: Float[Tensor, "batch rows cols"]
    """Standard deviation of the inverse depth, relative to it: large where the views disagree."""
    confidence: Float[Tensor, "batch rows cols"]
    """[0, 1): 0 = no point fell here."""

    def resized(self, rows: int, cols: int) -> "SplattedDepth":
        """At another size; pixels where nothing is known do not mix with others."""
        if (rows, cols) == self.confidence.shape[1:]:
            return self
        weighted = torch.stack([self.inverse_depth, self.spread, torch.ones_like(self.spread)], dim=1)
        weighted = weighted * self.confidence[:, None]
        inverse, spread, confidence = F.interpolate(
            weighted, (rows, cols), mode="bilinear", align_corners=False
        ).unbind(1)
        is_known = confidence > _MIN_WEIGHT
        confidence = torch.where(is_known, confidence, 0.0)
        inverse, spread = (
            torch.where(is_known, one / confidence.clamp_min(_MIN_WEIGHT), 0.0) for one in (inverse, spread)
        )
        return SplattedDepth(inverse, spread, confidence)


@torch.no_grad()
def splat_depth(
    prior: DepthPrior, source: Cameras, target: Cameras, rows: int, cols: int, fit: ViewFit | None = None
) -> SplattedDepth:
    """Points of all source views, weighted by confidence, in rows x cols pixels of the target (one camera per scene).

    Every point counts for the four pixels around it; points more than a few percent behind the nearest point of a
    pixel are hidden by it. `fit` moves the points of each view along its rays.
    """
    points, weight = surface_points(prior, source)
    camera = target.resized(rows, cols)
    if fit is not None:
        points = fit.moved(points, source, target)
    projection = camera.project(points)
    weight = weight * (projection.depth > 0)
    inverse = torch.where(projection.depth > 0, 1 / projection.depth.clamp_min(1e-9), 0.0)
    index, share = _corners(projection.pixels, rows, cols)
    index, share = index.flatten(1), (share * weight[..., None]).flatten(1)
    inverse = inverse[..., None].expand(-1, -1, 4).flatten(1)
    # a single corner of a far splat must not hide what others see well
    nearest = _empty(points, rows, cols).scatter_reduce(1, index, inverse * (share > 0.05), "amax")
    hidden = (nearest.gather(1, index) / inverse.clamp_min(1e-12) - 1) / _SAME_SURFACE
    share = share * torch.exp(-0.5 * hidden.clamp(0, 10).square())
    total, first, second = (
        _empty(points, rows, cols).scatter_add(1, index, share * values)
        for values in (torch.ones_like(inverse), inverse, inverse.square())
    )
    is_known = total > _MIN_WEIGHT
    mean = torch.where(is_known, first / total.clamp_min(_MIN_WEIGHT), 0.0)
    variance = (second / total.clamp_min(_MIN_WEIGHT) - mean.square()).clamp_min(0)
    spread = torch.where(is_known, variance.sqrt() / mean.clamp_min(1e-12), 0.0)
    confidence = torch.where(is_known, total / (1 + total), 0.0)
    return SplattedDepth(*(values.unflatten(1, (rows, cols)) for values in (mean, spread, confidence)))


def depth_evidence(
    splat: SplattedDepth,
    inverse_depth: Float[Tensor, "batch rows cols plane"],
    widths: tuple[float, float] = BELL_WIDTHS,
) -> Float[Tensor, "batch 3 rows cols plane"]:
    """How near planes are to the splatted depth: a narrow and a wide bell times the confidence, and the confidence.

    `widths`: of the bells, relative to the inverse depth; the splat's own spread is added.
    """
    offset = inverse_depth / splat.inverse_depth[..., None].clamp_min(1e-12) - 1
    confidence = splat.confidence[..., None].expand_as(offset)
    bells = [torch.exp(-0.5 * (offset / (base + splat.spread[..., None])).square()) * confidence for base in widths]
    return torch.stack([*bells, confidence], dim=1)


@full_precision
def _corners(
    pixels: Float[Tensor, "batch point 2"], rows: int, cols: int
) -> tuple[Tensor, Float[Tensor, "batch point 4"]]:
    """Flat indices of the four pixels around a position and their bilinear shares; none outside the image."""
    position = torch.nan_to_num(pixels, nan=-1e4).clamp(-1e4, 1e4) - 0.5
    low = position.floor()
    indices, shares = [], []
    for dx in (0, 1):
        for dy in (0, 1):
            x, y = low[..., 0] + dx, low[..., 1] + dy
            share = (1 - (position[..., 0] - x).abs()) * (1 - (position[..., 1] - y).abs())
            inside = (x >= 0) & (x < cols) & (y >= 0) & (y < rows)
            indices.append((y.clamp(0, rows - 1) * cols + x.clamp(0, cols - 1)).long())
            shares.append(share * inside)
    return torch.stack(indices, dim=-1), torch.stack(shares, dim=-1)


def _empty(like: Float[Tensor, "batch point 3"], rows: int, cols: int) -> Float[Tensor, "batch pixel"]:
    return like.new_zeros(len(like), rows * cols)
