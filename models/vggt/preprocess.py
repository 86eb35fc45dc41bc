"""Image files -> network input, as the reference model was trained to see them (docs/vggt.md, "Preprocessing").

Images leave as RGB in [0, 1], float32, channel first; the network subtracts the mean and divides by the deviation.
"""

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

DEFAULT_SIZE = 518
"""Pixels: 37 patches of 14, the size VGGT-1B was trained at."""
DEFAULT_SQUARE_SIZE = 1024
"""Pixels of a padded square, as upstream."""
PATCH_SIZE = 14
"""Pixels a side, VGGT-1B's."""


class SquareImages(NamedTuple):
    """Images padded to squares and resized."""

    images: Float[Tensor, "view 3 size size"]
    boxes: Float[Tensor, "view 6"]
    """[x1, y1, x2, y2, width, height] in pixels: corners of the picture in the square, its size in the file."""


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


def load_images_square(paths: Sequence[str | Path], *, size: int = DEFAULT_SQUARE_SIZE) -> SquareImages:
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
    return SquareImages(torch.stack(images), torch.tensor(boxes))


def _open_all(paths: Sequence[str | Path]) -> list[Image.Image]:
    if not paths:
        raise InputError("expected at least one image file, got none")
    return [_open_rgb(Path(path)) for path in paths]


def _open_rgb(path: Path) -> Image.Image:
    """The picture in RGB; a picture with transparency is laid on white."""
    try:
        with Image.open(path) as image:
            if image.mode == "RGBA":
                white = Image.new("RGBA", image.size, (255, 255, 255, 255))
                return Image.alpha_composite(white, image).convert("RGB")
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"image {path} cannot be read: {error}") from error


def _to_tensor(image: Image.Image) -> Float[Tensor, "3 height width"]:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def _pad_centered(image: Float[Tensor, "3 _ _"], height: int, width: int) -> Float[Tensor, "3 {height} {width}"]:
    """Fill with white around the image, the odd row or column at the end."""
    missing_rows, missing_cols = height - image.shape[1], width - image.shape[2]
    left, top = missing_cols // 2, missing_rows // 2
    return F.pad(image, (left, missing_cols - left, top, missing_rows - top), value=1.0)
