"""Surfaces of exact depth: a closed sphere, a plane between two opinions, and what is not seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data.depth_fusion import DepthMaps
from data.tsdf import Grid, Mesh, fused_mesh, grid_around, without_small_components, without_small_holes
from geometry import InputError
from tests.data.exact_maps import directions, scaled, some_motion, sphere_maps, wall_maps

VOLUME = 4 / 3 * np.pi


@pytest.fixture(scope="module")
def maps() -> DepthMaps:
    return sphere_maps(count=40, size=64)


@pytest.fixture(scope="module")
def points() -> torch.Tensor:
    return directions(2000).float()


@pytest.fixture(scope="module")
def sphere(maps: DepthMaps, points: torch.Tensor) -> Mesh:
    return fused_mesh(maps, grid_around(points, voxels=52))  # 8 blocks of 48 cells


def test_a_sphere_is_closed_and_in_place(sphere: Mesh, points: torch.Tensor) -> None:
    mesh = sphere.trimesh()
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.euler_number == 2
    assert mesh.body_count == 1
    assert mesh.volume == pytest.approx(VOLUME, rel=0.005)  # positive: faces are seen from outside
    distance = np.abs(np.linalg.norm(sphere.vertices, axis=1) - 1)
    voxel = grid_around(points, voxels=52).voxel_size
    assert np.median(distance) < 0.05 * voxel
    assert distance.max() < 0.5 * voxel


def test_colors_of_vertices_are_those_of_the_surface(sphere: Mesh) -> None:
    assert np.abs(sphere.colors.astype(float) - (sphere.vertices + 1) * 127.5).mean() < 3


def test_moved_and_scaled_worlds(points: torch.Tensor, sphere: Mesh) -> None:
    motion = some_motion()
    there = 100 * (points @ motion[:3, :3].float().T + motion[:3, 3].float())
    moved = fused_mesh(scaled(sphere_maps(count=40, size=64, motion=motion), 100.0), grid_around(there, voxels=52))
    mesh = moved.trimesh()
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(1e6 * VOLUME, rel=0.005)
    assert len(mesh.faces) == pytest.approx(len(sphere.faces), rel=0.05)  # other voxels are crossed
    assert np.allclose(mesh.center_mass, 100 * motion[:3, 3].numpy(), atol=1)


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
    """A box behind the wall, whose sides are where distances cross 0 between the border (+1) and its neighbors.

    These have -v at v truncations (0.2) behind the wall, up to -1: the sides are 0.05 / (1 + v) off the border. In the
    squares along the edges marching cubes find triangles, half of the area (0.05 v / (1 + v))^2.
    """
    closed = fused_mesh(wall_maps((1.0,), (1.0,)), WALL, closes_holes=True).trimesh()
    assert closed.is_watertight
    v = np.linspace(0, 1, 1001)
    slope = 0.2 * np.trapezoid((0.5 - 0.1 / (1 + v)) ** 2 - 4 * 0.5 * (0.05 * v / (1 + v)) ** 2, v)
    upright = (0.385 - 0.2) * (0.45**2 - 4 * 0.5 * 0.025**2)
    bottom = 4 * 0.45 * 0.5 * 0.025**2
    assert closed.volume == pytest.approx(slope + upright - bottom, rel=0.003)


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


def test_small_holes_are_filled(sphere: Mesh) -> None:
    """Of the six faces around a vertex, or however many; the outline of a sheet is no hole."""
    around = (sphere.faces == sphere.faces[100, 0]).any(1)
    edges = int(around.sum())
    open_mesh = Mesh(sphere.vertices, sphere.faces[~around], sphere.colors)
    assert not open_mesh.trimesh().is_watertight
    filled, count = without_small_holes(open_mesh, edges)
    assert count == 1
    assert filled.trimesh().is_watertight
    assert filled.trimesh().is_winding_consistent
    assert filled.trimesh().volume == pytest.approx(sphere.trimesh().volume, rel=1e-3)
    assert np.abs(filled.vertices[-1] - sphere.vertices[sphere.faces[100, 0]]).max() < 0.03  # within a voxel
    assert np.abs(filled.colors[-1] - (filled.vertices[-1] + 1) * 127.5).max() < 10
    assert without_small_holes(open_mesh, edges - 1)[1] == 0
    sheet = Mesh(sphere.vertices, sphere.faces[around], sphere.colors)
    assert without_small_holes(sheet, 100)[1] == 0


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
