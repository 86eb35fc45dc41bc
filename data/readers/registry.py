"""The data sets by the name that `--dataset_name` takes. All readers have one signature."""

import functools
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from data.problems import Problems, Report, announce, shortened
from data.readers.blendedmvs import find_blendedmvs_scans, read_blendedmvs
from data.readers.blender import find_blender_scans, read_blender
from data.readers.co3d import find_co3d_scans, read_co3d
from data.readers.colmap import find_colmap_scans, read_colmap
from data.readers.dtu import find_dtu_and_idr_scans, read_dtu
from data.readers.llff import find_llff_scans, read_llff
from data.readers.options import ReaderOptions
from data.readers.scannet import find_scannet_scans, read_scannet
from data.readers.splits import Split
from data.readers.transforms import find_transforms_scans, read_transforms
from data.readers.virtual_kitti import find_vkitti_scans, read_vkitti
from data.readers.wai import find_wai_scans, read_wai
from data.scene import PosedScene
from geometry import InputError


@dataclass(frozen=True)
class Reader:
    """What one file of this folder offers."""

    read: Callable[..., list[PosedScene]]
    """read(datadir, *, split, scans=None, report=...) -> scenes; `report` is handed every problem."""
    find: Callable[..., dict[str, Path]]
    """find(datadir) -> scan name to folder, without reading anything."""
    parts: tuple[str, ...] = ()
    """Patterns of what lies in a scan's folder: one that has some of them, but is not found, has lost the others."""
    folders: str = "*"
    """Pattern of such folders below the root."""
    takes_annotation_dir: bool = False
    """Both take `annotation_dir`, a folder of annotation files outside the data."""
    options: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Which of `ReaderOptions` it has, with their values (none: any). With one at least, `read` takes `options`."""

    def located(self, annotation_dir: Path | None) -> dict[str, Path]:
        """Keywords for both that say where the annotations are."""
        return {} if annotation_dir is None else {"annotation_dir": annotation_dir}


READERS = {
    "dtu": Reader(read_dtu, find_dtu_and_idr_scans, ("image", "cameras*.npz")),
    "blendedmvs": Reader(read_blendedmvs, find_blendedmvs_scans, ("blended_images", "cams")),
    "llff": Reader(
        read_llff,
        find_llff_scans,
        ("poses_bounds.npy", "images*"),
        options={"view_split": ("own", "mvsnerf"), "llff_factor": (), "llff_size": ()},
    ),
    "blender": Reader(
        read_blender,
        find_blender_scans,
        ("transforms_*.json",),
        options={"view_split": ("own", "mvsnerf", "test")},
    ),
    "colmap": Reader(
        read_colmap, find_colmap_scans, ("sparse", "colmap/sparse"), options={"image_factor": (), "sparse_depth": ()}
    ),
    "co3d": Reader(read_co3d, find_co3d_scans, takes_annotation_dir=True),
    "scannet": Reader(read_scannet, find_scannet_scans, ("color", "pose")),
    "transforms": Reader(read_transforms, find_transforms_scans, options={"image_factor": (), "sparse_depth": ()}),
    "vkitti": Reader(read_vkitti, find_vkitti_scans, ("extrinsic.txt", "intrinsic.txt", "frames/*"), folders="*/*"),
    "wai": Reader(read_wai, find_wai_scans, ("scene_meta_distorted.json", "_scene_meta_backup.json")),
}


def read_scenes(
    dataset_name: str,
    datadir: str,
    *,
    split: Split,
    scans: tuple[str, ...] | None,
    evaluated_only: bool = False,
    options: ReaderOptions | None = None,
    annotation_dir: str = "",
    problems: Problems | None = None,
) -> list[PosedScene]:
    """Scenes of a data set on disk; `evaluated_only`: those with `PosedScene.is_evaluated`, one per scan.

    Views and scans that cannot be used are left out and recorded in `problems`, or else counted and listed on stderr.
    `annotation_dir`: where Co3D's annotations are, if not in its root.

    Raises:
        InputError: for an unknown data set, an option that it does not have, a missing folder, an unknown scan, or
            nothing usable found in it.
    """
    if dataset_name not in READERS:
        raise InputError(f"--dataset_name: expected one of {sorted(READERS)}, got {dataset_name!r}")
    if os.path.isfile(datadir):
        raise InputError(f"--datadir: expected a folder, got {datadir!r}, which is a file")
    if not os.path.isdir(datadir):  # False, too, of what can be no path
        raise InputError(f"--datadir: expected a folder, got {datadir!r}, which does not exist")
    reader, found, options = READERS[dataset_name], Problems(), options or ReaderOptions()
    options.require_known_to(dataset_name, reader.options)
    own: dict[str, object] = {"options": options} if reader.options else {}
    own |= reader.located(annotation_folder(dataset_name, annotation_dir))
    scenes = reader.read(Path(datadir), split=split, scans=scans, report=found.add, **own)
    scenes = [scene for scene in scenes if scene.is_evaluated or not evaluated_only]
    if scans is None:
        report_incomplete_scans(dataset_name, Path(datadir), found.add)
    for note in [note for scene in scenes for note in scene.notes]:
        _announce_once(note)
    if not scenes:
        why = f": {shortened(found.lines)}" if found.lines else ""
        raise InputError(
            f"--datadir {datadir}: expected at least one {dataset_name} scene in split {split!r}, got none{why}"
        )
    if problems is None:
        found.announce(f"{dataset_name} in {datadir}")
    else:
        problems.extend(found)
    return scenes


def announce_own_split(options: ReaderOptions, scenes: Iterable[PosedScene]) -> None:
    """Say which scenes have their format's split of views, although another one was asked for."""
    names = [scene.name for scene in scenes if scene.view_split != options.view_split]
    if names:
        announce(
            f"--view_split {options.view_split}: the data set's own split instead for scenes that the lists do not "
            f"name, or that lack a listed view: {shortened(names)}"
        )


@functools.cache
def _announce_once(note: str) -> None:
    """A data set is read once per split."""
    announce(note)


def report_incomplete_scans(dataset_name: str, datadir: Path, report: Report) -> None:
    """Report folders below `datadir` that hold a part of a scan, but not what it is recognized by."""
    reader = READERS[dataset_name]
    if not reader.parts:
        return
    found = set(reader.find(datadir).values())
    if datadir in found:
        return
    complete = found.union(*(folder.parents for folder in found))
    for folder in sorted(path for path in datadir.glob(reader.folders) if path.is_dir() and path not in complete):
        parts = [path for part in reader.parts for path in sorted(folder.glob(part))]
        some = [str(path.relative_to(folder)) for path in parts]
        if some:
            report(InputError(f"{folder}: expected a {dataset_name} scan, got no more of one than {', '.join(some)}"))


def annotation_folder(dataset_name: str, annotation_dir: str) -> Path | None:
    """The folder that `--annotation_dir` names for a data set; None for "" and "-".

    Raises:
        InputError: for a data set without annotation files.
    """
    if annotation_dir in ("", "-"):
        return None
    takers = [name for name, reader in READERS.items() if reader.takes_annotation_dir]
    if dataset_name not in takers:
        known = ", ".join(takers)
        raise InputError(f"--annotation_dir {annotation_dir}: expected - for {dataset_name} (known to {known} only)")
    return Path(annotation_dir)
