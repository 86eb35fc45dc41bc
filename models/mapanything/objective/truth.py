"""Geometry that predictions are compared with, and the units both sides are put into."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geometry.precision import full_precision
from geometry.quaternions import quaternion_inverse, quaternion_product, rotated, rotation_from_quaternion
from geometry.tensor_struct import TensorStruct
from models.mapanything.output import Reconstruction

MIN_UNIT = 1e-8
"""Scene units: smallest mean distance that lengths are divided by, as upstream."""

Maps = Float[Tensor, "batch view height width"]
Points = Float[Tensor, "batch view height width 3"]
Masks = Bool[Tensor, "batch view height width"]


@dataclass(frozen=True)
class GeometryTruth(TensorStruct):
    """Of groups of views; what is invalid may hold anything finite."""

    points: Points
    """In the world frame: that of view 0 after `in_frame_of_first`."""
    points_cam: Points
    rays: Points
    """Unit directions in each camera's frame."""
    depth_along_ray: Maps
    quaternions: Float[Tensor, "batch view 4"]
    """World from camera, xyzw."""
    translations: Float[Tensor, "batch view 3"]
    valid: Masks
    """Where depth is known."""
    unambiguous: Masks
    """Where there is a surface at all; sky has none."""
    is_metric: Bool[Tensor, " batch"]
    """Lengths are in meters."""
    is_synthetic: Bool[Tensor, " batch"]
    """Depth has no noise: normals and gradients are compared, no pixel is left out as an outlier."""

    @full_precision
    def in_frame_of_first(self) -> "GeometryTruth":
        """The world moved so that view 0 has the identity, exactly."""
        first = self.quaternions[:, :1]
        inverse = quaternion_inverse(first)
        moved = self.points - self.translations[:, :1, None, None]
        quaternions = quaternion_product(inverse.expand_as(self.quaternions), self.quaternions)
        translations = rotated(inverse.expand_as(self.quaternions), self.translations - self.translations[:, :1])
        identity = torch.zeros_like(first)
        identity[..., 3] = 1
        return replace(
            self,
            points=torch.einsum("brc,bvhwc->bvhwr", rotation_from_quaternion(inverse)[:, 0], moved),
            quaternions=torch.cat([identity, quaternions[:, 1:]], dim=1),
            translations=torch.cat([torch.zeros_like(translations[:, :1]), translations[:, 1:]], dim=1),
        )


def mean_distance(points: Points, mask: Masks) -> Float[Tensor, " batch"]:
    """sum |X| / (number + 1e-8) over the valid points of all views of a sample, at least 1e-8."""
    lengths = torch.where(mask, points.norm(dim=-1), 0.0).flatten(1).sum(-1)
    return (lengths / (mask.flatten(1).sum(-1).to(points.dtype) + 1e-8)).clamp(min=MIN_UNIT)


def in_unit(geometry: Reconstruction | GeometryTruth, unit: Float[Tensor, " batch"]) -> "NormalizedGeometry":
    """World points, camera points, distances and translations divided by a unit per sample."""
    return NormalizedGeometry(
        points=geometry.points / unit[:, None, None, None, None],
        points_cam=geometry.points_cam / unit[:, None, None, None, None],
        depth_along_ray=geometry.depth_along_ray / unit[:, None, None, None],
        translations=geometry.translations / unit[:, None, None],
        rays=geometry.rays,
        quaternions=geometry.quaternions,
    )


@dataclass(frozen=True)
class NormalizedGeometry(TensorStruct):
    """One side of the comparison."""

    points: Float[Tensor, "*batch view height width 3"]
    points_cam: Float[Tensor, "*batch view height width 3"]
    depth_along_ray: Float[Tensor, "*batch view height width"]
    translations: Float[Tensor, "*batch view 3"]
    rays: Float[Tensor, "*batch view height width 3"]
    quaternions: Float[Tensor, "*batch view 4"]
