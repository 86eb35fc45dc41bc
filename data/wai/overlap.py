"""How much views see of each other, from depth maps: covisibility, and how well depth maps confirm each other.

A pixel of view i with depth is lifted to X = T_i (d K_i^-1 (u, v, 1)) and seen by view j at p = T_j^-1 X, pixel
(f_x p_x / p_z + c_x, f_y p_y / p_z + c_y), where j's depth map is looked up (nearest pixel). Pixel centers are at
integers. Computed for one source view against some targets at a time, so that memory does not grow with their number.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from geometry import InputError, require, rigid_inverse

MIN_DEPTH = 0.04
"""Nearer points are not looked up, scene units; the reference's constant."""
BORDER = 1e-4
"""Pixels by which a point may be outside: points of the first row and column project to -1e-7 in single precision."""
_PIXELS_AT_ONCE = 500_000
"""Pixels times targets; more of them take more memory and no less time."""
_EDGE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Thresholds:
    """Depths z and D match where |z - D| < absolute + relative * z + temperature * ln 2."""

    absolute: float
    """Scene units."""
    temperature: float
    """Scene units."""
    relative: float

    def scaled(self, factor: float) -> "Thresholds":
        """For scene units of another length."""
        return Thresholds(self.absolute * factor, self.temperature * factor, self.relative)

    def at(self, depth: Tensor) -> Tensor:
        """Largest difference at a depth."""
        return self.absolute + self.temperature * math.log(2) + self.relative * depth


PRESETS = {
    "gt": Thresholds(0.1, 0.1, 0.005),
    "mvs": Thresholds(0.5, 0.5, 0.005),
    "moge": Thresholds(0.4, 0.4, 0.02),
    "relative": Thresholds(0.02, 0.02, 0.005),
    "sparse": Thresholds(0.02, 0.02, 0.1),
}
"""The reference's for ground truth, multi-view stereo and predicted depth, in meters; `relative` is in units of the
scene's median depth: those for ground truth at a median of 5 m. `sparse`, in these units as well, allows for what a
surface slants between points."""
CONFIDENCE = Thresholds(0.02, 0.0, 0.02)
"""Of `depth_confidence`."""


@dataclass(frozen=True)
class DepthViews:
    """Depth maps with their cameras, all of one size."""

    depth: Float[Tensor, "view height width"]
    """Camera z; 0 = unknown."""
    intrinsics: Float[Tensor, "view 3 3"]
    """Of these maps; integer pixel centers, double precision."""
    c2w: Float[Tensor, "view 4 4"]
    """Double precision."""
    surface: Float[Tensor, "view height width"] | None = None
    """Depth that points of other views are compared with; None: `depth`. Of sparse depth: `spread_out` of it."""

    @classmethod
    def make(cls, depth: np.ndarray, intrinsics: np.ndarray, c2w: np.ndarray) -> "DepthViews":
        """From arrays."""
        tensors = (torch.from_numpy(np.ascontiguousarray(array)) for array in (depth, intrinsics, c2w))
        maps, matrices, poses = tensors
        return cls(maps.float(), matrices.double(), poses.double())

    def __len__(self) -> int:
        """Number of views."""
        return len(self.depth)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.depth.shape[1], self.depth.shape[2]


@dataclass(frozen=True)
class OverlapRule:
    """What counts; the defaults are the repaired rule (docs/wai.md, "Covisibility")."""

    is_upstream: bool = False
    """As the reference: frusta are tested first, holes of the target match, border pixels get lost by rounding."""
    of_target: bool = False
    """Shares are of the pixels of j with known depth, instead of all pixels."""
    of_source: bool = False
    """Shares are of the pixels of i with known depth."""


def resized_size(height: int, width: int, long_side: int) -> tuple[int, int]:
    """(height, width) with the long side at `long_side`, the other rounded down; small maps become larger."""
    if height > width:
        return long_side, int(width * long_side / height)
    return int(height * long_side / width), long_side


def resized(depth: Float[np.ndarray, "old_height old_width"], height: int, width: int) -> np.ndarray:
    """Nearest: row floor(i * old / new), likewise for columns, in single precision."""
    rows, columns = (
        np.floor(np.arange(new, dtype=np.float32) * np.float32(old / new)).astype(int).clip(max=old - 1)
        for old, new in zip(depth.shape, (height, width), strict=True)
    )
    return depth[rows[:, None], columns]


def resized_intrinsics(intrinsics: np.ndarray, old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """Rows times new / old size, the principal point as well: without the half pixel, as the reference."""
    scaled = np.array(intrinsics, np.float64)
    scaled[..., 0, :] *= new[1] / old[1]
    scaled[..., 1, :] *= new[0] / old[0]
    return scaled


def covisibility(
    views: DepthViews,
    thresholds: Thresholds,
    rule: OverlapRule | None = None,
    *,
    candidates: Bool[np.ndarray, "view view"] | None = None,
    tick: Callable[[], object] = lambda: None,
) -> Float[np.ndarray, "view view"]:
    """[i, j]: share of the pixels of view i whose depth matches that of j; `tick()` is called after every row.

    `candidates`: pairs to look at, instead of those whose frusta touch.
    """
    found, rule = np.zeros((len(views), len(views)), np.float32), rule or OverlapRule()
    if candidates is None:
        candidates = frusta_touch(views) if rule.is_upstream else may_overlap(views)
    num_pixels = views.depth[0].numel()
    num_valid = (views.depth > 0).flatten(1).sum(1)
    for source in range(len(views)):
        for targets, seen, depth, looked_up in _seen(views, source, candidates[source], rule.is_upstream):
            match = seen & ((depth - looked_up).abs() < thresholds.at(depth))
            counts = match.sum(-1).double()
            size = num_valid[targets].clamp(min=1) if rule.of_target else num_pixels
            size = num_valid[source].clamp(min=1) if rule.of_source else size
            found[source, targets.numpy()] = (counts / size).clamp(0, 1).float().numpy()
        tick()
    return found


@dataclass(frozen=True)
class ConfidenceRule:
    """What counts for `depth_confidence`; the defaults are the repaired rule."""

    is_upstream: bool = False
    """As `OverlapRule.is_upstream`."""
    includes_self: bool = False
    """The view confirms itself, as in the reference's stage."""
    alone: float = 0.0
    """Confidence of a view without any partner."""


def depth_confidence(
    views: DepthViews, source: int, rule: ConfidenceRule | None = None, *, touching: np.ndarray | None = None
) -> Float[np.ndarray, "height width"]:
    """Of every pixel of a view with depth: in / (in + out) over the views that see its point.

    `in`: |z - D| < 0.02 + 0.02 z (scene units), `out`: not so. 0: nobody sees it. `touching`: `frusta_touch` or
    `may_overlap` of all views, where it is known.
    """
    rule = rule or ConfidenceRule()
    candidates = np.array((frusta_touch if rule.is_upstream else may_overlap)(views) if touching is None else touching)
    candidates[source, source] = rule.includes_self
    if not candidates[source].any():
        return np.full(views.size, rule.alone, np.float32)
    inside, outside = torch.zeros(views.depth[0].numel()), torch.zeros(views.depth[0].numel())
    for _, seen, depth, looked_up in _seen(views, source, candidates[source], rule.is_upstream):
        close = (depth - looked_up).abs() < CONFIDENCE.at(depth)
        inside += (seen & close).sum(0)
        outside += (seen & ~close).sum(0)
    return (inside / (inside + outside + 1e-10)).reshape(views.size).numpy()


def spread_out(depth: Float[np.ndarray, "height width"], reach: float) -> Float[np.ndarray, "height width"]:
    """Sparse depth at every pixel that is at most `reach` pixels from a known one: that of the nearest."""
    distance, nearest = distance_transform_edt(depth <= 0, return_indices=True)
    return np.where(distance <= reach, depth[tuple(nearest)], 0).astype(np.float32)


def may_overlap(views: DepthViews) -> Bool[np.ndarray, "view view"]:
    """Whether a view may see points of another: False only where the other's frustum is outside of one plane of its.

    Frusta have the true corners and reach from the least to the greatest known depth.
    """
    corners, has_depth = _corners(views, has_true_center=True)
    height, width = views.size
    homogeneous = torch.cat([corners, torch.ones_like(corners[..., :1])], dim=-1)
    found = np.zeros((len(views), len(views)), bool)
    for target, w2c in enumerate(rigid_inverse(views.c2w)):
        x, y, z = (homogeneous @ w2c[:3].T).unbind(-1)
        (fx, _, cx), (_, fy, cy) = views.intrinsics[target, :2].tolist()
        slack = BORDER + 1e-3
        outside = [
            z <= MIN_DEPTH,
            fx * x + (cx + slack) * z < 0,
            fx * x + (cx - width - slack) * z > 0,
            fy * y + (cy + slack) * z < 0,
            fy * y + (cy - height - slack) * z > 0,
        ]
        beyond = torch.stack([one.all(-1) for one in outside]).any(0)
        found[:, target] = (~beyond & has_depth & has_depth[target]).numpy()
    return found


def frusta_touch(views: DepthViews) -> Bool[np.ndarray, "view view"]:
    """The reference's test: an edge of one frustum crosses a triangle of the other, or one's first corner is inside.

    Its corners presume a principal point in the middle.
    """
    corners, has_depth = _corners(views, has_true_center=False)
    points, with_depth = corners.numpy(), np.flatnonzero(has_depth.numpy())
    found = np.diag(has_depth.numpy())
    for one in with_depth:
        for other in with_depth[with_depth > one]:
            touch = _edges_cross(points[one], points[other]) or _edges_cross(points[other], points[one])
            touch = touch or _is_inside(points[one][0], points[other]) or _is_inside(points[other][0], points[one])
            found[one, other] = found[other, one] = touch
    return found


def median_depth(views: DepthViews) -> float:
    """Of all known pixels.

    Raises:
        InputError: when no depth is known.
    """
    known = views.depth[views.depth > 0]
    require(len(known) > 0, "expected some known depth, got none")
    return float(known.median())


def _seen(
    views: DepthViews, source: int, candidates: Bool[np.ndarray, " view"], is_upstream: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Some targets at a time: their numbers, which pixels they see, their depth there, and what their maps say."""
    height, width = views.size
    points = _points_cam(views, source)
    is_valid = (views.depth[source] > 0).flatten()
    slack = 0.0 if is_upstream else BORDER
    to_targets = (rigid_inverse(views.c2w) @ views.c2w[source]).float()
    chosen = torch.from_numpy(np.flatnonzero(candidates))
    at_once = max(1, _PIXELS_AT_ONCE // (height * width))
    for targets in chosen.split(at_once):
        motion, matrices = to_targets[targets], views.intrinsics[targets].float()
        x, y, z = (points @ motion[:, :3, :3].mT + motion[:, None, :3, 3]).unbind(-1)
        size = z.abs().clamp(min=1e-5)
        u = matrices[:, 0, 0, None] * x / size + matrices[:, 0, 2, None]
        v = matrices[:, 1, 1, None] * y / size + matrices[:, 1, 2, None]
        seen = is_valid & (u >= -slack) & (v >= -slack) & (u < width) & (v < height) & (z > MIN_DEPTH)
        columns = u.nan_to_num().clamp(0, width - 1).round().long()
        rows = v.nan_to_num().clamp(0, height - 1).round().long()
        maps = views.depth if views.surface is None else views.surface
        looked_up = maps[targets].flatten(1).gather(1, rows * width + columns)
        if not is_upstream:
            seen &= looked_up > 0
        yield targets, seen, z, looked_up


def _points_cam(views: DepthViews, source: int) -> Float[Tensor, "pixel 3"]:
    height, width = views.size
    (fx, _, cx), (_, fy, cy) = views.intrinsics[source, :2].tolist()
    depth = views.depth[source].double()
    columns = (torch.arange(width, dtype=torch.float64) - cx) / fx
    rows = (torch.arange(height, dtype=torch.float64)[:, None] - cy) / fy
    return torch.stack([depth * columns, depth * rows, depth], dim=-1).flatten(0, 1).float()


def _corners(views: DepthViews, *, has_true_center: bool) -> tuple[Float[Tensor, "view 8 3"], Bool[Tensor, " view"]]:
    """World points (+x +y near first), and whether a view knows any depth."""
    height, width = views.size
    has_depth = (views.depth > 0).flatten(1).any(1)
    near = torch.where(views.depth > 0, views.depth, math.inf).flatten(1).amin(1)
    near = torch.where(has_depth, near, 0.0).double()
    far = torch.where(has_depth, views.depth.flatten(1).amax(1), 0.0).double()
    fx, fy = views.intrinsics[:, 0, 0], views.intrinsics[:, 1, 1]
    cx, cy = views.intrinsics[:, 0, 2], views.intrinsics[:, 1, 2]
    if has_true_center:
        sides = ((width - 1 - cx) / fx, -cx / fx), ((height - 1 - cy) / fy, -cy / fy)
    else:
        sides = (cx / fx, -cx / fx), (cy / fy, -cy / fy)
    corners = [
        torch.stack([depth * sides[0][at_x], depth * sides[1][at_y], depth], dim=-1)
        for depth in (near, far)
        for at_x, at_y in ((0, 0), (0, 1), (1, 1), (1, 0))
    ]
    points = torch.stack(corners, dim=1)
    return points @ views.c2w[:, :3, :3].mT + views.c2w[:, None, :3, 3], has_depth


_QUADS = ((0, 1, 2, 3), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7))
"""Faces of a frustum: near, far, right, bottom or top, left, top or bottom."""
_TRIANGLES = np.array([part for a, b, c, d in _QUADS for part in ((a, b, c), (a, c, d))])
_EDGES = np.unique(np.sort(_TRIANGLES[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1), axis=0)


def _edges_cross(one: Float[np.ndarray, "8 3"], other: Float[np.ndarray, "8 3"]) -> bool:
    """Whether an edge of the triangles of one frustum crosses a triangle of the other (Moeller and Trumbore 1997)."""
    start, end = one[_EDGES[:, 0]][:, None], one[_EDGES[:, 1]][:, None]
    a, b, c = (other[_TRIANGLES[:, corner]][None] for corner in range(3))
    direction, side_b, side_c = end - start, b - a, c - a
    across = np.cross(direction, side_c)
    volume = (across * side_b).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = np.where(np.abs(volume) > _EDGE_TOLERANCE, 1 / volume, np.nan)
        offset = start - a
        u = (offset * across).sum(-1) * inverse
        beside = np.cross(offset, side_b)
        v = (direction * beside).sum(-1) * inverse
        t = (side_c * beside).sum(-1) * inverse
        low, high = -_EDGE_TOLERANCE, 1 + _EDGE_TOLERANCE
        return bool(((u >= low) & (v >= low) & (u + v <= high) & (t >= low) & (t <= high)).any())


def _is_inside(point: Float[np.ndarray, "3"], frustum: Float[np.ndarray, "8 3"]) -> bool:
    """Whether a point is on the inner side of all six faces."""
    middle = frustum.mean(0)
    for a, b, c, d in _QUADS:
        normal = np.cross(frustum[c] - frustum[a], frustum[d] - frustum[b])
        side = normal @ (frustum[[a, b, c, d]].mean(0) - middle)
        if np.sign(side) * (normal @ (point - frustum[[a, b, c, d]].mean(0))) > 0:
            return False
    return True


def depth_views(
    maps: list[np.ndarray], intrinsics: list[np.ndarray], c2w: list[np.ndarray], where: str, long_side: int | None
) -> DepthViews:
    """Maps of one scene, brought to a long side (None: as they are); intrinsics are of the maps as given.

    Raises:
        InputError: for maps of different sizes.
    """
    sizes = {one.shape for one in maps}
    require(len(sizes) == 1, f"{where}: expected depth maps of one size, got {sorted(sizes)}")
    (size,) = sizes
    new = size if long_side is None else resized_size(*size, long_side)
    if min(new) < 1:
        raise InputError(f"{where}: expected depth maps of at least 1 pixel a side, got {size} for {long_side}")
    return DepthViews.make(
        np.stack([resized(one, *new) for one in maps]),
        np.stack([resized_intrinsics(one, size, new) for one in intrinsics]),
        np.stack(c2w),
    )
