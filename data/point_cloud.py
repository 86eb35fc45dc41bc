"""Posed images with depth -> colored points, as tensors and as a .ply file."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import trimesh
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from data.image_io import write_bytes
from geometry import Cameras, InputError, Projection, Views, pixel_centers, sample_at_pixels

_ALL_KNOWN = 0.999
"""Interpolated validity (0 or 1 per pixel) that only four known pixels reach; below 1 because of rounding."""


class ColoredPoints(NamedTuple):
    """Points in the world frame, scene units."""

    points_world: Float[Tensor, "point 3"]
    colors: UInt8[Tensor, "point 3"]
    normals: Float[Tensor, "point 3"] | None = None
    """Unit vectors towards the side from which the surface is seen; 0 = unknown."""


class RoundTrip(NamedTuple):
    """Pixels of a first view, with their depth, into a second view, and what that sees there back into the first."""

    overlaps: Bool[Tensor, " pixel"]
    """Falls on known depth of the second view; only there the rest means something."""
    in_second: Float[Tensor, "pixel 2"]
    """Where the pixel's point falls in the second view."""
    expected: Float[Tensor, " pixel"]
    """Depth of the pixel's point in the second view."""
    found: Float[Tensor, " pixel"]
    """Depth that the second view has there, interpolated."""
    back: Projection
    """In the first view, of the point that the second view sees there."""


class Agreement(NamedTuple):
    """What one view's depth says about another's."""

    overlap: float
    """Share of the first view's known pixels that fall on known depth of the second."""
    confirmed: float
    """Share of those whose depth in the second view is the expected one within 1 percent; occluded ones are not."""
    pixels: float
    """Of the confirmed: median distance, in pixels of the first view, between a pixel and its way there and back."""


def colored_points(views: Views) -> ColoredPoints:
    """All pixels with known depth, view by view; one leading axis."""
    pixels = pixel_centers(views.cameras.height, views.cameras.width, views.images)
    depth = views.depth.flatten(1)
    points = views.cameras.unproject(pixels.expand(len(depth), -1, -1), depth)
    colors = (views.images.flatten(2).transpose(1, 2).clamp(0, 1) * 255).round().to(torch.uint8)
    known = depth > 0
    return ColoredPoints(points[known], colors[known])


def write_ply(path: Path, cloud: ColoredPoints) -> None:
    """Binary PLY, float32 positions, 8-bit colors and normals where there are any; folders are made.

    Raises:
        InputError: for a cloud without a point, or another extension.
    """
    if path.suffix.lower() != ".ply":
        raise InputError(f"{path}: expected a file name that ends in .ply")
    if not len(cloud.points_world):
        raise InputError(f"{path}: expected points to write, got none: no pixel has known depth")
    positions, colors = cloud.points_world.numpy().astype(np.float32), cloud.colors.numpy()
    if cloud.normals is None:
        points = trimesh.PointCloud(positions, colors=colors)
    else:  # trimesh's point clouds have no normals, its meshes do
        points = trimesh.Trimesh(positions, vertex_normals=cloud.normals.numpy(), vertex_colors=colors, process=False)
    write_bytes(path, points.export(file_type="ply"))


def round_trip(
    cameras: Cameras,
    depth: Float[Tensor, "view height width"],
    first: int,
    second: int,
    pixels: Float[Tensor, "pixel 2"],
    depth_of_pixels: Float[Tensor, " pixel"],
) -> RoundTrip:
    """There and back of `pixels` of the first view; `depth` (0 = unknown) is interpolated."""
    height, width = cameras.height, cameras.width
    there = cameras[second].project(cameras[first].unproject(pixels, depth_of_pixels))
    in_second = there.pixels.nan_to_num().clamp(-1, max(height, width) + 1)
    maps = torch.stack([depth[second], (depth[second] > 0).to(depth)])
    found, is_known = sample_at_pixels(maps, in_second, height, width).unbind(-1)
    back = cameras[first].project(cameras[second].unproject(there.pixels, found))
    return RoundTrip(there.visible & (is_known > _ALL_KNOWN), there.pixels, there.depth, found, back)


def depth_agreement_of(views: Views, first: int, second: int, tolerance: float = 0.01) -> Agreement:
    """Do the depth maps and cameras of two views agree? Between pixels depth is interpolated."""
    cameras, height, width = views.cameras, views.cameras.height, views.cameras.width
    known = (views.depth[first] > 0).flatten()
    if not bool(known.any()):
        return Agreement(0.0, 0.0, float("nan"))
    pixels = pixel_centers(height, width, views.images)[known]
    trip = round_trip(cameras, views.depth, first, second, pixels, views.depth[first].flatten()[known])
    overlaps = trip.overlaps
    confirmed = overlaps & ((trip.found - trip.expected).abs() < tolerance * trip.expected)
    distances = (trip.back.pixels[confirmed] - pixels[confirmed]).norm(dim=-1)
    return Agreement(
        overlap=overlaps.sum().item() / len(pixels),
        confirmed=confirmed.sum().item() / max(1, overlaps.sum().item()),
        pixels=distances.median().item() if len(distances) else float("nan"),
    )
