"""Do the sparse points of a scene agree with its cameras and depth bounds?"""

from typing import NamedTuple

import numpy as np
import torch

from data.check.consistency import frame_camera
from data.scene import PosedScene


class PointsOfView(NamedTuple):
    """What the points that one view observes say."""

    num_points: int
    reprojection: float
    """Median distance in pixels between where a point is observed and where the camera projects it."""
    bad: float
    """Share of the observations that are farther off than asked."""
    within: float
    """Share of the points between near and far."""


def points_of_view(scene: PosedScene, view: int, max_error: float) -> PointsOfView | None:
    """None for a view that observes no point; `max_error` in pixels."""
    if scene.points is None or not len(scene.points.rows.get(view, ())):
        return None
    frame = scene.frames[view]
    points = torch.from_numpy(scene.points.points_world[scene.points.rows[view]])
    projected = frame_camera(frame).project(points)
    depth = projected.depth.numpy()
    error = np.linalg.norm(projected.pixels.numpy() - scene.points.pixels[view], axis=-1)
    error[(depth <= 0) | np.isnan(error)] = np.inf
    return PointsOfView(
        num_points=len(depth),
        reprojection=float(np.median(error)),
        bad=float((error > max_error).mean()),
        within=float(((depth >= frame.near) & (depth <= frame.far)).mean()),
    )
