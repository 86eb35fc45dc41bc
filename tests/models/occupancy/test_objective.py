"""Losses: closed forms and invariances that the records do not show."""

import math

import pytest
import torch

from models.occupancy.objective.occupancy import (
    OccupancyWeights,
    class_loss,
    dice_loss,
    focal_loss,
    lovasz_loss,
    lovasz_softmax_loss,
    occupancy_losses,
    recall_loss,
)
from models.occupancy.objective.poses import (
    PosePrediction,
    PoseWeights,
    neighbors_in_place,
    place_loss,
    planning_loss,
    pose_losses,
    rotation_errors,
    rotation_loss,
    sigmas,
)


def test_by_hand() -> None:
    """One voxel of each kind at probability 1/2."""
    logits, target = torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)
    log2 = math.log(2)
    assert focal_loss(logits, target, alpha=0.75, gamma=2.0).item() == pytest.approx((0.75 + 0.25) / 2 * log2 / 4)
    assert dice_loss(logits, target).item() == pytest.approx(1 - (2 * 0.5 + 1) / (1 + 1 + 1))
    assert recall_loss(logits, target).item() == pytest.approx(log2)
    assert lovasz_loss(logits, target).item() == pytest.approx(0.5, abs=1e-6)


def test_logits_far_out_stay_finite_and_still_learn() -> None:
    """Where a probability is 0 or 1 in float32 a loss of probabilities has no gradient left."""
    logits = torch.tensor([-200.0, 200.0], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([1.0, 0.0]), alpha=0.5, gamma=2.0)
    loss.backward()
    assert loss.item() == pytest.approx(100.0)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([-0.25, 0.25]))


def test_a_weight_of_0_computes_nothing() -> None:
    logits, target = torch.zeros(2, 1, 2, 2, 2), torch.zeros(2, 1, 2, 2, 2)
    assert list(occupancy_losses(logits, target, OccupancyWeights())) == ["focal", "dice", "mean_match"]
    assert list(
        occupancy_losses(logits, target, OccupancyWeights(focal=0.0, dice=0.0, mean_match=0.0, recall=1.0))
    ) == ["recall"]


def test_predicting_nothing_costs_dice_and_hardly_mean_match() -> None:
    target = (torch.rand(1, 1, 50, 50, 50, generator=torch.Generator().manual_seed(0)) < 0.008).float()
    losses = occupancy_losses(torch.full_like(target, -20.0), target, OccupancyWeights())
    assert losses["mean_match"].item() < 1e-3
    assert losses["dice"].item() > 0.99


def test_classes_that_do_not_occur_have_no_part_in_lovasz_softmax() -> None:
    logits = torch.randn(1, 1, 2, 2, 2, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(1, 1, 2, 2, 2, dtype=torch.long)
    labels[..., 0] = 1
    others = logits.clone()
    others[..., 2] = -1e4
    assert lovasz_softmax_loss(others, labels) > 0
    assert class_loss(logits, labels).item() == pytest.approx(
        torch.nn.functional.cross_entropy(logits.view(-1, 3), labels.view(-1)).item()
    )


def _rotation(angle: float) -> torch.Tensor:
    return torch.tensor([math.cos(angle / 2), 0.0, 0.0, math.sin(angle / 2)], dtype=torch.float64)


def test_rotations_do_not_mind_the_sign_or_length() -> None:
    first, second = _rotation(0.2), _rotation(0.9)
    torch.testing.assert_close(rotation_errors(3 * first, second), torch.tensor([0.0, 0.0, 0.7]).double())
    torch.testing.assert_close(rotation_errors(first, -second), rotation_errors(first, second))
    torch.testing.assert_close(rotation_loss(-first, second), rotation_loss(first, second))
    same = first.clone().requires_grad_()
    rotation_errors(same, first).sum().backward()
    assert same.grad is not None
    assert bool(torch.isfinite(same.grad).all())


def test_deviations_are_fitted_to_errors() -> None:
    """The likelihood is greatest where the deviation is the error's, of rotations as of positions."""
    target = torch.zeros(1, 1, 13, dtype=torch.float64)
    target[..., 3] = 1
    prediction = target.clone()
    prediction[..., 0], prediction[..., 3:7] = 0.5, _rotation(0.5)
    said = torch.zeros(1, 1, 6, dtype=torch.float64, requires_grad=True)
    weights = PoseWeights(pose=0.0)
    pose_losses(PosePrediction(prediction, sigmas(said)), target, target[:, 0, :7], weights)["uncertainty"].backward()
    assert sigmas(torch.zeros(6))[0].item() == pytest.approx(1.0)
    assert said.grad is not None
    assert said.grad[0, 0, 0] > 0  # 1 is more than 0.5
    assert said.grad[0, 0, 5] > 0


def test_places_come_from_distance() -> None:
    poses = torch.zeros(4, 7, dtype=torch.float64)
    poses[:, 3] = 1
    poses[:, 0] = torch.tensor([0.0, 3.0, 40.0, 10.0])
    same, other = neighbors_in_place(poses)
    assert (same.tolist(), other.tolist()) == ([1, 0, -1, -1], [2, 2, 3, 2])
    poses[1, 3:] = _rotation(1.0)  # turned by more than 30 degrees
    assert neighbors_in_place(poses)[0].tolist() == [-1] * 4
    embeddings = torch.eye(4, dtype=torch.float64, requires_grad=True)
    assert place_loss(embeddings, *neighbors_in_place(poses), 0.2).item() == 0


def test_planning_counts_paths() -> None:
    """Two steps that are 1 m off each: 1 m after the first, 2 m after the second."""
    modes = torch.zeros(1, 2, 3, 2)
    command = torch.tensor([[[0.0, 1.0, 0.0]] * 2])
    assert planning_loss(modes, torch.tensor([[[1.0, 0.0]] * 2]), command).item() == pytest.approx(1.5)
