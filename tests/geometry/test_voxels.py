"""Grids around a vehicle: indices, frames, and grids seen from elsewhere."""

import math

import pytest
import torch

from geometry import InputError
from geometry.voxels import EgoGrid, GridFrame, VoxelGrid, source_coordinates, warp_nearest, warp_trilinear
from tests.geometry.test_body_poses import pose

GRID = VoxelGrid((-8, -8, -4), (8, 8, 4), (1, 1, 1))
STILL = torch.eye(4, dtype=torch.float64)


@pytest.mark.parametrize(
    ("bounds", "voxel", "size"),
    [
        ((-40, -40, -2, 40, 40, 150), (0.4, 0.4, 1.25), (200, 200, 121)),
        ((-40, -40, -10, 40, 40, 50), (0.4, 0.4, 0.5), (200, 200, 120)),
        ((-40, -40, -1, 40, 40, 5.4), (0.4, 0.4, 0.4), (200, 200, 16)),
        ((-20, -20, -5, 20, 20, 25), (0.8, 0.8, 1), (50, 50, 30)),
    ],
)
def test_sizes_are_floored_but_not_by_rounding(bounds: tuple, voxel: tuple, size: tuple) -> None:
    assert VoxelGrid(bounds[:3], bounds[3:], voxel).size == size


def test_what_the_range_loses_is_said() -> None:
    grid = VoxelGrid((-40, -40, -2), (40, 40, 150), (0.4, 0.4, 1.25))
    assert grid.covered[2] == 149.25
    assert "0.75 m of the range cut off" in grid.description()


def test_indices_are_floors_and_the_upper_bound_is_outside() -> None:
    points = torch.tensor([[-8.0, -8, -4], [7.99, 0.5, 0], [8, 0, 0], [-8.01, 0, 0]])
    index, inside = GRID.indices(points)
    assert inside.tolist() == [True, True, False, False]
    assert index[:2].tolist() == [[0, 0, 0], [15, 8, 4]]
    centers, known = GRID.indices(GRID.centers())
    assert bool(known.all())
    assert centers[3, 5, 7].tolist() == [3, 5, 7]


def test_frames() -> None:
    """A vehicle at (3, 1, 50) that looks along world y and is pitched up: what lies 2 m ahead of it."""
    half = math.pi / 4
    tilted = pose(3, 1, 50, 0)
    tilted[3:7] = torch.tensor(
        [math.cos(half) * 0.8, -math.sin(half) * 0.6, math.cos(half) * 0.6, math.sin(half) * 0.8]
    )
    ahead = torch.tensor([3.0, 3, 50, 1], dtype=torch.float64)
    in_level = torch.linalg.inv(GridFrame("yaw", "vehicle").grid2world(tilted)) @ ahead
    torch.testing.assert_close(in_level[:3], torch.tensor([2.0, 0, 0], dtype=torch.float64))
    in_world_heights = torch.linalg.inv(GridFrame("yaw", "world").grid2world(tilted)) @ ahead
    torch.testing.assert_close(in_world_heights[:3], torch.tensor([2.0, 0, 50], dtype=torch.float64))
    in_body = torch.linalg.inv(GridFrame("full", "vehicle").grid2world(tilted)) @ ahead
    torch.testing.assert_close(in_body[:3].norm(), torch.tensor(2.0, dtype=torch.float64))
    assert abs(float(in_body[2])) > 1


def test_a_step_of_one_voxel_shifts_the_grid_by_one() -> None:
    source = torch.randint(0, 9, GRID.size, dtype=torch.uint8)
    motion = GridFrame().motion(pose(5, 6, 7, math.pi / 2), pose(5, 7, 8, math.pi / 2))  # 1 ahead, 1 up
    warped, known = warp_nearest(GRID, source, motion)
    assert torch.equal(warped[:-1, :, :-1], source[1:, :, 1:])
    assert bool(known[:-1, :, :-1].all())
    assert not known[-1].any()
    assert not known[:, :, -1].any()
    assert not warped[-1].any()


def test_trilinear_agrees_with_nearest_on_whole_voxels_and_halves_between() -> None:
    source = torch.rand(2, 3, *GRID.size)
    motion = STILL.repeat(2, 1, 1).float()
    motion[0, 1, 3] = -2
    motion[1, 0, 3] = 0.5
    warped, known = warp_trilinear(GRID, source, motion)
    for channel in range(3):
        expected, mask = warp_nearest(GRID, source[:1, channel], motion[:1])
        torch.testing.assert_close(warped[:1, channel], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(known[:1, 0], mask.float(), atol=1e-5, rtol=0)
    between = (source[1, :, :-1] + source[1, :, 1:]) / 2
    torch.testing.assert_close(warped[1, :, :-1], between, atol=1e-5, rtol=0)
    torch.testing.assert_close(known[1, 0, -1], torch.full(GRID.size[1:], 0.5), atol=1e-5, rtol=0)


def test_motion_gets_a_gradient() -> None:
    """Of one voxel that is half covered: moving on by d along x changes its value by d."""
    source = torch.zeros(1, 1, *GRID.size, dtype=torch.float64)
    source[:, :, 9:] = 1
    motion = STILL[None].clone()
    motion[:, 0, 3] = 0.5
    motion.requires_grad_()
    warp_trilinear(GRID, source, motion)[0][0, 0, 8, 3, 3].backward()
    assert motion.grad is not None
    torch.testing.assert_close(motion.grad[0, 0, 3], torch.tensor(1.0, dtype=torch.float64))


def test_coordinates_are_those_of_the_centers() -> None:
    grid = VoxelGrid((-4, -2, 0), (4, 2, 3), (0.5, 1, 0.75))
    frame = GridFrame("full")
    motion = frame.motion(pose(1, 2, 3, 0.4), pose(2, 1, 3.5, -0.3))
    centers = grid.centers(dtype=torch.float64)
    expected = grid.coordinates(centers @ motion[:3, :3].T + motion[:3, 3])
    torch.testing.assert_close(source_coordinates(grid, motion), expected)


def test_heights_are_the_world_s() -> None:
    level = EgoGrid(GRID, GridFrame("yaw", "vehicle")).heights(pose(1, 2, 30, 0.5))
    assert level.shape == GRID.size
    torch.testing.assert_close(level[4, 4], torch.arange(8, dtype=torch.float64) + 26.5)


def test_records_come_back_and_are_checked() -> None:
    space = EgoGrid(GRID, GridFrame("full", "vehicle"))
    assert EgoGrid.from_record(space.record()) == space
    with pytest.raises(InputError, match="size"):
        EgoGrid.from_record(space.record() | {"size": [1, 2, 3]})
    with pytest.raises(InputError, match="z_reference"):
        EgoGrid.from_record(space.record() | {"z_reference": "sea"})
    with pytest.raises(InputError, match="entries"):
        EgoGrid.from_record(space.record() | {"origin": 3})
