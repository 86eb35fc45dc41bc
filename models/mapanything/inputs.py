"""What a network is given: images, and for each view whatever is known of rays, depth and pose."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geometry.precision import full_precision
from geometry.quaternions import relative_pose, with_positive_w
from geometry.tensor_struct import TensorStruct

MIN_LENGTH = 1e-8
"""Scene units: mean depth or distance that is divided by at least, as upstream."""
_EPSILON = 1e-8
"""Added to counts, as upstream."""

Flags = Bool[Tensor, "batch view"]


@dataclass(frozen=True)
class GeometricInputs(TensorStruct):
    """Images and geometry; what is not used may hold anything finite."""

    images: Float[Tensor, "batch view 3 height width"]
    """RGB in [0, 1]."""
    rays: Float[Tensor, "batch view height width 3"]
    """Unit directions through the pixel centers, in each camera's frame."""
    depth_along_ray: Float[Tensor, "batch view height width"]
    """Distance from the camera's center, 0 where unknown."""
    quaternions: Float[Tensor, "batch view 4"]
    """World from camera, xyzw, in any world frame."""
    translations: Float[Tensor, "batch view 3"]
    has_rays: Flags
    has_depth: Flags
    has_pose: Flags
    shows_depth_scale: Flags
    """Depth is in meters and the network is told its mean."""
    shows_pose_scale: Flags
    """Translations are in meters and the network is told their mean length."""

    @classmethod
    def of_images(cls, images: Float[Tensor, "batch view 3 height width"]) -> "GeometricInputs":
        """Nothing is known but the images."""
        batch, views, _, height, width = images.shape
        no = torch.zeros(batch, views, dtype=torch.bool, device=images.device)
        quaternions = images.new_zeros(batch, views, 4)
        quaternions[..., 3] = 1
        return cls(
            images=images,
            rays=images.new_zeros(batch, views, height, width, 3),
            depth_along_ray=images.new_zeros(batch, views, height, width),
            quaternions=quaternions,
            translations=images.new_zeros(batch, views, 3),
            has_rays=no,
            has_depth=no,
            has_pose=no,
            shows_depth_scale=no,
            shows_pose_scale=no,
        )

    def without_geometry(self) -> "GeometricInputs":
        """The images alone are used."""
        no = torch.zeros_like(self.has_rays)
        return replace(self, has_rays=no, has_depth=no, has_pose=no, shows_depth_scale=no, shows_pose_scale=no)


class EncodedLengths(NamedTuple):
    """Lengths in units of their own mean, and that mean."""

    values: Tensor
    log_mean: Float[Tensor, "batch view"]


def log_length(vectors: Float[Tensor, "*batch channel"]) -> Float[Tensor, "*batch channel"]:
    """x / |x| ln(1 + |x|) along the last axis, |x| at least 1e-8; a number keeps its sign: -3 -> -1.386."""
    length = vectors.norm(dim=-1, keepdim=True)
    return vectors / length.clamp(min=MIN_LENGTH) * torch.log1p(length)


@full_precision
def encoded_depth(depth: Float[Tensor, "batch view height width"], has_depth: Flags) -> EncodedLengths:
    """ln(1 + d / f) and ln f, f the mean of the known depths of each view; 0 where unknown."""
    depth = torch.where(has_depth[..., None, None], depth, 0.0)
    known = depth > 0
    count = known.flatten(2).sum(-1).to(depth.dtype)
    total = torch.where(known, depth, 0.0).flatten(2).sum(-1)
    mean = (total / (count + _EPSILON)).clamp(min=MIN_LENGTH)
    values = log_length((depth / mean[..., None, None])[..., None])[..., 0]
    return EncodedLengths(values, torch.log(mean + MIN_LENGTH))


class EncodedPoses(NamedTuple):
    """Relative to view 0; the identity where unused."""

    quaternions: Float[Tensor, "batch view 4"]
    translations: Float[Tensor, "batch view 3"]
    """In units of their mean length."""
    log_mean: Float[Tensor, "batch view"]
    """The same for all views of a sample."""


@full_precision
def encoded_poses(
    quaternions: Float[Tensor, "batch view 4"],
    translations: Float[Tensor, "batch view 3"],
    has_pose: Flags,
    *,
    is_canonical: bool = False,
) -> EncodedPoses:
    """Poses in the frame of view 0, whether or not view 0 itself is used; mean length over those that are not zero.

    `is_canonical`: quaternions get w >= 0, so that q and -q are one input.
    """
    first_quaternion, first_translation = quaternions[:, :1].expand_as(quaternions), translations[:, :1]
    relative, offset = relative_pose(
        first_quaternion, first_translation.expand_as(translations), quaternions, translations
    )
    identity = torch.zeros_like(relative)
    identity[..., 3] = 1
    relative = torch.where(has_pose[..., None], with_positive_w(relative) if is_canonical else relative, identity)
    offset = torch.where(has_pose[..., None], offset, 0.0)
    lengths = offset.norm(dim=-1)
    mean = (lengths.sum(-1) / ((lengths > 0).to(lengths.dtype).sum(-1) + _EPSILON)).clamp(min=MIN_LENGTH)
    log_mean = torch.log(mean + MIN_LENGTH)[:, None].expand(-1, quaternions.shape[1])
    return EncodedPoses(relative, offset / mean[:, None, None], log_mean)
