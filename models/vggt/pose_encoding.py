"""Cameras <-> VGGT's nine numbers [translation, quaternion xyzw, fov_h, fov_w] (docs/vggt.md, "Pose encoding").

The encoded pose is camera-from-world with OpenCV axes. The principal point is not encoded: it decodes to the center
of the image, (width / 2, height / 2), which is right for pixel centers at +0.5. Fields of view are in radians.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from geometry.constants import constant
from geometry.quaternions import quaternion_from_rotation, rotation_from_quaternion

PoseEncoding = Float[Tensor, "*batch 9"]


class DecodedCameras(NamedTuple):
    """Cameras read from a pose encoding."""

    extrinsics: Float[Tensor, "*batch 3 4"]
    """Camera from world."""
    intrinsics: Float[Tensor, "*batch 3 3"]
    """In pixels of the image whose size was given."""


def encode_pose(
    extrinsics: Float[Tensor, "*batch 3 4"], intrinsics: Float[Tensor, "*batch 3 3"], height: int, width: int
) -> PoseEncoding:
    """Nine numbers for cameras of an image of height x width pixels; the principal point is dropped.

    fov_h = 2 atan(height / (2 f_y)), fov_w = 2 atan(width / (2 f_x)): a height of 56 with f_y = 28 is pi / 2.
    """
    fov_h = 2 * torch.atan(height / 2 / intrinsics[..., 1, 1])
    fov_w = 2 * torch.atan(width / 2 / intrinsics[..., 0, 0])
    quaternion = quaternion_from_rotation(extrinsics[..., :3])
    fields_of_view = torch.stack([fov_h, fov_w], dim=-1)
    return torch.cat([extrinsics[..., 3], quaternion, fields_of_view], dim=-1).float()


def decode_pose(encoding: PoseEncoding, height: int, width: int) -> DecodedCameras:
    """Cameras for an image of height x width pixels: f_y = height / (2 tan(fov_h / 2)), f_x alike from the width.

    A field of view of 0 decodes to an infinite focal length.
    """
    translation, quaternion, fields_of_view = encoding.split([3, 4, 2], dim=-1)
    extrinsics = torch.cat([rotation_from_quaternion(quaternion), translation[..., None]], dim=-1)
    focal_y = height / 2 / torch.tan(fields_of_view[..., 0] / 2)
    focal_x = width / 2 / torch.tan(fields_of_view[..., 1] / 2)
    zero, one = torch.zeros_like(focal_x), torch.ones_like(focal_x)
    entries = [focal_x, zero, one * (width / 2), zero, focal_y, one * (height / 2), zero, zero, one]
    return DecodedCameras(extrinsics, torch.stack(entries, dim=-1).unflatten(-1, (3, 3)))


def homogeneous(extrinsics: Float[Tensor, "*batch 3 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Append the row 0 0 0 1."""
    last_row = constant([0.0, 0.0, 0.0, 1.0], extrinsics).expand(*extrinsics.shape[:-2], 1, 4)
    return torch.cat([extrinsics, last_row], dim=-2)


def inverse_se3(extrinsics: Float[Tensor, "*batch rows 4"]) -> Float[Tensor, "*batch 4 4"]:
    """[R^T | -R^T t] of rigid motions given as 3x4 or 4x4."""
    rotation, translation = extrinsics[..., :3, :3].mT, extrinsics[..., :3, 3:]
    return homogeneous(torch.cat([rotation, -rotation @ translation], dim=-1))


def unproject_depth(
    depth: Float[Tensor, "*batch height width"],
    extrinsics: Float[Tensor, "*batch 3 4"],
    intrinsics: Float[Tensor, "*batch 3 3"],
) -> Float[Tensor, "*batch height width 3"]:
    """World point of every pixel at its camera z: R^T (z K^-1 (x, y, 1) - t).

    Follows the reference in counting pixels from integer centers (0, 0), half a pixel off the rest of this code base.
    """
    height, width = depth.shape[-2:]
    columns = torch.arange(width, dtype=depth.dtype, device=depth.device)
    rows = torch.arange(height, dtype=depth.dtype, device=depth.device)[:, None]
    focal = intrinsics[..., None, None]
    x = (columns - focal[..., 0, 2, :, :]) * depth / focal[..., 0, 0, :, :]
    y = (rows - focal[..., 1, 2, :, :]) * depth / focal[..., 1, 1, :, :]
    points_cam = F.pad(torch.stack([x, y, depth], dim=-1), (0, 1), value=1.0)
    c2w = inverse_se3(extrinsics)
    return torch.einsum("...rc,...hwc->...hwr", c2w[..., :3, :], points_cam)
