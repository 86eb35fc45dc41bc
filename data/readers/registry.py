"""The data sets by the name that `--dataset_name` takes. All readers have one signature."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data.readers.blendedmvs import find_blendedmvs_scans, read_blendedmvs
from data.readers.blender import find_blender_scans, read_blender
from data.readers.co3d import find_co3d_scans, read_co3d
from data.readers.dtu import find_dtu_and_idr_scans, read_dtu
from data.readers.llff import find_llff_scans, read_llff
from data.readers.splits import Split
from data.readers.virtual_kitti import find_vkitti_scans, read_vkitti
from data.scene import PosedScene
from geometry import InputError


@dataclass(frozen=True)
class Reader:
    """What one file of this folder offers."""

    read: Callable[..., list[PosedScene]]
    """read(datadir, *, split, scans=None, report=raise_problem) -> scenes."""
    find: Callable[[Path], dict[str, Path]]
    """find(datadir) -> scan name to folder, without reading anything."""


READERS = {
    "dtu": Reader(read_dtu, find_dtu_and_idr_scans),
    "blendedmvs": Reader(read_blendedmvs, find_blendedmvs_scans),
    "llff": Reader(read_llff, find_llff_scans),
    "blender": Reader(read_blender, find_blender_scans),
    "co3d": Reader(read_co3d, find_co3d_scans),
    "vkitti": Reader(read_vkitti, find_vkitti_scans),
}


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
    scenes = READERS[dataset_name].read(Path(datadir), split=split, scans=scans)
    scenes = [scene for scene in scenes if scene.is_evaluated or not evaluated_only]
    if not scenes:
        raise InputError(
            f"--datadir {datadir}: expected at least one {dataset_name} scene in split {split!r}, got none"
        )
    return scenes
