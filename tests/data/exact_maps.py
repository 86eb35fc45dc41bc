"""Exact depth maps of a sphere, with a floor or alone in empty space, from cameras all around it."""

from dataclasses import replace

import torch

from data.depth_fusion import DepthMaps
from geometry import Cameras, pixel_centers, rigid_inverse

DISTANCE = 4.0
"""Of the cameras from the middle of the sphere, which is the origin."""


def directions(count: int) -> torch.Tensor:
    """Unit vectors spread evenly over the sphere (Fibonacci lattice)."""
    step = torch.arange(count, dtype=torch.float64) + 0.5
    z = 1 - 2 * step / count
    angle = torch.pi * (1 + 5**0.5) * step
    radius = (1 - z**2).sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin(), z], dim=-1)


def cameras_around(count: int, size: int, motion: torch.Tensor | None = None) -> Cameras:
    """Looking at the origin; `motion` moves the world (4x4)."""
    poses = []
    for center in directions(count) * DISTANCE:
        forward = -center / center.norm()
        right = torch.linalg.cross(torch.eye(3, dtype=torch.float64)[int(forward.abs().argmin())], forward)
        right = right / right.norm()
        c2w = torch.eye(4, dtype=torch.float64)
        c2w[:3] = torch.stack([right, torch.linalg.cross(forward, right), forward, center], dim=-1)
        poses.append(rigid_inverse(c2w if motion is None else motion.double() @ c2w))
    focal = 1.4 * size
    intrinsics = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]]).repeat(count, 1, 1)
    return Cameras(torch.stack(poses).float(), intrinsics, size, size)


def sphere_maps(count: int = 24, size: int = 48, radius: float = 1.0, motion: torch.Tensor | None = None) -> DepthMaps:
    """The color of a point is its place in the unmoved world, (x, y, z) / radius from [-1, 1] to [0, 255]."""
    cameras = cameras_around(count, size)
    zero = torch.zeros(count)
    rays = cameras.rays(pixel_centers(size, size, zero).expand(count, -1, -1), zero + 1, zero + 2)
    # |o + t d| = radius for |d| = 1: t = -o.d - sqrt((o.d)^2 - |o|^2 + radius^2)
    along = (rays.origins * rays.directions).sum(-1)
    inside = along**2 - rays.origins.square().sum(-1) + radius**2
    t = -along - inside.clamp_min(0).sqrt()
    hits = inside > 0
    points = rays.origins + t[..., None] * rays.directions
    colors = ((points / radius + 1) * 127.5).round().clamp(0, 255) * hits[..., None]
    shape = (count, size, size)
    return DepthMaps(
        cameras=cameras if motion is None else cameras_around(count, size, motion),
        depth=(t * rays.cos_optical * hits).reshape(shape),
        colors=colors.to(torch.uint8).reshape(*shape, 3),
        confidence=hits.float().reshape(shape),
        free_until=(~hits * (DISTANCE + 2 * radius)).float().reshape(shape),
    )


def wall_maps(depths: tuple[float, ...], confidences: tuple[float, ...]) -> DepthMaps:
    """Equal cameras at the origin that look along z at a wall, each at a depth of its own."""
    count, size = len(depths), 32
    cameras = Cameras(
        torch.eye(4).repeat(count, 1, 1),
        torch.tensor([[32.0, 0, 16], [0, 32.0, 16], [0, 0, 1]]).repeat(count, 1, 1),
        size,
        size,
    )
    shape = (count, size, size)
    return DepthMaps(
        cameras,
        torch.tensor(depths)[:, None, None].expand(shape).contiguous(),
        torch.full((*shape, 3), 7, dtype=torch.uint8),
        torch.tensor(confidences)[:, None, None].expand(shape).contiguous(),
    )


def scaled(maps: DepthMaps, factor: float) -> DepthMaps:
    """In a unit in which lengths are `factor` times as large."""
    free = None if maps.free_until is None else maps.free_until * factor
    return replace(maps, cameras=maps.cameras.scaled(factor), depth=maps.depth * factor, free_until=free)


def some_motion() -> torch.Tensor:
    """A rotation and a translation, 4x4."""
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    motion = torch.eye(4, dtype=torch.float64)
    motion[:3, :3] = rotation * torch.linalg.det(rotation).sign()
    motion[:3, 3] = torch.tensor([3.0, -2.0, 5.0])
    return motion
