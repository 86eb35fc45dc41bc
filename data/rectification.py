"""Photographs of any lens and size -> the pinhole images of one size that a scene consists of.

Four steps, of which most photographs need none: the lens distortion is removed, the image is turned by quarter turns,
resized, and cropped in the middle. Cameras, measured pixels, masks and depth maps take the same way.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.colmap_library import pycolmap
from data.colmap_model import PINHOLE_MODELS, pinhole_intrinsics
from geometry import Cameras, InputError, require

_KEPT_MAPS = 4
"""Cameras whose undistortion map is kept; a map has 8 bytes per pixel, and most scenes have one camera."""
_MIN_INSIDE = 0.95
"""Share of an undistorted image that must come from inside the photograph; chosen by hand, real lenses give 1."""
_SAMPLES = 64
"""Points a side of the grid on which that is counted."""


@dataclass(frozen=True)
class Lens:
    """A camera of COLMAP with distortion, hashable."""

    model: str
    params: tuple[float, ...]
    height: int
    width: int

    @property
    def camera(self) -> pycolmap.Camera:
        """For pycolmap."""
        return pycolmap.Camera(model=self.model, width=self.width, height=self.height, params=self.params)


@dataclass(frozen=True)
class Rectification:
    """The way from the pixels of one photograph's file to its pinhole image; both sizes are (height, width)."""

    file_size: tuple[int, int]
    pinhole: tuple[float, float, float, float]
    """f_x, f_y, c_x, c_y of the undistorted image."""
    pinhole_size: tuple[int, int]
    lens: Lens | None = None
    """None: the file itself is a pinhole image."""
    quarter_turns: int = 0
    """Counterclockwise."""
    resized_to: tuple[int, int] = (0, 0)
    """After the turn."""
    size: tuple[int, int] = (0, 0)
    """Of the result: the middle of the resized image."""

    @property
    def is_identity(self) -> bool:
        """The file is the result."""
        return self.lens is None and self.quarter_turns == 0 and self.size == self.resized_to == self.file_size

    @property
    def turned_size(self) -> tuple[int, int]:
        """(height, width) after the turn."""
        return self.pinhole_size[::-1] if self.quarter_turns % 2 else self.pinhole_size

    @property
    def corner(self) -> tuple[int, int]:
        """(row, column) of the resized image at which the result begins."""
        return (self.resized_to[0] - self.size[0]) // 2, (self.resized_to[1] - self.size[1]) // 2

    def camera(self, w2c: Float[Tensor, "4 4"]) -> Cameras:
        """The camera of the result for the photograph's pose, double precision."""
        turned = Cameras(w2c.double(), _matrix(self.pinhole), *self.pinhole_size).turned(self.quarter_turns)
        return turned.resized(*self.resized_to).cropped(*self.corner, *self.size)

    def pixels(self, measured: Float[np.ndarray, "point 2"]) -> Float[np.ndarray, "point 2"]:
        """Where (x, y) of the file are in the result; NaN for what no ray leads to."""
        x, y = np.asarray(measured, np.float64).reshape(-1, 2).T
        if self.lens is not None:
            rays = self.lens.camera.cam_from_img(np.stack([x, y], axis=-1))
            fx, fy, cx, cy = self.pinhole
            x, y = rays[:, 0] * fx + cx, rays[:, 1] * fy + cy
        width, height = self.pinhole_size[::-1]
        for _ in range(self.quarter_turns % 4):
            x, y, width, height = y, width - x, height, width
        x, y = x * (self.resized_to[1] / width), y * (self.resized_to[0] / height)
        return np.stack([x - self.corner[1], y - self.corner[0]], axis=-1)

    def image(self, photograph: np.ndarray, *, is_map: bool = False) -> np.ndarray:
        """The result of an image of the file's size; `is_map`: masks and depth, whose values must not be mixed."""
        image = photograph
        if self.lens is not None:
            columns, rows = _undistortion_map(self.lens, self.pinhole, self.pinhole_size)
            image = cv2.remap(image, columns, rows, cv2.INTER_NEAREST if is_map else cv2.INTER_CUBIC)
        image = np.rot90(image, self.quarter_turns)
        height, width = self.resized_to
        if image.shape[:2] != self.resized_to:
            is_smaller = height * width < image.shape[0] * image.shape[1]
            smooth = cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR
            image = np.ascontiguousarray(image)
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST_EXACT if is_map else smooth)
        top, left = self.corner
        return np.ascontiguousarray(image[top : top + self.size[0], left : left + self.size[1]])


def camera_of_size(camera: pycolmap.Camera, height: int, width: int) -> pycolmap.Camera:
    """A camera of COLMAP for images resized to height x width."""
    resized = pycolmap.Camera(
        camera_id=camera.camera_id,
        model=camera.model_name,
        width=camera.width,
        height=camera.height,
        params=camera.params,
    )
    if (camera.height, camera.width) != (height, width):
        resized.rescale(width, height)
    return resized


def undistortion(camera: pycolmap.Camera) -> Rectification:
    """The way to the pinhole image that pycolmap chooses: as large as it can be without blank pixels.

    Raises:
        InputError: for parameters that no camera has, or a camera that no pinhole image can be made of.
    """
    where = f"camera {camera.camera_id} ({camera.model_name})"
    require(
        bool(np.isfinite(camera.params).all()) and min(camera.height, camera.width) > 0,
        f"{where}: expected finite parameters and a size above 0, got {camera.params_to_string()}",
    )
    size = (camera.height, camera.width)
    if camera.model_name in PINHOLE_MODELS:
        _require_focal(camera, where)
        return Rectification(size, _four(camera), size, resized_to=size, size=size)
    require(not camera.is_spherical(), f"{where}: expected a camera with a field of view below 180 degrees")
    _require_focal(camera, where)
    try:
        pinhole = pycolmap.undistort_camera(pycolmap.UndistortCameraOptions(), camera)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{where}: expected a camera that can be undistorted, got: {reason}") from None
    lens = Lens(camera.model_name, tuple(float(value) for value in camera.params), *size)
    undistorted = (pinhole.height, pinhole.width)
    inside = _inside_share(lens, pinhole)
    require(
        inside >= _MIN_INSIDE,
        f"{where}: expected a distortion that can be undone, got parameters {camera.params_to_string()}, under which "
        f"{100 * (1 - inside):.0f} % of the undistorted image are outside of the photograph",
    )
    return Rectification(size, _four(pinhole), undistorted, lens, resized_to=undistorted, size=undistorted)


def as_large_as_file(way: Rectification) -> Rectification:
    """An undistortion whose result has the size of the photograph: scaled to cover that, cropped in the middle.

    Pixels stay square and none is blank; there is still one resampling.
    """
    height, width = way.file_size
    scale = max(height / way.pinhole_size[0], width / way.pinhole_size[1])
    fx, fy, cx, cy = (scale * value for value in way.pinhole)
    left, top = (scale * way.pinhole_size[1] - width) / 2, (scale * way.pinhole_size[0] - height) / 2
    size = way.file_size
    return dataclasses.replace(
        way, pinhole=(fx, fy, cx - left, cy - top), pinhole_size=size, resized_to=size, size=size
    )


def canvas_of(ways: Sequence[Rectification]) -> tuple[int, int]:
    """(height, width) that most of the undistorted images have; of equally many the smallest."""
    counts = Counter(way.pinhole_size for way in ways)
    return max(counts, key=lambda size: (counts[size], -size[0] * size[1]))


def onto_canvas(
    way: Rectification, canvas: tuple[int, int], w2c: Float[Tensor, "4 4"], down_world: Float[Tensor, "3"]
) -> Rectification:
    """Turned if more of the image fits on the canvas (height, width) then; resized to cover it, cropped in the middle.

    Of the two quarter turns the one that brings the image's down closer to `down_world`.
    """
    turns = 0
    if _kept_share(way.pinhole_size[::-1], canvas) > _kept_share(way.pinhole_size, canvas):
        x_axis = w2c[0, :3].double() @ down_world.double()
        turns = 3 if x_axis > 0 else 1
    height, width = way.pinhole_size[::-1] if turns else way.pinhole_size
    scale = max(canvas[0] / height, canvas[1] / width)
    resized = max(canvas[0], round(height * scale)), max(canvas[1], round(width * scale))
    return dataclasses.replace(way, quarter_turns=turns, resized_to=resized, size=canvas)


def _kept_share(size: tuple[int, int], canvas: tuple[int, int]) -> float:
    """Of the image's area when it covers the canvas."""
    ratio = size[1] * canvas[0] / (size[0] * canvas[1])
    return min(ratio, 1 / ratio)


def _require_focal(camera: pycolmap.Camera, where: str) -> None:
    focal = [float(camera.params[index]) for index in camera.focal_length_idxs()]
    require(
        bool(focal) and min(focal) > 0, f"{where}: expected a focal length above 0, got {camera.params_to_string()}"
    )


def _four(camera: pycolmap.Camera) -> tuple[float, float, float, float]:
    matrix = pinhole_intrinsics(camera)
    return matrix[0, 0].item(), matrix[1, 1].item(), matrix[0, 2].item(), matrix[1, 2].item()


def _matrix(pinhole: tuple[float, float, float, float]) -> Float[Tensor, "3 3"]:
    fx, fy, cx, cy = pinhole
    return torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)


def _in_photograph(
    lens: Lens, pinhole: tuple[float, float, float, float], x: np.ndarray, y: np.ndarray
) -> Float[np.ndarray, "*shape 2"]:
    """Pixels (x, y) of the pinhole image -> pixels of the photograph."""
    fx, fy, cx, cy = pinhole
    rays = np.stack([(x - cx) / fx, (y - cy) / fy, np.ones_like(x)], axis=-1)
    return lens.camera.img_from_cam(rays.reshape(-1, 3)).reshape(*x.shape, 2)


def _inside_share(lens: Lens, pinhole: pycolmap.Camera) -> float:
    grid = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
    x, y = np.meshgrid(grid * pinhole.width, grid * pinhole.height)
    found = _in_photograph(lens, _four(pinhole), x, y)
    inside = (found >= 0) & (found <= [lens.width, lens.height])  # false for NaN
    return float(inside.all(axis=-1).mean())


@functools.lru_cache(maxsize=_KEPT_MAPS)
def _undistortion_map(
    lens: Lens, pinhole: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[Float[np.ndarray, "height width"], Float[np.ndarray, "height width"]]:
    """Column and row of the photograph for every pixel, counted as OpenCV does: 0 is a center."""
    x, y = np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5)
    found = _in_photograph(lens, pinhole, x, y).astype(np.float32) - 0.5
    return np.ascontiguousarray(found[..., 0]), np.ascontiguousarray(found[..., 1])
