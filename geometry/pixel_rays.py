"""Intrinsics <-> unit directions through the pixel centers, and depth <-> distance along them."""

import torch
from jaxtyping import Float
from torch import Tensor

from geometry.cameras import pixel_centers
from geometry.precision import full_precision

_SAMPLES_PER_SIDE = 50
"""Pixels along a side that intrinsics are fitted to."""
_MAX_FITTED_PIXELS = 10**6
"""Larger maps are fitted at five pixels, as upstream."""

RayMap = Float[Tensor, "*batch height width 3"]
DepthMap = Float[Tensor, "*batch height width"]


@full_precision
def unit_rays(intrinsics: Float[Tensor, "*batch 3 3"], height: int, width: int) -> RayMap:
    """K^-1 (x, y, 1) / |K^-1 (x, y, 1)| at the pixel centers (+0.5), in the camera's frame.

    f_x = 1 and c = (0.5, 0.5): the second pixel of the first row looks along (1, 0, 1) / 1.414.
    """
    pixels = pixel_centers(height, width, intrinsics)
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=-1)
    inverse = torch.linalg.inv_ex(intrinsics.double()).inverse.to(intrinsics)
    directions = homogeneous @ inverse.mT
    return (directions / directions.norm(dim=-1, keepdim=True)).unflatten(-2, (height, width))


def along_ray(depth: DepthMap, rays: RayMap) -> DepthMap:
    """Distance from the camera's center of points at camera z `depth`; 0 where that is not positive or not finite."""
    known = torch.isfinite(depth) & (depth > 0)
    return torch.where(known, depth / rays[..., 2].clamp(min=torch.finfo(rays.dtype).tiny), 0.0)


@full_precision
def intrinsics_from_rays(rays: RayMap) -> Float[Tensor, "*batch 3 3"]:
    """The pinhole camera of a map of directions (of any length) by least squares, for pixel centers at +0.5.

    u = f_x x / z + c_x over a grid with a step of max(1, size // 50), v alike; above a million pixels at five
    of them. Without skew. Computed in double precision.
    """
    height, width = rays.shape[-3:-1]
    if height * width > _MAX_FITTED_PIXELS:
        return intrinsics_from_key_rays(rays)
    rows = torch.arange(0, height, max(1, height // _SAMPLES_PER_SIDE), device=rays.device)
    columns = torch.arange(0, width, max(1, width // _SAMPLES_PER_SIDE), device=rays.device)
    at_rows, at_columns = (one.flatten() for one in torch.meshgrid(rows, columns, indexing="ij"))
    return _fitted(rays, at_rows, at_columns)


@full_precision
def intrinsics_from_key_rays(rays: RayMap) -> Float[Tensor, "*batch 3 3"]:
    """As `intrinsics_from_rays`, from the middle and the pixels at a quarter and three quarters of its row and column.

    f_x is the mean of (distance in pixels / difference of x / z) to the left and to the right of the middle.
    """
    height, width = rays.shape[-3:-1]
    matrix = _identity(rays)
    for axis, size in ((0, width), (1, height)):
        positions = (size // 4, size // 2, 3 * size // 4)
        middle = (height if axis == 0 else width) // 2
        at = [rays[..., middle, one, :] if axis == 0 else rays[..., one, middle, :] for one in positions]
        low, center, high = ((one[..., axis] / one[..., 2]).double() for one in at)
        before = (positions[1] - positions[0]) / (center - low)
        after = (positions[2] - positions[1]) / (high - center)
        matrix[..., axis, axis] = focal = (before + after) / 2
        matrix[..., axis, 2] = positions[1] + 0.5 - focal * center
    return matrix.to(rays)


def _fitted(rays: RayMap, rows: Tensor, columns: Tensor) -> Float[Tensor, "*batch 3 3"]:
    directions = rays[..., rows, columns, :].double()
    matrix = _identity(rays)
    for axis, positions in ((0, columns), (1, rows)):
        slopes = directions[..., axis] / directions[..., 2]
        target = (positions.double() + 0.5).expand_as(slopes)
        centered = slopes - slopes.mean(-1, keepdim=True)
        focal = (centered * (target - target.mean(-1, keepdim=True))).sum(-1) / centered.square().sum(-1)
        matrix[..., axis, axis] = focal
        matrix[..., axis, 2] = target.mean(-1) - focal * slopes.mean(-1)
    return matrix.to(rays)


def _identity(rays: RayMap) -> Float[Tensor, "*batch 3 3"]:
    return torch.eye(3, dtype=torch.float64, device=rays.device).expand(*rays.shape[:-3], 3, 3).clone()
