"""Grids by name, and the options that describe one."""

import argparse

from data.occupancy.occ3d import OCC3D_SPACE
from data.occupancy.procedural_world import SMALL_SPACE
from geometry.errors import require
from geometry.voxels import ORIENTATIONS, Z_REFERENCES, EgoGrid, GridFrame, VoxelGrid

GRIDS = {
    "tokyo": EgoGrid(VoxelGrid((-40, -40, -2), (40, 40, 150), (0.4, 0.4, 1.25)), GridFrame("yaw", "world")),
    "uavscenes": EgoGrid(VoxelGrid((-40, -40, -10), (40, 40, 50), (0.4, 0.4, 0.5)), GridFrame("full", "vehicle")),
    "nuscenes": OCC3D_SPACE,
    "local": EgoGrid(VoxelGrid((-20, -20, -5), (20, 20, 25), (0.8, 0.8, 1)), GridFrame("yaw", "vehicle")),
    "small": SMALL_SPACE,
}
"""`tokyo`: heights above the datum, level; `uavscenes` and `nuscenes`: the sensor's frame; `local`, `small`: level."""

_OPTIONS = ("grid", "range", "voxel", "orientation", "z_reference")


def add_grid_options(parser: argparse.ArgumentParser) -> None:
    """--grid, and what overrules parts of it."""
    group = parser.add_argument_group("grid")
    group.add_argument("--grid", choices=sorted(GRIDS), help="range, voxels and frame by name; default tokyo")
    group.add_argument("--range", type=float, nargs=6, metavar="M", help="least x y z, greatest x y z, meters")
    group.add_argument("--voxel", type=float, nargs=3, metavar="M", help="size of a voxel along x y z, meters")
    group.add_argument("--orientation", choices=ORIENTATIONS, help="level grids, or the vehicle's own frame")
    group.add_argument("--z_reference", choices=Z_REFERENCES, help="heights from the vehicle, or the world's")


def has_grid_options(options: argparse.Namespace) -> bool:
    """Whether any of them was given."""
    return any(getattr(options, name) is not None for name in _OPTIONS)


def grid_of_options(options: argparse.Namespace, default: str = "tokyo") -> EgoGrid:
    """The grid that they describe; where none is named, it starts from `default`.

    Raises:
        InputError: for an empty range.
    """
    base = GRIDS[options.grid or default]
    x0, y0, z0, x1, y1, z1 = options.range or [*base.grid.minimum, *base.grid.maximum]
    x, y, z = options.voxel or base.grid.voxel
    require(min(x, y, z) > 0, f"--voxel: expected sizes above 0, got {x} {y} {z}")
    return EgoGrid(
        VoxelGrid((x0, y0, z0), (x1, y1, z1), (x, y, z)),
        GridFrame(options.orientation or base.frame.orientation, options.z_reference or base.frame.z_reference),
    )
