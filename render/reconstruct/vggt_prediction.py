"""Photographs -> what VGGT says about them: cameras of the files as they are, depth, confidence and points.

Long sequences are predicted in overlapping chunks, of which one at a time is in memory (`chunk_alignment`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from geometry import Cameras, require
from geometry.errors import InputError
from models.memory import MemoryExceeded, halved_to_fit
from models.vggt.backbones import load_network
from models.vggt.config import MissingHeadError
from models.vggt.frozen import FROZEN_HEADS, FrozenVGGT
from models.vggt.preprocess import PlacedImages, intrinsics_in_files, load_images_whole
from models.vggt.weights import WeightIdentity, file_sha256
from render.reconstruct.chunk_alignment import Joint, PredictedView, join_chunks
from render.reconstruct.types import PhotoSet
from training.backbone import announce_license

SHIPPED_VGGT = Path(__file__).parents[2] / "ckpts" / "vggt_nano.safetensors"
"""VGGT-nano, taken where no weights are named."""
CHUNK_SIZE = 60
"""Photographs of a set that is called long that are predicted together. Chosen by hand; for VGGT-1B upstream's README
reports 11.4 GB for 50 of 518x336 pixels and 21.2 GB for 100, on an H100."""
_SHARED = 3
"""Neighboring chunks share one of so many photographs; chosen by hand."""
MAX_DRIFT = 0.05
"""Residual of a joint, relative to the distance, above which a warning names it; chosen by hand."""
BEYOND_NANO = (
    "the cameras are those of VGGT-nano, the small network that ships: it was trained on rendered scenes of solids on "
    "a table only, and photographs are beyond it (docs/model_cards.md); name VGGT-1B by --vggt_ckpt"
)
_OPTIONS = "--chunk_size or --vggt_image_size"


@dataclass(frozen=True)
class Prediction:
    """VGGT's views of one scene in one world: the camera of the first view as predicted, unit VGGT's own."""

    views: tuple[PredictedView, ...]
    """In the order of the photographs."""
    joints: tuple[Joint, ...] = ()
    """Of neighboring chunks; none for a set predicted at once."""
    warnings: tuple[str, ...] = ()
    """One sentence each."""
    identity: WeightIdentity | None = None

    @property
    def w2c(self) -> Float[Tensor, "view 4 4"]:
        """World to camera of all views."""
        return torch.stack([view.camera.w2c for view in self.views])

    @property
    def intrinsics(self) -> Float[Tensor, "view 3 3"]:
        """In pixels of the files."""
        return torch.stack([view.camera.intrinsics for view in self.views])

    @property
    def mean_confidence(self) -> float:
        """Over all pixels of all views."""
        return torch.stack([view.confidence.mean() for view in self.views]).mean().item()


class PointCloud(NamedTuple):
    """Points of a prediction; see `confident_points`."""

    points: Float[Tensor, "point 3"]
    colors: Float[Tensor, "point 3"]
    """RGB in [0, 1]."""
    pixels: Float[Tensor, "point 2"]
    """Where the view that a point is from sees it, in pixels of the file."""


@torch.no_grad()
def predict(
    photos: PhotoSet | Sequence[Path],
    vggt_ckpt: str | Path = "",
    *,
    image_size: int = 0,
    chunk_size: int = 0,
    chunk_overlap: int | None = None,
    camera_matches: bool = False,
    device: torch.device | str = "cpu",
    on_chunk: Callable[[int, int], None] = lambda done, count: None,
) -> Prediction:
    """Cameras, depth and confidence of photographs of one scene, on the CPU; sizes and orientations may be mixed.

    `vggt_ckpt` is any source that `load_network` knows, "" the weights that ship. `image_size` is the long side in
    pixels that VGGT sees, 0 the one it was trained at. `chunk_size` 0 predicts all photographs together; otherwise
    neighbors share `chunk_overlap`, by default a third of a chunk. Where memory does not suffice, chunks are halved.
    `camera_matches`: cameras by the matches of the network's stem, see `FrozenVGGT`. `on_chunk` is told how many
    photographs of how many are predicted.

    Raises:
        InputError: for no photographs, weights that cannot be read or lack the camera or depth head, impossible chunk
            sizes, or when two photographs do not fit in memory.
    """
    paths = [photos.folder / photo.name for photo in photos.photos] if isinstance(photos, PhotoSet) else list(photos)
    require(len(paths) > 0, "VGGT: expected at least one photograph, got none")
    require(image_size >= 0, f"--vggt_image_size: expected pixels, or 0 for the network's own, got {image_size}")
    require(chunk_size == 0 or chunk_size >= 2, f"--chunk_size: expected 2 photographs or more, got {chunk_size}")
    overlap = _overlap(chunk_size or len(paths)) if chunk_overlap is None else chunk_overlap
    require(
        chunk_size == 0 or 0 < overlap < chunk_size,
        f"--chunk_overlap: expected 1 to {chunk_size - 1}, below --chunk_size, got {overlap}",
    )
    network, identity, default_size = _load(str(vggt_ckpt or SHIPPED_VGGT), camera_matches=camera_matches)
    placed = load_images_whole(paths, size=image_size or default_size, patch_size=network.patch_size)
    network = network.to(device)
    names = [path.name for path in paths]
    views, joints = _in_chunks(
        lambda first, last: _predict_chunk(network, placed, names, first, last, device),
        len(paths), chunk_size or len(paths), overlap, on_chunk,
    )  # fmt: skip
    of_weights = () if camera_matches else _warn_of_weights(identity)
    return Prediction(tuple(views), tuple(joints), (*of_weights, *_warn_of_drift(joints)), identity)


def confident_points(view: PredictedView, *, least: float = 0.0, quantile: float = 0.0, step: int = 1) -> PointCloud:
    """Points of a view at every `step`-th row and column, where the confidence is high enough.

    It must reach `least` and the given quantile of the view's own: 0.25 leaves out the worst quarter.
    """
    rows, cols = view.depth.shape
    row, col = torch.meshgrid(torch.arange(step // 2, rows, step), torch.arange(step // 2, cols, step), indexing="ij")
    row, col = row.flatten(), col.flatten()
    confidence = view.confidence[row, col]
    usable = (view.depth[row, col] > 0) & (confidence >= least)
    if quantile > 0:
        usable &= confidence >= confidence.quantile(quantile)
    row, col = row[usable], col[usable]
    pixels = torch.stack([col + 0.5, row + 0.5], dim=-1)
    pixels *= pixels.new_tensor([view.camera.width / cols, view.camera.height / rows])
    return PointCloud(view.points_at(pixels), view.image[:, row, col].mT, pixels)


def _load(source: str, *, camera_matches: bool) -> tuple[FrozenVGGT, WeightIdentity, int]:
    """The network with the heads wanted here, its weights' identity, and the longer side of its training images."""
    try:
        loaded = load_network(source, heads=FROZEN_HEADS)
    except MissingHeadError as error:
        raise InputError(f"--vggt_ckpt {source}: expected camera and depth heads, got: {error}") from None
    network = FrozenVGGT.of(loaded, (loaded.sizes.num_layers - 1,), camera_matches=camera_matches)
    announce_license(network)
    return network, loaded.identity, loaded.sizes.img_size


def _in_chunks(
    compute: Callable[[int, int], list[PredictedView]],
    count: int,
    size: int,
    overlap: int,
    on_chunk: Callable[[int, int], None],
) -> tuple[list[PredictedView], list[Joint]]:
    """All views in the frame of the first chunk. Where memory does not suffice, this and later chunks are halved."""
    views: list[PredictedView] = []
    joints: list[Joint] = []
    while len(views) < count:
        first = max(0, min(len(views) - overlap, count - size))  # the last chunk is as large as the others
        wanted = min(size, count - first)
        part = halved_to_fit(lambda size, first=first: compute(first, first + size), wanted, advice=_OPTIONS)
        if len(part) < wanted:
            size, overlap = len(part), min(overlap, _overlap(len(part)))
        if not views:
            views = part
        elif first + len(part) > len(views):
            views, joint = join_chunks(views, part, len(views) - first)
            joints.append(joint)
        on_chunk(len(views), count)
    return views, joints


def _overlap(chunk_size: int) -> int:
    """Photographs that neighboring chunks share where nobody says."""
    return max(1, chunk_size // _SHARED)


def _predict_chunk(
    network: FrozenVGGT, placed: PlacedImages, names: Sequence[str], first: int, last: int, device: torch.device | str
) -> list[PredictedView]:
    """Views first to last-1 in a frame of their own.

    Raises:
        MemoryError: for the caller to take fewer.
        MemoryExceeded: when there are no fewer that could be joined to others.
    """
    if last - first == 1 and len(names) > 1:
        raise MemoryExceeded(f"out of memory for two photographs at once: lower {_OPTIONS}")
    try:
        found = network(placed.images[None, first:last].to(device)).to("cpu", torch.float32)
    except MemoryExceeded as error:
        raise MemoryError(str(error)) from None
    boxes = placed.boxes[first:last]
    intrinsics = intrinsics_in_files(found.intrinsics[0], boxes)
    views = []
    for index, (left, top, right, bottom, width, height) in enumerate(boxes.long().tolist()):
        window = (slice(top, bottom), slice(left, right))
        views.append(
            PredictedView(
                name=names[first + index],
                camera=Cameras(found.w2c[0, index], intrinsics[index], height, width),
                image=placed.images[(first + index, slice(None), *window)].clone(),
                depth=found.depth[(0, index, *window)].clone(),
                confidence=found.depth_conf[(0, index, *window)].clone(),
            )
        )
    return views


def _warn_of_weights(identity: WeightIdentity) -> list[str]:
    is_nano = SHIPPED_VGGT.is_file() and identity.sha256 == file_sha256(SHIPPED_VGGT)
    return [BEYOND_NANO] if is_nano else []


def _warn_of_drift(joints: Sequence[Joint]) -> list[str]:
    """One sentence about the joints that do not fit."""
    bad = [joint for joint in joints if joint.residual > MAX_DRIFT]
    if not bad:
        return []
    worst = max(bad, key=lambda joint: joint.residual)
    return [
        f"{len(bad)} of {len(joints)} joints between chunks do not fit: their points are more than {MAX_DRIFT:.0%} of "
        f"the distance apart, {worst.residual:.0%} at {worst.name}; the sequence drifts there, and a larger "
        "--chunk_overlap may help"
    ]
