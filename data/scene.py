"""A scene on disk, and how some of its frames become `Views`. Readers of formats build these and nothing else."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from data.image_io import UnreadableFileError, read_image
from data.lazy import LazyMapping
from geometry import Cameras, InputError, Traits, Views, rigid_inverse

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
    surface_path: Path | None = None
    """Mask of what has a depth: the sky has none."""

    @property
    def center(self) -> Float[Tensor, "3"]:
        """Optical center in the world frame."""
        return rigid_inverse(self.w2c)[:3, 3]


@dataclass(frozen=True)
class ScenePoints:
    """Sparse points of a scene, and where its views observe them."""

    points_world: Float[np.ndarray, "point 3"]
    """Scene units."""
    track_lengths: Int[np.ndarray, " point"]
    """Number of views that observe a point; 0: not known."""
    rows: Mapping[int, Int[np.ndarray, " observation"]] = field(default_factory=dict)
    """Of `points_world`, by view, those that it observes."""
    pixels: Mapping[int, Float[np.ndarray, "observation 2"]] = field(default_factory=dict)
    """(x, y) where it does, in pixels of its frame; NaN: not known."""


@dataclass(frozen=True)
class Covisibility:
    """How much of what each view sees the others see as well, from their depth maps."""

    view_ids: tuple[int, ...]
    """Views of the rows and columns."""
    values: Float[np.ndarray, "view view"]
    """[i, j]: share of the pixels of view i whose point view j sees too; [i, i] is their share with known depth."""

    def among(self, view_ids: Sequence[int]) -> Float[np.ndarray, "part part"]:
        """Rows and columns of some views, in their order; 0 for a view that is not in it."""
        at = {view: index for index, view in enumerate(self.view_ids)}
        known = [position for position, view in enumerate(view_ids) if view in at]
        rows = [at[view_ids[position]] for position in known]
        found = np.zeros((len(view_ids), len(view_ids)), np.float32)
        found[np.ix_(known, known)] = np.asarray(self.values)[np.ix_(rows, rows)]
        return found

    def neighbors(self) -> dict[int, tuple[int, ...]]:
        """For every view the others that see anything of the same, by the mean of both shares, best first."""
        mean = (np.asarray(self.values) + np.asarray(self.values).T) / 2
        np.fill_diagonal(mean, 0)
        order = np.argsort(-mean, axis=1, kind="stable")
        return {
            view: tuple(self.view_ids[other] for other in order[row] if mean[row, other] > 0)
            for row, view in enumerate(self.view_ids)
        }


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
    is_depth_sparse: bool = False
    """Depth is known at single pixels, which a resized map keeps."""
    read_image: Callable[[Frame, int], UInt8[np.ndarray, "height width 3"]] | None = None
    """The photograph of a frame at the frame's size, transparent pixels over that gray level; None: the file as it is.

    For photographs that are not pinhole images of the frame's size, such as those of a lens with distortion.
    """
    read_mask: Callable[[Frame], UInt8[np.ndarray, "height width"]] | None = None
    """Likewise for a frame that has a `mask_path`."""
    read_surface: Callable[[Frame], Bool[np.ndarray, "height width"]] | None = None
    """Likewise for a frame that has a `surface_path`: False where nothing has a depth."""
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
    notes: tuple[str, ...] = ()
    """What its reader did to the photographs or had to assume, one sentence each."""
    points: "ScenePoints | None" = None
    """Sparse points that came with the cameras."""
    traits: Traits = field(default_factory=Traits)
    covisibility: Covisibility | None = None
    """What `--view_sampling covisibility` draws by; may have more views than there are frames."""

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
        resize_depth = resize_sparse if self.is_depth_sparse else _nearest
        has_mask = wants_mask and all(frame.mask_path for frame in frames)
        return Views(
            images=torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255,
            cameras=cameras,
            near=near,
            far=far,
            ids=torch.tensor(view_ids, dtype=torch.int64),
            depth=_stack([self.depth(view) for view in view_ids], resize_depth, height, width) if has_depth else None,
            mask=_stack([self.mask(view) for view in view_ids], _nearest, height, width) > 127 if has_mask else None,
        )

    def image(self, view_id: int) -> UInt8[np.ndarray, "height width 3"]:
        """The photograph of a view, RGB: as it is on disk, or as `read_image` makes it of that.

        Raises:
            InputError: for an unreadable image, or one whose size is not its frame's.
        """
        frame, background = self.frames[view_id], 255 if self.white_background else 0
        is_as_on_disk = self.read_image is None
        image = read_image(frame.image_path, background) if is_as_on_disk else self.read_image(frame, background)
        return _checked_size(image, frame, frame.image_path, "image")

    def depth(self, view_id: int) -> Float[np.ndarray, "height width"]:
        """The depth map of a view that has one, at the size of the photograph; 0 = unknown.

        Raises:
            InputError: for an unreadable map, or one whose size is not its frame's.
        """
        frame = self.frames[view_id]
        return _checked_size(self.read_depth(frame), frame, frame.depth_path, "depth map")

    def surface(self, view_id: int) -> Bool[np.ndarray, "height width"] | None:
        """Where a view shows something that has a depth, at the size of the photograph; None: not known.

        Raises:
            InputError: for an unreadable mask.
        """
        frame = self.frames[view_id]
        if self.read_surface is None or frame.surface_path is None:
            return None
        return _checked_size(self.read_surface(frame), frame, frame.surface_path, "mask of surfaces")

    def mask(self, view_id: int) -> UInt8[np.ndarray, "height width"]:
        """The mask of a view that has one, at the size of the photograph, 0 to 255.

        Raises:
            InputError: for an unreadable mask, or one whose proportions are not its frame's.
        """
        frame = self.frames[view_id]
        if self.read_mask is not None:
            return _checked_size(self.read_mask(frame), frame, frame.mask_path, "mask")
        mask = read_image(frame.mask_path)[..., 0]
        if mask.shape[0] * frame.width == mask.shape[1] * frame.height:  # NeuS ships masks smaller than its images
            mask = _nearest(mask, frame.height, frame.width)
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


def _nearest(array: np.ndarray, height: int, width: int) -> np.ndarray:
    return _resize(array, height, width, cv2.INTER_NEAREST_EXACT)


def resize_sparse(
    depth: Float[np.ndarray, "old_height old_width"], height: int, width: int
) -> Float[np.ndarray, "height width"]:
    """Every known pixel at its new place; of several there the nearest."""
    rows, columns = np.nonzero(depth)
    values = depth[rows, columns]
    order = np.argsort(-values, kind="stable")
    rows, columns = (2 * rows + 1) * height // (2 * depth.shape[0]), (2 * columns + 1) * width // (2 * depth.shape[1])
    resized = np.zeros((height, width), depth.dtype)
    resized[rows[order], columns[order]] = values[order]
    return resized


def _stack(
    maps: Sequence[np.ndarray], resize: Callable[[np.ndarray, int, int], np.ndarray], height: int, width: int
) -> Float[Tensor, "view height width"]:
    return torch.from_numpy(np.stack([resize(one, height, width) for one in maps])).float()
