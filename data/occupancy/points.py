"""Points that were measured from known places -> occupied and free voxels.

A point says that its voxel is occupied and that every voxel between it and the place it was measured from is free.
Where both is said of a voxel, the counts decide: a wall that a few rays graze stays, a point that many rays pass
through goes (free-space carving). What neither says is unknown.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh
from jaxtyping import Bool, Float

from data.problems import LeftOut, Report, counted
from data.untrusted_files import read_array
from geometry.errors import InputError, require
from geometry.plain_files import plain_file
from geometry.voxels import EgoGrid

SUFFIXES = (".npy", ".txt", ".bin", ".ply")
_STEP = 0.5
"""Voxels between two places looked at along a ray: one that a ray crosses for less may be passed over."""
_FARTHEST = 1e6
"""Meters: no sensor of a vehicle reaches so far."""
_BATCH = 4_000_000
"""Places looked at at once."""


@dataclass(frozen=True)
class Sweep:
    """Points measured from one place."""

    origin: Float[np.ndarray, "3"]
    """World, meters."""
    points: Float[np.ndarray, "point 3"]


@dataclass(frozen=True)
class Carving:
    """When a voxel counts as occupied."""

    min_hits: int = 1
    """Points in it, at least."""
    min_share: float = 0.1
    """Of the rays that end in it or pass through it, so many must end; 0: nothing is carved."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        require(self.min_hits >= 1, f"--min_hits: expected a number from 1 on, got {self.min_hits}")
        require(0 <= self.min_share <= 1, f"--min_share: expected a share from 0 to 1, got {self.min_share}")


def occupied_and_seen(
    sweeps: Sequence[Sweep], space: EgoGrid, grid2world: Float[np.ndarray, "4 4"], carving: Carving
) -> tuple[Bool[np.ndarray, "x y z"], Bool[np.ndarray, "x y z"]]:
    """Occupied voxels of a grid, and those of which anything is known."""
    size = np.array(space.grid.size)
    hits, passes = np.zeros(int(size.prod()), dtype=np.int64), np.zeros(int(size.prod()), dtype=np.int64)
    for sweep in sweeps:
        both = np.concatenate([sweep.origin[None], sweep.points])
        local = (both - grid2world[:3, 3]) @ grid2world[:3, :3]
        local = (local - np.array(space.grid.minimum)) / np.array(space.grid.voxel)
        ends = np.floor(local[1:]).astype(np.int64)
        inside = ((ends >= 0) & (ends < size)).all(axis=-1)
        np.add.at(hits, np.ravel_multi_index(tuple(ends[inside].T), tuple(size)), 1)
        _count_passes(passes, local[0], local[1:], size)
    occupied = (hits >= carving.min_hits) & (hits >= carving.min_share * (hits + passes))
    return occupied.reshape(size), ((hits > 0) | (passes > 0)).reshape(size)


def _count_passes(passes: np.ndarray, origin: np.ndarray, ends: np.ndarray, size: np.ndarray) -> None:
    """Count each ray once in each voxel that it passes before the one in which it ends; in voxel indices."""
    offset = ends - origin
    # the part of each ray inside the grid's box
    with np.errstate(divide="ignore", invalid="ignore"):
        bounds = np.stack([-origin / offset, (size - origin) / offset])
    low, high = np.fmin(bounds[0], bounds[1]), np.fmax(bounds[0], bounds[1])
    outside = (offset == 0) & ((origin < 0) | (origin >= size))
    start = np.maximum(np.where(offset == 0, -np.inf, low).max(axis=-1), 0.0)
    stop = np.minimum(np.where(offset == 0, np.inf, high).min(axis=-1), 1.0)
    crosses = (start < stop) & ~outside.any(axis=-1)
    offset, ends, start, stop = offset[crosses], ends[crosses], start[crosses], stop[crosses]
    length = np.linalg.norm(offset, axis=-1)
    counts = np.ceil((stop - start) * length / _STEP).astype(np.int64)
    last_voxel = np.floor(ends).astype(np.int64)
    parts: list[np.ndarray] = np.array_split(np.arange(len(counts)), max(1, -(-int(counts.sum()) // _BATCH)))
    for chosen in parts:
        rows = np.repeat(chosen, counts[chosen])
        number = np.arange(len(rows)) - np.repeat(np.cumsum(counts[chosen]) - counts[chosen], counts[chosen])
        share = start[rows] + (stop - start)[rows] * (number + 0.5) / counts[rows]
        voxel = np.floor(origin + share[:, None] * offset[rows]).astype(np.int64)
        known = ((voxel >= 0) & (voxel < size)).all(axis=-1) & (voxel != last_voxel[rows]).any(axis=-1)
        flat = np.ravel_multi_index(tuple(voxel[known].T), tuple(size))
        is_new = np.ones(len(flat), dtype=bool)
        is_new[1:] = (flat[1:] != flat[:-1]) | (rows[known][1:] != rows[known][:-1])
        np.add.at(passes, flat[is_new], 1)


def read_points(path: Path, report: Report | None = None) -> Float[np.ndarray, "point 4"]:
    """x y z and intensity (0 where the file has none) of a sweep: .npy, .txt (numbers by line), .bin (float32), .ply.

    Points that are not finite (no return), or farther away than a sensor sees, are left out; `report` hears of them.

    Raises:
        InputError: naming the file.
    """
    require(path.suffix in SUFFIXES, f"{path}: expected a file {', '.join(SUFFIXES)}, got {path.suffix}")
    try:
        plain_file(path)
        if path.suffix == ".npy":
            points = read_array(path)
        elif path.suffix == ".bin":
            points = np.fromfile(path, dtype=np.float32).reshape(-1, 4)
        elif path.suffix == ".txt":
            points = np.loadtxt(path, comments="#", delimiter=_delimiter(path), ndmin=2)
        else:
            content = io.BytesIO(path.read_bytes())  # of a file trimesh asks for as many bytes as its header says
            points = np.asarray(trimesh.load(content, file_type=path.suffix[1:], process=False).vertices)
    except Exception as error:  # trimesh raises whatever its parser does
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error
    require(
        points.ndim == 2 and points.shape[1] >= 3 and points.dtype.kind == "f",
        f"{path}: expected rows of 3 numbers or more, got {points.dtype} {points.shape}",
    )
    is_place = (np.abs(points[:, :3]) <= _FARTHEST).all(axis=-1)  # False of nan
    if report is not None and not is_place.all():
        lost = f"{counted(int((~is_place).sum()), 'point')} of {len(points)}"
        report(LeftOut("sweeps with points left out", f"{path}: {lost} not finite, or beyond {_FARTHEST:g} m"))
    points = points[is_place].astype(np.float64)
    intensity = points[:, 3:4] if points.shape[1] > 3 else np.zeros((len(points), 1))
    return np.concatenate([points[:, :3], intensity], axis=-1)


def _delimiter(path: Path) -> str | None:
    with path.open() as file:
        return "," if "," in file.readline() else None
