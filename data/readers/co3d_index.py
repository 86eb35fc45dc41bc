"""Co3D's annotation files -> arrays, kept in a cache (data/cache.py), since they hold millions of frames as JSON.

A file's arrays are kept under its path and belong to its size and time of change; another file at that path, or another
version of the format below, is read anew.
"""

import functools
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from data.cache import cached
from data.untrusted_files import read_gzip
from geometry import InputError, check_camera, possible_cameras
from geometry.conversions import intrinsics_from_integer_centers
from geometry.plain_json import parse_json

MIN_FRAMES = 24
"""Shorter sequences are left out, as upstream does."""
_VERSION = 1
"""Of what is kept; another number makes everything kept before worthless."""


@dataclass(frozen=True)
class AnnotatedSequence:
    """The frames of one turn around an object that have a possible camera."""

    view_ids: Int[np.ndarray, " view"]
    """Positions in the annotation's list."""
    joined_files: str
    """`filepath` of each, one per line: a string per frame would take half of the memory."""
    w2c: Float[np.ndarray, "view 3 4"]
    intrinsics: Float[np.ndarray, "view 3 3"]
    """Pixel centers at +0.5."""

    @property
    def files(self) -> tuple[str, ...]:
        """Paths below the root."""
        return tuple(self.joined_files.split("\n")) if self.joined_files else ()


@dataclass(frozen=True)
class Annotation:
    """One category's file."""

    sequences: dict[str, AnnotatedSequence]
    """Those of at least 24 frames."""
    num_short: int
    """Sequences with fewer."""
    problems: tuple[tuple[str, str], ...]
    """(sequence, message) for every frame with an impossible camera and every sequence that cannot be read."""


def read_annotation(path: Path) -> Annotation:
    """The arrays of an annotation file, from the cache where it has them.

    Raises:
        InputError: for a file that is no gzip-compressed JSON of sequences.
    """
    try:
        status = path.stat()
    except OSError as error:  # a link to nothing
        raise InputError(f"{path}: expected gzip-compressed JSON, got no file ({error.strerror})") from None
    return _read(path.resolve(), path, status.st_size, status.st_mtime_ns)


def forget() -> None:
    """Drop what this process remembers, so that the next read is that of a new process."""
    _read.cache_clear()


def cache_name(path: Path, kind: str) -> str:
    """Name in the cache of what belongs to a file or folder."""
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()
    return f"co3d/{path.name.partition('.')[0]}-{digest[:16]}.{kind}"


@functools.lru_cache(maxsize=128)  # both kinds of all categories: one process asks for them several times
def _read(resolved: Path, path: Path, size: int, modified: int) -> Annotation:
    stamp = [_VERSION, str(resolved), size, modified]

    def make() -> tuple[Annotation, bytes]:
        annotation = _parse(path)
        return annotation, _to_bytes(annotation, stamp)

    return cached(cache_name(path, "npz"), lambda content: _from_bytes(content, stamp), make)


def _parse(path: Path) -> Annotation:
    try:
        content = parse_json(read_gzip(path).decode())
    except ValueError as error:
        raise InputError(f"{path}: expected gzip-compressed JSON, got an unreadable file ({error})") from None
    if not isinstance(content, dict) or not all(isinstance(frames, list) for frames in content.values()):
        raise InputError(f"{path}: expected sequences with lists of frames, got other JSON")
    problems: list[tuple[str, str]] = []
    sequences = {}
    for name, frames in content.items():
        if len(frames) >= MIN_FRAMES:
            try:
                sequences[name] = _sequence(name, frames, path, problems)
            except InputError as error:
                problems.append((name, str(error)))
    num_short = sum(len(frames) < MIN_FRAMES for frames in content.values())
    return Annotation(sequences, num_short, tuple(problems))


def _sequence(
    name: str, frames: Sequence[dict[str, Any]], path: Path, problems: list[tuple[str, str]]
) -> AnnotatedSequence:
    where = f"{path} sequence {name}"
    try:
        files = [str(frame["filepath"]) for frame in frames]
        w2c = np.tile(np.eye(4), (len(frames), 1, 1))
        w2c[:, :3] = [frame["extri"] for frame in frames]
        intrinsics = np.array([frame["intri"] for frame in frames], dtype=np.float64).reshape(-1, 3, 3)
        if len(intrinsics) != len(frames) or any("\n" in file or not file for file in files):
            raise ValueError("a camera or path of another form")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{where}: expected frames with filepath, extri (3x4) and intri (3x3), got {error!r}"
        ) from None
    all_w2c, all_intrinsics = torch.from_numpy(w2c), torch.from_numpy(intrinsics)
    is_possible = possible_cameras(all_w2c, all_intrinsics).numpy()
    for row in np.flatnonzero(~is_possible).tolist():
        try:
            check_camera(all_w2c[row], all_intrinsics[row], f"{where} frame {row} ({Path(files[row]).name})")
        except InputError as error:
            problems.append((name, str(error)))
    kept = np.flatnonzero(is_possible)
    return AnnotatedSequence(
        view_ids=kept,
        joined_files="\n".join(files[row] for row in kept.tolist()),
        w2c=w2c[kept, :3].astype(np.float32),
        intrinsics=intrinsics_from_integer_centers(all_intrinsics)[kept].float().numpy(),
    )


def _to_bytes(annotation: Annotation, stamp: list[Any]) -> bytes:
    sequences = list(annotation.sequences.values())
    header = {
        "stamp": stamp,
        "names": list(annotation.sequences),
        "files": [sequence.joined_files for sequence in sequences],
        "num_short": annotation.num_short,
        "problems": annotation.problems,
    }
    file = io.BytesIO()
    np.savez(
        file,
        header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8),
        counts=np.array([len(sequence.view_ids) for sequence in sequences], dtype=np.int64),
        view_ids=np.concatenate([np.zeros(0, np.int64), *(sequence.view_ids for sequence in sequences)]),
        w2c=np.concatenate([np.zeros((0, 3, 4), np.float32), *(sequence.w2c for sequence in sequences)]),
        intrinsics=np.concatenate([np.zeros((0, 3, 3), np.float32), *(sequence.intrinsics for sequence in sequences)]),
    )
    return file.getvalue()


def _from_bytes(content: bytes, stamp: list[Any]) -> Annotation | None:
    """None for another file's or version's arrays; a broken file raises."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        header = json.loads(arrays["header"].tobytes())
        if header["stamp"] != stamp:
            return None
        ends = np.cumsum(arrays["counts"])[:-1]
        parts = [np.split(arrays[name], ends) for name in ("view_ids", "w2c", "intrinsics")]
    rows = zip(header["names"], header["files"], *parts, strict=True)
    sequences = {
        name: AnnotatedSequence(view_ids, files, w2c, intrinsics) for name, files, view_ids, w2c, intrinsics in rows
    }
    return Annotation(sequences, header["num_short"], tuple((name, line) for name, line in header["problems"]))
