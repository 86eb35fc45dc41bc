"""Images, masks and depth maps of a scene whose photographs are rectified when they are read, images once for all.

A rectified image is kept as a PNG file (data/cache.py) and in memory; without a cache folder in memory alone.
"""

import functools
import hashlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from data.cache import cached
from data.image_io import UnreadableFileError, decode_image, read_image, read_uint16
from data.rectification import Rectification
from data.scene import Frame

_CACHED_IMAGES = 64
"""Rectified images in memory, per process; as many as `read_image` keeps."""
_COMPRESSION = 1
"""Of PNG, 0 to 9; higher values take several times as long to save a tenth. Chosen by hand."""
_ASPECT_TOLERANCE = 0.02
"""Relative: reduced masks and depth maps have whole numbers of pixels."""


@dataclass(frozen=True)
class SparseDepth:
    """Depth of one view where its points were observed."""

    pixels: Int[np.ndarray, "point 2"]
    """(row, column)."""
    depth: Float[np.ndarray, " point"]
    """Camera z, scene units; of two points in one pixel the last is farther."""


@dataclass(frozen=True)
class RectifiedFiles:
    """What `PosedScene` reads its frames through."""

    ways: Mapping[int, Rectification]
    """By view."""
    depth_scale: float = 1.0
    """Scene units per count of the 16-bit depth maps."""
    sparse: Mapping[int, SparseDepth] = field(default_factory=dict)
    """Views whose depth is that of the scene's points."""

    def read_image(self, frame: Frame, background: int) -> UInt8[np.ndarray, "height width 3"]:
        """The rectified photograph; read-only.

        Raises:
            UnreadableFileError: for an unreadable file, or one whose size has changed.
        """
        way, path = self.ways[frame.view_id], frame.image_path
        if way.is_identity:
            return read_image(path, background)
        try:
            status = os.stat(path)
        except OSError:
            raise UnreadableFileError(f"{path}: expected an image file, got none") from None
        return _rectified(path, background, way, status.st_mtime_ns, status.st_size)

    def read_mask(self, frame: Frame) -> UInt8[np.ndarray, "height width"]:
        """The rectified mask, 0 to 255.

        Raises:
            UnreadableFileError: for an unreadable file, or one of other proportions than its photograph.
        """
        return self._rectified_map(frame, read_image(frame.mask_path)[..., 0], frame.mask_path, "mask")

    def read_depth(self, frame: Frame) -> Float[np.ndarray, "height width"]:
        """The rectified depth map in scene units, or the depth of the points that this view observes; 0 = unknown.

        Raises:
            UnreadableFileError: for an unreadable file, or one of other proportions than its photograph.
        """
        if frame.view_id in self.sparse:
            points = self.sparse[frame.view_id]
            depth = np.zeros((frame.height, frame.width), np.float32)
            depth[points.pixels[::-1, 0], points.pixels[::-1, 1]] = points.depth[::-1]
            return depth
        counts = read_uint16(frame.depth_path).astype(np.float32)
        return self._rectified_map(frame, counts, frame.depth_path, "depth map") * np.float32(self.depth_scale)

    def _rectified_map(self, frame: Frame, values: np.ndarray, path: Path, what: str) -> np.ndarray:
        way = self.ways[frame.view_id]
        height, width = way.file_size
        if not abs(values.shape[1] * height / (values.shape[0] * width) - 1) < _ASPECT_TOLERANCE:
            raise UnreadableFileError(
                f"{path}: expected a {what} with the proportions of {width}x{height} (width x height), "
                f"got {values.shape[1]}x{values.shape[0]}"
            )
        if values.shape != way.file_size:
            values = cv2.resize(values, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        return way.image(values, is_map=True)


@functools.lru_cache(maxsize=_CACHED_IMAGES)
def _rectified(
    path: Path, background: int, way: Rectification, modified: int, size: int
) -> UInt8[np.ndarray, "height width 3"]:
    identity = "|".join(map(str, (path.resolve(), background, way, modified, size)))
    name = f"rectified/{hashlib.sha256(identity.encode()).hexdigest()}.png"

    def read(content: bytes) -> np.ndarray | None:
        image = np.array(Image.open(io.BytesIO(content)))
        return image if image.shape == (*way.size, 3) else None

    def make() -> tuple[np.ndarray, bytes]:
        photograph = decode_image(path, background)
        if photograph.shape[:2] != way.file_size:
            raise UnreadableFileError(
                f"{path}: expected {way.file_size[1]}x{way.file_size[0]} (width x height), "
                f"got {photograph.shape[1]}x{photograph.shape[0]}"
            )
        image, content = way.image(photograph), io.BytesIO()
        Image.fromarray(image).save(content, format="PNG", compress_level=_COMPRESSION)
        return image, content.getvalue()

    image = cached(name, read, make)
    image.flags.writeable = False
    return image
