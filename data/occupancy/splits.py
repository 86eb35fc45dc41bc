"""Which sessions are trained on, validated and tested with: whole sessions or worlds, never single windows.

Windows overlap. A split that deals windows tests on frames that were trained on; `require_disjoint` finds such frames,
also of a session that was copied under another name.
"""

import hashlib
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.occupancy.sessions import Session
from geometry.errors import InputError, require

SPLITS = ("train", "val", "test")
SPLIT_BY = ("session", "world")


def require_split_kind(split_by: str) -> None:
    """Raise an `InputError` for what sessions cannot be split by."""
    require(split_by in SPLIT_BY, f"--split_by: expected {' or '.join(SPLIT_BY)}, got {split_by!r}")


def require_shares(shares: tuple[float, float]) -> None:
    """Raise an `InputError` for shares of validation and test below 0, or that leave nothing to train on."""
    val, test = shares
    require(
        min(shares) >= 0 and val + test < 1,
        f"--val_share, --test_share: expected shares from 0 on that leave sessions to train on, got {val:g} {test:g}",
    )


def split_sessions(
    sessions: Sequence[Session], shares: tuple[float, float], *, split_by: str = "session", seed: int = 42
) -> dict[str, list[Session]]:
    """Sessions of each split, in an order that follows from their names alone.

    Args:
        sessions: All of them.
        shares: Of validation and of test, each in [0, 1); at least one session for a share above 0, of three or more.
        split_by: `session`, or `world`: all sessions of a world together.
        seed: Another deal.

    Raises:
        InputError: for impossible shares.
    """
    require_split_kind(split_by)
    require_shares(shares)
    val, test = shares
    groups = defaultdict(list)
    for session in sessions:
        groups[session.name if split_by == "session" else session.world].append(session)
    order = sorted(groups, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    counts = {"test": _count(test, len(order)), "val": _count(val, len(order))}
    found: dict[str, list[Session]] = {split: [] for split in SPLITS}
    for name in order:
        split = next((split for split, count in counts.items() if count > 0), "train")
        if split != "train":
            counts[split] -= 1
        found[split] += groups[name]
    return {split: sorted(members, key=lambda session: session.name) for split, members in found.items()}


def _count(share: float, total: int) -> int:
    """At least one where a share is wanted, and never so many that none is left to train on."""
    return min(max(round(share * total), int(share > 0)), (total - 1) // 2)


def split_by_names(sessions: Sequence[Session], lists: Mapping[str, Sequence[str]]) -> dict[str, list[Session]]:
    """Sessions by explicit lists of names.

    Raises:
        InputError: for a name that is not there.
    """
    by_name = {session.name: session for session in sessions}
    for split, names in lists.items():
        unknown = [name for name in names if name not in by_name]
        require(not unknown, f"--{split}_sessions: expected some of {', '.join(sorted(by_name))}, got {unknown}")
    return {split: [by_name[name] for name in lists.get(split, ())] for split in SPLITS}


def leaks(splits: Mapping[str, Sequence[Session]]) -> list[str]:
    """Frames that occur in two splits, one line per pair of sessions: the same folder, or equal pose and equal grid."""
    places: dict[bytes, list[tuple[str, Session, int]]] = defaultdict(list)
    for split, sessions in splits.items():
        for session in sessions:
            for row, number in enumerate(session.numbers):
                places[session.poses[row].numpy().tobytes()].append((split, session, number))
    found: dict[tuple[str, str, str, str], int] = defaultdict(int)
    for entries in places.values():
        if len({split for split, _, _ in entries}) < 2:
            continue
        contents = [(_content(session, number), split, session) for split, session, number in entries]
        for position, (content, split, session) in enumerate(contents):
            for other_content, other_split, other in contents[position + 1 :]:
                if content == other_content and split != other_split:
                    found[split, session.name, other_split, other.name] += 1
    return [
        f"{count} frames of {first} ({split}) occur in {second} ({other}) as well"
        for (split, first, other, second), count in found.items()
    ]


def _content(session: Session, number: int) -> tuple[Path, int] | int:
    """What identifies a frame: its grid's bytes, unpacked, so that another compression does not hide it."""
    try:
        return zlib.crc32(session.occupancy(number).tobytes())
    except InputError:
        return session.folder.resolve(), number


def require_disjoint(splits: Mapping[str, Sequence[Session]]) -> None:
    """Raise an `InputError` that names the first frames that occur in two splits."""
    found = leaks(splits)
    require(not found, f"splits: expected no frame in two of them, got {found[0] if found else ''}")
