"""Grids to look at: the faces between occupied and empty voxels, colored, for a browser or a picture."""

import math

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from data.occupancy.ray_casting import PinholeCamera, picture
from geometry.voxels import VoxelGrid

RIGHT, MISSED, INVENTED = (0.35, 0.62, 0.42), (0.85, 0.25, 0.2), (0.98, 0.75, 0.2)
"""Colors of voxels that are right, that are missing, and that are too many."""
_CORNERS = np.array([[0, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1]])
"""Of a face whose normal is x, counterclockwise seen from +x."""


def exposed_faces(
    occupied: Bool[np.ndarray, "x y z"], grid: VoxelGrid
) -> tuple[Float[np.ndarray, "triangle 3 3"], Int[np.ndarray, "triangle 3"]]:
    """Triangles of the faces between occupied and other voxels, in the grid frame, and the voxel that each belongs to.

    The faces on the bounds of the grid are among them.
    """
    padded = np.pad(occupied, 1)
    quads, owners = [], []
    for axis in range(3):
        for side in (0, 1):
            beside = np.roll(padded, 1 - 2 * side, axis=axis)[1:-1, 1:-1, 1:-1]
            cells = np.argwhere(occupied & ~beside)
            corners = np.roll(_CORNERS, axis, axis=1)
            corners[:, axis] = side
            quads.append(cells[:, None] + (corners if side else corners[::-1]))
            owners.append(cells)
    quad, owner = np.concatenate(quads), np.concatenate(owners)
    points = quad * np.array(grid.voxel) + np.array(grid.minimum)
    triangles = np.concatenate([points[:, [0, 1, 2]], points[:, [0, 2, 3]]])
    return triangles, np.concatenate([owner, owner])


def height_colors(cells: Int[np.ndarray, "cell 3"], grid: VoxelGrid) -> Float[np.ndarray, "cell 3"]:
    """By height: dark below, bright above."""
    share = cells[:, 2] / max(grid.size[2] - 1, 1)
    return matplotlib.colormaps["viridis"](0.15 + 0.85 * share)[:, :3]


def error_colors(
    prediction: Bool[np.ndarray, "x y z"], truth: Bool[np.ndarray, "x y z"], cells: Int[np.ndarray, "cell 3"]
) -> Float[np.ndarray, "cell 3"]:
    """By whether a voxel of either is right."""
    index = tuple(cells.T)
    kinds = np.where(prediction[index] & truth[index], 0, np.where(truth[index], 1, 2))
    return np.array([RIGHT, MISSED, INVENTED])[kinds]


def overview(
    triangles: Float[np.ndarray, "triangle 3 3"],
    colors: Float[np.ndarray, "triangle 3"],
    grid: VoxelGrid,
    height: int,
    width: int,
) -> UInt8[np.ndarray, "height width 3"]:
    """A picture from behind and above, of the whole grid."""
    low, high = np.array(grid.minimum), np.array(grid.covered)
    middle, span = (low + high) / 2, float(np.linalg.norm((high - low)[:2]))
    pitch, field = math.radians(32.0), math.radians(50.0)
    distance = 0.62 * span / math.tan(field / 2) * max(1.0, height / width)
    forward = np.array([math.cos(pitch), 0.0, -math.sin(pitch)])
    place = np.array([middle[0], middle[1], min(middle[2], low[2] + 0.15 * span)]) - distance * forward
    return picture(triangles - place, colors, PinholeCamera(0.0, height, width, field, pitch))
