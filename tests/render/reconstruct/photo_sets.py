"""Small photographs of a textured world, with their true cameras: a whole COLMAP run of eight takes seconds.

The world stands upright: z is up, boxes on a floor of 6x6 units around the origin, no two places with the same texture.
Cameras follow COLMAP's conventions (OpenCV axes, the center of the top-left pixel is (0.5, 0.5)).
"""

import functools
import math
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from data.image_io import write_image
from geometry import Cameras, rigid_inverse
from render.reconstruct.types import Photo, PhotoSet

HEIGHT, WIDTH = 180, 240
FOCAL = 220.0
_TEXELS_PER_UNIT = 160
_CELLS = (0.18, 0.09, 0.045)
"""Sizes of the textures' blobs in units; a pixel is about 0.02 units where `ring` stands."""
_SUPERSAMPLING = 2
_SKY = 128.0


@dataclass(frozen=True)
class Lens:
    """The camera that takes the photographs: f and c in pixels, the principal point in the middle, COLMAP's k1."""

    height: int = HEIGHT
    width: int = WIDTH
    focal: float = FOCAL
    k1: float = 0.0
    """x_distorted = x (1 + k1 |x|^2) in units of the focal length (COLMAP's SIMPLE_RADIAL)."""

    @property
    def upright(self) -> "Lens":
        """The same camera, turned by 90 degrees."""
        return replace(self, height=self.width, width=self.height)

    @property
    def intrinsics(self) -> Float[Tensor, "3 3"]:
        """Without the distortion."""
        return torch.tensor(
            [[self.focal, 0, self.width / 2], [0, self.focal, self.height / 2], [0, 0, 1]], dtype=torch.float64
        )

    def cameras(self, w2c: Float[Tensor, "view 4 4"]) -> Cameras:
        """Pinhole cameras of this lens."""
        return Cameras(w2c, self.intrinsics.expand(len(w2c), 3, 3), self.height, self.width)


def ring(
    views: int, *, degrees: float = 12.0, start: float = 0.0, radius: float = 4.5, elevation: float = 30.0
) -> Float[Tensor, "view 4 4"]:
    """w2c of cameras on a circle around the world, `degrees` apart, that look at its middle; no camera is tilted."""
    azimuth = torch.deg2rad(start + degrees * torch.arange(views, dtype=torch.float64))
    flat, height = radius * math.cos(math.radians(elevation)), radius * math.sin(math.radians(elevation))
    centers = torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), torch.full_like(azimuth, height)], dim=-1)
    return look_at(centers, torch.tensor([0.0, 0.0, 0.4], dtype=torch.float64))


def pan(views: int, *, degrees: float = 4.0) -> Float[Tensor, "view 4 4"]:
    """w2c of a camera that only turns: all taken from one point."""
    center = torch.tensor([4.0, 0.0, 2.2], dtype=torch.float64)
    angle = torch.deg2rad(degrees * (torch.arange(views, dtype=torch.float64) - (views - 1) / 2))
    aims = center + torch.stack([-angle.cos(), -angle.sin(), torch.full_like(angle, -0.45)], dim=-1)
    return look_at(center.expand(views, 3), aims)


def look_at(centers: Float[Tensor, "view 3"], aims: Float[Tensor, "#view 3"]) -> Float[Tensor, "view 4 4"]:
    """w2c of upright cameras (z is up) at `centers` that look at `aims`."""
    forward = torch.nn.functional.normalize(aims - centers, dim=-1)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).expand_as(forward)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=-1)
    c2w = torch.eye(4, dtype=torch.float64).repeat(len(centers), 1, 1)
    c2w[:, :3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=-1)
    c2w[:, :3, 3] = centers
    return rigid_inverse(c2w)


def take_photos(
    folder: Path,
    w2c: Float[Tensor, "view 4 4"],
    lenses: Lens | list[Lens] | None = None,
    *,
    world: int = 0,
    prefix: str = "photo",
    knows_focal: bool = False,
    is_video: bool = False,
) -> PhotoSet:
    """Photographs `prefix`_000.png ... of world number `world`, as `prepare` would leave them in `folder`.

    Args:
        folder: is made when it is absent; what is in it stays.
        w2c: in the world described above.
        lenses: one for all, or one per view; a `Lens()` when None.
        world: another number is another place: the same shapes with other textures.
        prefix: of the files' names.
        knows_focal: whether EXIF said the focal length.
        is_video: as in `PhotoSet`.
    """
    lenses = lenses if isinstance(lenses, list) else [lenses or Lens()] * len(w2c)
    folder.mkdir(parents=True, exist_ok=True)
    photos = []
    for view, (pose, lens) in enumerate(zip(w2c, lenses, strict=True)):
        name = f"{prefix}_{view:03d}.png"
        write_image(folder / name, photograph(pose, lens, world))
        focal = lens.focal if knows_focal else None
        photos.append(Photo(name, f"{prefix} {view}", lens.height, lens.width, focal))
    return PhotoSet(folder, tuple(photos), is_video)


def joined(*sets: PhotoSet) -> PhotoSet:
    """Sets in one folder as one."""
    return replace(sets[0], photos=tuple(photo for one in sets for photo in one.photos))


def photograph(w2c: Float[Tensor, "4 4"], lens: Lens, world: int = 0) -> UInt8[np.ndarray, "height width 3"]:
    """What the camera sees of a world; not to be written to, for tests share it."""
    return _photograph(w2c.double().numpy().tobytes(), lens, world)


@functools.cache
def _photograph(pose_bytes: bytes, lens: Lens, world: int) -> UInt8[np.ndarray, "height width 3"]:
    """Many tests take the first photographs of the same ring."""
    rays_cam = _rays_of(lens)
    pose = np.frombuffer(pose_bytes).reshape(4, 4)
    rays, origin = rays_cam @ pose[:3, :3], -pose[:3, :3].T @ pose[:3, 3]
    color, nearest = np.full((rays[..., 0].size, 3), _SKY), np.full(rays[..., 0].size, np.inf)
    for face in _faces(world):
        face.paint(origin, rays.reshape(-1, 3), color, nearest)
    small = cv2.resize(color.reshape(rays.shape), (lens.width, lens.height), interpolation=cv2.INTER_AREA)
    return small.round().clip(0, 255).astype(np.uint8)


@functools.cache
def _rays_of(lens: Lens) -> Float[np.ndarray, "row column 3"]:
    """Through the supersampled pixels, at depth 1, in the camera's frame."""
    scale = _SUPERSAMPLING
    xs, ys = (np.arange(size * scale) / scale + 0.5 / scale for size in (lens.width, lens.height))
    distorted = np.stack(np.meshgrid((xs - lens.width / 2) / lens.focal, (ys - lens.height / 2) / lens.focal), axis=-1)
    plane = _undistorted(distorted, lens.k1)
    return np.concatenate([plane, np.ones_like(plane[..., :1])], axis=-1)


def _undistorted(distorted: Float[np.ndarray, "row column 2"], k1: float) -> Float[np.ndarray, "row column 2"]:
    """The x with x (1 + k1 |x|^2) = `distorted`, by fixed-point iteration: exact to 1e-9 for |k1| |x|^2 below 0.2."""
    plane = distorted
    for _ in range(40):
        plane = distorted / (1 + k1 * (plane * plane).sum(-1, keepdims=True))
    return plane


@dataclass(frozen=True)
class _Face:
    """A textured rectangle: corner + u * across + v * along, u and v in [0, 1]."""

    corner: Float[np.ndarray, "3"]
    across: Float[np.ndarray, "3"]
    along: Float[np.ndarray, "3"]
    texture: Float[np.ndarray, "row column 3"]

    def paint(self, origin: np.ndarray, rays: np.ndarray, color: np.ndarray, nearest: np.ndarray) -> None:
        """Overwrite `color` and `nearest` (depth in units of `rays`) where this face is in front of what is there."""
        # corner + u across + v along = origin + depth ray, solved for u / depth, v / depth and 1 / depth
        over = rays @ np.linalg.inv(np.stack([self.across, self.along, self.corner - origin]))
        u, v, near = over.T
        with np.errstate(invalid="ignore"):  # 0 * inf
            index = np.flatnonzero((u >= 0) & (u <= near) & (v >= 0) & (v <= near) & (near * nearest > 1))
        color[index] = self._texture_at(u[index] / near[index], v[index] / near[index])
        nearest[index] = 1 / near[index]

    def _texture_at(self, u: np.ndarray, v: np.ndarray) -> Float[np.ndarray, "point 3"]:
        """Bilinear."""
        height, width = self.texture.shape[:2]
        x, y = (np.clip(part * size - 0.5, 0, size - 1.001) for part, size in ((u, width), (v, height)))
        left, top = x.astype(int), y.astype(int)
        x, y = (x - left)[:, None], (y - top)[:, None]
        above, below = (self.texture[row, left] * (1 - x) + self.texture[row, left + 1] * x for row in (top, top + 1))
        return above * (1 - y) + below * y


@functools.cache
def _faces(world: int) -> tuple[_Face, ...]:
    """The floor and four boxes without their bottoms."""
    rng = np.random.default_rng([20261126, world])

    def face(corner: tuple[float, ...], across: tuple[float, ...], along: tuple[float, ...]) -> _Face:
        sides = [max(1, round(_TEXELS_PER_UNIT * float(np.linalg.norm(edge)))) for edge in (along, across)]
        return _Face(np.array(corner), np.array(across), np.array(along), _texture(rng, sides[0], sides[1]))

    def box(x: float, y: float, width: float, depth: float, height: float) -> list[_Face]:
        dx, dy, dz = (width, 0.0, 0.0), (0.0, depth, 0.0), (0.0, 0.0, height)
        sides = [face((x, y, 0), dx, dz), face((x, y, 0), dy, dz)]
        sides += [face((x, y + depth, 0), dx, dz), face((x + width, y, 0), dy, dz)]
        return [*sides, face((x, y, height), dx, dy)]

    faces = [face((-3.0, -3.0, 0.0), (6.0, 0, 0), (0, 6.0, 0))]
    for place in ((-0.5, -0.5, 1.0, 0.9, 1.1), (0.9, 0.7, 0.6, 0.6, 0.7), (-1.5, 0.8, 0.7, 0.5, 1.4)):
        faces += box(*place)
    return (*faces, *box(0.4, -1.6, 0.8, 0.5, 0.5))


def _texture(rng: np.random.Generator, height: int, width: int) -> Float[np.ndarray, "row column 3"]:
    """Blobs of several sizes and colors, so that every place has corners and looks like no other."""
    texture = np.full((height, width, 3), 128.0, np.float32)
    for cell in _CELLS:
        size = [max(2, math.ceil(side / (cell * _TEXELS_PER_UNIT))) for side in (height, width)]
        coarse = rng.uniform(-1, 1, (*size, 3)).astype(np.float32)
        texture += 75 * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return texture
