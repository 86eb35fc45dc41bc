"""VGGT's depth in the units of given cameras: one scale per group of views, found robustly, and how well it fits.

VGGT predicts depth and cameras in units of its own. Two things tell the unit: its predicted cameras, where their
relative positions agree with the given ones, and its depth maps, which agree with each other under the given cameras
at one scale only. Both costs are bounded (Geman and McClure 1987), so that a wrong view or an occluded pixel counts
no more than a bad one. Their sum is minimized over a wide range of scales, then more and more finely around the best.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from geometry import Cameras, TensorStruct, full_precision, pixel_centers, rigid_inverse, sample_at_pixels
from geometry.constants import constant

_MIN_RATIO, _MAX_RATIO = 0.3, 150.0
"""Median depth over median baseline that scales are tried for: views 60 degrees apart have 1, frames of a video 50."""
_STEPS = (0.16, 0.04, 0.01, 0.0025, 0.0006)
"""Of log scale, search after search, each about a quarter of the one before; the last is 0.06 percent of the scale."""
_STEPS_AROUND = 4
"""On either side of the best scale, so that a search covers one step of the one before."""
_CAMERA_WEIGHT, _CAMERA_WIDTH, _DEPTH_WIDTH = 0.3, 0.2, 0.1
"""Weight of the cameras' cost against depth's 1, and errors (relative; of log depth) that cost 1/2. Chosen by hand."""
_MIN_OVERLAP = 0.03
"""Share of the points' weight; at scales with less overlap depth costs 1, as where nothing agrees. Chosen by hand."""
_POINTS_PER_GROUP = 1000
"""Warped into the other views: more points make the scale surer, the cost grows in proportion."""
_IDENTICAL = 1e-6
"""Of the farthest camera's distance from the origin: centers nearer to each other differ by float32's rounding."""


@dataclass(frozen=True)
class DepthAlignment(TensorStruct):
    """What turns predicted depth into depth under the given cameras."""

    scale: Float[Tensor, " batch"]
    """Scene units per predicted unit; 1 where it cannot be known."""
    residual: Float[Tensor, " batch"]
    """Median over pixels of |log(depth of a point of one view / depth that another view predicts there)|.

    About the relative error of depth. Infinite where the scale cannot be known: all given centers are identical, or
    no view sees what another one does.
    """
    camera_error: Float[Tensor, " batch"]
    """Median over pairs of |given - predicted| / |given| relative position; 2 = mirrored; 0 where no two are apart."""


@torch.no_grad()
@full_precision
def align_depth(
    depth: Float[Tensor, "batch view height width"],
    weight: Float[Tensor, "batch view height width"],
    w2c_predicted: Float[Tensor, "batch view 4 4"],
    cameras: Cameras,
) -> DepthAlignment:
    """The scale s of predicted `depth` (camera z) under the given `cameras` of the same views, per group.

    s minimizes mean rho(log(z_j / (s d_j)), 0.1) + 0.3 mean rho(|c_ij - s p_ij| / |c_ij|, 0.2) with
    rho(e, w) = e^2 / (e^2 + w^2) (Geman and McClure 1987), c_ij and p_ij the given and the predicted position of
    camera j in camera i, d_j the depth predicted in view j where a point of view i falls, z_j = z_j(s) the point's own
    depth there. rho is 1/2 at e = w and 0.9 at e = 3 w. Depth predicted in units of 1000 mm gives s = 1000.

    `weight` says how much a pixel counts, 0 = its depth is unknown. Neither the order of the views nor the unit of
    either side matters.
    """
    given, predicted = _relative_centers(cameras.w2c), _relative_centers(w2c_predicted)
    baseline = given.norm(dim=-1).flatten(1)
    extent = _IDENTICAL * cameras.centers.norm(dim=-1).amax(-1, keepdim=True)
    is_apart = (baseline > extent).to(depth)
    unit = weighted_quantile(baseline, is_apart, 0.5) / weighted_quantile(depth.flatten(1), weight.flatten(1), 0.5)
    is_known = torch.isfinite(unit) & (unit > 0)
    unit = torch.where(is_known, unit, torch.ones_like(unit))
    warp = _Warp.between(depth, weight, cameras)

    def cost(log_scale: Tensor) -> Tensor:
        scale = log_scale.exp()
        return warp.cost(scale) + _CAMERA_WEIGHT * _camera_cost(given, predicted, is_apart, scale)

    log_scale = unit.log()[:, None] + torch.arange(math.log(_MIN_RATIO), math.log(_MAX_RATIO), _STEPS[0]).to(
        depth, non_blocking=True
    )
    around = torch.arange(-_STEPS_AROUND, _STEPS_AROUND + 1).to(depth, non_blocking=True)
    for step in _STEPS[1:]:
        best = log_scale.gather(1, cost(log_scale).argmin(1, keepdim=True))
        log_scale = best + step * around
    scale = log_scale.gather(1, cost(log_scale).argmin(1, keepdim=True)).exp()
    residual = torch.where(is_known, warp.residual(scale), torch.inf)
    error = weighted_quantile(_camera_errors(given, predicted, scale)[:, 0], is_apart, 0.5)
    error = torch.where(is_apart.any(-1), error, 0.0)
    scale = torch.where(torch.isfinite(residual), scale[:, 0], torch.ones_like(residual))
    return DepthAlignment(scale, residual, error)


def weighted_quantile(
    values: Float[Tensor, "batch item"], weights: Float[Tensor, "batch item"], fraction: float
) -> Float[Tensor, " batch"]:
    """The least value at which the weights up to it reach `fraction` of all; nan where all weights are 0.

    3, 1, 2 with weights 5, 1, 1 have the median 3.
    """
    ordered, order = values.sort(dim=-1)
    cumulative = weights.gather(-1, order).double().cumsum(-1)
    total = cumulative[:, -1:]
    index = torch.searchsorted(cumulative, fraction * total).clamp_max(values.shape[-1] - 1)
    quantile = ordered.gather(-1, index)[:, 0]
    return torch.where(total[:, 0] > 0, quantile, torch.nan)


def inverse_depth_maps(
    depth: Float[Tensor, "batch view height width"], weight: Float[Tensor, "batch view height width"]
) -> Float[Tensor, "batch view 2 height width"]:
    """(weight / depth, weight), to be interpolated: the quotient of both is then the inverse depth.

    Pixels without weight do not mix with others, and inverse depth, unlike depth, is linear on planes. Midway between
    depths 1 and 3 it is (1 + 1/3) / 2, so the depth 1.5.
    """
    is_known = (weight > 0) & (depth > 0)
    inverse = torch.where(is_known, weight / torch.where(is_known, depth, 1.0), 0.0)
    return torch.stack([inverse, weight * is_known], dim=2)


def _bounded(error: Tensor, width: float) -> Tensor:
    """Quadratic for errors far below `width`, 1 far above."""
    squared = error.square()
    return squared / (squared + width * width)


def _relative_centers(w2c: Float[Tensor, "batch view 4 4"]) -> Float[Tensor, "batch view view 3"]:
    """Entry [i, j]: the center of camera j in the frame of camera i. The world frame does not matter."""
    return (w2c[:, :, None] @ rigid_inverse(w2c)[:, None])[..., :3, 3]


def _camera_errors(
    given: Float[Tensor, "batch view view 3"],
    predicted: Float[Tensor, "batch view view 3"],
    scale: Float[Tensor, "batch scale"],
) -> Float[Tensor, "batch scale pair"]:
    """Relative error of the scaled predicted baselines, in direction and length, of ordered pairs."""
    given, predicted = given.flatten(1, 2)[:, None], predicted.flatten(1, 2)[:, None]
    return (given - scale[..., None, None] * predicted).norm(dim=-1) / given.norm(dim=-1).clamp_min(1e-12)


def _camera_cost(
    given: Float[Tensor, "batch view view 3"],
    predicted: Float[Tensor, "batch view view 3"],
    is_apart: Float[Tensor, "batch pair"],
    scale: Float[Tensor, "batch scale"],
) -> Float[Tensor, "batch scale"]:
    """Mean of the bounded errors."""
    error = _camera_errors(given, predicted, scale)
    count = is_apart.sum(-1, keepdim=True).clamp_min(1)
    return (_bounded(error, _CAMERA_WIDTH) * is_apart[:, None]).sum(-1) / count


@dataclass(frozen=True)
class _Warp(TensorStruct):
    """Points of all views seen from every view, as functions of the scale: pixel = A * scale + b, homogeneous."""

    maps: Float[Tensor, "batch view 2 height width"]
    """Weight over predicted depth, and weight, of the views projected into; see `inverse_depth_maps`."""
    slopes: Float[Tensor, "batch view point 3"]
    offsets: Float[Tensor, "batch view point 3"]
    weight: Float[Tensor, "batch view point"]
    """Of the points; 0 in the view they come from."""

    @classmethod
    def between(cls, depth: Tensor, weight: Tensor, cameras: Cameras) -> "_Warp":
        """A regular grid of points of every view; fewer per view where there are more views."""
        view, height, width = depth.shape[1:]
        side = max(6, math.ceil(math.sqrt(_POINTS_PER_GROUP / view)))
        rows, cols = (torch.linspace(0, size - 1, min(side, size)).round().long() for size in (height, width))
        flat = (rows[:, None] * width + cols).flatten().to(depth.device, non_blocking=True)
        pixels = pixel_centers(height, width, depth)[flat]
        homogeneous = F.pad(pixels, (0, 1), value=1.0).double()
        rays = homogeneous @ torch.linalg.inv_ex(cameras.intrinsics.double()).inverse.mT
        points_cam = rays * depth.flatten(2)[..., flat, None].double()
        w2c = cameras.w2c.double()
        to_view = w2c[:, :, None] @ rigid_inverse(w2c)[:, None]  # [j, i]: into view j from view i
        to_view = cameras.intrinsics.double()[:, :, None] @ to_view[..., :3, :]
        slopes = torch.einsum("bjirc,binc->bjinr", to_view[..., :3], points_cam)
        offsets = to_view[..., None, :, 3].expand_as(slopes)
        other = 1 - torch.eye(view, dtype=weight.dtype, device=weight.device)
        weights = other[..., None] * weight.flatten(2)[:, None, :, flat]
        return cls(
            inverse_depth_maps(depth, weight),
            *(part.flatten(2, 3).to(depth) for part in (slopes, offsets)),
            weights.flatten(2),
        )

    def disagreement(self, scale: Float[Tensor, "batch scale"]) -> tuple[Tensor, Tensor]:
        """log(depth of a point / depth predicted where it falls) and the weight of that; batch view scale point."""
        height, width = self.maps.shape[-2:]
        homogeneous = scale[:, None, :, None, None] * self.slopes[:, :, None] + self.offsets[:, :, None]
        depth = homogeneous[..., 2]
        pixels = homogeneous[..., :2] / depth.clamp_min(1e-12)[..., None]
        seen = sample_at_pixels(self.maps, pixels.flatten(2, 3), height, width).unflatten(2, depth.shape[2:])
        inside = (pixels >= 0) & (pixels <= constant([width, height], pixels))
        usable = inside.all(-1) & (depth > 0) & (seen[..., 0] > 0)
        weight = self.weight[:, :, None] * seen[..., 1] * usable
        weighted_inverse, certainty = seen.unbind(-1)
        ratio = depth * weighted_inverse / (scale[:, None, :, None] * certainty)
        return torch.where(usable, ratio, torch.ones_like(ratio)).clamp_min(1e-12).log(), weight

    def cost(self, scale: Float[Tensor, "batch scale"]) -> Float[Tensor, "batch scale"]:
        """Bounded disagreement of depth; 1 where the overlap is below `_MIN_OVERLAP`."""
        error, weight = self.disagreement(scale)
        total = weight.sum((1, 3))
        enough = total > _MIN_OVERLAP * self.weight.sum((1, 2))[:, None]
        mean = (_bounded(error, _DEPTH_WIDTH) * weight).sum((1, 3)) / total.clamp_min(1e-12)
        return torch.where(enough, mean, torch.ones_like(mean))

    def residual(self, scale: Float[Tensor, "batch 1"]) -> Float[Tensor, " batch"]:
        """Weighted median of the absolute disagreement; infinite without overlap."""
        error, weight = self.disagreement(scale)
        return weighted_quantile(error.abs().flatten(1), weight.flatten(1), 0.5).nan_to_num(nan=torch.inf)
