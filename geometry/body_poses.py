"""Poses of vehicles as 13 numbers: position, quaternion, velocity.

    x y z (m, world), qw qx qy qz (body to world, w first), vx vy vz (m/s, world), wx wy wz (rad/s, world)

Body axes: x forward, y left, z up (ISO 8855), not a camera's. `geometry.quaternions` counts x y z w; this file is
where the two orders meet. q and -q are the same rotation.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from geometry.errors import require
from geometry.quaternions import quaternion_from_rotation, quaternion_inverse, quaternion_product
from geometry.quaternions import rotation_from_quaternion as rotation_from_xyzw

BodyPose = Float[Tensor, "*batch 13"]
WFirst = Float[Tensor, "*batch 4"]
Matrix = Float[Tensor, "*batch 4 4"]
Rotation = Float[Tensor, "*batch 3 3"]

POSITION, ORIENTATION, VELOCITY, ANGULAR = slice(0, 3), slice(3, 7), slice(7, 10), slice(10, 13)
"""Where the parts of a pose lie among its 13 numbers."""
MIN_NORM = 1e-8
"""A quaternion shorter than this says nothing of a rotation: the identity stands for it."""


def unit_quaternion(quaternion: Float[Tensor, "*batch 4"]) -> WFirst:
    """q / |q|, sign kept; the identity (1, 0, 0, 0), without gradient, where |q| < 1e-8."""
    squared = quaternion.square().sum(-1, keepdim=True)
    identity = torch.zeros_like(quaternion)
    identity[..., 0] = 1
    unit = quaternion / squared.clamp(min=MIN_NORM**2).sqrt()
    return torch.where(squared < MIN_NORM**2, identity, unit)


def stored_quaternion(quaternion: Float[Tensor, "*batch 4"], where: str) -> WFirst:
    """`unit_quaternion` of what a file holds.

    Raises:
        InputError: naming `where`, for one whose square is beyond floating point.
    """
    unit = unit_quaternion(quaternion)
    is_unit = bool(((unit.norm(dim=-1) - 1).abs() < 1e-3).all())
    require(is_unit, f"{where}: expected quaternions, got one of a length beyond 1e150")
    return unit


def rotation_of(quaternion: Float[Tensor, "*batch 4"]) -> Rotation:
    """Rotation matrix, body to world, of a w-first quaternion of any non-zero length."""
    return rotation_from_xyzw(quaternion.roll(-1, -1))


def quaternion_of(rotation: Float[Tensor, "*batch 3 3"]) -> WFirst:
    """Unit w-first quaternion with w >= 0."""
    return quaternion_from_rotation(rotation).roll(1, -1)


def product(first: Float[Tensor, "*#batch 4"], second: Float[Tensor, "*#batch 4"]) -> WFirst:
    """Hamilton product of w-first quaternions: R_first R_second."""
    first, second = torch.broadcast_tensors(first, second)
    return quaternion_product(first.roll(-1, -1), second.roll(-1, -1)).roll(1, -1)


def conjugate(quaternion: Float[Tensor, "*batch 4"]) -> WFirst:
    """Inverse of a w-first quaternion of any non-zero length."""
    return quaternion_inverse(quaternion.roll(-1, -1)).roll(1, -1)


def yaw_of(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch"]:
    """Heading in radians, of the body's x axis seen from above: atan2(R10, R00), also of a tilted body."""
    return torch.atan2(rotation[..., 1, 0], rotation[..., 0, 0])


def rotation_about_z(yaw: Float[Tensor, "*batch"]) -> Rotation:
    """Turns x towards y by `yaw` radians."""
    cos, sin, zero, one = yaw.cos(), yaw.sin(), torch.zeros_like(yaw), torch.ones_like(yaw)
    return torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=-1).unflatten(-1, (3, 3))


def rigid(rotation: Float[Tensor, "*batch 3 3"], translation: Float[Tensor, "*batch 3"]) -> Matrix:
    """4x4 matrix of p -> R p + t."""
    upper = torch.cat([rotation, translation[..., None]], dim=-1)
    lower = torch.tensor([0, 0, 0, 1], dtype=upper.dtype, device=upper.device).expand_as(upper[..., :1, :])
    return torch.cat([upper, lower], dim=-2)


def body2world(poses: Float[Tensor, "*batch 13"]) -> Matrix:
    """Maps points of the body frame to the world."""
    return rigid(rotation_of(unit_quaternion(poses[..., ORIENTATION])), poses[..., POSITION])


def angle_between(first: Float[Tensor, "*#batch 4"], second: Float[Tensor, "*#batch 4"]) -> Float[Tensor, "*batch"]:
    """Angle in radians of the rotation from one to the other: 2 acos |q1 . q2|.

    Computed as 2 atan2(|v|, |w|) of q1^-1 q2 = (w, v), which keeps small angles that the arc cosine rounds away.
    """
    between = product(conjugate(first), second)
    return 2 * torch.atan2(between[..., 1:].norm(dim=-1), between[..., 0].abs())


def relative_to(reference: Float[Tensor, "*#batch 13"], poses: Float[Tensor, "*#batch 13"]) -> BodyPose:
    """Poses as the reference body sees them: q_r^-1 q (w >= 0), R_r^T (t - t_r), velocities turned by R_r^T.

    Both broadcast against each other. A body one meter ahead of the reference is at (1, 0, 0), wherever that looks.
    """
    reference, poses = torch.broadcast_tensors(reference, poses)
    own = unit_quaternion(reference[..., ORIENTATION])
    inverse = rotation_of(own).transpose(-1, -2)
    orientation = product(conjugate(own), unit_quaternion(poses[..., ORIENTATION]))
    orientation = torch.where(orientation[..., :1] < 0, -orientation, orientation)
    vectors = torch.stack(
        [poses[..., POSITION] - reference[..., POSITION], poses[..., VELOCITY], poses[..., ANGULAR]], dim=-1
    )
    position, velocity, angular = (inverse @ vectors).unbind(-1)
    return torch.cat([position, orientation, velocity, angular], dim=-1)


def placed_at(reference: Float[Tensor, "*#batch 13"], relative: Float[Tensor, "*#batch 13"]) -> BodyPose:
    """World poses of what `relative_to` returned: the inverse of it, up to the sign of the quaternion."""
    reference, relative = torch.broadcast_tensors(reference, relative)
    own = unit_quaternion(reference[..., ORIENTATION])
    vectors = torch.stack([relative[..., POSITION], relative[..., VELOCITY], relative[..., ANGULAR]], dim=-1)
    position, velocity, angular = (rotation_of(own) @ vectors).unbind(-1)
    orientation = product(own, unit_quaternion(relative[..., ORIENTATION]))
    return torch.cat([position + reference[..., POSITION], orientation, velocity, angular], dim=-1)


def continued(poses: Float[Tensor, "*batch frame 13"], count: int) -> Float[Tensor, "*batch count 13"]:
    """The next `count` poses if the last step between two of at least two poses repeats in the body frame.

    The constant-velocity forecast: a car in a bend stays in it. Velocities turn with the body.
    """
    step = relative_to(poses[..., -2, :], poses[..., -1, :])
    last, found = poses[..., -1, :], []
    own = relative_to(last, last)[..., VELOCITY.start :].unflatten(-1, (2, 3))  # velocities in its own frame
    turned = own @ rotation_of(step[..., ORIENTATION]).transpose(-1, -2)
    step = torch.cat([step[..., : VELOCITY.start], turned.flatten(-2)], dim=-1)
    for _ in range(count):
        last = placed_at(last, step)
        found.append(last)
    return torch.stack(found, dim=-2)
