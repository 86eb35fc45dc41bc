"""Color as a function of the local point on a solid: value noise, stripes and checkers, photographs.

The photographs are the ones inside scikit-image's wheel, read from its folder; nothing is ever downloaded. Every
texture takes the size of a pixel on the surface and leaves out the detail that would alias.
"""

import importlib.util
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Protocol, runtime_checkable

import cv2
import imageio.v3 as imageio
import numpy as np
from jaxtyping import Float, Int

NOISE_GRID = 64
"""Cells along each side of the periodic noise cube."""
NOISE_OCTAVES = (4, 8, 16, 32, 64)
"""Independent values along each side of the cube, octave by octave."""
NOISE_LEVELS = 4
"""The cube and its averages of 32, 16 and 8 cells a side."""
PATTERN_CELL = 1.5
"""Millimeters: finest detail of the noise added to stripes and checkers; chosen by hand."""
CHECKER = 0.04
"""Contrast of the checkers of `CoordinateTexture`; chosen by hand."""
PHOTO_SIDE = 512
"""Pixels: photographs with a longer side are reduced. Chosen by hand."""
PHOTOS = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png",
    "color.png", "grass.png", "gravel.png", "ihc.png", "motorcycle_left.png", "page.png", "retina.jpg", "rocket.jpg",
    "text.png",
)  # fmt: skip


@runtime_checkable
class Texture(Protocol):
    """What the shader needs: a color at points of the surface."""

    def color(
        self, points: Float[np.ndarray, "3 point"], normals: Float[np.ndarray, "3 point"], footprint: float
    ) -> Float[np.ndarray, "3 point"]:
        """Albedo about [0, 1] at local points (mm) whose local normals are given; `footprint` = mm per pixel."""


@cache
def noise_volume(level: int = 0) -> Float[np.ndarray, "cell 3"]:
    """Periodic fractal noise, octaves of equal power per octave of frequency, mean 0, deviation 1, 3 channels.

    Each `level` averages 2 x 2 x 2 cells of the one before: the same pattern with less detail.
    """
    if level:
        side = NOISE_GRID >> level
        fine = noise_volume(level - 1).reshape(side, 2, side, 2, side, 2, 3)
        return fine.mean(axis=(1, 3, 5)).reshape(-1, 3)
    rng = np.random.default_rng(20240)
    total = np.zeros((NOISE_GRID,) * 3 + (3,), dtype=np.float32)
    for octave, count in enumerate(NOISE_OCTAVES):
        coarse = rng.standard_normal((count,) * 3 + (3,), dtype=np.float32)
        for axis in range(3):
            coarse = _upsample_periodic(coarse, NOISE_GRID // count, axis)
        total += 0.8**octave * coarse
    return ((total - total.mean()) / total.std()).reshape(-1, 3)


def _upsample_periodic(grid: np.ndarray, factor: int, axis: int) -> np.ndarray:
    fraction = (np.arange(factor) / factor).astype(np.float32)
    weight = fraction * fraction * (3 - 2 * fraction)
    steps = [(1 - w) * grid + w * np.roll(grid, -1, axis=axis) for w in weight]
    shape = list(grid.shape)
    shape[axis] *= factor
    return np.stack(steps, axis=axis + 1).reshape(shape)


def noise_level(cell: float, footprint: float) -> int:
    """Level of the noise whose detail is not finer than a pixel."""
    return int(np.clip(np.round(np.log2(max(footprint / cell, 1e-6))), 0, NOISE_LEVELS - 1))


def fractal_noise(points: Float[np.ndarray, "3 point"], cell: float, footprint: float) -> Float[np.ndarray, "3 point"]:
    """Three channels of noise whose finest detail is `cell` wide (about deviation 1), trilinear.

    Detail finer than `footprint` is averaged away; what is left stays where it is, from whatever distance.
    """
    level = noise_level(cell, footprint)
    side, factor = NOISE_GRID >> level, 1 << level
    scaled = (points / np.float32(cell) - np.float32((factor - 1) / 2)) / np.float32(factor)
    lower = np.floor(scaled)
    fraction = scaled - lower
    low = lower.astype(np.int32) & (side - 1)
    high = (low + 1) & (side - 1)
    pick = ((low[0] * side**2, high[0] * side**2), (low[1] * side, high[1] * side))
    weights = [(1 - one, one) for one in fraction]
    volume, total = noise_volume(level), np.zeros((points.shape[1], 3), dtype=np.float32)
    for corner in range(8):
        i, j, k = corner >> 2, corner >> 1 & 1, corner & 1
        cells = pick[0][i] + pick[1][j] + (high[2] if k else low[2])
        total += (weights[0][i] * weights[1][j] * weights[2][k])[:, None] * volume.take(cells, axis=0)
    return total.T


@dataclass(frozen=True)
class NoiseTexture:
    """Blend of three colors along fractal noise; `veins` > 0 folds the noise into marble-like bands."""

    palette: Float[np.ndarray, "3 3"]
    """Rows: colors."""
    cell: float
    veins: float
    offset: Float[np.ndarray, "3"]

    def color(
        self, points: Float[np.ndarray, "3 point"], normals: Float[np.ndarray, "3 point"], footprint: float
    ) -> Float[np.ndarray, "3 point"]:
        noise = fractal_noise(points + self.offset[:, None].astype(np.float32), self.cell, footprint)
        level = np.sin(self.veins * noise[0]) if self.veins else noise[0] * np.float32(0.7)
        mix, palette = np.clip(level, -1, 1), self.palette.astype(np.float32)
        toward = np.where(mix < 0, palette[0][:, None], palette[2][:, None])
        return palette[1][:, None] + np.abs(mix) * (toward - palette[1][:, None]) + np.float32(0.05) * noise


@dataclass(frozen=True)
class PatternTexture:
    """Stripes (one axis) or checkers (several axes) of two colors, with a little noise added."""

    colors: Float[np.ndarray, "2 3"]
    axes: Float[np.ndarray, "axis 3"]
    """Each row is a direction divided by the width of one band."""
    offset: Float[np.ndarray, "3"]

    def color(
        self, points: Float[np.ndarray, "3 point"], normals: Float[np.ndarray, "3 point"], footprint: float
    ) -> Float[np.ndarray, "3 point"]:
        shifted = points + self.offset[:, None].astype(np.float32)
        bands = np.zeros(points.shape[1], dtype=np.int32)
        for axis in self.axes.astype(np.float32):
            bands += np.floor(axis[0] * shifted[0] + axis[1] * shifted[1] + axis[2] * shifted[2]).astype(np.int32)
        colors = self.colors.astype(np.float32)
        base = np.where(bands & 1, colors[0][:, None], colors[1][:, None])
        return base + np.float32(0.07) * fractal_noise(shifted, PATTERN_CELL, footprint)


@dataclass(frozen=True)
class CoordinateTexture:
    """The color says where in a box a point is: each channel grows along one axis; faint checkers on top.

    Channel c = 0.12 + 0.76 (p - low) / (high - low), plus or minus `CHECKER`.
    """

    low: Float[np.ndarray, "3"]
    """Corners of the box, local."""
    high: Float[np.ndarray, "3"]
    cell: float
    """Millimeters: side of a square of the checkers, whose borders are half a square off the corner `low`."""

    def color(
        self, points: Float[np.ndarray, "3 point"], normals: Float[np.ndarray, "3 point"], footprint: float
    ) -> Float[np.ndarray, "3 point"]:
        offset = points - self.low[:, None].astype(np.float32)
        share = np.clip(offset / (self.high - self.low)[:, None].astype(np.float32), 0, 1)
        odd = np.floor(offset / np.float32(self.cell) + np.float32(0.5)).sum(0) % 2
        contrast = np.float32(CHECKER if self.cell > 2 * footprint else 0.0)
        return np.float32(0.12) + np.float32(0.76) * share + contrast * (2 * odd - 1)


@lru_cache(maxsize=1)
def available_photos() -> tuple[str, ...]:
    """Names of the photographs that this installation of scikit-image carries."""
    return tuple(name for name in PHOTOS if (_photo_folder() / name).is_file())


def _photo_folder() -> Path:
    return Path(importlib.util.find_spec("skimage").submodule_search_locations[0]) / "data"


@cache
def photo_pyramid(name: str) -> tuple[Float[np.ndarray, "height width 3"], ...]:
    """The photograph at halving sizes, RGB about [0, 1], brought to one mean and one contrast."""
    image = imageio.imread(_photo_folder() / name)
    image = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image[..., :3]
    if max(image.shape) > PHOTO_SIDE:
        factor = PHOTO_SIDE / max(image.shape)
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    image = image.astype(np.float32) / 255
    level = 0.5 + (image - image.mean()) * np.float32(0.19 / image.std())
    levels = [np.clip(level, 0.02, 1)]
    while min(levels[-1].shape[:2]) > 8:
        height, width = levels[-1].shape[:2]
        levels.append(cv2.resize(levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA))
    return tuple(levels)


@dataclass(frozen=True)
class PhotoTexture:
    """A photograph laid over the solid, mirrored at its edges."""

    name: str
    mapping: str
    """`planar` (along local z), `box` (face by face) or `spherical` (longitude, latitude)."""
    width: float
    """Millimeters that one copy of the photograph covers."""
    angle: float
    offset: Float[np.ndarray, "2"]
    tint: Float[np.ndarray, "3"]
    radius: float
    """Of the sphere that `spherical` unrolls, mm."""

    def color(
        self, points: Float[np.ndarray, "3 point"], normals: Float[np.ndarray, "3 point"], footprint: float
    ) -> Float[np.ndarray, "3 point"]:
        u, v = self._surface(points, normals)
        cos, sin = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        u, v = cos * u - sin * v + np.float32(self.offset[0]), sin * u + cos * v + np.float32(self.offset[1])
        pyramid = photo_pyramid(self.name)
        texels_per_pixel = footprint * pyramid[0].shape[1] / self.width
        level = int(np.clip(np.round(np.log2(max(texels_per_pixel, 1e-6))), 0, len(pyramid) - 1))
        texels = np.float32(pyramid[level].shape[1] / self.width)
        return _bilinear(pyramid[level], u * texels, v * texels) * self.tint[:, None].astype(np.float32)

    def _surface(self, points: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y, z = points
        if self.mapping == "spherical":
            return self.radius * np.arctan2(y, x), self.radius * np.arctan2(z, np.hypot(x, y))
        if self.mapping == "planar":
            return x, y
        axis = np.abs(normals).argmax(axis=0)
        return np.where(axis == 0, y, x), np.where(axis == 2, y, z)


def _mirrored(index: Int[np.ndarray, " point"], size: int) -> Int[np.ndarray, " point"]:
    folded = index % (2 * size)
    return np.where(folded < size, folded, 2 * size - 1 - folded)


def _bilinear(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Colors (3, point) at texel coordinates, texel centers at +0.5, mirrored outside."""
    height, width = image.shape[:2]
    x, y = x - np.float32(0.5), y - np.float32(0.5)
    left, top = np.floor(x), np.floor(y)
    right_weight, bottom_weight = x - left, y - top
    left, top = left.astype(np.int32), top.astype(np.int32)
    columns, rows = (
        (_mirrored(left, width), _mirrored(left + 1, width)),
        (_mirrored(top, height), _mirrored(top + 1, height)),
    )
    flat = image.reshape(-1, 3)
    upper, lower = (
        flat.take(row * width + columns[0], axis=0) * (1 - right_weight)[:, None]
        + flat.take(row * width + columns[1], axis=0) * right_weight[:, None]
        for row in rows
    )
    return (upper + (lower - upper) * bottom_weight[:, None]).T
