"""What data lacks: collected while it is read, counted and listed instead of stopping a run."""

import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from tqdm import tqdm

from geometry import InputError

Report = Callable[[InputError], None]
"""What a reader does with a problem of one file: `raise_problem`, or a collector such as `Problems.add`."""

_LISTED = 5
"""So many problems are named at the start of a run, and so many unreadable files in it; `data.check` names all."""


def raise_problem(error: InputError) -> None:
    """Stop at the first problem."""
    raise error


def announce(line: str) -> None:
    """A line on stderr that leaves progress bars whole; of a distributed run the first process alone writes it."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"))
    if int(next((rank for rank in ranks if rank), "0")) == 0:
        tqdm.write(line, file=sys.stderr)


def shortened(entries: Sequence[str]) -> str:
    """A few of many entries, and how many more there are."""
    more = len(entries) - _LISTED
    return "; ".join(entries[:_LISTED]) + (f"; and {more} more" if more > 0 else "")


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number and what it counts: "1 folder", "2 folders"; `plural` where that is not the noun with an s."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


class LeftOut(InputError):
    """A problem of which a large data set may have thousands, so that they are counted by kind."""

    def __init__(self, kind: str, message: str) -> None:
        """`kind`: what is left out, in the plural, its first s at the end of a word ("frames without image")."""
        super().__init__(message)
        self.kind = kind


class Problems:
    """Problems of a data set, each once: scans share camera files, and splits are read one after the other."""

    def __init__(self, lister: str = "data.check") -> None:
        """`lister`: the module that lists all of them; "": there is none."""
        self._lister = lister
        self._lines: dict[str, str | None] = {}
        """With the kind of those that have one."""

    def add(self, problem: InputError) -> None:
        """Record a problem."""
        self._lines[str(problem)] = problem.kind if isinstance(problem, LeftOut) else None

    def extend(self, other: "Problems") -> None:
        """Record all problems of another collection."""
        self._lines |= other._lines

    @property
    def lines(self) -> tuple[str, ...]:
        """One per problem, in the order found."""
        return tuple(self._lines)

    def announce(self, where: str) -> None:
        """Count and list them, one of each kind; nothing is written where there are none."""
        if not self._lines:
            return
        count = counted(len(self._lines), "problem")
        why = "what is concerned is left out"
        if self._lister:
            why = f"the files, views or scans concerned are left out; python -m {self._lister} lists all"
        kinds = Counter(kind for kind in self._lines.values() if kind is not None)
        left_out = ", ".join(counted(number, re.sub(r"s\b", "", kind, count=1), kind) for kind, number in kinds.items())
        first_of_kind = {kind: line for line, kind in reversed(self._lines.items()) if kind is not None}
        named = [first_of_kind[kind] for kind in kinds]
        named += [shortened([line for line, kind in self._lines.items() if kind is None])]
        announce(f"{where}: {count} ({why}): {'; '.join(filter(None, [left_out, *named]))}")


class UnreadableFiles:
    """Files that could not be decoded in the middle of a run: each is named once, also with several loading processes.

    The count and the names' checksums lie in shared memory, which the loading processes inherit.
    """

    def __init__(
        self,
        consequence: str = "another target takes the place of those that need it",
        counted_as: str = "samples replaced because of files that cannot be read",
    ) -> None:
        """`consequence`: what becomes of the files, for the lines that name them; `counted_as`: what is counted."""
        self._consequence = consequence
        self._counted_as = counted_as
        self._named = torch.full((_LISTED,), -1, dtype=torch.int64).share_memory_()
        self._count = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def count(self) -> int:
        """Samples that were replaced."""
        return int(self._count)

    def summarize(self) -> None:
        """Say how many; of a distributed run every process knows its own only."""
        if self.count:
            tqdm.write(f"{self._counted_as}: {self.count}", file=sys.stderr)

    def replaced(self, error: InputError) -> None:
        """Count a sample that is replaced, and name the file if it is new."""
        self._count += 1
        self.name(error)

    def name(self, error: InputError) -> None:
        """Name the file if it is new and not too many have been named."""
        checksum, free = zlib.crc32(str(error).encode()), self._named == -1
        if not bool(free.any()) or bool((self._named == checksum).any()):
            return
        self._named[int(free.nonzero()[0])] = checksum
        last = "" if int(free.sum()) > 1 else "; further files are not named, python -m data.check lists all"
        tqdm.write(f"{error}: {self._consequence}{last}", file=sys.stderr)
