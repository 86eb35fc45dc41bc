"""Random changes act on grids and poses alike: what the grids show of the world stays the same world."""

import math
from dataclasses import replace

import pytest
import torch

from data.occupancy.augmentation import GridAugmentation, mirrored, turned_and_scaled
from data.occupancy.procedural_world import ProceduralWorlds, WorldSpec
from data.occupancy.types import OccupancyBatch
from geometry import InputError
from geometry.body_poses import placed_at
from geometry.voxels import EgoGrid, GridFrame, VoxelGrid, warp_nearest

WORLDS = ProceduralWorlds(WorldSpec(movers=0, history=2, future=2), 4, seed=3)
SPACE = WORLDS.space


def disagreement(sample: OccupancyBatch, space: EgoGrid = SPACE) -> float:
    """Share of the voxels in which a still world differs when the last past grid is moved by the true motion."""
    last = sample.history[-1:].expand_as(sample.future).contiguous()
    motion = space.frame.motion(sample.history_poses[-1:], sample.future_poses)
    warped, known = warp_nearest(space.grid, last, motion)
    known = known if sample.visible is None else known & sample.visible
    return float((warped != sample.future)[known].double().mean())


@pytest.mark.parametrize("axis", [0, 1])
def test_mirrors_reflect_grids_and_poses(axis: int) -> None:
    sample = WORLDS[1]
    changed = mirrored(sample, axis)
    assert not torch.equal(changed.history, sample.history)
    assert disagreement(changed) == pytest.approx(disagreement(sample), abs=2e-3)
    wrong = replace(changed, history_poses=sample.history_poses, future_poses=sample.future_poses)
    assert disagreement(wrong) > 1.3 * disagreement(sample)
    twice = mirrored(changed, axis)
    assert torch.equal(twice.future, sample.future)
    torch.testing.assert_close(twice.future_poses, sample.future_poses)
    assert changed.commands is not None
    planned = placed_at(changed.history_poses[-1:], changed.commands)
    torch.testing.assert_close(planned[:, :3], changed.future_poses[:, :3])


def test_a_turn_and_a_scale_of_the_vehicle_keep_the_world() -> None:
    sample = WORLDS[3]
    changed = turned_and_scaled(sample, SPACE, 0.6, 1.1, 0)
    assert changed.visible is not None
    assert 0.5 < float(changed.visible.double().mean()) < 1
    assert disagreement(changed) < 0.01
    wrong = replace(changed, history_poses=sample.history_poses, future_poses=sample.future_poses)
    assert disagreement(wrong) > 2 * disagreement(changed)
    steps = (changed.future_poses[1:, :3] - changed.future_poses[:-1, :3]).norm(dim=-1)
    before = (sample.future_poses[1:, :3] - sample.future_poses[:-1, :3]).norm(dim=-1)
    torch.testing.assert_close(steps, 1.1 * before)


def test_a_quarter_turn_is_exact_in_a_full_frame() -> None:
    """The grid turns right when the vehicle's heading turns left."""
    space = EgoGrid(VoxelGrid((-4, -4, 0), (4, 4, 2), (1, 1, 1)), GridFrame("full"))
    poses = torch.tensor([[1.0, 2, 3, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0]] * 2, dtype=torch.float64)
    grid = torch.zeros(1, 8, 8, 2, dtype=torch.uint8)
    grid[0, 7, 3, 1] = 5  # ahead
    changes = {"history": grid, "future": grid, "history_poses": poses[:1], "future_poses": poses[:1], "moving": None}
    sample = replace(WORLDS[0], **changes, commands=None, steps=torch.tensor([[0.0, 2.0]] * 4))
    changed = turned_and_scaled(sample, space, math.pi / 2, 1.0, 0)
    assert changed.future[0].nonzero().tolist() == [[3, 0, 1]]  # to the right
    torch.testing.assert_close(changed.steps, torch.tensor([[2.0, 0.0]] * 4), atol=1e-6, rtol=0)
    torch.testing.assert_close(changed.future_poses[0, 3:7], torch.tensor([0.5, 0, 0, 0.5], dtype=torch.float64).sqrt())


def test_noise_changes_the_history_alone_and_follows_the_seed() -> None:
    sample = WORLDS[0]
    dropped = GridAugmentation(voxel_dropout=0.5, voxel_dropout_share=1.0).applied(sample, SPACE, 0, 7)
    assert torch.equal(dropped.future, sample.future)
    assert int((dropped.history > sample.history).sum()) == 0
    assert float(dropped.history.sum() / sample.history.sum()) == pytest.approx(0.5, abs=0.1)
    flips = GridAugmentation(flip=0.5, rotation=45.0, scale=(0.9, 1.1), voxel_flip=0.02, voxel_flip_share=1.0)
    first, second, third = (flips.applied(sample, SPACE, 0, seed) for seed in (1, 1, 2))
    assert torch.equal(first.history, second.history)
    assert torch.equal(first.future_poses, second.future_poses)
    assert not torch.equal(first.future_poses, third.future_poses)
    assert torch.equal(GridAugmentation().applied(sample, SPACE, 0, 1).history, sample.history)


def test_what_cannot_act_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="--aug_point_noise"):
        GridAugmentation(point_noise=0.05)
    with pytest.raises(InputError, match="--aug_voxel_flip"):
        GridAugmentation(voxel_flip=0.02).require_fitting(SPACE, 18)
    lopsided = EgoGrid(VoxelGrid((0, -4, 0), (8, 4, 2), (1, 1, 1)), GridFrame())
    with pytest.raises(InputError, match="--aug_flip"):
        GridAugmentation(flip=0.5).require_fitting(lopsided, 2)
    with pytest.raises(InputError, match="--aug_scale"):
        GridAugmentation(scale=(1.1, 0.9))
