"""Worlds of boxes and ramps: exact occupancy, and a maneuver that the history does not tell."""

import dataclasses
import math

import numpy as np
import torch

from data.occupancy.procedural_world import ProceduralWorlds, Solids, World, WorldSpec, make_world
from data.occupancy.types import OccupancyBatch
from geometry.body_poses import relative_to
from geometry.voxels import EgoGrid, GridFrame, VoxelGrid, warp_nearest
from tests.geometry.test_body_poses import pose

SPEC = WorldSpec()


def standing(x: float, y: float, half: float, height: float, *, ramp: bool = False, velocity: float = 0.0) -> Solids:
    return Solids(
        centers=np.array([[x, y]]),
        half_sizes=np.array([[half, half]]),
        yaws=np.zeros(1),
        heights=np.array([height]),
        is_ramp=np.array([ramp]),
        velocities=np.array([[velocity, 0.0]]),
    )


def test_box_ramp_and_mover_by_hand() -> None:
    """Seen from a vehicle at (10, 0) that looks back along -x: the box at 4 m ahead, the ramp left of it."""
    space = EgoGrid(VoxelGrid((0, -4, -1), (8, 4, 3), (1, 1, 1)), GridFrame("yaw", "world"))
    nothing = standing(0, 0, 0.1, 0.0)
    poses = pose(10, 0, 7, math.pi)[None].expand(3, -1)
    box = World(standing(6, 0, 1, 2), standing(4, 0, 0.9, 1, velocity=0.5), poses)
    occupied, moving = box.occupancy(space, 2)  # the mover is at 5 now, half in the box
    assert not occupied[:, :, 1:][:, [0, 1, 2, 5, 6, 7]].any()
    assert occupied[:, :, 0].all()
    assert occupied[:, 3, 1].tolist() == [False, False, False, True, True, True, False, False]
    assert occupied[:, 3, 2].tolist() == [False, False, False, True, True, False, False, False]
    assert moving[:, 3, 1].tolist() == [False, False, False, False, True, True, False, False]
    ramp = World(standing(6, -2, 2, 4.4, ramp=True), nothing, poses)
    heights = ramp.occupancy(space, 0)[0][2:6, 5].sum(axis=-1)  # with the ground; along -x it falls
    assert heights.tolist() == [4, 4, 3, 2]


def test_the_history_does_not_tell_the_maneuver() -> None:
    """Turn and climb change with the first future frame; velocities are those of the step before."""
    for seed in range(20):
        world = make_world(seed, SPEC)
        relative = relative_to(world.poses[:-1], world.poses[1:])
        turns = 2 * torch.atan2(relative[:, 6], relative[:, 3])
        climbs, speeds = relative[:, 2], relative[:, :2].norm(dim=-1)
        assert float((turns[:2] - turns[0]).abs().max()) < 1e-9
        assert float((turns[2:] - turns[2]).abs().max()) < 1e-9
        assert torch.all((turns[2].abs() < 1e-9) | (turns[2].abs() >= 0.1))
        assert torch.allclose(climbs[2:], climbs[2].expand(4))
        assert float(climbs[:2].abs().max()) == 0
        assert torch.allclose(speeds, speeds[0].expand(6))
        assert float(world.poses[2, 9]) == 0
        assert float(world.poses[:, 2].min()) > 0


def test_items_are_reproducible_and_held_out_ones_are_others() -> None:
    worlds, others = ProceduralWorlds(SPEC, 3, seed=5), ProceduralWorlds(SPEC, 3, seed=5, is_held_out=True)
    batch = OccupancyBatch.stack([worlds[item] for item in range(3)])
    assert batch.history.shape == (3, 3, 32, 32, 16)
    assert batch.future.shape == (3, 4, 32, 32, 16)
    assert torch.equal(batch.future[1], ProceduralWorlds(SPEC, 3, seed=5)[1].future)
    assert not torch.equal(batch.future[1], others[1].future)
    assert batch.commands is not None
    torch.testing.assert_close(batch.commands, batch.relative_future)
    assert len(set(batch.sessions) | {others[item].sessions[0] for item in range(3)}) == 6
    share = float(batch.future.double().mean())
    assert 0.02 < share < 0.09


def test_still_worlds_seen_from_another_pose_are_the_warped_grid() -> None:
    """A vehicle that moves by whole voxels: what both grids see agrees exactly, ground and solids."""
    world = make_world(3, dataclasses.replace(SPEC, movers=0))
    moved = world.poses[:1].repeat(2, 1)
    forward = relative_to(moved[0], moved[0]).clone()
    forward[:3] = torch.tensor([2.0, -1.0, 1.0])
    heading = moved[0, 3:7]
    yaw = 2 * math.atan2(float(heading[3]), float(heading[0]))
    moved[1, 0] += 2 * math.cos(yaw) + math.sin(yaw)
    moved[1, 1] += 2 * math.sin(yaw) - math.cos(yaw)
    moved[1, 2] += 1
    world = dataclasses.replace(world, poses=moved)
    grids = [torch.from_numpy(world.occupancy(SPEC.space, step)[0]) for step in range(2)]
    warped, known = warp_nearest(SPEC.space.grid, grids[0], SPEC.space.frame.motion(moved[0], moved[1]))
    assert torch.equal(warped[known], grids[1][known])
    assert int(known.sum()) == 30 * 31 * 15
