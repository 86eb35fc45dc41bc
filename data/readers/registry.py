"""The data sets by the name that `--dataset_name` takes. All readers have one signature."""

from collections.abc import Callable
from pathlib import Path

from data.readers.blendedmvs import find_blendedmvs_scans, read_blendedmvs
from data.readers.blender import find_blender_scans, read_blender
from data.readers.co3d import find_co3d_scans, read_co3d
from data.readers.dtu import find_dtu_scans, read_dtu
from data.readers.idr import find_idr_scans
from data.readers.llff import find_llff_scans, read_llff
from data.readers.splits import Split
from data.readers.virtual_kitti import find_vkitti_scans, read_vkitti
from data.scene import PosedScene
from geometry import InputError

READERS: dict[str, Callable[..., list[PosedScene]]] = {
    "dtu": read_dtu,
    "blendedmvs": read_blendedmvs,
    "llff": read_llff,
    "blender": read_blender,
    "co3d": read_co3d,
    "vkitti": read_vkitti,
}
"""read(datadir, *, split, scans=None, report=raise_problem) -> scenes."""

SCAN_FINDERS: dict[str, Callable[[Path], dict[str, Path]]] = {
    "dtu": lambda datadir: find_dtu_scans(datadir) | find_idr_scans(datadir),
    "blendedmvs": find_blendedmvs_scans,
    "llff": find_llff_scans,
    "blender": find_blender_scans,
    "co3d": find_co3d_scans,
    "vkitti": find_vkitti_scans,
}
"""find(datadir) -> scan name to folder, without reading anything."""


def read_scenes(
    dataset_name: str, datadir: str, *, split: Split, scans: tuple[str, ...] | None, evaluated_only: bool = False
) -> list[PosedScene]:
    """Scenes of a data set on disk; `evaluated_only`: those with `PosedScene.is_evaluated`, one per scan.

    Raises:
        InputError: for an unknown data set, a missing folder, or nothing found in it.
    """
    if dataset_name not in READERS:
        raise InputError(f"--dataset_name: expected one of {sorted(READERS)}, got {dataset_name!r}")
    if not Path(datadir).is_dir():
        raise InputError(f"--datadir: expected a folder, got {datadir!r}, which does not exist")
    scenes = READERS[dataset_name](Path(datadir), split=split, scans=scans)
    scenes = [scene for scene in scenes if scene.is_evaluated or not evaluated_only]
    if not scenes:
        raise InputError(
            f"--datadir {datadir}: expected at least one {dataset_name} scene in split {split!r}, got none"
        )
    return scenes
