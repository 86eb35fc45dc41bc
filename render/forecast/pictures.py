"""One picture of a video: truth and forecasts from above and in 3-D."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Integer, UInt8
from torch import Tensor

from data.occupancy.voxel_mesh import exposed_faces, height_colors, overview
from geometry.voxels import VoxelGrid
from training.occupancy.pictures import class_colors, class_map, error_map, height_map
from training.pictures import as_bytes

Picture = UInt8[np.ndarray, "height width 3"]
_GAP = 6
"""Pixels of white between panels."""
_TITLE = 22
"""Pixels of the line above a row."""


@dataclass(frozen=True)
class Shown:
    """A row: a grid, and what it is compared with."""

    title: str
    labels: Integer[Tensor, "x y z"]
    truth: Integer[Tensor, "x y z"] | None = None
    """In the same frame; None: nothing to compare."""


def composed(rows: list[Shown], grid: VoxelGrid, free_class: int, side: int, *, has_classes: bool = False) -> Picture:
    """Rows under each other: from above, in 3-D, and the columns that are wrong; `side` is a panel's height.

    Colors are those of heights or, with `has_classes`, of classes.
    """
    return np.concatenate([_row(row, grid, free_class, side, has_classes) for row in rows], axis=0)


def _row(row: Shown, grid: VoxelGrid, free_class: int, side: int, has_classes: bool) -> Picture:
    plan = class_map(row.labels, free_class) if has_classes else height_map(row.labels, free_class)
    above = _fitted(as_bytes(plan), side)
    occupied = (row.labels != free_class).numpy()
    triangles, cells = exposed_faces(occupied, grid)
    colors = class_colors(row.labels[tuple(cells.T)]).numpy() if has_classes else height_colors(cells, grid)
    panels = [above, overview(triangles, colors, grid, side, side * 3 // 2)]
    if row.truth is None:
        panels.append(np.full_like(above, 255))
    else:
        panels.append(_fitted(as_bytes(error_map(row.labels, row.truth, free_class)), side))
    width = sum(panel.shape[1] for panel in panels) + _GAP * (len(panels) - 1)
    title = np.full((_TITLE, width, 3), 255, dtype=np.uint8)
    cv2.putText(title, row.title, (4, _TITLE - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (20, 20, 20), 1, cv2.LINE_AA)
    line = np.full((side, _GAP, 3), 255, dtype=np.uint8)
    parts = [part for panel in panels for part in (panel, line)][:-1]
    return np.concatenate([title, np.concatenate(parts, axis=1)], axis=0)


def _fitted(picture: Picture, side: int) -> UInt8[np.ndarray, "rows cols 3"]:
    """So many pixels high, voxels sharp."""
    width = max(1, round(picture.shape[1] * side / picture.shape[0]))
    return cv2.resize(picture, (width, side), interpolation=cv2.INTER_NEAREST)
