"""Frames on disk -> `Views` of exactly the size asked for: one window per image, cut out and resized.

Everything is folded into the choice of an integer window of the original image, so that an image is resampled once
and its camera stays exact: `Cameras.cropped(...).resized(...)`. A window never leaves the image, so nothing is padded.
See docs/vggt.md, "Image windows": the random crop, the rescaling and the portrait turn are the random parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
import torch

from data.readers.splits import Report, raise_problem
from data.scene import PosedScene
from geometry import Cameras, InputError, Views

_PORTRAIT = 1.25
"""Height / width above which an image may be turned, as upstream (docs/vggt.md, "Image windows")."""


@dataclass(frozen=True)
class ZoomRange:
    """How much of an image a random window leaves out."""

    min_crop: float
    """Height and width are first cut to a part drawn from [min_crop, 2 - min_crop], at most all of it."""
    rescale: float
    """Then the long side of the target shows 1 / (1 + t) of what fits, t triangular on [0, rescale], mode 0."""
    is_centered: bool
    """The principal point is the window's center (what VGGT's pose encoding presumes); else as near as the image
    allows without leaving out more than the aspect demands."""
    turns_portraits: bool
    """A portrait image is turned by 90 degrees, all of a group alike, with probability 1/2."""

    @classmethod
    def training(cls, *, turns_portraits: bool = False) -> "ZoomRange":
        """Upstream's augmentation, which turns portraits only if it is told to."""
        return cls(min_crop=0.8, rescale=0.3, is_centered=True, turns_portraits=turns_portraits)

    @classmethod
    def none(cls) -> "ZoomRange":
        """The largest window of the target's aspect."""
        return cls(min_crop=1.0, rescale=0.0, is_centered=False, turns_portraits=False)


class Window(NamedTuple):
    """Part of an image, pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, image: np.ndarray) -> np.ndarray:
        """The part of an array (height, width, ...)."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]


def load_frames(
    scene: PosedScene,
    view_ids: Sequence[int],
    height: int,
    width: int,
    *,
    zoom: ZoomRange,
    generator: torch.Generator | None,
    report: Report = raise_problem,
) -> Views:
    """Frames as height x width images with exact cameras; depth 0 where unknown, no masks
    of objects.

    Random choices, one set per frame, come from `generator`; without random parts it may be None. `report` is handed
    what is wrong with a depth map, which then counts as unknown.

    Raises:
        InputError: for an unreadable image, or one whose size is not its frame's; for such a depth map unless `report`
            takes it.
    """
    frames = [scene.frames[view_id] for view_id in view_ids]
    turns = _portrait_turns(frames[0].height, frames[0].width, zoom, height, width, generator)
    images, depths, empty, cameras = [], [], [], []
    for view_id, frame in zip(view_ids, frames, strict=True):
        camera = Cameras(frame.w2c.float(), frame.intrinsics.float(), frame.height, frame.width)
        target = (height, width) if turns == 0 else (width, height)
        window = choose_window(camera, *target, zoom, generator)
        depth, no_surface = _depth(scene, view_id, report)
        images.append(_turn(_resize_image(window.of(scene.image(view_id)), *target), turns))
        depths.append(_turn(_resize_depth(window.of(depth), *target), turns))
        empty.append(_turn(_resize_depth(window.of(no_surface), *target), turns))
        cameras.append(turned(camera.cropped(*window).resized(*target), turns))
    near, far = scene.near_far(view_ids)
    return Views(
        images=torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255,
        cameras=Cameras.stack(cameras),
        near=near,
        far=far,
        ids=torch.tensor(list(view_ids), dtype=torch.int64),
        depth=torch.from_numpy(np.stack(depths)).float(),
        no_surface=torch.from_numpy(np.stack(empty) > 0),
    )


def _depth(scene: PosedScene, view_id: int, report: Report) -> tuple[np.ndarray, np.ndarray]:
    """Depth and where nothing has one (1, else 0).

    Depth is 0 where unknown, which is everywhere in a frame without a readable depth map, and where nothing has one. In
    a rendering nothing has one where it is unknown.
    """
    frame = scene.frames[view_id]
    depth, surface = np.zeros((frame.height, frame.width), np.float32), None
    is_known = False
    try:
        if scene.has_depth(view_id):
            depth, is_known = scene.depth(view_id), True
        surface = scene.surface(view_id)
    except InputError as error:
        report(error)
    if surface is not None:
        return np.where(surface, depth, 0).astype(np.float32), np.where(surface, np.uint8(0), np.uint8(1))
    is_empty = (depth == 0) & (is_known and scene.traits.is_synthetic)
    return depth, is_empty.astype(np.uint8)


def choose_window(
    camera: Cameras, height: int, width: int, zoom: ZoomRange, generator: torch.Generator | None
) -> Window:
    """The part of a camera's image to resize to height x width; its proportions are the target's, to half a pixel."""
    center_y, center_x = camera.intrinsics[1, 2].item(), camera.intrinsics[0, 2].item()
    room = [float(camera.height), float(camera.width)]
    if zoom.is_centered:
        room = [
            max(2.0, 2 * min(center, side - center)) for center, side in zip((center_y, center_x), room, strict=True)
        ]
    if zoom.min_crop < 1:
        parts = zoom.min_crop + 2 * (1 - zoom.min_crop) * torch.rand(2, generator=generator)
        sides = (camera.height, camera.width)
        room = [min(left, min(1.0, part) * side) for left, part, side in zip(room, parts.tolist(), sides, strict=True)]
    enlarged = zoom.rescale * (1 - torch.rand((), generator=generator).sqrt().item()) if zoom.rescale else 0.0
    margin = enlarged * max(height, width)
    scale = max((height + margin) / room[0], (width + margin) / room[1])  # target pixels per pixel
    return Window(
        *_placed(height / scale, width / scale, center_y, center_x, camera.height, camera.width),
    )


def turned(camera: Cameras, quarter_turns: int) -> Cameras:
    """The camera of an image turned by `quarter_turns` (0, 1 or -1) times 90 degrees counter-clockwise.

    The pixels are those of `numpy.rot90`; the camera turns about its optical axis, points stay on their pixels.
    """
    if quarter_turns == 0:
        return camera
    sign = float(quarter_turns)
    # counter-clockwise: x' = y, y' = width - x; clockwise: x' = height - y, y' = x
    offset = (0.0, float(camera.width)) if quarter_turns == 1 else (float(camera.height), 0.0)
    pixels = torch.tensor([[0.0, sign, offset[0]], [-sign, 0.0, offset[1]], [0.0, 0.0, 1.0]]).to(camera.intrinsics)
    axes = torch.eye(4).to(camera.w2c)
    axes[:2, :2] = torch.tensor([[0.0, sign], [-sign, 0.0]]).to(camera.w2c)
    return replace(
        camera,
        w2c=axes @ camera.w2c,
        intrinsics=pixels @ camera.intrinsics @ axes[:3, :3].transpose(-1, -2).to(camera.intrinsics),
        height=camera.width,
        width=camera.height,
    )


def _placed(
    height: float, width: float, center_y: float, center_x: float, image_height: int, image_width: int
) -> tuple[int, int, int, int]:
    rows, columns = max(1, round(height)), max(1, round(width))
    rows, columns = min(rows, image_height), min(columns, image_width)
    top = min(max(0, round(center_y - rows / 2)), image_height - rows)
    left = min(max(0, round(center_x - columns / 2)), image_width - columns)
    return top, left, rows, columns


def _portrait_turns(
    image_height: int,
    image_width: int,
    zoom: ZoomRange,
    height: int,
    width: int,
    generator: torch.Generator | None,
) -> int:
    if not zoom.turns_portraits or image_height <= _PORTRAIT * image_width or height >= width:
        return 0
    is_turned, is_clockwise = (torch.rand(2, generator=generator) < 0.5).tolist()
    return 0 if not is_turned else (-1 if is_clockwise else 1)


def _turn(array: np.ndarray, quarter_turns: int) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(array, quarter_turns)) if quarter_turns else array


def _resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    is_smaller = height <= image.shape[0] and width <= image.shape[1]
    interpolation = cv2.INTER_AREA if is_smaller else cv2.INTER_CUBIC
    return cv2.resize(image, (width, height), interpolation=interpolation)


def _resize_depth(depth: np.ndarray, height: int, width: int) -> np.ndarray:
    """Nearest: depth is never mixed across an edge."""
    if depth.shape == (height, width):
        return depth
    return cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
