"""Poses of 13 numbers against hand-made ones."""

import math

import torch

from geometry.body_poses import (
    angle_between,
    body2world,
    continued,
    placed_at,
    quaternion_of,
    relative_to,
    rotation_about_z,
    rotation_of,
    unit_quaternion,
    yaw_of,
)


def pose(x: float, y: float, z: float, yaw: float, velocity: tuple[float, float, float] = (0, 0, 0)) -> torch.Tensor:
    half = yaw / 2
    numbers = [x, y, z, math.cos(half), 0, 0, math.sin(half), *velocity, 0, 0, 0.5]
    return torch.tensor(numbers, dtype=torch.float64)


def test_w_comes_first_and_a_body_looks_along_x() -> None:
    quarter = pose(3, 1, 0, math.pi / 2)
    ahead = body2world(quarter) @ torch.tensor([2.0, 0, 0, 1], dtype=torch.float64)
    torch.testing.assert_close(ahead[:3], torch.tensor([3.0, 3, 0], dtype=torch.float64))


def test_relative_poses_are_seen_from_the_body() -> None:
    reference = pose(3, 1, 5, math.pi / 2)
    relative = relative_to(reference, pose(3, 3, 6, math.pi, velocity=(0, 4, 1)))
    expected = pose(2, 0, 1, math.pi / 2, velocity=(4, 0, 1))
    torch.testing.assert_close(relative, expected)
    torch.testing.assert_close(placed_at(reference, relative), pose(3, 3, 6, math.pi, velocity=(0, 4, 1)))


def test_the_sign_of_a_quaternion_does_not_matter() -> None:
    first, second = pose(0, 0, 0, 0.3), pose(1, 2, 3, 2.0)
    negated = second.clone()
    negated[3:7] *= -2
    torch.testing.assert_close(relative_to(first, negated), relative_to(first, second))
    torch.testing.assert_close(angle_between(first[3:7], negated[3:7]), torch.tensor(1.7, dtype=torch.float64))


def test_nothing_is_the_identity_without_gradient() -> None:
    raw = torch.tensor([[0.0, 0, 0, 0], [0, 0, 3, 4]], dtype=torch.float64, requires_grad=True)
    unit = unit_quaternion(raw)
    unit[:, 3].sum().backward()
    assert unit.tolist() == [[1, 0, 0, 0], [0, 0, 0.6, 0.8]]
    assert raw.grad is not None
    assert raw.grad[0].tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(raw.grad[1], torch.tensor([0, 0, -0.096, 0.072], dtype=torch.float64))


def test_yaw_of_a_tilted_body_is_its_heading() -> None:
    """Turned by 0.7, then pitched by 0.5 about its own y: 2 atan2(qz, qw) would say 0.69."""
    pitch = rotation_of(torch.tensor([math.cos(0.25), 0, math.sin(0.25), 0], dtype=torch.float64))
    tilted = rotation_about_z(torch.tensor(0.7, dtype=torch.float64)) @ pitch
    assert math.isclose(float(yaw_of(tilted)), 0.7)
    torch.testing.assert_close(rotation_of(quaternion_of(tilted)), tilted)


def test_a_bend_goes_on() -> None:
    """Steps of 0.1 rad on a circle of radius 10: the next poses stay on it."""
    angles = [0.1 * step for step in range(6)]
    circle = torch.stack([pose(10 * math.sin(angle), 10 - 10 * math.cos(angle), 0, angle) for angle in angles])
    velocities = [[20 * math.cos(angle), 20 * math.sin(angle), 0] for angle in angles]
    circle[:, 7:10] = torch.tensor(velocities, dtype=torch.float64)
    torch.testing.assert_close(continued(circle[:2], 4), circle[2:], atol=1e-7, rtol=0)
