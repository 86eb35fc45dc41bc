"""Surfaces of exact depth: a closed sphere, a plane between two opinions, and what is not seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data.depth_fusion import DepthMaps, fused_points
from data.tsdf import Grid, Mesh, fused_mesh, grid_around, without_small_components
from geometry import Cameras, InputError
from tests.data.exact_maps import scaled, some_motion, sphere_maps

VOLUME = 4 / 3 * np.pi


@pytest.fixture(scope="module")
def maps() -> DepthMaps:
    return sphere_maps(count=40, size=64)


@pytest.fixture(scope="module")
def points(maps: DepthMaps) -> torch.Tensor:
    return fused_points(maps).cloud.points_world


@pytest.fixture(scope="module")
def sphere(maps: DepthMaps, points: torch.Tensor) -> Mesh:
    return fused_mesh(maps, grid_around(points, voxels=64))  # 8 blocks of 48 cells


def test_a_sphere_is_closed_and_in_place(sphere: Mesh, points: torch.Tensor) -> None:
    mesh = sphere.trimesh()
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.euler_number == 2
    assert mesh.body_count == 1
    assert mesh.volume == pytest.approx(VOLUME, rel=0.01)  # positive: faces are seen from outside
    distance = np.abs(np.linalg.norm(sphere.vertices, axis=1) - 1)
    voxel = grid_around(points, voxels=64).voxel_size
    assert np.median(distance) < 0.05 * voxel
    assert distance.max() < 0.5 * voxel


def test_colors_of_vertices_are_those_of_the_surface(sphere: Mesh) -> None:
    assert np.abs(sphere.colors.astype(float) - (sphere.vertices + 1) * 127.5).mean() < 3


def test_moved_and_scaled_worlds(maps: DepthMaps, points: torch.Tensor, sphere: Mesh) -> None:
    larger = fused_mesh(scaled(maps, 100.0), grid_around(points * 100, voxels=64))
    assert len(larger.faces) == pytest.approx(len(sphere.faces), rel=0.01)
    assert larger.trimesh().volume == pytest.approx(sphere.trimesh().volume * 1e6, rel=1e-3)
    motion = some_motion()
    rotation, offset = motion[:3, :3].float(), motion[:3, 3].float()
    there = points @ rotation.T + offset
    moved = fused_mesh(sphere_maps(count=40, size=64, motion=motion), grid_around(there, voxels=64)).trimesh()
    assert moved.is_watertight
    assert moved.volume == pytest.approx(VOLUME, rel=0.01)
    assert np.allclose(moved.center_mass, motion[:3, 3].numpy(), atol=0.01)


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


WALL = Grid(torch.tensor([-0.25, -0.25, 0.61]), 0.05, (11, 11, 17))


def test_opinions_are_averaged_by_confidence() -> None:
    """Walls at 1.0 and 1.2 with weights 0.9 and 0.3: 1.05. Off the axis distances along the ray are alike scaled."""
    mesh = fused_mesh(wall_maps((1.0, 1.2), (0.9, 0.3)), WALL, truncation=8.0)
    assert mesh.vertices[:, 2] == pytest.approx(1.05, abs=0.003)
    assert (mesh.colors == 7).all()
    assert not mesh.trimesh().is_watertight


def test_free_space_is_carved() -> None:
    """A view that sees through the wall of another one outweighs it; behind the truncation nothing is known."""
    maps = wall_maps((1.0, 0.0), (0.4, 0.0))
    carved = replace(maps, free_until=torch.stack([torch.zeros(32, 32), torch.full((32, 32), 2.0)]))
    assert len(fused_mesh(maps, WALL).faces) > 100
    with pytest.raises(InputError, match="expected a surface"):
        fused_mesh(carved, WALL)


def test_holes_are_closed_when_asked() -> None:
    maps = wall_maps((1.0,), (1.0,))
    closed = fused_mesh(maps, WALL, closes_holes=True).trimesh()
    assert closed.is_watertight
    assert closed.volume == pytest.approx(0.45 * 0.45 * 0.385, rel=0.1)  # half a voxel off the border


def test_small_components_go(sphere: Mesh) -> None:
    corner = np.array([[5.0, 5, 5], [6, 5, 5], [5, 6, 5]])
    both = Mesh(
        np.concatenate([sphere.vertices, corner]),
        np.concatenate([sphere.faces, [[len(sphere.vertices) + i for i in range(3)]]]),
        np.concatenate([sphere.colors, np.zeros((3, 3), np.uint8)]),
    )
    cleaned, removed = without_small_components(both, 0.01)
    assert removed == 1
    assert np.array_equal(cleaned.faces, sphere.faces)
    assert np.array_equal(cleaned.vertices, sphere.vertices)
    assert without_small_components(both, 0.0)[1] == 0


def test_grid_leaves_out_stray_points() -> None:
    box = torch.rand(10000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([4.0, 2.0, 1.0])
    grid = grid_around(torch.cat([box, torch.full((20, 3), 1e4)]), voxels=100)
    assert max(grid.shape) == 100
    assert grid.voxel_size * 99 == pytest.approx(4.7, rel=0.02)  # 0.98 * 1.2 * 4
    assert grid_around(box, voxel_size=0.5).voxel_size == 0.5
    with pytest.raises(InputError, match="--voxel_size: expected at least"):
        grid_around(box, voxel_size=1e-5)
    with pytest.raises(InputError, match="got none"):
        grid_around(torch.zeros(0, 3))
