"""Which scans and which views are for training: lists in `data/lists`, lists of a data set's own, and rules."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

from data.problems import Report as Report
from data.problems import raise_problem as raise_problem
from data.scene import PosedScene
from geometry import InputError, require

Split = Literal["train", "val", "test", "all"]

_LISTS = Path(__file__).parents[1] / "lists"
_KINDS = ("train", "held_out")


def read_list(path: Path) -> tuple[str, ...]:
    """Lines of a list file without comments and blanks.

    Raises:
        InputError: for a file that cannot be read, or is no text in UTF-8.
    """
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a list of names in UTF-8, got {error}") from None
    return tuple(line for line in lines if line and not line.startswith("#"))


def shipped_list(name: str) -> tuple[str, ...]:
    """A list from `data/lists`, for example `dtu_train`; empty if there is none of that name."""
    path = shipped_path(name)
    return read_list(path) if path.is_file() else ()


def dtu_view_lists() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """MVSNeRF's 16 training and 4 held-out views of the DTU rig, in its order."""
    train, held_out = (shipped_list(f"dtu_views_{kind}") for kind in _KINDS)
    return tuple(int(view) for view in train), tuple(int(view) for view in held_out)


def mvsnerf_views(dataset: str, scan: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """MVSNeRF's training and held-out views of a scene of `llff` or `blender`, in its order; empty for others."""
    rows = ({row[0]: row[1:] for row in map(str.split, shipped_list(f"{dataset}_views_{kind}"))} for kind in _KINDS)
    train, held_out = (tuple(int(view) for view in row.get(scan, ())) for row in rows)
    return train, held_out


def shipped_path(name: str) -> Path:
    """Where `data/lists` keeps a file."""
    return _LISTS / f"{name}.txt"


def folders_with(datadir: Path, marker: str) -> dict[str, Path]:
    """Scan name -> folder: `datadir` itself if it holds `marker`, else the folders in it that do."""
    if (datadir / marker).exists():
        return {datadir.resolve().name: datadir}
    return {path.parent.name: path.parent for path in sorted(datadir.glob(f"*/{marker}"))}


def file_names(folder: Path) -> frozenset[str]:
    """Names in a folder, by one listing instead of a question per file; none where there is no folder."""
    return frozenset(path.name for path in folder.iterdir()) if folder.is_dir() else frozenset()


def read_each(scans: Sequence[str], read: Callable[[str], Sequence[PosedScene]], report: Report) -> list[PosedScene]:
    """Scenes of the scans that have usable frames; a scan that cannot be read is reported and left out."""
    scenes: list[PosedScene] = []
    for scan in scans:
        try:
            scenes += read(scan)
        except InputError as error:
            report(error)
    return [scene for scene in scenes if scene.frames]


def read_divided_by_views(
    datadir: Path,
    folders: Mapping[str, Path],
    expected: str,
    scans: Sequence[str] | None,
    report: Report,
    read: Callable[[Path, str], PosedScene],
) -> list[PosedScene]:
    """`read(folder, scan)` of all scans or the named ones: of a format whose splits divide views, not scans.

    Raises:
        InputError: where there are no `folders` (saying what was `expected`), or for an unknown scan.
    """
    require(bool(folders), f"{datadir}: expected {expected}, got neither")
    chosen = choose_scans(datadir, list(folders), "all", scans, {})
    return read_each(chosen, lambda scan: [read(folders[scan], scan)], report)


def missing_views(known: Collection[int], present: Collection[int]) -> list[int]:
    """Views that others know of and that are not there.

    None where at most half of the known ones are there: that is a part of the data set, chosen as such.
    """
    missing = sorted(set(known) - set(present))
    return missing if 2 * len(missing) < len(set(known)) else []


def scan_order(name: str) -> list[tuple[int, str]]:
    """Sort key under which scan2 comes before scan10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def own_or_shipped_lists(datadir: Path, dataset: str) -> dict[str, tuple[str, ...]]:
    """Scan lists train, val, test: `lists/train.txt` or `lists/<dataset>_train_all.txt` below `datadir`, else ours."""
    own = {}
    for split in ("train", "val", "test"):
        for name in (f"{split}.txt", f"{dataset}_{split}_all.txt"):
            if (datadir / "lists" / name).is_file():
                own[split] = read_list(datadir / "lists" / name)
    if own:
        return {"train": (), "val": (), "test": ()} | own
    return {split: shipped_list(f"{dataset}_{split}") for split in ("train", "val", "test")}


def choose_scans(
    datadir: Path,
    present: Sequence[str],
    split: Split,
    scans: Sequence[str] | None,
    lists: Mapping[str, Collection[str]],
) -> tuple[str, ...]:
    """Scans of a split among those `present`.

    Named `scans` win. Otherwise the lists divide what is there, if both a training and a held-out scan of theirs are
    present; `test` also takes the listed test scans of a root that holds nothing to train on. If the lists do not
    apply: the last fifth (at least one) of the sorted scans is val and test, the rest train; a single scan is all.

    Raises:
        InputError: for an empty selection or an unknown scan, naming what is there.
    """
    found = sorted(present, key=scan_order)
    if not found:
        raise InputError(f"{datadir}: expected at least one scan, got none")
    if scans is not None:
        return _named(datadir, found, scans)
    if split == "all":
        return tuple(found)
    listed = {name: tuple(scan for scan in found if scan in lists[name]) for name in ("train", "val", "test")}
    held_out = listed["val"] or listed["test"]
    if listed["train"] and held_out:
        return listed[split] or held_out
    if split == "test" and listed["test"]:
        return listed["test"]
    return _by_rule(found, split)


def present_only(views: Sequence[int], frames: Collection[int]) -> tuple[int, ...]:
    """Of the views of a split those that can be used: the split itself must not depend on what is missing."""
    return tuple(view for view in views if view in frames)


def scans_below(present: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Scans with names like paths: a name stands for itself and for all scans below it; unknown names are kept."""
    chosen: list[str] = []
    for name in names:
        chosen += [scan for scan in present if scan == name or scan.startswith(f"{name}/")] or [name]
    return tuple(chosen)


def split_views(
    views: Sequence[int], listed_train: Sequence[int] = (), listed_held_out: Sequence[int] = ()
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(training views, held-out views) of one scene.

    The listed ones that are there, if they include 3 for training and 1 held out. Otherwise every 8th view in
    order is held out, beginning with the first; of fewer than 4 views the last.
    """
    train = tuple(view for view in listed_train if view in views)
    held_out = tuple(view for view in listed_held_out if view in views)
    if len(train) >= 3 and held_out:
        return train, held_out
    ordered = sorted(views)
    if len(ordered) < 4:
        return (tuple(ordered[:-1]), tuple(ordered[-1:])) if len(ordered) > 1 else (tuple(ordered), ())
    return tuple(view for i, view in enumerate(ordered) if i % 8), tuple(ordered[::8])


def _named(datadir: Path, found: Sequence[str], scans: Sequence[str]) -> tuple[str, ...]:
    if not scans:
        raise InputError(f"{datadir}: expected at least one scan name, got an empty list")
    unknown = [scan for scan in scans if scan not in found]
    if unknown:
        shown = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
        raise InputError(f"{datadir}: expected scans that are there ({shown}), got {', '.join(unknown)}")
    return tuple(dict.fromkeys(scans))


def _by_rule(found: Sequence[str], split: Split) -> tuple[str, ...]:
    if len(found) == 1:
        return tuple(found)
    num_held_out = max(1, len(found) // 5)
    return tuple(found[:-num_held_out] if split == "train" else found[-num_held_out:])
