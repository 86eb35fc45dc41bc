"""Posed images with depth -> colored points, as tensors and as a .ply file."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import trimesh
from jaxtyping import Float, UInt8
from torch import Tensor

from data.image_io import write_bytes
from geometry import InputError, Views, pixel_centers, sample_at_pixels

_ALL_KNOWN = 0.999
"""Interpolated validity (0 or 1 per pixel) that only four known pixels reach; below 1 because of rounding."""


class ColoredPoints(NamedTuple):
    """Points in the world frame, scene units."""

    points_world: Float[Tensor, "point 3"]
    colors: UInt8[Tensor, "point 3"]


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
    """Binary PLY, float32 positions and 8-bit colors; folders are made.

    Raises:
        InputError: for a cloud without a point, or another extension.
    """
    if path.suffix.lower() != ".ply":
        raise InputError(f"{path}: expected a file name that ends in .ply")
    if not len(cloud.points_world):
        raise InputError(f"{path}: expected points to write, got none: no pixel has known depth")
    points = trimesh.PointCloud(cloud.points_world.numpy().astype(np.float32), colors=cloud.colors.numpy())
    write_bytes(path, points.export(file_type="ply"))


def depth_agreement_of(views: Views, first: int, second: int, tolerance: float = 0.01) -> Agreement:
    """Do the depth maps and cameras of two views agree? Between pixels depth is interpolated."""
    cameras, height, width = views.cameras, views.cameras.height, views.cameras.width
    known = (views.depth[first] > 0).flatten()
    if not bool(known.any()):
        return Agreement(0.0, 0.0, float("nan"))
    pixels = pixel_centers(height, width, views.images)[known]
    there = cameras[second].project(cameras[first].unproject(pixels, views.depth[first].flatten()[known]))
    in_second = there.pixels.nan_to_num().clamp(-1, max(height, width) + 1)
    found = sample_at_pixels(views.depth[second][None], in_second, height, width)[:, 0]
    is_known = sample_at_pixels((views.depth[second] > 0).float()[None], in_second, height, width)[:, 0] > _ALL_KNOWN
    overlaps = there.visible & is_known
    confirmed = overlaps & ((found - there.depth).abs() < tolerance * there.depth)
    back = cameras[first].project(cameras[second].unproject(there.pixels[confirmed], found[confirmed])).pixels
    distances = (back - pixels[confirmed]).norm(dim=-1)
    return Agreement(
        overlap=overlaps.sum().item() / len(pixels),
        confirmed=confirmed.sum().item() / max(1, overlaps.sum().item()),
        pixels=distances.median().item() if len(distances) else float("nan"),
    )
