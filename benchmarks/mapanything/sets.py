"""Fixed sets of views of rooms, with everything that is known of them."""

from pathlib import Path

from benchmarks.mapanything.rooms import SIZE, rooms_of
from data.multi_view.covisible_views import EDGE_THRESHOLD
from data.multi_view.sources import FrameSampling, GroupKey, SceneFrames
from data.multi_view.windows import ZoomRange
from data.readers.splits import Split
from data.seeds import derived_seed
from geometry import FrameBatch

_STREAM = 61
"""Keeps these draws apart from those of training; the number itself is arbitrary."""


def sets_of_rooms(wai: Path, split: Split, *, views: int, per_room: int) -> FrameBatch:
    """Sets of connected views by the random walk that training takes, the same in every run, as one batch."""
    rooms = rooms_of(wai, split)
    source = SceneFrames("wai", rooms, sampling=FrameSampling(None, EDGE_THRESHOLD), zoom=ZoomRange.none())
    keys = [
        GroupKey(0, item, views, *SIZE, derived_seed(_STREAM, views, item, number))
        for item in range(len(rooms))
        for number in range(per_room)
    ]
    return FrameBatch.stack(source.sample_many(keys))
