"""Co3D with VGGT's annotations -> `PosedScene`. Scene unit: as in the files, another one for every sequence.

    {category}_train.jgz, {category}_test.jgz        in the root, or in annotations/: gzip JSON, sequence -> frames
    {category}/{sequence}/images/frame000001.jpg     as `filepath` of a frame says
    {category}/{sequence}/depths/frame000001.jpg.geometric.png     16 bits: a half float
    {category}/{sequence}/depth_masks/frame000001.png              depth counts where this is above 128

A frame holds `filepath`, `extri` (3x4, camera from world, OpenCV axes) and `intri` (3x3, pixels, integer centers, as
upstream resizes it; docs/vggt.md, "Frames of a group"). Scans are named `{category}/{sequence}`; `--scans apple` takes
all of a category. Sequences have no order that means anything: neighbors are the most similar views.
"""

import gzip
import json
import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.image_io import first_image_size, read_image, read_uint16
from data.lazy import LazyMapping
from data.readers.splits import Report, Split, choose_scans, raise_problem, scans_below, split_views
from data.scene import Frame, PosedScene
from data.view_selection.neighbors import most_similar
from geometry import InputError, check_camera
from geometry.conversions import intrinsics_from_integer_centers

MIN_FRAMES = 24
"""Shorter sequences are left out, as upstream does."""
DEPTH_PERCENTILE = 98
"""Depth above this percentile of the map is unknown: the far ends of multi-view stereo are noise."""
_MASK_LEVEL = 128
"""Of 255, the middle: masks are black and white up to compression."""
_NEAR_FACTOR, _FAR_FACTOR = 0.5, 2.0
"""On the 1st percentile and the maximum of one depth map, with room for the other maps; chosen by hand."""
_SUFFIXES = {"train": ("train",), "val": ("test",), "test": ("test",), "all": ("train", "test")}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Sequence:
    """One turn around an object, in arrays: a root holds tens of thousands of them."""

    root: Path
    scan: str
    view_ids: tuple[int, ...]
    """Positions in the annotation's list."""
    files: tuple[str, ...]
    w2c: Float[Tensor, "view 4 4"]
    intrinsics: Float[Tensor, "view 3 3"]
    """Pixel centers at +0.5."""

    def frame(self, view_id: int) -> Frame:
        row = self._row(view_id)
        path = self.root / self.files[row]
        # the first readable one, so that a broken image is reported where it is decoded
        height, width = first_image_size(self.root / file for file in (self.files[row], *self.files))
        near, far = self._depth_range
        return Frame(
            view_id=view_id,
            image_path=path,
            w2c=self.w2c[row],
            intrinsics=self.intrinsics[row],
            height=height,
            width=width,
            near=near,
            far=far,
            depth_path=_depth_path(path),
        )

    def neighbors(self, view_id: int) -> tuple[int, ...]:
        """All other views, most similar first."""
        return tuple(self.view_ids[row] for row in most_similar(self.w2c, self._row(view_id)))

    def scene(self) -> PosedScene:
        """Frames are made when they are looked at."""
        train, held_out = split_views(self.view_ids)
        return PosedScene(
            name=self.scan,
            scan=self.scan,
            frames=LazyMapping(self.view_ids, self.frame),
            neighbors=LazyMapping(self.view_ids, self.neighbors),
            train_views=train,
            held_out_views=held_out,
            read_depth=read_co3d_depth,
        )

    def _row(self, view_id: int) -> int:
        return self.view_ids.index(view_id)

    @cached_property
    def _depth_range(self) -> tuple[float, float]:
        """Generous bounds from the first depth map with any depth; the annotations have none."""
        for file in self.files:
            depth = _read_depth(_depth_path(self.root / file))
            known = depth[depth > 0]
            if known.size:
                return _NEAR_FACTOR * float(np.percentile(known, 1)), _FAR_FACTOR * float(known.max())
        raise InputError(f"{self.root / self.scan}: expected some known depth, got none in {len(self.files)} frames")


def read_co3d(
    datadir: Path,
    *,
    split: Split,
    scans: tuple[str, ...] | None = None,
    report: Report = raise_problem,
) -> list[PosedScene]:
    """One scene per sequence of at least 24 frames; how many shorter ones are left out is logged.

    Val and test are the `_test` annotations. Images and depth maps are opened when they are used; a missing one is an
    error then.

    Raises:
        InputError: for no or broken annotations, an unknown scan, and (unless `report` collects) an impossible camera.
    """
    files = _annotation_files(datadir)
    wanted = _SUFFIXES["all" if scans is not None else split]
    kinds = [suffix for suffix in wanted if files[suffix]] or [suffix for suffix in files if files[suffix]]
    categories = None if scans is None else {scan.partition("/")[0] for scan in scans}
    sequences: dict[str, _Sequence] = {}
    for suffix in kinds:
        for category, path in files[suffix].items():
            if categories is None or category in categories:
                sequences |= _read_annotation(datadir, category, path, scans, report)
    present = list(sequences)
    if scans is not None:
        named = scans_below(present, scans)
        if not set(named) <= set(present):
            present = list(find_co3d_scans(datadir))
        chosen = choose_scans(datadir, present, split, named, {})
    elif all(files.values()):
        chosen = tuple(present)
    else:  # only one kind of annotation: divided by the rule
        chosen = choose_scans(datadir, present, split, None, {"train": (), "val": (), "test": ()})
    return [sequences[scan].scene() for scan in chosen if scan in sequences]


def find_co3d_scans(datadir: Path) -> dict[str, Path]:
    """Scan name -> folder, of all sequences that the annotations list and `read_co3d` takes."""
    files = _annotation_files(datadir)
    found: dict[str, Path] = {}
    for paths in files.values():
        for category, path in paths.items():
            names = _long_sequences(path, path.stat().st_mtime_ns)
            found |= {f"{category}/{name}": datadir / category / name for name in names}
    return found


def read_co3d_depth(frame: Frame) -> Float[np.ndarray, "height width"]:
    """Half floats where the depth mask is above 128, without the map's farthest 2 percent.

    Raises:
        InputError: for a missing or broken depth map or mask, or a mask of another size.
    """
    return _read_depth(frame.depth_path)


def _read_depth(path: Path) -> Float[np.ndarray, "height width"]:
    depth = read_uint16(path).view(np.float16).astype(np.float32)
    depth[~np.isfinite(depth) | (depth < 0)] = 0
    mask_path = _mask_path(path)
    mask = read_image(mask_path)[..., 0]
    if mask.shape != depth.shape:
        raise InputError(
            f"{mask_path}: expected a mask of {depth.shape[1]}x{depth.shape[0]} (width x height) as the depth map, "
            f"got {mask.shape[1]}x{mask.shape[0]}"
        )
    depth[mask <= _MASK_LEVEL] = 0
    depth[depth > np.percentile(depth, DEPTH_PERCENTILE)] = 0
    return depth


def _depth_path(image_path: Path) -> Path:
    return image_path.parent.parent / "depths" / f"{image_path.name}.geometric.png"


def _mask_path(depth_path: Path) -> Path:
    image_name = depth_path.name.removesuffix(".geometric.png")
    return depth_path.parent.parent / "depth_masks" / f"{Path(image_name).stem}.png"


def _annotation_files(datadir: Path) -> dict[str, dict[str, Path]]:
    """train, test -> category -> file."""
    folder = datadir / "annotations" if (datadir / "annotations").is_dir() else datadir
    files = {
        suffix: {path.name.removesuffix(f"_{suffix}.jgz"): path for path in sorted(folder.glob(f"*_{suffix}.jgz"))}
        for suffix in _SUFFIXES["all"]
    }
    if not any(files.values()):
        raise InputError(f"{datadir}: expected {{category}}_train.jgz or _test.jgz, here or in annotations/, got none")
    return files


def _read_annotation(
    datadir: Path, category: str, path: Path, scans: tuple[str, ...] | None, report: Report
) -> dict[str, _Sequence]:
    named = {f"{category}/{name}": frames for name, frames in _long_sequences(path, path.stat().st_mtime_ns).items()}
    wanted = (
        named if scans is None else {scan: named[scan] for scan in scans_below(list(named), scans) if scan in named}
    )
    sequences = (_sequence(datadir, scan, frames, path, report) for scan, frames in wanted.items())
    return {sequence.scan: sequence for sequence in sequences if sequence.view_ids}


def _sequence(root: Path, scan: str, frames: Sequence[dict[str, Any]], path: Path, report: Report) -> _Sequence:
    where = f"{path} sequence {scan.partition('/')[2]}"
    try:
        files = [str(frame["filepath"]) for frame in frames]
        w2c = np.tile(np.eye(4), (len(frames), 1, 1))
        w2c[:, :3] = [frame["extri"] for frame in frames]
        intrinsics = np.array([frame["intri"] for frame in frames], dtype=np.float64).reshape(-1, 3, 3)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{where}: expected frames with filepath, extri (3x4) and intri (3x3), got {error!r}"
        ) from None
    all_w2c, all_intrinsics = torch.from_numpy(w2c), torch.from_numpy(intrinsics)
    kept = [row for row in range(len(files)) if _is_possible(all_w2c, all_intrinsics, row, files, where, report)]
    return _Sequence(
        root=root,
        scan=scan,
        view_ids=tuple(kept),
        files=tuple(files[row] for row in kept),
        w2c=all_w2c[kept].float(),
        intrinsics=intrinsics_from_integer_centers(all_intrinsics[kept]).float(),
    )


def _is_possible(
    w2c: Float[Tensor, "view 4 4"],
    intrinsics: Float[Tensor, "view 3 3"],
    row: int,
    files: Sequence[str],
    where: str,
    report: Report,
) -> bool:
    try:
        check_camera(w2c[row], intrinsics[row], f"{where} frame {row} ({Path(files[row]).name})")
    except InputError as error:
        report(error)
        return False
    return True


@lru_cache(maxsize=2)
def _long_sequences(path: Path, _modified: int) -> dict[str, list[dict[str, Any]]]:
    """A category's sequences; the last files are kept, because the data doctor asks for one sequence after another."""
    try:
        with gzip.open(path, "rt") as file:
            content = json.load(file)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path}: expected gzip-compressed JSON, got an unreadable file ({error})") from None
    if not isinstance(content, dict) or not all(isinstance(frames, list) for frames in content.values()):
        raise InputError(f"{path}: expected sequences with lists of frames, got other JSON")
    long = {name: frames for name, frames in content.items() if len(frames) >= MIN_FRAMES}
    if len(long) < len(content):
        counts = f"{len(content) - len(long)} of {len(content)}"
        _log.warning("%s: left out %s sequences, which have fewer than %d frames", path, counts, MIN_FRAMES)
    return long
