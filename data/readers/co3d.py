"""Co3D with VGGT's annotations -> `PosedScene`. Scene unit: as in the files, another one for every sequence.

    {category}_train.jgz, {category}_test.jgz        in the root, in annotations/ or in another folder that is named:
                                                     gzip JSON, sequence -> frames
    {category}/{sequence}/images/frame000001.jpg     as `filepath` of a frame says
    {category}/{sequence}/depths/frame000001.jpg.geometric.png     16 bits: a half float
    {category}/{sequence}/depth_masks/frame000001.png              depth counts where this is above 128

A frame holds `filepath`, `extri` (3x4, camera from world, OpenCV axes) and `intri` (3x3, pixels, integer centers, as
upstream resizes it; docs/vggt.md, "Frames of a group"). Scans are named `{category}/{sequence}`; `--scans apple` takes
all of a category. Sequences have no order that means anything: neighbors are the most similar views.

A copy of the data set may be incomplete. What the annotations list and the folders do not hold is left out, counted and
said in one line: frames without image, sequences with fewer than 12 images, sequences of which no map has known depth.
A frame without a depth map stays, its depth is unknown. Where no sequence has a depth map, all are read without depth.
"""

import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.cache import cached
from data.image_io import first_image_size, read_image, read_uint16
from data.lazy import LazyMapping
from data.problems import LeftOut, Report, announce, raise_problem
from data.readers.co3d_index import MIN_FRAMES, AnnotatedSequence, cache_name, read_annotation
from data.readers.splits import Split, choose_scans, scans_below, split_views
from data.scene import Frame, PosedScene
from data.view_selection.neighbors import most_similar
from geometry import InputError, look_at_point

MIN_IMAGES = 12
"""Sequences with fewer images on disk are left out: half of `MIN_FRAMES`, and enough for 10 frames at a time."""
DEPTH_PERCENTILE = 98
"""Depth above this percentile of the map is unknown: the far ends of multi-view stereo are noise."""
_MASK_LEVEL = 128
"""Of 255, the middle: masks are black and white up to compression."""
_NEAR_FACTOR, _FAR_FACTOR = 0.5, 2.0
"""On the 1st percentile and the maximum of one depth map, with room for the other maps; chosen by hand."""
_LISTING_THREADS = 16
"""Folders are listed and first depth maps read by so many threads: a network file system answers slowly."""
_SUFFIXES = {"train": ("train",), "val": ("test",), "test": ("test",), "all": ("train", "test")}

Bounds = tuple[float, float]


@dataclass(frozen=True)
class _Sequence:
    """One turn around an object as far as it is on disk, in arrays: a root holds tens of thousands of them."""

    root: Path
    scan: str
    annotated: AnnotatedSequence
    rows: tuple[int, ...]
    """Frames of `annotated` whose image is there."""
    with_depth: frozenset[int]
    """Rows with depth map and mask."""
    bounds: Bounds | None = None
    """(near, far); None: there is no known depth."""

    @property
    def view_ids(self) -> tuple[int, ...]:
        """Positions in the annotation's list."""
        return tuple(self.annotated.view_ids[list(self.rows)].tolist())

    @cached_property
    def w2c(self) -> Float[Tensor, "view 4 4"]:
        """Of the frames that are there."""
        matrices = torch.eye(4).repeat(len(self.rows), 1, 1)
        matrices[:, :3] = torch.from_numpy(self.annotated.w2c[list(self.rows)])
        return matrices

    def frame(self, view_id: int) -> Frame:
        at = self.view_ids.index(view_id)
        row, files = self.rows[at], self.annotated.files
        # the first readable one, so that a broken image is reported where it is decoded
        height, width = first_image_size(self.root / files[other] for other in (row, *self.rows))
        near, far = self.bounds or self._bounds_of_cameras
        return Frame(
            view_id=view_id,
            image_path=self.root / files[row],
            w2c=self.w2c[at],
            intrinsics=torch.from_numpy(self.annotated.intrinsics[row]),
            height=height,
            width=width,
            near=near,
            far=far,
            depth_path=self.root / _depth_file(files[row]) if row in self.with_depth else None,
        )

    def neighbors(self, view_id: int) -> tuple[int, ...]:
        """All other views, most similar first."""
        view_ids = self.view_ids
        return tuple(view_ids[at] for at in most_similar(self.w2c, view_ids.index(view_id)))

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
            read_depth=read_co3d_depth if self.with_depth else None,
        )

    @property
    def _bounds_of_cameras(self) -> Bounds:
        """Without depth: around the point that the cameras look at."""
        centers = -(self.w2c[:, :3, :3].mT @ self.w2c[:, :3, 3:])[..., 0]
        distances = (centers - look_at_point(self.w2c)).norm(dim=-1)
        return _NEAR_FACTOR * distances.min().item(), _FAR_FACTOR * distances.max().item()


def read_co3d(
    datadir: Path,
    *,
    split: Split,
    scans: tuple[str, ...] | None = None,
    report: Report = raise_problem,
    annotation_dir: Path | None = None,
) -> list[PosedScene]:
    """One scene per sequence of at least 24 frames of which at least 12 are on disk.

    Val and test are the `_test` annotations. What cannot be used is left out and handed to `report`. Files are opened
    when they are used, but for one depth map per sequence, which tells the depth range and is remembered
    (data/cache.py).

    Raises:
        InputError: for no or broken annotations, an unknown scan, and (unless `report` collects) for what is missing.
    """
    files = _annotation_files(datadir, annotation_dir)
    wanted = _SUFFIXES["all" if scans is not None else split]
    kinds = [suffix for suffix in wanted if files[suffix]] or [suffix for suffix in files if files[suffix]]
    categories = None if scans is None else {scan.partition("/")[0] for scan in scans}
    sequences: dict[str, tuple[Path, AnnotatedSequence]] = {}
    for suffix in kinds:
        for category, path in files[suffix].items():
            if categories is not None and category not in categories:
                continue
            try:
                sequences |= _annotated(category, path, scans, report)
            except InputError as error:  # a download that broke off
                report(error)
    present = list(sequences)
    if scans is not None:
        named = scans_below(present, scans)
        if not set(named) <= set(present):
            present = list(find_co3d_scans(datadir, annotation_dir))
        chosen = choose_scans(datadir, present, split, named, {})
    elif all(files.values()) or not present:
        chosen = tuple(present)
    else:  # only one kind of annotation: divided by the rule
        chosen = choose_scans(datadir, present, split, None, {"train": (), "val": (), "test": ()})
    listed = {scan: sequences[scan] for scan in chosen if scan in sequences}
    found = _with_bounds(_on_disk(datadir, listed, report), listed, report)
    return [sequence.scene() for sequence in found]


def find_co3d_scans(datadir: Path, annotation_dir: Path | None = None) -> dict[str, Path]:
    """Scan name -> folder, of all sequences of at least 24 frames that the annotations list."""
    found: dict[str, Path] = {}
    for paths in _annotation_files(datadir, annotation_dir).values():
        for category, path in paths.items():
            annotation = read_annotation(path)
            names = dict.fromkeys([*annotation.sequences, *(name for name, _ in annotation.problems)])
            found |= {f"{category}/{name}": datadir / category / name for name in names}
    return found


def read_co3d_depth(frame: Frame) -> Float[np.ndarray, "height width"]:
    """Half floats where the depth mask is above 128, without the map's farthest 2 percent.

    The percentile is taken over all pixels, known or not, as upstream does. Of a map with less than 2 percent known
    pixels it is 0 and nothing is left: so little depth is mostly noise.

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


def _depth_file(image: str) -> str:
    folder, _, name = image.rpartition("/")
    return f"{_sibling(folder, 'depths')}/{name}.geometric.png"


def _mask_file(image: str) -> str:
    folder, _, name = image.rpartition("/")
    return f"{_sibling(folder, 'depth_masks')}/{name.rpartition('.')[0] or name}.png"


def _sibling(folder: str, name: str) -> str:
    parent = folder.rpartition("/")[0]
    return f"{parent}/{name}" if parent else name


def _mask_path(depth_path: Path) -> Path:
    image_name = depth_path.name.removesuffix(".geometric.png")
    return depth_path.parent.parent / "depth_masks" / f"{Path(image_name).stem}.png"


def _annotation_files(datadir: Path, annotation_dir: Path | None) -> dict[str, dict[str, Path]]:
    """train, test -> category -> file."""
    if annotation_dir is not None and not annotation_dir.is_dir():
        raise InputError(f"--annotation_dir: expected a folder, got {annotation_dir}, which does not exist")
    folder = annotation_dir or (datadir / "annotations" if (datadir / "annotations").is_dir() else datadir)
    files = {
        suffix: {path.name.removesuffix(f"_{suffix}.jgz"): path for path in sorted(folder.glob(f"*_{suffix}.jgz"))}
        for suffix in _SUFFIXES["all"]
    }
    if not any(files.values()):
        where = "" if annotation_dir else ", here, in annotations/ or in --annotation_dir"
        raise InputError(f"{annotation_dir or datadir}: expected {{category}}_train.jgz or _test.jgz{where}, got none")
    return files


def _annotated(
    category: str, path: Path, scans: tuple[str, ...] | None, report: Report
) -> dict[str, tuple[Path, AnnotatedSequence]]:
    """Scan -> its annotation file and frames, of the scans that are asked for."""
    annotation = read_annotation(path)
    named = {f"{category}/{name}": (path, one) for name, one in annotation.sequences.items()}
    reported = [(f"{category}/{name}", line) for name, line in annotation.problems]
    if scans is None:
        wanted = set(named) | {scan for scan, _ in reported}
        _say_short(path, annotation.num_short, len(named) + annotation.num_short)
    else:
        wanted = set(scans_below([*named, *(scan for scan, _ in reported)], scans))
    for scan, line in reported:
        if scan in wanted:
            what = "frames with an impossible camera" if scan in named else "sequences whose frames cannot be read"
            report(LeftOut(what, line))
    return {scan: one for scan, one in named.items() if scan in wanted and len(one[1].view_ids)}


@cache  # splits are read one after the other
def _say_short(path: Path, number: int, total: int) -> None:
    if number:
        announce(f"{path}: left out {number} of {total} sequences, which have fewer than {MIN_FRAMES} frames")


def _on_disk(root: Path, sequences: dict[str, tuple[Path, AnnotatedSequence]], report: Report) -> list[_Sequence]:
    """What of the sequences is there: every folder is listed once, no frame is asked for one by one."""
    with ThreadPoolExecutor(_LISTING_THREADS) as threads:
        listings = list(threads.map(lambda one: _listing(root, one[1]), sequences.values()))
    has_depth = any(depths for _, depths, _ in listings)
    if not has_depth:  # perhaps only of these sequences: the data doctor reads one at a time
        has_depth = next(root.glob("*/*/depths/*"), None) is not None
    found = []
    for (scan, (_, annotated)), (images, depths, masks) in zip(sequences.items(), listings, strict=True):
        files = annotated.files
        rows = [row for row, file in enumerate(files) if file in images]
        known = [row for row in rows if _depth_file(files[row]) in depths and _mask_file(files[row]) in masks]
        if not images:
            folder = root / files[0].rpartition("/")[0]
            report(LeftOut("sequences without images", f"{folder}: expected a folder of images, got none"))
            continue
        for row in sorted({*range(len(files))} - {*rows}):
            report(LeftOut("frames without image", f"{root / files[row]}: expected an image, got none"))
        if len(rows) < MIN_IMAGES:
            line = f"{root / scan}: expected at least {MIN_IMAGES} images, got {len(rows)}"
            report(LeftOut(f"sequences of fewer than {MIN_IMAGES} images", line))
            continue
        for row in sorted({*rows} - {*known}) if has_depth else ():
            file = _depth_file(files[row])
            missing = _mask_file(files[row]) if file in depths else file
            report(LeftOut("depth maps", f"{root / missing}: expected an image file, got none"))
        found.append(_Sequence(root, scan, annotated, tuple(rows), frozenset(known)))
    return found


def _listing(root: Path, annotated: AnnotatedSequence) -> tuple[set[str], set[str], set[str]]:
    """Images, depth maps and masks of a sequence that are there, as paths below the root."""
    folders = dict.fromkeys(file.rpartition("/")[0] for file in annotated.files)
    of_depth = dict.fromkeys(_sibling(folder, "depths") for folder in folders)
    of_masks = dict.fromkeys(_sibling(folder, "depth_masks") for folder in folders)
    return _files_in(root, folders), _files_in(root, of_depth), _files_in(root, of_masks)


def _files_in(root: Path, folders: Iterable[str]) -> set[str]:
    names: set[str] = set()
    for folder in folders:
        try:
            names |= {f"{folder}/{name}" if folder else name for name in os.listdir(root / folder)}
        except OSError:  # no such folder
            continue
    return names


def _with_bounds(
    sequences: Sequence[_Sequence], listed: dict[str, tuple[Path, AnnotatedSequence]], report: Report
) -> list[_Sequence]:
    """With the depth range of each, and without those that have no known depth while others have."""
    if not any(sequence.with_depth for sequence in sequences):
        return list(sequences)
    by_file: dict[Path, list[_Sequence]] = {}
    for sequence in sequences:
        by_file.setdefault(listed[sequence.scan][0], []).append(sequence)
    bounds: dict[str, Bounds | None] = {}
    for path, some in by_file.items():
        bounds |= _remembered_bounds(path, some)
    found = []
    for sequence in sequences:
        if bounds[sequence.scan] is None:
            line = (
                f"{sequence.root / sequence.scan}: expected some known depth, got none in {len(sequence.rows)} frames "
                f"(at least {100 - DEPTH_PERCENTILE} % of a map must be known)"
            )
            report(LeftOut("sequences without known depth", line))
        else:
            found.append(replace(sequence, bounds=bounds[sequence.scan]))
    return found


def _remembered_bounds(path: Path, sequences: Sequence[_Sequence]) -> dict[str, Bounds | None]:
    """Depth ranges by scan, from the cache as long as the folders of depth maps and masks have not changed."""
    stamps = {sequence.scan: _stamp(sequence) for sequence in sequences}
    kept: dict[str, Any] = {}

    def read(content: bytes) -> dict[str, Bounds | None] | None:
        kept.update(json.loads(content))
        is_complete = all(kept.get(scan, [None])[0] == stamp for scan, stamp in stamps.items())
        return {scan: tuple(kept[scan][1]) if kept[scan][1] else None for scan in stamps} if is_complete else None

    def make() -> tuple[dict[str, Bounds | None], bytes]:
        missing = [one for one in sequences if kept.get(one.scan, [None])[0] != stamps[one.scan]]
        with ThreadPoolExecutor(_LISTING_THREADS) as threads:
            made = dict(zip((one.scan for one in missing), threads.map(_depth_bounds, missing), strict=True))
        kept.update({scan: [stamps[scan], bounds] for scan, bounds in made.items()})
        known = {scan: tuple(kept[scan][1]) if kept[scan][1] else None for scan in stamps}
        return known, json.dumps(kept).encode()

    root = sequences[0].root
    return cached(cache_name(root / path.name, "bounds.json"), read, make)


def _stamp(sequence: _Sequence) -> list[int]:
    """Changes when depth maps or masks come, go or are replaced (not when one is written over in place)."""
    some = sequence.annotated.files[sequence.rows[0]]
    folders = (_depth_file(some).rpartition("/")[0], _mask_file(some).rpartition("/")[0])
    stamps = []
    for folder in folders:
        try:
            stamps.append((sequence.root / folder).stat().st_mtime_ns)
        except OSError:
            stamps.append(0)
    return [*stamps, len(sequence.with_depth)]


def _depth_bounds(sequence: _Sequence) -> Bounds | None:
    """Generous bounds from the first depth map with any depth, as the annotations have none; None: there is none."""
    files = sequence.annotated.files
    for row in sorted(sequence.with_depth):
        try:
            depth = _read_depth(sequence.root / _depth_file(files[row]))
        except InputError:  # unknown in this frame; the data doctor decodes and lists every one
            continue
        known = depth[depth > 0]
        if known.size:
            return _NEAR_FACTOR * float(np.percentile(known, 1)), _FAR_FACTOR * float(known.max())
    return None
