"""Arrays and packed files of strangers: nothing is unpickled, and no more memory is taken than the files warrant."""

import gzip
import io
import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.image_io import UnreadableFileError
from geometry.plain_files import plain_file

MOST_BYTES = 2**32
"""Of one array in an archive, if the caller does not know better: what is compressed tells nothing of its size."""
_MOST_RATIO = 50
"""Of unpacked to packed bytes: JSON of numbers comes to 3 to 20, a bomb to 1000."""
_PIECE = 2**22
_HEADER = 2**14
"""Bytes at the beginning of an array file that hold its header: numpy reads no longer one of strangers."""
_BRACKETS = 200
"""In a header; a plain one has two."""
_SMALL = 2**26
"""Bytes below which any ratio will do."""


def read_array(path: Path) -> np.ndarray:
    """An array of a .npy file.

    Raises:
        UnreadableFileError: for a missing or damaged file, one of Python objects, or a header that promises more than
            the file has.
    """
    return _array(path, None)


def map_array(path: Path) -> np.ndarray:
    """As `read_array`, mapped into memory, read-only."""
    return _array(path, "r")


def _array(path: Path, mode: Literal["r"] | None) -> np.ndarray:
    try:
        with plain_file(path).open("rb") as file:
            _require_warranted(file, path.stat().st_size)
        return np.load(path, mmap_mode=mode, allow_pickle=False)
    except Exception as error:  # a broken header raises whatever numpy's parser of it does
        raise _unreadable(path, error) from None


def read_archive(path: Path, names: Iterable[str] | None = None, *, most: int = MOST_BYTES) -> dict[str, np.ndarray]:
    """Arrays of a .npz file by name; of `names`, those that it has.

    `most`: bytes of the largest array to expect.

    Raises:
        UnreadableFileError: as `read_array`, and for an array of more than `most` bytes.
    """
    try:
        with zipfile.ZipFile(plain_file(path)) as archive:
            members = {one.filename.removesuffix(".npy"): one for one in archive.infolist()}
            wanted = [name for name in (members if names is None else names) if name in members]
            found = {}
            for name in wanted:
                size = members[name].file_size
                if size > most + 2**16:  # the header's share
                    raise ValueError(f"{name} of {size} bytes where at most {most} can be")
                with archive.open(members[name]) as file:
                    _require_warranted(file, size)
                with archive.open(members[name]) as file:
                    found[name] = np.lib.format.read_array(file, allow_pickle=False)
            return found
    except Exception as error:  # as above, and whatever zipfile and its decompressors do
        raise _unreadable(path, error) from None


def read_gzip(path: Path) -> bytes:
    """A file unpacked.

    Raises:
        UnreadableFileError: for a missing or damaged file, and for one of more than 64 MiB that unpacks to more than
            50 times its size.
    """
    try:
        most = max(_SMALL, _MOST_RATIO * plain_file(path).stat().st_size)
        with gzip.open(path) as file:
            content = b"".join(_pieces(file, most))
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error, "a file packed by gzip") from None
    if len(content) > most:
        raise UnreadableFileError(f"{path}: expected data that were packed, got more than {most} bytes out of it")
    return content


def _pieces(file: Any, most: int) -> Iterator[bytes]:
    """Until the end, or a piece beyond `most` bytes."""
    while most >= 0 and (piece := file.read(_PIECE)):
        most -= len(piece)
        yield piece


def _require_warranted(file: Any, size: int) -> None:
    """Refuse a header that promises more than `size` bytes: numpy would take the memory before it reads on."""
    start = io.BytesIO(file.read(_HEADER))
    version = np.lib.format.read_magic(start)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    length = int.from_bytes(start.getvalue()[8 : 10 if version == (1, 0) else 12], "little")
    if sum(start.getvalue()[:length].count(bracket) for bracket in (b"(", b"[", b"{")) > _BRACKETS:
        raise ValueError("a header of brackets")  # Python's parser takes all its memory for them
    shape, _, dtype = read(start)
    promised = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or promised > size:
        raise ValueError(f"shape {shape} and type {dtype} in {size} bytes")


def _unreadable(path: Path, error: Exception, what: str = "an array file") -> UnreadableFileError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UnreadableFileError(f"{path} cannot be read as {what}: {reason}")
