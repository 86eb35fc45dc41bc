"""Where records and the pixels of their views come from: files, or rooms that are rendered when they are asked for."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from data.image_io import UnreadableFileError, read_image
from data.procedural.qa_layout import image_name, room_geometry
from data.procedural.qa_questions import RoomQuestion, room_actions, room_captions, room_questions, room_readings
from data.procedural.qa_rooms import QARoom, draw_room, render_room
from data.scene_qa.records import action_text
from data.scene_qa.types import QARecord, ViewGeometry
from data.seeds import evenly_spread
from geometry import require

ROOM_KINDS = ("questions", "captions", "readings", "actions")
_ROOM_VERSION = "rooms_qa 1"
"""Goes into fingerprints: raise it when rooms or their pictures change."""


@runtime_checkable
class QASource(Protocol):
    """Records with their pixels. What a record's views show depends on `fingerprints` alone."""

    name: str
    size: int
    """Side of the images, pixels."""

    @property
    def records(self) -> Sequence[QARecord]:
        """In a fixed order."""
        ...

    def images(self, record: QARecord) -> Float[Tensor, "view 3 size size"]:
        """RGB in [0, 1]."""
        ...

    def fingerprints(self, record: QARecord) -> tuple[str, ...]:
        """One per view: equal where the pixels are."""
        ...

    def geometry(self, record: QARecord) -> ViewGeometry | None:
        """Of its views."""
        ...


class RecordSource:
    """Records whose images are files; the short side is resized to `size` (bicubic), the middle cut out."""

    def __init__(self, name: str, records: Sequence[QARecord], size: int, max_views: int) -> None:
        """Of records with more views than `max_views` that many are kept, evenly spread."""
        self.name, self.size = name, size
        self.records = [_limited(record, max_views) for record in records]
        self.num_limited = sum(len(record.images) > max_views for record in records)

    def images(self, record: QARecord) -> Float[Tensor, "view 3 size size"]:
        """Decoded anew every time, but for the last few files."""
        return torch.stack([square_image(path, self.size) for path in record.images])

    def fingerprints(self, record: QARecord) -> tuple[str, ...]:
        """Of the files' bytes and the size they are resized to.

        Raises:
            UnreadableFileError: for a file that is gone.
        """
        try:
            return tuple(f"{_file_hash(path, path.stat().st_mtime_ns)}:square{self.size}" for path in record.images)
        except OSError as error:
            raise UnreadableFileError(f"{error.filename}: expected an image file, got {error.strerror}") from None

    def geometry(self, record: QARecord) -> ViewGeometry | None:
        """As the record has it."""
        return record.geometry


def square_image(path: Path, size: int) -> Float[Tensor, "3 size size"]:
    """The middle square of a photograph, RGB in [0, 1].

    Raises:
        UnreadableFileError: for a file that is missing or no image.
    """
    return square_pixels(read_image(path, 255), size)


def square_pixels(pixels: UInt8[np.ndarray, "height width 3"], size: int) -> Float[Tensor, "3 size size"]:
    """The short side resized to `size` (bicubic), the middle cut out; RGB in [0, 1]."""
    height, width = pixels.shape[:2]
    if (height, width) != (size, size):
        scale = size / min(height, width)
        resized = (max(size, round(width * scale)), max(size, round(height * scale)))
        pixels = np.asarray(Image.fromarray(pixels).resize(resized, Image.Resampling.BICUBIC))
        top, left = (resized[1] - size) // 2, (resized[0] - size) // 2
        pixels = pixels[top : top + size, left : left + size]
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float() / 255


def _limited(record: QARecord, max_views: int) -> QARecord:
    kept = evenly_spread(range(len(record.images)), max_views)
    if len(kept) == len(record.images):
        return record
    geometry = None if record.geometry is None else record.geometry[torch.tensor(kept)]
    return replace(record, images=tuple(record.images[view] for view in kept), geometry=geometry)


@lru_cache(maxsize=65536)
def _file_hash(path: Path, _modified: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class _RoomKey:
    seed: int
    index: int
    num_views: int


class RoomSource:
    """Procedural rooms `first` to `first + count - 1` of a seed: the ones that `python -m data.procedural` writes."""

    def __init__(
        self, seed: int, first: int, count: int, size: int, *, kinds: Sequence[str] = ("questions",), num_views: int = 3
    ) -> None:
        """`kinds` out of `ROOM_KINDS`.

        Raises:
            InputError: for another kind.
        """
        unknown = [kind for kind in kinds if kind not in ROOM_KINDS]
        require(not unknown, f"expected kinds of records out of {', '.join(ROOM_KINDS)}, got {unknown[:1]}")
        self.name, self.size, self.num_views, self.seed = "rooms_qa", size, num_views, seed
        self.records: list[QARecord] = []
        self._index: dict[str, int] = {}
        for index in range(first, first + count):
            scene = room_name(seed, index)
            self._index[scene] = index
            room = draw_room(seed, index, num_views)
            images = tuple(Path(scene) / image_name(view) for view in range(num_views))
            for kind in kinds:
                asked = _asked(kind, room, seed, index)
                self.records += [
                    _room_record(one, images, scene, f"{scene}-{kind}-{number}") for number, one in enumerate(asked)
                ]

    def images(self, record: QARecord) -> Float[Tensor, "view 3 size size"]:
        """Rendered anew, but for the last rooms; what views a record has follows from the names of its images."""
        pictures = _rendered(self._room_key(record), self.size)
        views = [_view_number(path) for path in record.images]
        return torch.from_numpy(pictures[views]).permute(0, 3, 1, 2).float() / 255

    def fingerprints(self, record: QARecord) -> tuple[str, ...]:
        """Of what a room is drawn from."""
        key = self._room_key(record)
        room = f"{_ROOM_VERSION}:{key.seed}:{key.index}:{key.num_views}:{self.size}"
        return tuple(f"{room}:{_view_number(path)}" for path in record.images)

    def geometry(self, record: QARecord) -> ViewGeometry | None:
        """Exact cameras and depths."""
        views = torch.tensor([_view_number(path) for path in record.images])
        return _geometry(self._room_key(record), self.size)[views]

    def _room_key(self, record: QARecord) -> _RoomKey:
        return _RoomKey(self.seed, self._index[record.images[0].parent.name], self.num_views)


def room_name(seed: int, index: int) -> str:
    """Unique over seeds."""
    return f"room{seed}_{index:05d}"


def _asked(kind: str, room: QARoom, seed: int, index: int) -> list[RoomQuestion]:
    if kind == "questions":
        return room_questions(room, seed, index)
    return {"captions": room_captions, "readings": room_readings, "actions": room_actions}[kind](room)


def _room_record(one: RoomQuestion, images: tuple[Path, ...], scene: str, name: str) -> QARecord:
    answer = one.answer if one.action is None else action_text(one.action)
    return QARecord(
        images=images,
        question=one.question,
        answers=(answer,),
        action=one.action,
        task=one.task,
        scene=scene,
        id=name,
        evidence=one.views,
    )


def _view_number(path: Path) -> int:
    return int(path.stem.removeprefix("view")) - 1


@lru_cache(maxsize=64)
def _rendered(key: _RoomKey, size: int) -> np.ndarray:
    return render_room(draw_room(key.seed, key.index, key.num_views), size)


@lru_cache(maxsize=8192)
def _geometry(key: _RoomKey, size: int) -> ViewGeometry:
    return room_geometry(draw_room(key.seed, key.index, key.num_views), size)
