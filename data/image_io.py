"""Images, PFM depth maps and masks on disk -> arrays, and back. Writes are atomic: a file is whole or absent."""

import contextlib
import functools
import io
import math
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8, UInt16
from PIL import Image, UnidentifiedImageError

from geometry import InputError
from geometry.plain_files import plain_file

_CACHED_IMAGES = 64
"""Per process, about 1 MB each at 640x512: the views of one DTU scan (49) fit."""
_PFM_HEADER = re.compile(rb"\s*(P[fF])\s+(\d{1,9})\s+(\d{1,9})\s+(\S+)\s")
DECODE_ERRORS = (OSError, SyntaxError, ValueError, struct.error, EOFError, Image.DecompressionBombError)
"""What Pillow raises about files that are damaged or no images."""


class UnreadableFileError(InputError):
    """A file that is missing or damaged: another one may do, which no other mistake of the user's is true of."""


def read_image(path: Path, background: int = 0) -> UInt8[np.ndarray, "height width 3"]:
    """RGB of any 8 or 16 bit, gray, palette or RGBA file; alpha is composited over the gray level `background`.

    The last 64 decoded images are kept, because training reads the same ones again; a file that changed is read anew.
    The returned array is read-only.

    Raises:
        InputError: for a missing, truncated or otherwise undecodable file.
    """
    try:
        status = os.stat(path)
    except OSError:
        raise UnreadableFileError(f"{path}: expected an image file, got none") from None
    return _decode(path, background, status.st_mtime_ns, status.st_size)


class _Warranted(io.BufferedReader):
    """A file that is asked for no more bytes than it has: Pillow would take memory for as many as a header names."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(plain_file(path)))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file."""
        left = max(0, self._size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


@contextlib.contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Pillow's image of a file; raises one of `DECODE_ERRORS`."""
    with _Warranted(path) as file:
        try:
            image = Image.open(file)
        except UnidentifiedImageError:
            raise UnidentifiedImageError(f"cannot identify image file '{path}'") from None
        with image:
            yield image


def is_file(path: Path) -> bool:
    """Path.is_file, which raises an error for a name that is too long, as one in a stranger's file may be."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) from the header alone.

    Raises:
        InputError: for a missing file or one that is no image.
    """
    try:
        with open_image(path) as image:
            return image.height, image.width
    except FileNotFoundError:
        raise UnreadableFileError(f"{path}: expected an image file, got none") from None
    except DECODE_ERRORS as error:
        raise _unreadable(path, error) from None


def first_image_size(paths: Iterable[Path]) -> tuple[int, int]:
    """(height, width) of the first image with a readable header: the size to expect of all of a scene's images.

    Opening each of tens of thousands takes minutes; `PosedScene.views` and the data doctor check every one.

    Raises:
        InputError: about the first image, when none is readable.
    """
    failure: InputError | None = None
    for path in paths:
        try:
            return image_size(path)
        except InputError as error:
            failure = failure or error
    raise failure or InputError("expected at least one image, got none")


def write_image(path: Path, image: UInt8[np.ndarray, "height width *channel"]) -> None:
    """Write gray, RGB or RGBA in the format that the name's extension says; folders are made."""
    extension = path.suffix.lower()
    if extension not in Image.registered_extensions():
        raise InputError(f"{path}: expected an image file name such as *.png or *.jpg, got extension {extension!r}")
    options = {"quality": 95} if extension in (".jpg", ".jpeg") else {}
    image_format = Image.registered_extensions()[extension]
    write_atomic(path, lambda temporary: Image.fromarray(image).save(temporary, format=image_format, **options))


def read_uint16(path: Path) -> UInt16[np.ndarray, "height width"]:
    """All bits of a 16-bit gray PNG.

    Raises:
        InputError: for a missing or undecodable file, or one that is no 16-bit gray image.
    """
    try:
        with open_image(path) as image:
            image.load()
            mode, values = image.mode, np.asarray(image)
    except FileNotFoundError:
        raise UnreadableFileError(f"{path}: expected an image file, got none") from None
    except DECODE_ERRORS as error:
        raise _unreadable(path, error) from None
    if not mode.startswith("I"):
        raise UnreadableFileError(f"{path}: expected a 16-bit gray image, got one of mode {mode}")
    return values.astype(np.uint16)


def write_uint16(path: Path, values: UInt16[np.ndarray, "height width"]) -> None:
    """Write a 16-bit gray PNG; folders are made."""
    write_atomic(path, lambda temporary: Image.fromarray(values).save(temporary, format="PNG"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file; folders are made."""
    write_atomic(path, lambda temporary: temporary.write_bytes(content))


def read_pfm(path: Path) -> Float[np.ndarray, "height width"]:
    """One-channel PFM (rows bottom-up, a negative scale means little-endian) as float32, top row first.

    Raises:
        InputError: for a missing file, a bad header, a wrong number of bytes, or NaN.
    """
    try:
        content = plain_file(path).read_bytes()
    except OSError:
        raise UnreadableFileError(f"{path}: expected a PFM file, got none") from None
    match = _PFM_HEADER.match(content)
    if match is None or match[1] != b"Pf":
        raise UnreadableFileError(
            f"{path}: expected a one-channel PFM header (Pf, width height, scale), got {content[:20]!r}"
        )
    width, height = int(match[2]), int(match[3])
    try:
        scale = float(match[4])
    except ValueError:
        scale = 0.0
    if not 0 < abs(scale) < math.inf:
        raise UnreadableFileError(f"{path}: expected a number other than 0 as PFM scale, got {match[4]!r}")
    expected, got = 4 * width * height, len(content) - match.end()
    if expected != got:
        raise UnreadableFileError(f"{path}: expected {expected} bytes for {width}x{height} PFM values, got {got}")
    values = np.frombuffer(content, dtype="<f4" if scale < 0 else ">f4", offset=match.end())
    values = values.reshape(height, width)[::-1].astype(np.float32)
    if np.isnan(values).any():
        count = int(np.isnan(values).sum())
        raise UnreadableFileError(f"{path}: expected numbers, got NaN in {count} of {values.size} pixels")
    return values


def write_pfm(path: Path, array: Float[np.ndarray, "height width"], *, big_endian: bool = False) -> None:
    """Write a one-channel PFM as float32; folders are made."""
    height, width = array.shape
    values = array[::-1].astype(">f4" if big_endian else "<f4")
    write_bytes(path, f"Pf\n{width} {height}\n{1.0 if big_endian else -1.0}\n".encode() + values.tobytes())


def read_depth_pfm(path: Path) -> Float[np.ndarray, "height width"]:
    """Depth map, camera z in the file's unit; 0 = unknown, which files also write as infinity.

    Raises:
        InputError: as `read_pfm`, and for negative depth.
    """
    depth = read_pfm(path)
    negative = int((depth < 0).sum())
    if negative:
        raise UnreadableFileError(
            f"{path}: expected depth >= 0, got {negative} negative pixels down to {depth.min():g}"
        )
    depth[np.isinf(depth)] = 0
    return depth


def decode_image(path: Path, background: int) -> UInt8[np.ndarray, "height width 3"]:
    """As `read_image`, decoded anew every time."""
    try:
        with open_image(path) as image:
            image.load()
            return to_rgb(image, background)
    except FileNotFoundError:
        raise UnreadableFileError(f"{path}: expected an image file, got none") from None
    except DECODE_ERRORS as error:
        raise _unreadable(path, error) from None


def to_rgb(image: Image.Image, background: int) -> UInt8[np.ndarray, "height width 3"]:
    """8-bit RGB of any mode; of 16 bits the high byte, alpha composited over the gray level `background`.

    Raises:
        ValueError: for floats and for whole numbers of 32 bits, whose black and white nothing tells.
    """
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):  # other formats' have 16 at most
        raise ValueError("floats or 32 bits, where 8 or 16 bits per value can be read")
    if image.mode.startswith("I"):  # 16-bit gray; Pillow itself reduces 16-bit color to its high byte
        gray = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=-1)
    if not image.has_transparency_data:
        return np.array(image.convert("RGB"))
    rgba = np.asarray(image.convert("RGBA")).astype(np.float32)
    alpha = rgba[..., 3:] / 255
    return np.rint(rgba[..., :3] * alpha + background * (1 - alpha)).astype(np.uint8)


@functools.lru_cache(maxsize=_CACHED_IMAGES)
def _decode(path: Path, background: int, _modified: int, _size: int) -> UInt8[np.ndarray, "height width 3"]:
    rgb = decode_image(path, background)
    rgb.flags.writeable = False
    return rgb


def _unreadable(path: Path, error: Exception) -> UnreadableFileError:
    reason = " ".join(str(error).split()).replace(f" '{path}'", "")
    return UnreadableFileError(f"{path}: expected a complete image, got one that cannot be decoded ({reason})")


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write(temporary)` write a file that then takes the place of `path`; folders are made.

    Raises:
        InputError: for a place that cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: expected a file that can be written, got: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
