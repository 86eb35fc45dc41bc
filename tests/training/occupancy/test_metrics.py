"""Metrics by hand, baselines that must score what is known, batches as networks read them."""

import math
from dataclasses import replace

import pytest
import torch

from data.occupancy.procedural_world import ProceduralWorlds, WorldSpec
from data.occupancy.types import OccupancyBatch
from geometry.voxels import EgoGrid, GridFrame, VoxelGrid
from models.occupancy import AlignedConfig, NetworkPlan
from training.occupancy.baselines import CONSTANT_VELOCITY, EMPTY, MEAN_MAP, PERSISTENCE, TRUE_MOTION, Baselines
from training.occupancy.inputs import LEFT, RIGHT, STRAIGHT, chosen_steps, maneuvers, moving_region, plane_steps
from training.occupancy.learners import Predicted, labels_of
from training.occupancy.metrics import (
    ALL,
    CHANGED,
    MOVING,
    NON_GROUND,
    ClassCounts,
    OccupancyScores,
    SemanticScores,
    collisions,
    temporal_consistency,
)
from training.occupancy.schedules import guide_rate
from training.occupancy.scoring import Scores, places_in_grids

SPACE = EgoGrid(VoxelGrid((-16, -16, -2), (16, 16, 14), (2, 2, 2)), GridFrame("yaw", "vehicle"))
SPEC = WorldSpec(space=SPACE, history=2, future=3)
PLAN = NetworkPlan("aligned", AlignedConfig(history=2, future=3), SPACE, history=2, future=3)


@pytest.fixture(scope="module")
def batch() -> OccupancyBatch:
    worlds = ProceduralWorlds(SPEC, 3, seed=3, is_held_out=True)
    return OccupancyBatch.stack([worlds[index] for index in range(3)])


def test_nothing_to_divide_is_not_a_score() -> None:
    scores = OccupancyScores(1)
    empty = torch.zeros(1, 1, 2, 2, 2, dtype=torch.bool)
    scores.add(empty, empty, {ALL: ~empty})
    found = scores.of(ALL).named()
    assert (found["iou"], found["precision"], found["recall"], found["f1"]) == (None, None, None, None)
    assert scores.calibration() == [None]


def test_counts_add_up_over_batches_before_they_are_divided() -> None:
    scores = OccupancyScores(1)
    target = torch.ones(1, 1, 1, 1, 4, dtype=torch.bool)
    few = target.clone()
    few[..., 1:] = False
    for prediction in (few, target, target):
        scores.add(prediction, target, {ALL: target})
    assert scores.iou(ALL) == pytest.approx(9 / 12)
    scores.add(~target, target, {ALL: target}, visible=~target)  # what is not visible does not count
    assert scores.iou(ALL) == pytest.approx(9 / 12)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_what_processes_have_counted_joins_to_what_one_counts(batch: OccupancyBatch, num_classes: int) -> None:
    """One of them has counted nothing."""
    batch = replace(batch, visible=torch.rand(batch.future.shape) < 0.5)
    found = Predicted(1 - batch.future, torch.rand(batch.future.shape), poses=batch.relative_future)

    def empty() -> Scores:
        semantic = SemanticScores(steps, num_classes, 0) if num_classes > 2 else None
        return Scores(steps, 0, (), OccupancyScores(steps), semantic)

    steps = batch.future.shape[1]
    parts = [empty(), empty(), empty()]
    for scores, some in ((parts[0], slice(0, 2)), (parts[2], slice(2, 3))):
        scores.add(found[some], batch[some], SPACE, None)
    for other in parts[1:]:
        parts[0].join(other)
    one = empty()
    for some in (slice(0, 2), slice(2, 3)):
        one.add(found[some], batch[some], SPACE, None)
    assert parts[0].named() == one.named()
    assert parts[0].summary() == one.summary() != empty().summary()


def test_baselines_score_what_they_must(batch: OccupancyBatch) -> None:
    mean = batch.future.float().mean((0, 1))
    made = Baselines(SPACE, 0, mean, 0.5)
    region = moving_region(batch, SPACE)
    scores = {}
    for name in made.names():
        scores[name] = Scores.of(PLAN, 3, ())
        scores[name].add(made.predicted(name, batch), batch, SPACE, region)
    assert scores[PERSISTENCE].occupancy.iou(CHANGED) == 0
    assert scores[EMPTY].occupancy.iou(ALL) == 0
    known = {name: scores[name].occupancy.iou(NON_GROUND) or 0.0 for name in scores}
    assert known[TRUE_MOTION] > max(known[CONSTANT_VELOCITY], known[PERSISTENCE]) > known[EMPTY]
    assert set(scores) == {EMPTY, PERSISTENCE, MEAN_MAP, CONSTANT_VELOCITY, TRUE_MOTION}
    position = scores[TRUE_MOTION].named()["position_m_per_step"]
    assert position == pytest.approx([0, 0, 0], abs=1e-9)
    assert scores[TRUE_MOTION].named()["planning"]["l2_at"] == pytest.approx([0, 0, 0], abs=1e-9)


def test_the_moving_region_holds_every_place_of_a_moving_body(batch: OccupancyBatch) -> None:
    region = moving_region(batch, SPACE)
    assert region is not None
    assert batch.moving is not None
    assert bool(region[batch.moving].all())
    assert int(region.sum()) > int(batch.moving.sum()) > 0
    assert moving_region(replace(batch, moving=None), SPACE) is None


def test_ground_is_told_by_height_or_by_class(batch: OccupancyBatch) -> None:
    found = Baselines(SPACE, 0, None, 0.5).predicted(EMPTY, batch)
    by_height = Scores.of(PLAN, 3, ())
    by_height.add(found, batch, SPACE, None)
    assert by_height.occupancy.of("ground").fn + by_height.occupancy.of(NON_GROUND).fn == int(batch.future.sum())
    unknown = Scores.of(PLAN, 3, ())
    unknown.add(found, replace(batch, ground_height=torch.full((3,), math.nan)), SPACE, None)
    assert NON_GROUND not in unknown.occupancy.counts
    by_class = Scores.of(PLAN, 3, (1,))
    by_class.add(found, batch, SPACE, None)
    assert by_class.occupancy.of("ground").fn == int(batch.future.sum())
    assert MOVING not in by_class.occupancy.counts


def test_places_are_tested_in_the_frame_of_their_grid(batch: OccupancyBatch) -> None:
    """Far from the world's origin: the true places are the middle of each grid."""
    far = torch.zeros(13, dtype=torch.float64)
    far[:2] = torch.tensor([5e4, -3e4])
    moved = replace(batch, history_poses=batch.history_poses + far, future_poses=batch.future_poses + far)
    places = places_in_grids(SPACE, moved.future_poses, moved)
    torch.testing.assert_close(places, torch.zeros_like(places), atol=1e-6, rtol=0)
    occupied = torch.zeros(3, 3, *SPACE.grid.size, dtype=torch.bool)
    occupied[:, :, 8, 8, 1] = True  # the voxel of the origin, and one below it
    found = collisions(SPACE.grid, occupied, places)
    assert bool(found.hit.all())
    assert not bool(collisions(SPACE.grid, occupied, places + 50).inside.any())


def test_consistency_of_a_copy_and_of_a_standstill(batch: OccupancyBatch) -> None:
    truth = batch.future.float()
    assert temporal_consistency(truth, truth) == pytest.approx(1)
    assert temporal_consistency(truth, truth[:, :1].expand_as(truth)) is None


def test_a_class_that_is_predicted_only_counts_0_and_by_the_reference_1() -> None:
    counts = ClassCounts.of(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1]), [0, 1, 2, 3])
    assert counts.mean_iou() == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert counts.reference_mean_iou() == pytest.approx((1 + 1 / 2 + 1 + 1) / 4)


def test_labels_follow_one_threshold() -> None:
    logits = torch.tensor([2.0, 0.0, 1.0]).view(1, 1, 1, 1, 1, 3)  # free is class 0, 60 % of the chances
    assert labels_of(logits, 0, 0.5)[0].item() == 0
    labels, occupied = labels_of(logits, 0, 0.3)
    assert labels.item() == 2
    assert occupied.item() == pytest.approx(1 - 0.6652, abs=1e-3)
    binary = torch.full((1, 1, 1, 1, 1), 0.1)
    assert [labels_of(binary, 0, level)[0].item() for level in (0.5, 0.6)] == [1, 0]


def test_steps_are_right_and_forward(batch: OccupancyBatch) -> None:
    poses = torch.zeros(1, 5, 13, dtype=torch.float64)
    yaw = torch.tensor([0.0, 0.0, 0.3, 0.3, 0.0])
    poses[..., 3], poses[..., 6] = (yaw / 2).cos(), (yaw / 2).sin()
    poses[0, :, 0] = torch.tensor([0.0, 2.0, 4.0, 4.0, 4.0])
    poses[0, 3:, 1] = 1.0
    one = replace(batch[:1], history_poses=poses[:, :2], future_poses=poses[:, 2:])
    steps = plane_steps(one)[0]
    torch.testing.assert_close(steps[:3], torch.tensor([[0.0, 2.0]] * 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(steps[3], torch.tensor([-math.cos(0.3), math.sin(0.3)]), atol=1e-6, rtol=0)
    assert maneuvers(one)[0].tolist() == [STRAIGHT, STRAIGHT, LEFT, STRAIGHT, RIGHT]


def test_steps_of_a_window_follow_its_seed() -> None:
    seeds = torch.arange(50)
    chosen = chosen_steps(seeds, 4, 2)
    assert torch.equal(chosen, chosen_steps(seeds, 4, 2))
    assert bool((chosen[:, 0] < chosen[:, 1]).all())
    assert chosen.unique().tolist() == [0, 1, 2, 3]
    assert chosen_steps(seeds[:2], 3, 0).tolist() == [[0, 1, 2]] * 2


def test_the_schedule_ends_at_its_floor() -> None:
    rates = [guide_rate(step, 20, peak=1.0, floor=0.1, warmup=4, warmup_ratio=0.2) for step in (0, 2, 4, 12, 20)]
    assert rates == pytest.approx([0.2, 0.6, 1.0, 0.55, 0.1])
