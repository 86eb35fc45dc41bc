"""Quaternions in the order x y z w, and rigid motions as a quaternion and a translation."""

import torch
from jaxtyping import Float
from torch import Tensor

Rotation = Float[Tensor, "*batch 3 3"]
Quaternion = Float[Tensor, "*batch 4"]
Vector = Float[Tensor, "*batch 3"]


def rotation_from_quaternion(quaternion: Quaternion) -> Rotation:
    """Rotation matrix of an xyzw quaternion of any non-zero length.

    With v = (x, y, z) and s = 2 / |q|^2: R = I + s w [v]_x + s [v]_x^2. (0, 0, 1, 1) is a quarter turn from x to y.
    """
    x, y, z, w = quaternion.unbind(-1)
    scale = 2 / quaternion.square().sum(-1)
    entries = [
        1 - scale * (y * y + z * z), scale * (x * y - z * w), scale * (x * z + y * w),
        scale * (x * y + z * w), 1 - scale * (x * x + z * z), scale * (y * z - x * w),
        scale * (x * z - y * w), scale * (y * z + x * w), 1 - scale * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))


def quaternion_from_rotation(rotation: Rotation) -> Quaternion:
    """Unit xyzw quaternion with w >= 0, from the best conditioned of the four textbook formulas.

    4 w^2 = 1 + m00 + m11 + m22, 4 x^2 = 1 + m00 - m11 - m22, ...: the formula of the largest divides by it. A
    quarter turn from x to y is (0, 0, 0.7071, 0.7071).
    """
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = rotation.flatten(-2).unbind(-1)
    squares = torch.stack([1 + m00 + m11 + m22, 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22], -1)
    doubled = squares.clamp(min=0).sqrt()  # 2|w|, 2|x|, 2|y|, 2|z|
    w2, x2, y2, z2 = squares.clamp(min=0).unbind(-1)
    candidates = torch.stack(
        [
            torch.stack([w2, m21 - m12, m02 - m20, m10 - m01], -1),
            torch.stack([m21 - m12, x2, m10 + m01, m02 + m20], -1),
            torch.stack([m02 - m20, m10 + m01, y2, m12 + m21], -1),
            torch.stack([m10 - m01, m20 + m02, m21 + m12, z2], -1),
        ],
        dim=-2,
    )  # *batch candidate wxyz, each times twice the doubled leading component
    candidates = candidates / (2 * doubled.clamp(min=0.1))[..., None]
    best = doubled.argmax(-1)[..., None, None].expand(*doubled.shape[:-1], 1, 4)
    wxyz = candidates.gather(-2, best).squeeze(-2)
    return with_positive_w(wxyz.roll(-1, dims=-1))


def with_positive_w(quaternion: Quaternion) -> Quaternion:
    """The same rotation with w >= 0: q or -q."""
    return torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)


def quaternion_inverse(quaternion: Quaternion) -> Quaternion:
    """q* / |q|^2: the inverse of a quaternion of any non-zero length."""
    conjugate = torch.cat([-quaternion[..., :3], quaternion[..., 3:]], dim=-1)
    return conjugate / quaternion.square().sum(-1, keepdim=True)


def quaternion_product(first: Quaternion, second: Quaternion) -> Quaternion:
    """The rotation that turns by `second`, then by `first` (R_first R_second); i j = k."""
    x1, y1, z1, w1 = first.unbind(-1)
    x2, y2, z2, w2 = second.unbind(-1)
    parts = [
        w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
        w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
        w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
        w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
    ]
    return torch.stack(parts, dim=-1)


def rotated(quaternion: Quaternion, vectors: Float[Tensor, "*batch 3"]) -> Vector:
    """R v for vectors with the batch axes of the quaternions, which may have any non-zero length."""
    return (rotation_from_quaternion(quaternion) @ vectors[..., None])[..., 0]


def relative_pose(
    first_quaternion: Quaternion, first_translation: Vector, second_quaternion: Quaternion, second_translation: Vector
) -> tuple[Quaternion, Vector]:
    """The second camera in the first one's frame, of camera-to-world poses: P_1^-1 P_2.

    q = q_1^-1 q_2, t = R_1^T (t_2 - t_1): cameras at (1, 0, 0) and (1, 0, 2), the first a quarter turn from x to y,
    are (0, 0, 2) apart.
    """
    inverse = quaternion_inverse(first_quaternion)
    return quaternion_product(inverse, second_quaternion), rotated(inverse, second_translation - first_translation)
