"""Other conventions to ours. All conversions are in this file."""

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from geometry.cameras import rigid_inverse

_FLIP_YZ = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))


def w2c_from_opengl_c2w(c2w: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """OpenGL / Blender camera-to-world (x right, y up, z backward) -> OpenCV world-to-camera."""
    return rigid_inverse(c2w @ _FLIP_YZ.to(c2w))


def intrinsics_from_integer_centers(intrinsics: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Intrinsics for integer pixel centers (MVSNet, DTU, BlendedMVS, COLMAP-free text files) -> centers at +0.5."""
    shifted = intrinsics.clone()
    shifted[..., :2, 2] += 0.5
    return shifted


def intrinsics_to_integer_centers(intrinsics: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The inverse of `intrinsics_from_integer_centers`, for writers."""
    shifted = intrinsics.clone()
    shifted[..., :2, 2] -= 0.5
    return shifted


def cameras_from_llff(
    poses_bounds: Float[Tensor, "view 17"], height: int, width: int
) -> tuple[Float[Tensor, "view 4 4"], Float[Tensor, "view 3 3"], Float[Tensor, "view 2"]]:
    """Rows of `poses_bounds.npy` -> (w2c, intrinsics for height x width images, (near, far) depth bounds).

    A row is a 3x5 matrix [R | t | (image height, image width, focal)] and two depths; R's columns are
    down, right, backward (Mildenhall et al. 2019, LLFF). The focal length is scaled with the width (fx) and the
    height (fy).
    """
    matrices = poses_bounds[:, :15].reshape(-1, 3, 5)
    down, right, back, centers, size = matrices.unbind(-1)
    c2w = torch.eye(4).to(poses_bounds).repeat(len(poses_bounds), 1, 1)
    c2w[:, :3, :] = torch.stack([right, down, -back, centers], dim=-1)
    intrinsics = torch.eye(3).to(poses_bounds).repeat(len(poses_bounds), 1, 1)
    focal, original_height, original_width = size[:, 2], size[:, 0], size[:, 1]
    intrinsics[:, 0, 0] = focal * width / original_width
    intrinsics[:, 1, 1] = focal * height / original_height
    intrinsics[:, 0, 2], intrinsics[:, 1, 2] = width / 2, height / 2
    return rigid_inverse(c2w), intrinsics, poses_bounds[:, 15:]


def camera_from_projection(
    projection: Float[Tensor, "3 4"],
) -> tuple[Float[Tensor, "4 4"], Float[Tensor, "3 3"]]:
    """P = K [R | t] up to scale (IDR / NeuS `world_mat`) -> (w2c, K), K's pixel centers left as they are.

    The skew that the decomposition leaves (measured below 0.1 pixel on DTU) stays in K.
    """
    matrix = projection.double().cpu().numpy()
    matrix = matrix * np.sign(np.linalg.det(matrix[:, :3]))  # a negative scale would turn the rotation into a mirror
    calibration, rotation, center_homogeneous, *_ = cv2.decomposeProjectionMatrix(matrix)
    calibration = calibration / calibration[2, 2]
    center = (center_homogeneous[:3] / center_homogeneous[3])[:, 0]
    w2c = np.eye(4)
    w2c[:3, :3] = rotation
    w2c[:3, 3] = -rotation @ center
    return torch.from_numpy(w2c).to(projection), torch.from_numpy(calibration).to(projection)
