"""Data doctor: `python -m data.check --dataset_name dtu --datadir D --scans scan24 --max_pairs 50`.

Lists what is missing, unreadable or inconsistent, one line per problem, then a summary; exit status 1 if there is any.
Every image, depth map and mask is decoded. Neighboring views must agree: by depth maps where there are any (more than
20 percent of the points confirmed within 1 percent), else by SIFT matches (median Sampson distance below 2 pixels).
Sparse points that came with the cameras must project where they were observed and lie between near and far.
Data of occupancy (`sessions`, `occ3d`) have grids in place of views: data/check/occupancy.py.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from data.check.consistency import Features, depth_agreement, detect_features, epipolar_error
from data.check.occupancy import DATASETS as OCCUPANCY
from data.check.occupancy import check_occupancy
from data.check.points import PointsOfView, points_of_view
from data.image_io import read_image
from data.occupancy.grids import GRIDS
from data.problems import counted
from data.readers.registry import READERS, annotation_folder, report_incomplete_scans
from data.scene import Frame, PosedScene
from geometry import InputError, one_line_errors, require

_MAX_SAMPSON = 2.0
"""Pixels of the median match; chosen by hand, above the error of a SIFT position and below that of a wrong camera."""
_MIN_AGREEMENT = 0.2
"""Share of the points; chosen by hand, low because points that the other view sees occluded disagree."""
_MIN_WITHIN = 0.8
"""Share of a view's points between near and far; chosen by hand, as some points are wrong, or behind the scene."""
_NEIGHBORS_TRIED = 3
"""More of them settle more views and take longer; chosen by hand."""


class Verdict(NamedTuple):
    """On a pair of views."""

    agrees: bool
    text: str


@dataclass
class Findings:
    """Problems, each once, printed as they come; and what was measured."""

    problems: list[str] = field(default_factory=list)
    sampson: list[float] = field(default_factory=list)
    agreement: list[float] = field(default_factory=list)
    points: list[PointsOfView] = field(default_factory=list)
    num_undecided: int = 0

    def add(self, problem: InputError | str) -> None:
        """Record a problem; the same one again is ignored (scans share camera files)."""
        line = str(problem)
        if line not in self.problems:
            self.problems.append(line)
            tqdm.write(f"problem: {line}", file=sys.stdout)

    def run(self, check: Callable[[], object]) -> bool:
        """Whether `check` passes; what it raises is recorded."""
        try:
            check()
        except InputError as error:
            self.add(error)
            return False
        return True


def check_data(
    dataset_name: str, datadir: Path, scans: tuple[str, ...] | None, max_pairs: int, annotation_dir: str = ""
) -> Findings:
    """Check the scenes of a data set.

    Raises:
        InputError: for an unknown data set, a missing folder or an unknown scan; everything else is a finding.
    """
    if dataset_name not in READERS:
        raise InputError(f"--dataset_name: expected one of {sorted(READERS)}, got {dataset_name!r}")
    if max_pairs < 0:
        raise InputError(f"--max_pairs: expected a number from 0 on, got {max_pairs}")
    if not datadir.is_dir():
        raise InputError(f"--datadir: expected a folder, got {datadir}, which does not exist")
    findings = Findings()
    annotations = annotation_folder(dataset_name, annotation_dir)
    scenes = list(_read_scenes(dataset_name, datadir, scans, findings, annotations))
    is_sound = _check_files(scenes, findings)
    one_per_scan = {scene.scan: scene for scene in reversed(scenes)}  # lightings share cameras
    for scene in tqdm(list(one_per_scan.values())[::-1], desc="views against each other", unit="scan"):
        views = [view for view in scene.frames if is_sound.get((scene.name, view))]
        _check_points(scene, findings)
        _check_pairs(scene, views, max_pairs, findings)
    _write_summary(dataset_name, scenes, findings)
    return findings


def _read_scenes(
    dataset_name: str, datadir: Path, scans: tuple[str, ...] | None, findings: Findings, annotations: Path | None
) -> Iterator[PosedScene]:
    located = READERS[dataset_name].located(annotations)
    read = partial(READERS[dataset_name].read, **located)
    present = READERS[dataset_name].find(datadir, **located)
    wanted = tuple(present) if scans is None else scans
    if not wanted or not set(wanted) <= set(present):
        read(datadir, split="all", scans=scans)  # raises the reader's own message
    if scans is None:
        report_incomplete_scans(dataset_name, datadir, findings.add)
    for scan in tqdm(wanted, desc="cameras", unit="scan"):
        before = len(findings.problems)
        try:
            scenes = read(datadir, split="all", scans=(scan,), report=findings.add)
        except InputError as error:
            findings.add(error)
            continue
        if not scenes and len(findings.problems) == before:  # of problems shared with other scans nothing was said here
            findings.add(f"{present[scan]}: expected at least one usable view of {scan}, got none")
        for note in [note for scene in scenes for note in scene.notes]:
            tqdm.write(f"note: {note}", file=sys.stdout)
        yield from scenes


def _check_files(scenes: Sequence[PosedScene], findings: Findings) -> dict[tuple[str, int], bool]:
    """Decode everything; whether all files of a (scene name, view) are sound.

    A scene without any readable image, whose frames have no size, is left out.
    """
    is_sound = {}
    scenes = [scene for scene in scenes if findings.run(partial(list, scene.frames.values()))]
    items = [(scene, frame) for scene in scenes for frame in scene.frames.values()]
    for scene, frame in tqdm(items, desc="files", unit="view"):
        is_rectified, view = scene.read_image is not None, frame.view_id
        checks = [partial(scene.image, view) if is_rectified else partial(_check_image, frame.image_path, frame)]
        if frame.mask_path is not None:
            checks.append(partial(scene.mask, view) if is_rectified else partial(_check_image, frame.mask_path, frame))
        if frame.depth_path is not None:
            checks.append(lambda scene=scene, frame=frame: _check_depth(scene, frame))
        is_sound[scene.name, frame.view_id] = all([findings.run(check) for check in checks])
    for scene in scenes:
        for kind in ("depth_path", "mask_path"):
            without = [view for view, frame in scene.frames.items() if getattr(frame, kind) is None]
            if 0 < len(without) < len(scene.frames):
                what = kind.removesuffix("_path")
                findings.add(f"{scene.name}: expected a {what} file for every view, got none for views {without}")
    return is_sound


def _check_image(path: Path, frame: Frame) -> None:
    height, width, _ = read_image(path).shape
    if (height, width) != (frame.height, frame.width):
        raise InputError(f"{path}: expected {frame.width}x{frame.height} (width x height), got {width}x{height}")


def _check_depth(scene: PosedScene, frame: Frame) -> None:
    depth = scene.read_depth(frame)
    if depth.shape != (frame.height, frame.width):
        got = f"{depth.shape[1]}x{depth.shape[0]}"
        raise InputError(f"{frame.depth_path}: expected {frame.width}x{frame.height} (width x height), got {got}")
    known = depth[depth > 0]
    if not len(known):
        raise InputError(f"{frame.depth_path}: expected some known depth, got none")
    median = float(np.median(known))
    if not frame.near <= median <= frame.far:
        raise InputError(
            f"{frame.depth_path}: expected a median depth between near {frame.near:g} and far {frame.far:g}, "
            f"got {median:g}"
        )


def _check_points(scene: PosedScene, findings: Findings) -> None:
    for view, frame in scene.frames.items():
        found = points_of_view(scene, view, _MAX_SAMPSON)
        if found is None:
            continue
        findings.points.append(found)
        what = f"{frame.image_path}: expected the {found.num_points} points that view {view} observes"
        if not found.reprojection < _MAX_SAMPSON:
            findings.add(
                f"{what} to project within {_MAX_SAMPSON:g} pixels of where they are seen, got a median of "
                f"{found.reprojection:.1f}"
            )
        if found.within < _MIN_WITHIN:
            findings.add(
                f"{what} between near {frame.near:g} and far {frame.far:g}, got {100 * found.within:.0f} % of them"
            )


def _check_pairs(scene: PosedScene, views: Sequence[int], max_pairs: int, findings: Findings) -> None:
    """Up to `max_pairs` views, spread evenly, against their best neighbors, until one agrees.

    A view with a wrong camera agrees with none of them; its neighbors agree with others.
    """
    count = min(max_pairs, len(views))
    features: dict[int, Features] = {}
    for index in tqdm(range(count), desc=scene.scan, unit="view", leave=False):
        view = views[index * len(views) // count]
        others = [other for other in scene.neighbors[view] if other in views][:_NEIGHBORS_TRIED]
        disagreement = None
        for other in others:
            verdict = _compare(scene, view, other, features, findings)
            if verdict is not None and verdict.agrees:
                break
            disagreement = disagreement or verdict
        else:
            if disagreement:
                path = scene.frames[view].image_path
                findings.add(f"{path}: expected view {view} to agree with its neighbors, got {disagreement.text}")
            else:
                findings.num_undecided += 1


def _compare(
    scene: PosedScene, view: int, other: int, features: dict[int, Features], findings: Findings
) -> Verdict | None:
    """None if the two views share too little to be compared."""
    frames = scene.frames[view], scene.frames[other]
    if all(frame.depth_path for frame in frames) and not scene.is_depth_sparse:
        agreement = depth_agreement(scene, view, other)
        if agreement is None:
            return None
        agrees = agreement > _MIN_AGREEMENT
        findings.agreement += [agreement] if agrees else []
        return Verdict(agrees, f"{100 * agreement:.0f} % of the depth within 1 % of view {other}'s")
    for one in (view, other):
        if one not in features:
            features[one] = detect_features(scene, one)
    distance = epipolar_error(*frames, features[view], features[other])
    if distance is None:
        return None
    agrees = distance < _MAX_SAMPSON
    findings.sampson += [distance] if agrees else []
    return Verdict(agrees, f"a median Sampson distance of {distance:.1f} pixels to view {other}")


def _write_summary(dataset_name: str, scenes: Sequence[PosedScene], findings: Findings) -> None:
    parts = [counted(len(scenes), "scene"), counted(sum(len(scene.frames) for scene in scenes), "view")]
    if findings.agreement:
        parts.append(
            f"depth agrees in {counted(len(findings.agreement), 'pair')} by "
            f"{100 * np.median(findings.agreement):.0f} % (worst {100 * min(findings.agreement):.0f} %)"
        )
    if findings.sampson:
        parts.append(
            f"epipolar error of {counted(len(findings.sampson), 'pair')} {np.median(findings.sampson):.3g} pixels "
            f"(worst {max(findings.sampson):.3g})"
        )
    if findings.points:
        parts.append(_points_summary(findings.points))
    parts.append(f"{counted(findings.num_undecided, 'view')} without a neighbor that could tell")
    parts.append(counted(len(findings.problems), "problem"))
    sys.stdout.write(f"checked {dataset_name}: {', '.join(parts)}\n")


def _points_summary(found: Sequence[PointsOfView]) -> str:
    observed = np.array([view.num_points for view in found])
    reprojection = np.median([view.reprojection for view in found])
    bad = 100 * np.average([view.bad for view in found], weights=observed)
    within = 100 * np.average([view.within for view in found], weights=observed)
    return (
        f"points of {len(found)} views reproject to {reprojection:.3g} pixels ({bad:.2g} % of {observed.sum()} "
        f"observations are off by more than {_MAX_SAMPSON:g}), {within:.3g} % of them between near and far"
    )


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; exit status 0 without problems, 1 with, 2 when there is nothing to check."""
    parser = argparse.ArgumentParser(prog="python -m data.check", description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_name", required=True, help=f"one of {', '.join([*READERS, *OCCUPANCY])}")
    parser.add_argument("--datadir", required=True, type=Path)
    parser.add_argument("--infos", type=Path, help="of occ3d: frame infos, if not annotations.json in --datadir")
    parser.add_argument("--annotation_dir", default="", help="folder of Co3D's annotations, if not in --datadir")
    parser.add_argument("--grid", choices=sorted(GRIDS), help="of sessions without session.json")
    parser.add_argument("--scans", nargs="*", help="default: all")
    parser.add_argument("--max_pairs", type=int, default=50, help="pairs of views compared per scan")
    options = parser.parse_args(arguments)
    scans = None if options.scans is None else tuple(options.scans)
    require(options.grid is None or options.dataset_name == "sessions", "--grid: expected only with sessions")
    require(options.infos is None or options.dataset_name == "occ3d", "--infos: expected only with occ3d")
    if options.dataset_name in OCCUPANCY:
        findings, grids = Findings(), {"infos": options.infos, "space": options.grid and GRIDS[options.grid]}
        summary = check_occupancy(options.dataset_name, options.datadir, scans, findings.add, **grids)
        sys.stdout.write(f"{summary}, {counted(len(findings.problems), 'problem')}\n")
        if findings.problems:
            raise SystemExit(1)
        return
    findings = check_data(options.dataset_name, options.datadir, scans, options.max_pairs, options.annotation_dir)
    if findings.problems:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
