"""Which images of a set are blurred, repeated, dark or overexposed."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from render.reconstruct.image_motion import Gray, moved

_SECOND_DIFFERENCES = [
    np.array(kernel, np.float32)
    for kernel in (
        [[0, 0, 0], [1, -2, 1], [0, 0, 0]],
        [[0, 1, 0], [0, -2, 0], [0, 1, 0]],
        [[1, 0, 0], [0, -2, 0], [0, 0, 1]],
        [[0, 0, 1], [0, -2, 0], [1, 0, 0]],
    )
]
_RELATIVELY_BLURRED = 0.5
"""Of the median sharpness. Of 677 photographs and frames in 14 scenes the least sharp have 0.53; after blurring by a
Gaussian of 1.2 px the median of every scene but one (0.57) is below 0.47, by one of 2 px below 0.4 (that one: 0.53)."""
_BLURRED = 0.15
"""Least sharpness at any resolution. Three photographs each of 12 scenes at 640, 320 and 240 pixels have medians of
0.189 and more; blurred by a Gaussian of 1.2 px and saved as JPEG 0.111 to 0.149, by one of 2 to 8 px 0.060 to 0.127."""
_BADLY_BLURRED = 0.115
"""Least sharpness at half resolution and below. Those photographs have 0.31 and more; blurred by a Gaussian of 2 px
0.116 to 0.170, by one of 3 px 0.085 to 0.118, by one of 4 to 8 px 0.060 to 0.112."""
_FEWEST_ROWS = 32
"""Of the smaller side at which sharpness is measured, before it is halved: fewer say little. Chosen by hand."""
_MOVED = 0.003
"""Share of the long side, 2 pixels of 640: less shows nothing new from another side."""
_LOOK_ALIKE = 6.0
"""Mean difference of thumbnails in gray levels, below which two images are compared closely."""
_THUMBNAIL = 32
_SMALL = 320
"""Long side at which motion is measured."""


@dataclass(frozen=True)
class Look:
    """What is kept of an image to compare it with the others of its set."""

    sharpness: float
    coarse_sharpness: float
    """The least at half resolution and below: low only when the blur is wide."""
    darkest: float
    """Gray level that 95 percent of the pixels are below or at."""
    white: float
    """Share of the pixels that are saturated."""
    contrast: float
    """Standard deviation of the gray levels."""
    small: Gray
    """Long side 320 or less."""

    @property
    def blank(self) -> bool:
        """A black or evenly colored picture."""
        return self.contrast < 2

    @property
    def exposure(self) -> str | None:
        """Of an image whose exposure leaves little to see; None: a usual one."""
        if self.darkest < 40:
            return "very dark"
        return "overexposed" if self.white > 0.6 else None


def look_at(image: UInt8[np.ndarray, "height width 3"]) -> Look:
    """Measure a prepared image."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return Look(
        sharpness=sharpness(gray),
        coarse_sharpness=_least_sharpness(_halved(gray)),
        darkest=float(np.percentile(gray, 95)),
        white=float((gray >= 252).mean()),
        contrast=float(gray.std()),
        small=small_gray(gray),
    )


def small_gray(gray: Gray) -> UInt8[np.ndarray, "rows columns"]:
    """Reduced to the size at which motion is measured."""
    height, width = gray.shape
    scale = min(_SMALL / max(height, width), 1.0)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return np.asarray(cv2.resize(gray, size, interpolation=cv2.INTER_AREA), np.uint8)


def sharpness(gray: Gray) -> float:
    """Energy of second differences at full over that at half resolution, of the direction where it is least.

    Unlike the variance of the Laplacian (Pech-Pacheco et al. 2000) it depends little on what is seen: natural images
    have much the same spectrum at all scales, a blurred one lacks the finest. The least direction finds motion blur.
    """
    return float((_energies(gray) / np.maximum(_energies(_halved(gray)), 1e-3)).min())


def _least_sharpness(gray: Gray) -> float:
    """Over resolutions. Where a blur is wide, the finest details left are noise of rounding and of JPEG, which is sharp
    at that resolution, but not at one where the blur spans two or three pixels.
    """
    values = [sharpness(gray)]
    while min(_halved(gray).shape) >= _FEWEST_ROWS:
        gray = _halved(gray)
        values.append(sharpness(gray))
    return min(values)


def blurred(looks: Sequence[Look]) -> list[int]:
    """Positions of those that are much less sharp than the median, from the least sharp on."""
    values = np.array([(look.sharpness, look.coarse_sharpness) for look in looks])
    is_less = values < _RELATIVELY_BLURRED * np.median(values, axis=0)
    is_blurred = is_less[:, 0] | (is_less[:, 1] & (values[:, 1] < _BADLY_BLURRED))
    order = np.argsort(values.min(axis=1), kind="stable")
    return [int(index) for index in order if is_blurred[index]]


def mostly_soft(looks: Sequence[Look]) -> bool:
    """Whether at least half of a set lacks the finest details."""
    return float(np.median([min(look.sharpness, look.coarse_sharpness) for look in looks])) < _BLURRED


def mostly_blurred(looks: Sequence[Look]) -> bool:
    """Whether at least half of a set lacks even what is seen at half resolution."""
    return float(np.median([look.coarse_sharpness for look in looks])) < _BADLY_BLURRED


def repeated(looks: Sequence[Look]) -> dict[int, int]:
    """Position of every image that shows the same from the same place as another -> position of the one to keep.

    The sharpest of a group is kept, the first among equals.
    """
    order = sorted(range(len(looks)), key=lambda index: (-looks[index].sharpness, index))
    thumbnails = np.stack([_thumbnail(look.small) for look in looks])
    kept: list[int] = []
    found: dict[int, int] = {}
    for index in order:
        differences = np.abs(thumbnails[kept] - thumbnails[index]).mean(axis=-1)
        alike = [kept[place] for place in np.argsort(differences, kind="stable") if differences[place] < _LOOK_ALIKE]
        same = next((other for other in alike if _same(looks[other].small, looks[index].small)), None)
        if same is None:
            kept.append(index)
        else:
            found[index] = same
    return found


def _same(first: Gray, second: Gray) -> bool:
    if first.shape != second.shape:
        return False
    motion = moved(first, second)
    return bool((first == second).all()) if motion is None else motion < _MOVED


def _thumbnail(gray: Gray) -> Float32[np.ndarray, " pixels"]:
    side = (_THUMBNAIL, _THUMBNAIL)
    return cv2.resize(gray, side, interpolation=cv2.INTER_AREA).astype(np.float32).ravel()


def _halved(gray: Gray) -> UInt8[np.ndarray, "rows columns"]:
    return cv2.resize(gray, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) if min(gray.shape) > 3 else gray


def _energies(gray: Gray) -> Float32[np.ndarray, "4"]:
    return np.array([np.square(cv2.filter2D(gray, cv2.CV_32F, kernel)).mean() for kernel in _SECOND_DIFFERENCES])
