"""Which picture is rendered next, and how large: coarse while a camera moves, finer in steps while it stands still.

No clock, no thread, no network in here: what happens is decided by calls, and `loop.py` makes them.
"""

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

FIRST_SECONDS = 0.15
"""Wanted between a movement and its coarse picture: below about 0.2 s a view follows the hand."""
_FINER = 2
"""Times as many pixels on each side in the next picture of a camera that stands still."""
_MIN_ROWS = 16
"""Of a coarse picture: the sweeps of smaller ones are no faster."""
_FIRST_PIXELS = 4096.0
"""Of the first coarse picture, before anything was measured; chosen by hand, for two CPU cores."""
_MAX_CHANGE = 2.0
"""By which factor one measurement changes the number of pixels of coarse pictures at most."""

Size = tuple[int, int]
"""Rows and columns."""


def sizes(full: Size, coarse_pixels: float | int) -> list[Size]:
    """From a picture of about `coarse_pixels` to the full one, each side doubled from one to the next.

    640 x 480 pixels with a budget of 4000 are 60 x 80, 120 x 160, 240 x 320 and 480 x 640 rows and columns.
    """
    rows, columns = full
    halvings = max(0, math.ceil(math.log(max(rows * columns / coarse_pixels, 1), _FINER**2)))
    while halvings and rows / _FINER**halvings < _MIN_ROWS:
        halvings -= 1
    return [
        (max(1, round(rows / _FINER**step)), max(1, round(columns / _FINER**step))) for step in range(halvings, -1, -1)
    ]


@dataclass
class Pace:
    """How many pixels a coarse picture may have, by what the last ones took."""

    pixels: float | int = _FIRST_PIXELS

    def measured(self, size: Size, seconds: float) -> None:
        """A coarse picture of that size took so long."""
        possible = math.prod(size) * FIRST_SECONDS / max(seconds, 1e-6)
        factor = min(max(possible / self.pixels, 1 / _MAX_CHANGE), _MAX_CHANGE)
        self.pixels = max(self.pixels * factor, _MIN_ROWS**2)


@dataclass(frozen=True)
class Task:
    """One picture to render."""

    client: Hashable
    request: Any
    """As it was submitted."""
    size: Size
    level: int
    """0 = coarse."""
    is_last: bool
    """It is the full size."""
    number: int
    """Of the request, over all clients."""


@dataclass
class _Wanted:
    request: Any
    number: int
    sizes: list[Size]
    level: int = 0
    served: int = 0


class Scheduler:
    """Requests of several clients, of which each has one: the latest.

    Coarse pictures come before finer ones, clients that were served longest ago before others. A coarse picture is
    always finished, because a camera that moves asks for the next one before; a finer one is outdated as soon as its
    client asks for another or somebody waits for a coarse one.
    """

    def __init__(self) -> None:
        self.pace = Pace()
        self._wanted: dict[Hashable, _Wanted] = {}
        self._count = 0

    def submit(self, client: Hashable, request: Any, full: Size) -> None:
        """What a client wants to see from now on, up to that size."""
        self._count += 1
        before = self._wanted.get(client)
        served = 0 if before is None else before.served
        self._wanted[client] = _Wanted(request, self._count, sizes(full, self.pace.pixels), 0, served)

    def remove(self, client: Hashable) -> None:
        """A client is gone."""
        self._wanted.pop(client, None)

    def next(self) -> Task | None:
        """The most urgent picture; None when everybody has what they want."""
        waiting = [(one.level > 0, one.served, one.number, client) for client, one in self._open()]
        if not waiting:
            return None
        client = min(waiting, key=lambda one: one[:3])[3]
        wanted = self._wanted[client]
        last = wanted.level == len(wanted.sizes) - 1
        return Task(client, wanted.request, wanted.sizes[wanted.level], wanted.level, last, wanted.number)

    def is_outdated(self, task: Task) -> bool:
        """Whether to abandon it."""
        if task.level == 0:
            return False
        return not self._is_current(task) or any(one.level == 0 for _, one in self._open())

    def done(self, task: Task, seconds: float, *, counts: bool = True) -> bool:
        """A picture is ready; whether it is still wanted. `counts` False: its time says nothing about the next ones."""
        if task.level == 0 and counts:
            self.pace.measured(task.size, seconds)
        self._count += 1
        wanted = self._wanted.get(task.client)
        if wanted is None:
            return False
        wanted.served = self._count
        if not self._is_current(task):
            return task.level == 0  # better than nothing while the camera moves
        wanted.level += 1
        return True

    def failed(self, task: Task) -> None:
        """A picture cannot be rendered; nothing more is tried until its client asks for another."""
        if self._is_current(task):
            wanted = self._wanted[task.client]
            wanted.level = len(wanted.sizes)

    def _is_current(self, task: Task) -> bool:
        wanted = self._wanted.get(task.client)
        return wanted is not None and wanted.number == task.number

    def _open(self) -> list[tuple[Hashable, _Wanted]]:
        return [(client, one) for client, one in self._wanted.items() if one.level < len(one.sizes)]
