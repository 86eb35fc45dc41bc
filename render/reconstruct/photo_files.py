"""Photographs as cameras and phones write them -> upright RGB of a bounded size, with what EXIF says."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pi_heif
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageCms, ImageOps

from data.image_io import DECODE_ERRORS, UnreadableFileError, open_image, to_rgb

pi_heif.register_heif_opener()

_EXTENSIONS = ".jpg .jpeg .jpe .jfif .png .webp .tif .tiff .bmp .heic .heif .hif .avif"
PHOTO_EXTENSIONS = frozenset(_EXTENSIONS.split(" "))
_MAX_PIXELS = 250_000_000
"""More is taken for a decompression bomb: phones write up to 200 megapixels, a PNG of which takes 1 GB to decode."""
_DIAGONAL_35MM = 43.2666
"""Diagonal of 36 x 24 mm, to which the equivalent focal length refers (CIPA DCG-001-2018)."""
_UNIT_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
"""Of EXIF's FocalPlaneResolutionUnit: inch, cm, mm, micrometer."""
_FOCAL_SHARE = (0.2, 20.0)
"""Focal lengths in long sides of the image outside of which EXIF is not believed: a fisheye, a telescope."""


@dataclass(frozen=True)
class PhotoFile:
    """A decoded photograph."""

    image: UInt8[np.ndarray, "height width 3"]
    focal: float | None
    """Pixels of `image`, from EXIF; None: not said."""
    turned: bool
    """By EXIF's orientation."""
    taken: str | None
    """EXIF's time of exposure as text that sorts in the order of time; None: not said."""


def read_photo(path: Path, max_side: int) -> PhotoFile:
    """Upright 8-bit sRGB, reduced by area to a long side of at most `max_side` pixels, never enlarged.

    All eight orientations of EXIF, 16-bit, gray, CMYK, palette and transparent images (over white); colors of an
    embedded ICC profile become sRGB. Of a JPEG only as many pixels are decoded as are needed.

    Raises:
        UnreadableFileError: naming the file, which is missing, truncated, too large or no image.
    """
    with _opened(path) as image:
        exif, size = image.getexif(), image.size
        orientation = image.info.get("original_orientation") or exif.get(ExifTags.Base.Orientation, 1)  # HEIC's opener
        focal = focal_pixels(exif, size)
        image.draft(None, (2 * max_side, 2 * max_side))
        image.load()
        factor = max(image.size) // (2 * max_side)
        small = image.reduce(factor) if factor > 1 and image.mode in ("L", "RGB", "RGBX", "CMYK") else image
        upright = ImageOps.exif_transpose(small)
        rgb = within(_srgb(upright, image.info.get("icc_profile")), max_side)
    scale = max(rgb.shape) / max(size)
    return PhotoFile(rgb, None if focal is None else focal * scale, orientation in range(2, 9), _taken(exif))


def focal_pixels(exif: Image.Exif, size: tuple[int, int]) -> float | None:
    """Focal length in pixels of an image of this (width, height), or None where EXIF does not say, or says nonsense.

    35 mm equivalent e: f = e sqrt(width^2 + height^2) / 43.27 mm; 26 mm on 4000 x 3000 are 3005 pixels. Else the
    focal length times the resolution of the focal plane, brought to this size.
    """
    details = exif.get_ifd(ExifTags.IFD.Exif)
    equivalent = _number(details.get(ExifTags.Base.FocalLengthIn35mmFilm))
    focal = equivalent * float(np.hypot(*size)) / _DIAGONAL_35MM
    if focal == 0:
        resolution = _number(details.get(ExifTags.Base.FocalPlaneXResolution))
        unit = _UNIT_MM.get(details.get(ExifTags.Base.FocalPlaneResolutionUnit, 2), 0.0)
        sides = [_number(details.get(tag)) for tag in (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight)]
        millimeters = _number(details.get(ExifTags.Base.FocalLength))
        if unit and max(sides):
            focal = millimeters * resolution / unit * max(size) / max(sides)
    low, high = _FOCAL_SHARE
    return focal if low * max(size) < focal < high * max(size) else None


def within(image: UInt8[np.ndarray, "height width 3"], max_side: int) -> UInt8[np.ndarray, "rows columns 3"]:
    """Reduced by area to a long side of at most `max_side` pixels, never enlarged."""
    height, width = image.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1:
        return image
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


@contextlib.contextmanager
def large_photos() -> Iterator[None]:
    """Within the block Pillow opens what phones write, and neither warns of it nor opens what is larger."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = _MAX_PIXELS // 2  # Pillow refuses at twice this number and warns in between
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata that is odd, and of size
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _taken(exif: Image.Exif) -> str | None:
    details = exif.get_ifd(ExifTags.IFD.Exif)
    tags = (ExifTags.Base.DateTimeOriginal, ExifTags.Base.SubsecTimeOriginal)
    time, fraction = (str(details.get(tag, "")).strip("\0 ") for tag in tags)
    return f"{time}.{fraction}" if any(digit in time for digit in "123456789") else None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """With every way in which a damaged file fails as one."""
    try:
        with open_image(path) as image:
            yield image
    except Image.DecompressionBombError:
        limit = f"at most {_MAX_PIXELS // 1_000_000} megapixels"
        raise UnreadableFileError(f"{path}: expected a photograph of {limit}, got more") from None
    except FileNotFoundError:
        raise UnreadableFileError(f"{path}: expected an image file, got none") from None
    except (*DECODE_ERRORS, Image.UnidentifiedImageError) as error:
        reason = " ".join(str(error).split()).replace(f" '{path}'", "")
        raise UnreadableFileError(
            f"{path}: expected a complete image, got one that cannot be decoded ({reason})"
        ) from None


def _srgb(image: Image.Image, profile: bytes | None) -> UInt8[np.ndarray, "height width 3"]:
    if profile and image.mode in ("RGB", "CMYK"):
        with contextlib.suppress(ImageCms.PyCMSError, OSError):  # a damaged or foreign profile: as if there were none
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if source.profile.xcolor_space.strip() == image.mode:
                image = (
                    ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB") or image
                )
    return to_rgb(image, background=255)


def _number(value: object) -> float:
    """0 for what is none: absent, text, a fraction over zero."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return 0.0
    return number if np.isfinite(number) else 0.0
