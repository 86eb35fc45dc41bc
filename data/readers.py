"""The data sets by the name that `--dataset_name` takes. All readers have one signature."""

from collections.abc import Callable
from pathlib import Path

from data.base import PosedScene
from data.blendedmvs import find_blendedmvs_scans, read_blendedmvs
from data.blender import find_blender_scans, read_blender
from data.co3d import find_co3d_scans, read_co3d
from data.dtu import find_dtu_scans, read_dtu
from data.idr import find_idr_scans
from data.llff import find_llff_scans, read_llff
from data.virtual_kitti import find_vkitti_scans, read_vkitti

READERS: dict[str, Callable[..., list[PosedScene]]] = {
    "dtu": read_dtu,
    "blendedmvs": read_blendedmvs,
    "llff": read_llff,
    "blender": read_blender,
    "co3d": read_co3d,
    "vkitti": read_vkitti,
}
"""read(datadir, *, split, scans=None, lights=None, report=raise_problem) -> scenes."""

SCAN_FINDERS: dict[str, Callable[[Path], dict[str, Path]]] = {
    "dtu": lambda datadir: find_dtu_scans(datadir) | find_idr_scans(datadir),
    "blendedmvs": find_blendedmvs_scans,
    "llff": find_llff_scans,
    "blender": find_blender_scans,
    "co3d": find_co3d_scans,
    "vkitti": find_vkitti_scans,
}
"""find(datadir) -> scan name to folder, without reading anything."""
