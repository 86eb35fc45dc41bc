"""Rooms of every family as WAI data sets, made by the project's own commands one after the other."""

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.procedural.__main__ import main as procedural
from data.procedural.writers import METRIC_LIST
from data.readers.registry import read_scenes
from data.readers.splits import Split
from data.scene import PosedScene
from data.wai.convert import main as convert
from data.wai.covisibility import main as covisibility
from data.wai.split_lists import main as split_lists
from geometry import require

SIZE = (32, 40)
"""Height and width of the images, pixels."""
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class RoomCounts:
    """Rooms of a family by split, and photographs of each."""

    train: int
    val: int
    test: int
    views: int = 10

    @property
    def total(self) -> int:
        """Of all splits."""
        return self.train + self.val + self.test


def make_rooms(root: Path, family: str, counts: RoomCounts, *, seed: int, workers: int) -> Path:
    """`root/<family>` as a WAI root with covisibility and lists; what is there already is not made again.

    `python -m data.procedural`, `data.wai.convert` (rooms in meters, then the others), `data.wai.covisibility` and
    `data.wai.split_lists`.

    Raises:
        InputError: where a folder holds rooms made otherwise.
        SystemExit: where a stage failed.
    """
    raw, wai = root / f"{family}_raw", root / family
    height, width = SIZE
    _run(
        procedural,
        *("--layout", "blendedmvs", "--rooms", family, "--out", raw, "--scenes", counts.total, "--seed", seed),
        *("--views", counts.views, "--width", width, "--height", height, "--workers", workers),
    )
    names = sorted(path.name for path in raw.iterdir() if (path / "cams").is_dir())
    metric = [name for name in names if name in set((raw / METRIC_LIST).read_text().split())]
    others = [name for name in names if name not in metric]
    for scenes, unit in ((metric, ("--meters", 1)), (others, ())):
        if scenes:
            _run(convert, "--from", "procedural", raw, wai, *unit, "--workers", workers, "--scenes", *scenes)
    # thresholds in meters would be too wide for rooms of one meter
    _run(covisibility, wai, "--long_side", max(SIZE), "--preset", "relative", "--workers", workers)
    if not (wai / "lists").is_dir():
        shares = ("--val", counts.val / counts.total, "--test", counts.test / counts.total)
        _run(split_lists, wai, *shares, "--seed", seed)
    return wai


def _run(command: Callable[[list[str]], None], *arguments: object) -> None:
    words = [str(argument) for argument in arguments]
    shown = words if len(words) <= 20 else [*words[:12], "..."]
    sys.stdout.write(f"[{command.__module__.removesuffix('.__main__')}] {' '.join(shown)}\n")
    sys.stdout.flush()
    command(words)


def rooms_of(wai: Path, split: Split) -> list[PosedScene]:
    """Rooms of a split, with all their views."""
    return read_scenes("wai", str(wai), split=split, scans=None, evaluated_only=True)


def require_no_leak(roots: Sequence[Path]) -> int:
    """Compare the first photograph of every room with those of all others; the number of rooms.

    Raises:
        InputError: for a room that is in two splits, or twice in one.
    """
    seen: dict[str, str] = {}
    for root in roots:
        for split in SPLITS:
            for room in rooms_of(root, split):
                first = room.frames[min(room.frames)].image_path
                digest = hashlib.sha256(first.read_bytes()).hexdigest()
                name = f"{root.name}/{split}/{room.name}"
                require(digest not in seen, f"{name}: expected a room of its own, got the one of {seen.get(digest)}")
                seen[digest] = name
    return len(seen)
