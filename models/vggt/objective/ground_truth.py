"""Views with known depth -> what VGGT is trained towards, in its frame and unit (VGGT, Wang et al. 2025, section 3.4).

Predictions are never re-normalized: only the ground truth is moved into the first camera's frame and divided by the
mean distance of its valid points from that camera. A group without any valid point has no such unit; its cameras are
divided by their mean distance from the first one, and the camera loss looks at them up to scale.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geometry.cameras import Cameras, pixel_centers
from geometry.errors import require
from geometry.precision import full_precision
from geometry.tensor_struct import TensorStruct
from geometry.views import Views
from models.vggt.pose_encoding import encode_pose, homogeneous, inverse_se3

MIN_DEPTH = 1e-8
"""Scene units; a smaller depth is unknown, as upstream."""
SCALE_RANGE = (1e-6, 1e6)
"""Scene units, as upstream: a group without valid points must not be divided by 0."""

Maps = Float[Tensor, "batch view height width"]
PointMaps = Float[Tensor, "batch view height width 3"]
Masks = Bool[Tensor, "batch view height width"]


class NormalizedScene(NamedTuple):
    """A scene in its first camera's frame, lengths divided by `scale`."""

    w2c: Float[Tensor, "batch view 3 4"]
    """Rigid; the first one is the identity."""
    depth: Maps
    points: PointMaps
    """In the first camera's frame."""
    points_cam: PointMaps
    """In each camera's own frame."""
    scale: Float[Tensor, " batch"]
    """Old units per new unit."""


@dataclass(frozen=True)
class GroundTruth(TensorStruct):
    """Targets of the camera, depth and point heads."""

    pose_enc: Float[Tensor, "batch view 9"]
    """As the network encodes poses: camera from first camera, quaternion with w >= 0, fields of view in radians."""
    depth: Maps
    """Camera z; 0 = unknown."""
    points: PointMaps
    """In the first camera's frame; meaningless outside `mask`."""
    mask: Masks
    """Where the depth is known."""
    scale: Float[Tensor, " batch"]
    """Scene units per unit of the other fields: mean distance of the valid points, else of the cameras."""


def normalize_scene(
    w2c: Float[Tensor, "batch view rows 4"],
    depth: Maps,
    points_world: PointMaps,
    points_cam: PointMaps,
    mask: Masks,
    *,
    is_scaled: bool = True,
) -> NormalizedScene:
    """Change to the first camera's frame and, unless `is_scaled` is False, to the unit c of `mean_distance`.

    E_s -> E_s E_0^-1, X -> E_0 X; translations, depth and points are divided by c (docs/vggt.md, "Targets").
    NaN and infinity become 0. `w2c` is 3x4 or 4x4.
    """
    relative = relative_to_first(w2c)
    rotation, translation = w2c[:, 0, :3, :3], w2c[:, 0, :3, 3]
    with torch.autocast(w2c.device.type, enabled=False):
        points = torch.einsum("brc,bvhwc->bvhwr", rotation, finite_or_zero(points_world))
    points = points + translation[:, None, None, None]
    scale = mean_distance(points, mask) if is_scaled else torch.ones_like(points[:, 0, 0, 0, 0])
    return NormalizedScene(
        _scaled_poses(relative, scale),
        finite_or_zero(depth) / scale[:, None, None, None],
        finite_or_zero(points / scale[:, None, None, None, None]),
        finite_or_zero(points_cam) / scale[:, None, None, None, None],
        scale,
    )


def ground_truth(views: Views, *, is_scaled: bool = True) -> GroundTruth:
    """Targets for groups of frames (one batch axis) with depth; object masks are not looked at.

    Points are unprojected from the pixel centers of our cameras (+0.5) straight into the first camera's frame: world
    coordinates far from the origin would cost digits.
    """
    require(views.depth is not None, "training VGGT needs the depth of every view, these views have none")
    cameras, height, width = views.cameras, views.cameras.height, views.cameras.width
    depth = finite_or_zero(views.depth)
    mask = depth > MIN_DEPTH
    relative = relative_to_first(cameras.w2c)
    pixels = pixel_centers(height, width, depth).expand(*depth.shape[:2], -1, -1)
    from_first = Cameras(homogeneous(relative), cameras.intrinsics, height, width)
    points = from_first.unproject(pixels, depth.flatten(-2)).unflatten(-2, (height, width))
    scale = _unit(relative, points, mask) if is_scaled else torch.ones_like(depth[:, 0, 0, 0])
    return GroundTruth(
        pose_enc=encode_pose(_scaled_poses(relative, scale), cameras.intrinsics, height, width),
        depth=depth / scale[:, None, None, None],
        points=points / scale[:, None, None, None, None],
        mask=mask,
        scale=scale,
    )


def _unit(relative: Float[Tensor, "batch view 3 4"], points: PointMaps, mask: Masks) -> Float[Tensor, " batch"]:
    """Scene units per unit of the targets."""
    has_points = mask.flatten(1).any(-1)
    return torch.where(has_points, mean_distance(points, mask), mean_center_distance(relative))


@full_precision
def mean_center_distance(relative: Float[Tensor, "batch view 3 4"]) -> Float[Tensor, " batch"]:
    """Mean distance of the other cameras from the first one, within `SCALE_RANGE`; |t| is a camera's distance.

    Others at distances 1 and 3 give 2.
    """
    lengths = relative[:, 1:, :, 3].norm(dim=-1)
    return (lengths.sum(-1) / max(1, lengths.shape[1])).clamp(*SCALE_RANGE)


def relative_to_first(w2c: Float[Tensor, "batch view rows 4"]) -> Float[Tensor, "batch view 3 4"]:
    """Camera from first camera: E_s E_0^-1, multiplied in float64."""
    exact = w2c[..., :3, :].double()
    return (exact @ inverse_se3(exact[:, :1])).to(w2c.dtype)


@full_precision
def mean_distance(points: PointMaps, mask: Masks) -> Float[Tensor, " batch"]:
    """Mean distance of the valid points from the origin, over all views of each sample, within `SCALE_RANGE`.

    sum |X| / (number + 1e-3) (DUSt3R, eq. 3, for one cloud; docs/vggt.md, "Targets"): (3, 4, 0) and (0, 0, 1) give
    6 / 2.001.
    """
    distances = torch.where(mask, points.norm(dim=-1), 0.0)
    count = mask.flatten(1).sum(-1)
    return (distances.flatten(1).sum(-1) / (count + 1e-3)).clamp(*SCALE_RANGE)


def finite_or_zero(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """NaN and infinities replaced by 0."""
    return torch.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


def _scaled_poses(w2c: Float[Tensor, "batch view 3 4"], scale: Float[Tensor, " batch"]) -> Tensor:
    translation = w2c[..., 3:] / scale[:, None, None, None]
    return finite_or_zero(torch.cat([w2c[..., :3], translation], dim=-1))
