"""A world of meshes, ready to drive through."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.ndimage import binary_dilation
from torch import Tensor

from data.occupancy.citygml import CityModel, Origin, read_city
from data.occupancy.meshes import CITY_SUFFIXES, TriangleMesh, read_mesh
from data.occupancy.voxelize import Shells, prepared, voxelized
from data.problems import Problems, announce, counted
from geometry.errors import InputError, require
from geometry.voxels import EgoGrid, GridFrame, VoxelGrid

_FREE_VOXEL = 1.0
"""Meters: how finely a path looks for buildings in its way."""
_MAX_FREE_CELLS = 40_000_000
_PALETTE = np.array([[0.72, 0.68, 0.62], [0.65, 0.55, 0.48], [0.55, 0.6, 0.64], [0.75, 0.72, 0.7], [0.6, 0.5, 0.42]])
"""Colors of objects in pictures."""


@dataclass(frozen=True)
class Scene:
    """What is driven through."""

    shells: Shells
    colors: Float[np.ndarray, "triangle 3"]
    ground: float
    """World z from which altitudes count."""
    name: str
    source: str

    @property
    def bounds(self) -> Float[np.ndarray, "2 3"]:
        """Least and greatest corner."""
        corners = self.shells.triangles.reshape(-1, 3)
        return np.stack([corners.min(axis=0), corners.max(axis=0)])


def read_scene(
    paths: Sequence[Path], *, y_up: bool, scale: float, origin: Origin | None, ground: float | None, max_level: int
) -> Scene:
    """All meshes in one world; what they lack is announced.

    Raises:
        InputError: for a file that cannot be read, and for meshes in meters beside tiles in degrees without --origin.
    """
    problems, mesh = Problems(), None
    kinds = {path.suffix.lower() in CITY_SUFFIXES for path in paths}
    require(len(kinds) == 1 or origin is not None, "--origin: expected latitude and longitude, which join both kinds")
    for path in paths:
        if path.suffix.lower() in CITY_SUFFIXES:
            require(not y_up and scale == 1, f"--y_up, --scale: expected without them a city model, got {path}")
            city = read_city(path, origin=origin, max_level=max_level)
            origin = city.origin if origin is None else origin
            for problem in city.problems:
                problems.add(InputError(problem))
            levels = ", ".join(
                f"{number} of {'terrain' if level < 0 else f'LOD{level}'}"
                for level, number in sorted(city.levels.items())
            )
            place = (
                "" if city.origin is None else f"; meters east and north of {city.origin[0]:.6f} {city.origin[1]:.6f}"
            )
            announce(f"{path}: {counted(city.num_objects, 'object')} ({levels}){place}")
            found = city.mesh
        else:
            found = read_mesh(path, y_up=y_up, scale=scale)
        mesh = found if mesh is None else mesh.joined(found)
    problems.announce("meshes")
    if mesh is None:
        raise InputError("--mesh: expected at least one file, got none")
    return scene_of(mesh, ground=ground, name=paths[0].stem, source=" ".join(path.name for path in paths))


def _description(city: CityModel) -> str:
    levels = sorted(city.levels.items())
    named = ", ".join(f"{number} of {'terrain' if level < 0 else f'LOD{level}'}" for level, number in levels)
    place = "" if city.origin is None else f"; meters east and north of {city.origin[0]:.6f} {city.origin[1]:.6f}"
    return f"{counted(city.num_objects, 'object')} ({named}){place}"


def scene_of(mesh: TriangleMesh, *, ground: float | None, name: str, source: str) -> Scene:
    """A mesh, ready for grids."""
    shells = prepared(mesh.vertices, mesh.faces, mesh.objects)
    low, high = mesh.bounds
    open_share = f"; {shells.num_open} of open shells, which have a surface only" if shells.num_open else ""
    announce(
        f"{name}: {len(shells)} triangles{open_share}; {low[0]:.0f} to {high[0]:.0f}, {low[1]:.0f} to {high[1]:.0f}, "
        f"{low[2]:.1f} to {high[2]:.1f} m"
    )
    colors = _PALETTE[mesh.objects % len(_PALETTE)]
    return Scene(shells, colors, float(low[2]) if ground is None else ground, name, source)


def free_space(scene: Scene, z: float) -> Callable[[Float[np.ndarray, "3"]], bool]:
    """Whether a vehicle at that height is a meter or more away from everything at it."""
    low, high = scene.bounds[:, :2]
    cells = np.ceil((high - low) / _FREE_VOXEL) + 2
    voxel = _FREE_VOXEL * max(1.0, math.sqrt(float(cells.prod()) / _MAX_FREE_CELLS))
    grid = VoxelGrid(
        (float(low[0]) - voxel, float(low[1]) - voxel, z - 1.0),
        (float(high[0]) + 2 * voxel, float(high[1]) + 2 * voxel, z + 1.0),
        (voxel, voxel, 2.0),
    )
    taken = voxelized(scene.shells, EgoGrid(grid, GridFrame("yaw", "world")), np.eye(4), "union").any(axis=-1)
    taken = binary_dilation(taken, iterations=1)

    def is_free(place: Float[np.ndarray, "3"]) -> bool:
        x, y = np.floor((place[:2] - np.array(grid.minimum[:2])) / voxel).astype(int)
        return not (0 <= x < taken.shape[0] and 0 <= y < taken.shape[1] and taken[x, y])

    return is_free


def count_inside(scene: Scene, poses: Float[Tensor, "frame 13"]) -> int:
    """Poses that stand inside a solid."""
    at = VoxelGrid((-0.01, -0.01, -0.01), (0.01, 0.01, 0.01), (0.02, 0.02, 0.02))
    space = EgoGrid(at, GridFrame("yaw", "vehicle"))
    return sum(
        bool(voxelized(scene.shells, space, space.frame.grid2world(pose).numpy(), "solid").any()) for pose in poses
    )
