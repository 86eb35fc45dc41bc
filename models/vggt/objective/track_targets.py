"""Ground-truth point tracks from depth and cameras (docs/vggt.md, "Tracks from depth")."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geometry.cameras import Cameras
from geometry.epipolar import fundamental_matrix, sampson_distance
from geometry.errors import require
from geometry.precision import full_precision
from geometry.tensor_struct import TensorStruct
from geometry.views import FrameBatch, Views
from models.vggt.objective.ground_truth import MIN_DEPTH, finite_or_zero, relative_to_first
from models.vggt.pose_encoding import homogeneous

BORDER = 4.0
"""Pixels at the image border where nothing counts as visible, as upstream."""
DEPTH_TOLERANCE = 0.05
"""Relative to the smaller of two depths, as upstream (docs/vggt.md, "Tracks from depth")."""
CANDIDATES_PER_TRACK = 8
"""At most so many random pixels of the first view are followed for each track asked for; chosen by hand, for speed."""
MIN_EPIPOLAR_DISTANCE = 16.0
"""Pixels between a negative's place and the epipolar line of its query, in every view; as upstream."""
NEGATIVE_DRAWS = 16
"""Places tried for each negative; where all are too near to the line, the farthest is taken. Chosen by hand."""


@dataclass(frozen=True)
class TrackTargets(TensorStruct):
    """True places of points of the first view in all views of a group."""

    points: Float[Tensor, "*batch view point 2"]
    """(x, y) in pixels as the tracker counts them: integers at pixel centers, our +0.5 coordinates minus 0.5."""
    visible: Bool[Tensor, "*batch view point"]
    positive: Bool[Tensor, "*batch point"]
    """False for random tracks that fill up the number; they are visible nowhere, so no loss counts them."""

    @property
    def queries(self) -> Float[Tensor, "*batch point 2"]:
        """What the network is asked to track: the places in the first view."""
        return self.points[..., 0, :, :]


def tracks_of_batch(batch: FrameBatch, count: int) -> TrackTargets:
    """`count` tracks for every group of a batch; a group's tracks depend on its own seed alone."""
    generators = [torch.Generator().manual_seed(seed) for seed in batch.seeds.tolist()]
    return _stacked(batch.views, count, generators)


def tracks_from_depth(views: Views, count: int, generator: torch.Generator) -> TrackTargets:
    """`count` tracks for every group (one batch axis) of views with depth; the random numbers are the generator's."""
    return _stacked(views, count, [generator] * len(views.images))


def _stacked(views: Views, count: int, generators: Sequence[torch.Generator]) -> TrackTargets:
    require(views.depth is not None, "tracks are made from depth, these views have none")
    require(count > 0, f"the number of tracks must be positive, got {count}")
    groups = [group_tracks(views[index], count, generator) for index, generator in enumerate(generators)]
    return TrackTargets.stack(groups)


def group_tracks(views: Views, count: int, generator: torch.Generator) -> TrackTargets:
    """Tracks of one group: visible in the first view and one more, preferably in many; random ones fill the rest.

    At most `CANDIDATES_PER_TRACK * count` random pixels are followed; the reference follows all.
    """
    depth = finite_or_zero(views.depth)
    relative = homogeneous(relative_to_first(views.cameras.w2c[None])[0])
    cameras = replace(views.cameras, w2c=relative)
    pixels = _candidates(depth[0], CANDIDATES_PER_TRACK * count, generator)
    rows, columns = pixels[:, 1].long(), pixels[:, 0].long()
    points = cameras[:1].unproject(pixels[None] + 0.5, depth[0, rows, columns][None])
    projection = cameras.project(points)
    places = torch.cat([pixels[None], projection.pixels[1:] - 0.5])  # exact in the first view
    visible = visible_at(places, projection.depth, depth)
    chosen = _best(visible, count, generator)
    missing = count - len(chosen)
    starts = pixels[_draw(len(pixels), missing, generator).to(pixels.device)] if len(pixels) else None
    negatives = _negatives(cameras, missing, starts, generator)
    is_positive = torch.arange(count, device=depth.device) < len(chosen)
    return TrackTargets(
        points=torch.cat([places[:, chosen], negatives], dim=1),
        visible=torch.cat([visible[:, chosen], torch.zeros_like(negatives[..., 0], dtype=torch.bool)], dim=1),
        positive=is_positive,
    )


def visible_at(
    places: Float[Tensor, "view point 2"],
    depth_of_points: Float[Tensor, "view point"],
    depth: Float[Tensor, "view height width"],
) -> Bool[Tensor, "view point"]:
    """Away from the border, and as deep as one of the four pixels around, within `DEPTH_TOLERANCE` of either depth.

    Places are counted with integers at pixel centers.
    """
    height, width = depth.shape[-2:]
    x, y = places.unbind(-1)
    is_inside = (x >= BORDER) & (x < width - BORDER) & (y >= BORDER) & (y < height - BORDER) & (depth_of_points > 0)
    left, top = (torch.where(is_inside, value, 0.0).floor().long() for value in (x, y))
    view = torch.arange(len(depth), device=depth.device)[:, None]
    is_as_deep = torch.zeros_like(is_inside)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        seen = depth[view, (top + row).clamp(max=height - 1), (left + column).clamp(max=width - 1)]
        difference = (seen - depth_of_points).abs()
        is_near = difference < DEPTH_TOLERANCE * torch.minimum(seen, depth_of_points)
        is_as_deep |= is_near & (seen > MIN_DEPTH)
    return is_inside & is_as_deep


def _candidates(
    depth: Float[Tensor, "height width"], limit: int, generator: torch.Generator
) -> Float[Tensor, "point 2"]:
    """(x, y) of random pixels with depth, integers at centers."""
    rows, columns = torch.nonzero(depth > MIN_DEPTH, as_tuple=True)
    picked = torch.randperm(len(rows), generator=generator)[:limit].to(depth.device)
    return torch.stack([columns[picked], rows[picked]], dim=-1).to(depth)


def _best(visible: Bool[Tensor, "view point"], count: int, generator: torch.Generator) -> Int[Tensor, " chosen"]:
    """At most `count` tracks seen first and once more, from the better half by views seen where that suffices."""
    usable = torch.nonzero(visible[0] & visible[1:].any(0)).squeeze(-1)
    if len(usable) // 2 >= count:
        order = visible[:, usable].sum(0).argsort(descending=True, stable=True)
        usable = usable[order[: len(usable) // 2]]
    return usable[torch.randperm(len(usable), generator=generator)[:count].to(usable.device)]


@full_precision
def _negatives(
    cameras: Cameras, count: int, starts: Float[Tensor, "point 2"] | None, generator: torch.Generator
) -> Float[Tensor, "view point 2"]:
    """Places off the epipolar lines: offsets up to half the image, the first of several draws that is far enough.

    Where none is, the farthest is taken. Without starts they begin anywhere in the first view.
    """
    num_views, device = len(cameras.w2c), cameras.w2c.device
    size = torch.tensor([cameras.width, cameras.height], device=device, dtype=cameras.w2c.dtype)
    if starts is None:
        starts = (torch.rand(count, 2, generator=generator).to(size) * size).floor()
    draws = torch.rand(NEGATIVE_DRAWS, num_views - 1, count, 2, generator=generator).to(size)
    places = starts + (draws - 0.5) * size
    fundamental = fundamental_matrix(cameras[:1], cameras[1:])
    distance = sampson_distance(fundamental, starts + 0.5, places + 0.5).clamp(max=MIN_EPIPOLAR_DISTANCE)
    best = distance.argmax(0)[None, ..., None].expand(1, -1, -1, 2)  # the first of equals
    return torch.cat([starts[None], places.gather(0, best)[0]])


def _draw(high: int, count: int, generator: torch.Generator) -> Int[Tensor, " count"]:
    return torch.randint(high, (count,), generator=generator)
