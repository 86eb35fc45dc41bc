"""A scene on disk, and how some of its frames become `Views`. Readers of formats build these and nothing else."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from data.image_io import UnreadableFileError, read_image
from data.lazy import LazyMapping
from geometry import Cameras, InputError, Views, rigid_inverse

MIN_SIDE = 8
"""Pixels; chosen by hand, a smaller image is a mistaken scale."""


@dataclass(frozen=True)
class Frame:
    """One posed photograph; nothing is loaded yet."""

    view_id: int
    image_path: Path
    w2c: Float[Tensor, "4 4"]
    intrinsics: Float[Tensor, "3 3"]
    """For an image of height x width, pixel centers at +0.5."""
    height: int
    width: int
    near: float
    """Camera z, scene units."""
    far: float
    depth_path: Path | None = None
    mask_path: Path | None = None

    @property
    def center(self) -> Float[Tensor, "3"]:
        """Optical center in the world frame."""
        return rigid_inverse(self.w2c)[:3, 3]


@dataclass(frozen=True)
class PosedScene:
    """One scan under one lighting."""

    name: str
    """Unique within the data set, for example `scan24/light3`."""
    scan: str
    """What `--scans` picks by."""
    frames: Mapping[int, Frame]
    neighbors: Mapping[int, tuple[int, ...]]
    """For every view the others that see the same things, best first."""
    train_views: tuple[int, ...]
    held_out_views: tuple[int, ...]
    """Targets of the evaluation; per-scene training never opens their files."""
    read_depth: Callable[[Frame], Float[np.ndarray, "height width"]] | None = None
    """Depth map of a frame that has a `depth_path`, at the frame's size, scene units, 0 = unknown."""
    white_background: bool = False
    """Images with an alpha channel are composited over white (else black)."""
    is_evaluated: bool = True
    """Of several photographs of a scan from the same places (DTU's lightings), the ones that are evaluated on."""
    is_video: bool = False
    """View numbers follow time, so that views with near numbers see the same things."""
    view_split: str = "own"
    """Where training and held-out views are from: a value of `ReaderOptions.view_split`."""
    resized_to: tuple[int, int] | None = None
    """(height, width) of the scene's `views` at scale 1, if not that of its files. Proportions may change."""

    def image_size(self, view_id: int, scale: float = 1.0) -> tuple[int, int]:
        """(height, width) of a view in `views`."""
        frame = self.frames[view_id]
        height, width = self.resized_to or (frame.height, frame.width)
        return round(height * scale), round(width * scale)

    def cameras(self, view_ids: Sequence[int], scale: float = 1.0) -> Cameras:
        """Cameras of images resized by `scale`; one leading axis. Opens no file.

        Raises:
            InputError: for images of different sizes, or a scale that leaves almost nothing of them.
        """
        frames = [self.frames[view_id] for view_id in view_ids]
        sizes = {(frame.height, frame.width) for frame in frames}
        if len(sizes) != 1:
            raise InputError(f"scene {self.name}: expected images of one size, got {sorted(sizes)} in views {view_ids}")
        height, width = self.image_size(view_ids[0], scale)
        if min(height, width) < MIN_SIDE:
            raise InputError(
                f"scene {self.name}: expected images of at least {MIN_SIDE} pixels a side, "
                f"got {width}x{height} (width x height) at scale {scale}"
            )
        return Cameras(
            w2c=torch.stack([frame.w2c for frame in frames]).float(),
            intrinsics=torch.stack([frame.intrinsics for frame in frames]).float(),
            height=frames[0].height,
            width=frames[0].width,
        ).resized(height, width)

    def near_far(self, view_ids: Sequence[int]) -> tuple[Float[Tensor, " view"], Float[Tensor, " view"]]:
        """Camera z bounds of views, scene units."""
        frames = [self.frames[view_id] for view_id in view_ids]
        return torch.tensor([frame.near for frame in frames]), torch.tensor([frame.far for frame in frames])

    def has_depth(self, view_id: int) -> bool:
        """Whether there is a depth map for a view."""
        return self.read_depth is not None and self.frames[view_id].depth_path is not None

    def without(self, view_ids: Collection[int]) -> "PosedScene":
        """The same scene without some of its views."""
        if not view_ids:
            return self

        def kept(views: Iterable[int]) -> tuple[int, ...]:
            return tuple(view for view in views if view not in view_ids)

        return replace(
            self,
            frames=LazyMapping(kept(self.frames), self.frames.__getitem__),
            neighbors={view: kept(self.neighbors[view]) for view in kept(self.neighbors)},
            train_views=kept(self.train_views),
            held_out_views=kept(self.held_out_views),
        )

    def views(
        self, view_ids: Sequence[int], scale: float = 1.0, *, wants_depth: bool = True, wants_mask: bool = True
    ) -> Views:
        """Load frames, resized by `scale` together with their cameras; depth and masks where all of them have one.

        Raises:
            UnreadableFileError: for an unreadable image or depth map, or one whose size is not its frame's.
            InputError: as `cameras`.
        """
        frames = [self.frames[view_id] for view_id in view_ids]
        cameras = self.cameras(view_ids, scale)
        height, width = cameras.height, cameras.width
        near, far = self.near_far(view_ids)
        images = np.stack([_resize(self.image(view_id), height, width, cv2.INTER_AREA) for view_id in view_ids])
        has_depth = wants_depth and all(self.has_depth(view_id) for view_id in view_ids)
        has_mask = wants_mask and all(frame.mask_path for frame in frames)
        return Views(
            images=torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255,
            cameras=cameras,
            near=near,
            far=far,
            ids=torch.tensor(view_ids, dtype=torch.int64),
            depth=self._stack([self.depth(view_id) for view_id in view_ids], height, width) if has_depth else None,
            mask=self._stack([self._mask(frame) for frame in frames], height, width) > 127 if has_mask else None,
        )

    def image(self, view_id: int) -> UInt8[np.ndarray, "height width 3"]:
        """The photograph of a view as it is on disk, RGB.

        Raises:
            InputError: for an unreadable image, or one whose size is not its frame's.
        """
        frame = self.frames[view_id]
        image = read_image(frame.image_path, background=255 if self.white_background else 0)
        return _checked_size(image, frame, frame.image_path, "image")

    def depth(self, view_id: int) -> Float[np.ndarray, "height width"]:
        """The depth map of a view that has one, at the size of the photograph; 0 = unknown.

        Raises:
            InputError: for an unreadable map, or one whose size is not its frame's.
        """
        frame = self.frames[view_id]
        return _checked_size(self.read_depth(frame), frame, frame.depth_path, "depth map")

    @staticmethod
    def _stack(maps: Sequence[np.ndarray], height: int, width: int) -> Float[Tensor, "view height width"]:
        resized = [_resize(one, height, width, cv2.INTER_NEAREST_EXACT) for one in maps]
        return torch.from_numpy(np.stack(resized)).float()

    def _mask(self, frame: Frame) -> np.ndarray:
        mask = read_image(frame.mask_path)[..., 0]
        if mask.shape[0] * frame.width == mask.shape[1] * frame.height:  # NeuS ships masks smaller than its images
            mask = _resize(mask, frame.height, frame.width, cv2.INTER_NEAREST_EXACT)
        return _checked_size(mask, frame, frame.mask_path, "mask")


def _checked_size(array: np.ndarray, frame: Frame, path: Path, what: str) -> np.ndarray:
    if array.shape[:2] != (frame.height, frame.width):
        got = f"{array.shape[1]}x{array.shape[0]}"
        raise UnreadableFileError(
            f"{path}: expected a {what} of {frame.width}x{frame.height} (width x height), got {got}"
        )
    return array


def _resize(array: np.ndarray, height: int, width: int, interpolation: int) -> np.ndarray:
    if array.shape[:2] == (height, width):
        return array
    return cv2.resize(array, (width, height), interpolation=interpolation)
