"""Image files -> network input, as the reference model was trained to see them (docs/vggt.md, "Preprocessing").

Images leave as RGB in [0, 1], float32, channel first; the network subtracts the mean and divides by the deviation.
"""

import io
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from geometry.errors import InputError
from geometry.plain_files import plain_file

DEFAULT_SIZE = 518
"""Pixels: 37 patches of 14, the size VGGT-1B was trained at."""
DEFAULT_SQUARE_SIZE = 1024
"""Pixels of a padded square, as upstream."""
PATCH_SIZE = 14
"""Pixels a side, VGGT-1B's."""
_MAX_ASPECT = 64
"""Longer side to shorter one: made 518 pixels wide, an image of one pixel by 20 000 would take 60 GB."""
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, struct.error, EOFError, Image.DecompressionBombError)
"""What Pillow raises about files that are damaged or no images."""


class PlacedImages(NamedTuple):
    """Images resized and padded to one canvas, and where they lie in it."""

    images: Float[Tensor, "view 3 height width"]
    boxes: Float[Tensor, "view 6"]
    """[x1, y1, x2, y2, width, height] in pixels: corners of the picture in the canvas, its size in the file."""


def load_images(
    paths: Sequence[str | Path],
    *,
    mode: str = "crop",
    size: int = DEFAULT_SIZE,
    patch_size: int = PATCH_SIZE,
) -> Float[Tensor, "view 3 height width"]:
    """Resize to `size` pixels, sides multiples of the patch; "crop" cuts high images, "pad" fills up to a white square.

    "crop" makes the width `size`, "pad" the longer side. Images that end with different shapes are padded with white
    to the largest, with a warning.
    """
    if mode not in ("crop", "pad"):
        raise InputError(f"mode must be crop or pad, got {mode!r}")
    images = []
    for image in _open_all(paths):
        width, height = image.size
        if mode == "pad" and width < height:
            resized = (round(width * (size / height) / patch_size) * patch_size, size)
        else:
            resized = (size, round(height * (size / width) / patch_size) * patch_size)
        if min(resized) < patch_size:
            raise InputError(f"image of {height}x{width} pixels is too narrow for patches of {patch_size}")
        pixels = _to_tensor(image.resize(resized, Image.Resampling.BICUBIC))
        if mode == "crop":
            top = max(pixels.shape[1] - size, 0) // 2
            images.append(pixels[:, top : top + size])
        else:
            images.append(_pad_centered(pixels, size, size))
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    if any(image.shape[1:] != (height, width) for image in images):
        warnings.warn(f"images differ in shape, padding all to {height}x{width} with white", stacklevel=2)
    return torch.stack([_pad_centered(image, height, width) for image in images])


def load_images_whole(
    paths: Sequence[str | Path], *, size: int = DEFAULT_SIZE, patch_size: int = PATCH_SIZE
) -> PlacedImages:
    """Longer sides resized to `size` pixels, sides multiples of the patch; nothing is cut off.

    Landscape images of one shape are those of `load_images` in either mode without its padding: a square costs twice as
    many tokens. Otherwise white fills up to the largest height and width, and to `size` columns, because VGGT was
    trained on images that are not higher than wide.
    """
    images, sizes = [], []
    for image in _open_all(paths):
        width, height = image.size
        scale = size / max(width, height)
        resized = tuple(max(1, round(side * scale / patch_size)) * patch_size for side in (width, height))
        images.append(_to_tensor(image.resize(resized, Image.Resampling.BICUBIC)))
        sizes.append((width, height))
    rows = max(image.shape[1] for image in images)
    cols = max([image.shape[2] for image in images] + [rows])
    boxes = []
    for image, (width, height) in zip(images, sizes, strict=True):
        left, top = (cols - image.shape[2]) // 2, (rows - image.shape[1]) // 2
        corners = (left, top, left + image.shape[2], top + image.shape[1])
        boxes.append([float(entry) for entry in (*corners, width, height)])
    return PlacedImages(torch.stack([_pad_centered(image, rows, cols) for image in images]), torch.tensor(boxes))


def intrinsics_in_files(
    intrinsics: Float[Tensor, "view 3 3"], boxes: Float[Tensor, "view 6"]
) -> Float[Tensor, "view 3 3"]:
    """Intrinsics in pixels of the canvas -> in pixels of the image files.

    f_x' = f_x w / (x2 - x1) and c_x' = (c_x - x1) w / (x2 - x1) with the `boxes` of `PlacedImages`; y alike. No half
    pixel is added, since pixel centers are at +0.5: a file 1036 pixels wide that fills columns
    112 to 406 of a canvas has c_x = 518 for the canvas's 259.
    """
    left, top, right, bottom, width, height = boxes.to(intrinsics).unbind(-1)
    scale_x, scale_y = width / (right - left), height / (bottom - top)
    zero, one = torch.zeros_like(left), torch.ones_like(left)
    entries = [scale_x, zero, -left * scale_x, zero, scale_y, -top * scale_y, zero, zero, one]
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3)) @ intrinsics


def load_images_square(paths: Sequence[str | Path], *, size: int = DEFAULT_SQUARE_SIZE) -> PlacedImages:
    """Pad each image with black to a square, centered, and resize it to size x size pixels."""
    images, boxes = [], []
    for image in _open_all(paths):
        width, height = image.size
        side = max(width, height)
        left, top = (side - width) // 2, (side - height) // 2
        square = Image.new("RGB", (side, side))
        square.paste(image, (left, top))
        images.append(_to_tensor(square.resize((size, size), Image.Resampling.BICUBIC)))
        corners = [entry * size / side for entry in (left, top, left + width, top + height)]
        boxes.append([*corners, float(width), float(height)])
    return PlacedImages(torch.stack(images), torch.tensor(boxes))


def _open_all(paths: Sequence[str | Path]) -> list[Image.Image]:
    if not paths:
        raise InputError("expected at least one image file, got none")
    return [_open_rgb(Path(path)) for path in paths]


def _open_rgb(path: Path) -> Image.Image:
    """The picture in RGB; a picture with transparency is laid on white, of 16 bits the high byte is taken."""
    try:
        with Image.open(io.BytesIO(plain_file(path).read_bytes())) as image:
            if max(image.size) > _MAX_ASPECT * min(image.size):
                raise ValueError(f"{image.height}x{image.width} pixels are more than {_MAX_ASPECT} to 1")
            if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
                raise ValueError("floats or 32 bits, where 8 or 16 bits per value can be read")
            if image.mode.startswith("I"):  # Pillow would show all above 255 as white
                return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
            if image.mode == "RGBA":
                white = Image.new("RGBA", image.size, (255, 255, 255, 255))
                return Image.alpha_composite(white, image).convert("RGB")
            return image.convert("RGB")
    except _DECODE_ERRORS as error:
        reason = "no image, or none of a known format" if isinstance(error, UnidentifiedImageError) else error
        raise InputError(f"image {path} cannot be read: {reason}") from error


def _to_tensor(image: Image.Image) -> Float[Tensor, "3 height width"]:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def _pad_centered(image: Float[Tensor, "3 _ _"], height: int, width: int) -> Float[Tensor, "3 {height} {width}"]:
    """Fill with white around the image, the odd row or column at the end."""
    missing_rows, missing_cols = height - image.shape[1], width - image.shape[2]
    left, top = missing_cols // 2, missing_rows // 2
    return F.pad(image, (left, missing_cols - left, top, missing_rows - top), value=1.0)
