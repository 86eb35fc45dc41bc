"""VGGT's depth of each source view brought to what the sweep of a target view has found: a scale and a shift per view.

A network's depth is right in its shape before it is right in its unit, and is affine in inverse depth what it is off by
(Ranftl et al. 2020, sec. 5). The sweep knows the unit, as the given cameras do, and not every pixel.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from geometry import Cameras, TensorStruct, full_precision, sample_at_pixels
from models.nerf.depth_prior import DepthPrior, surface_points
from models.nerf.guided.cost_volume import DepthEstimate
from models.nerf.guided.plane_sweep import DisparityRange

_MAX_POINTS = 1 << 14
"""Of each view; two numbers are fitted, and denser maps hold no more about them."""
_ROUNDS = 5
"""Of reweighted least squares."""
_WIDTHS = (0.1, 0.05)
"""Relative differences of inverse depth at which a point counts for a quarter, in the first round and in the last."""
_RIDGE = 1e-3
"""Weight, beside the weighted mean over points, that holds the scale at 1 and the shift at 0.

This and the widths: chosen on 8 procedural scans, where they hardly matter (VGGT-nano's depth in the target view is off
by 3.9 % in the mean, by 2.4 to 2.6 % once it is fitted to either level, whatever they are).
"""
_MIN_SHARE = 1e-4
"""Mean weight of a view's points below which nothing is known of it."""
_CONTRAST = 4.0
"""Sharpness of `best_matches`: by how much the log share of a plane falls per unit of disagreement."""


@dataclass(frozen=True)
class ViewFit(TensorStruct):
    """Inverse depth of points of each view in the target: scale * inverse + shift."""

    scale: Float[Tensor, "batch view"]
    shift: Float[Tensor, "batch view"]
    """1 / scene unit."""

    def moved(
        self, points_world: Float[Tensor, "batch point 3"], source: Cameras, target: Cameras
    ) -> Float[Tensor, "batch point 3"]:
        """Points of all views, view after view, each along its ray from its view to where the target has that depth.

        What would have to go to less than half or more than double its distance goes that far.
        """
        points = points_world.unflatten(1, (self.scale.shape[1], -1))
        depth = target.project(points_world).depth.view(points.shape[:3])
        start = target.project(source.centers).depth[..., None]
        wanted = 1 / (self.scale[..., None] / depth.clamp_min(1e-9) + self.shift[..., None]).clamp_min(1e-9)
        along = depth - start
        along = torch.where(along.abs() < 1e-9, 1e-9, along)
        ratio = ((wanted - start) / along).clamp(0.5, 2)
        ratio = torch.where(depth > 0, ratio, 1.0)
        centers = source.centers[:, :, None]
        return (centers + (points - centers) * ratio[..., None]).flatten(1, 2)


@torch.no_grad()
@full_precision
def fit_views(
    source: Cameras, target: Cameras, prior: DepthPrior, planes: DisparityRange, found: DepthEstimate
) -> ViewFit:
    """Scale a and shift b of each source view that minimize mean rho((a u + b) / v - 1) over its points.

    u is the inverse depth of a point in the target, v what was found in the pixel where it falls, rho bounded (Geman
    and McClure 1987) and ever narrower; weights are the confidences of both. Where nothing is found a is 1, b is 0.
    """
    step = math.ceil(math.sqrt(prior.depth[0, 0].numel() / _MAX_POINTS))
    points, weight = surface_points(prior, source, step)
    projection = target.project(points)
    certain = found.confidence
    inverse = planes.inverse_depth(found.center.clamp(0, 1))
    maps = torch.stack([inverse * certain, certain], dim=1)
    weighted, certain = sample_at_pixels(maps, projection.pixels, target.height, target.width).unbind(-1)
    is_known = projection.visible & (certain > 1e-6) & (weighted > 0)
    per_found = torch.where(is_known, certain / weighted.clamp_min(1e-12), 0.0)
    weight = (weight * certain * is_known).unflatten(1, (len(source.w2c[0]), -1))
    own = torch.where(is_known, 1 / projection.depth.clamp_min(1e-9), 0.0)
    # the shift in units of a typical inverse depth, so that nothing depends on the scene's unit
    unit = planes.inverse_depth(torch.full_like(planes.near, 0.5)[:, None])
    first, second = (values.unflatten(1, weight.shape[1:]) for values in (own * per_found, unit * per_found))
    scale, shift = torch.ones_like(weight[..., 0]), torch.zeros_like(weight[..., 0])
    usual = weight.mean(-1) > _MIN_SHARE
    for number in range(_ROUNDS):
        width = _WIDTHS[0] * (_WIDTHS[1] / _WIDTHS[0]) ** (number / (_ROUNDS - 1))
        error = scale[..., None] * first + shift[..., None] * second - 1
        share = weight / (1 + (error / width).square()).square()
        share = share / share.sum(-1, keepdim=True).clamp_min(1e-12)
        aa, ab, bb, a1, b1 = (
            (share * values).sum(-1) for values in (first * first, first * second, second * second, first, second)
        )
        aa, bb, a1 = aa + _RIDGE, bb + _RIDGE, a1 + _RIDGE
        determinant = (aa * bb - ab * ab).clamp_min(1e-12)
        scale = torch.where(usual, (bb * a1 - ab * b1) / determinant, 1.0)
        shift = torch.where(usual, (aa * b1 - ab * a1) / determinant, 0.0)
    return ViewFit(scale, shift * unit)


@torch.no_grad()
def best_matches(
    cost: Float[Tensor, "batch cost rows cols plane"], centers: Float[Tensor, "batch rows cols plane"]
) -> DepthEstimate:
    """Where the views agree best, before anything is regularized; `cost`: see `matching_cost`.

    Confident where one plane agrees much better than the others.
    """
    disagreement = F.avg_pool2d(cost[:, -2].movedim(-1, 1).float(), 3, 1, 1, count_include_pad=False).movedim(1, -1)
    best, plane = disagreement.min(-1)
    usual = disagreement.mean(-1)
    center = centers.gather(-1, plane[..., None])[..., 0]
    confidence = 1 - torch.exp(-_CONTRAST * (usual - best).clamp_min(0))
    return DepthEstimate(center, torch.zeros_like(center), confidence * (cost[:, -1].amin(-1) > 0))
