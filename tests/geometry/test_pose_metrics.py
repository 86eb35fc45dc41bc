"""Camera errors and similarities against values known by construction."""

import math

import numpy as np
import pytest
import torch

from geometry import InputError
from geometry.pose_metrics import (
    best_similarity,
    histogram_auc,
    pose_auc,
    relative_pose_errors,
    similarity_of_cameras,
)
from tests.scenes import rigid_motion, ring_cameras


def turned(degrees: float) -> torch.Tensor:
    """Rotation about y."""
    motion, angle = torch.eye(4), math.radians(degrees)
    motion[0, 0] = motion[2, 2] = math.cos(angle)
    motion[0, 2], motion[2, 0] = math.sin(angle), -math.sin(angle)
    return motion


def test_frame_and_unit_do_not_matter() -> None:
    true = ring_cameras(4).w2c
    predicted = true @ rigid_motion(3)
    predicted[:, :3, 3] *= 7.0
    # the scale of a relative pose is that of its translation; the world's origin moved, relative poses did not
    errors = relative_pose_errors(true @ rigid_motion(3), true)
    assert errors.larger.max() < 1e-2
    scaled = true.clone()
    scaled[:, :3, 3] *= 7.0
    assert relative_pose_errors(scaled, true).larger.max() < 1e-2
    assert len(errors.rotation) == 6


@pytest.mark.parametrize("degrees", [1e-3, 5.0, 90.0, 180.0])
def test_a_camera_turned_in_place(degrees: float) -> None:
    true = ring_cameras(2).w2c
    predicted = true.clone()
    predicted[1] = turned(degrees) @ true[1]  # camera from world: the camera turns about its own center
    errors = relative_pose_errors(predicted, true)
    assert errors.rotation.item() == pytest.approx(degrees, rel=1e-2)


def test_direction_of_translation() -> None:
    true = torch.eye(4).repeat(2, 1, 1)
    true[1, 0, 3] = 2.0
    predicted = true.clone()
    cases = (([0.0, 5.0, 0.0], 90.0, 90.0), ([-1.0, 0.0, 0.0], 180.0, 0.0), ([-3.0, 3.0, 0.0], 135.0, 45.0))
    for direction, expected, of_line in (*cases, ([3.0, 3.0, 0.0], 45.0, 45.0), ([0.0, 0.0, 0.0], 180.0, 90.0)):
        predicted[1, :3, 3] = torch.tensor(direction)
        errors = relative_pose_errors(predicted, true)
        assert errors.translation.item() == pytest.approx(expected)
        assert errors.line.item() == errors.larger_of_line.item() == pytest.approx(of_line, abs=1e-4)
    assert relative_pose_errors(torch.eye(4).repeat(2, 1, 1), true).translation.item() == 180.0
    assert relative_pose_errors(predicted, torch.eye(4).repeat(2, 1, 1)).translation.item() == 0.0


def test_area_under_the_recall_curve() -> None:
    """One error of 10 degrees: recall is 0 below and 1 from 10 on, so 20 of 30 degrees count."""
    assert pose_auc(torch.tensor([10.0]), 30.0) == pytest.approx(2 / 3)
    assert pose_auc(torch.tensor([10.0, 45.0]), 30.0) == pytest.approx(1 / 3)
    assert pose_auc(torch.tensor([0.0, 0.0]), 5.0) == 1.0
    assert pose_auc(torch.tensor([0.5]), 5.0) == pytest.approx(0.9)  # a histogram of whole degrees says 1.0
    errors = torch.rand(200, dtype=torch.float64) * 40
    steps = torch.arange(0, 30, 1e-3, dtype=torch.float64) + 5e-4
    numeric = (errors[:, None] <= steps).double().mean().item()
    assert pose_auc(errors, 30.0) == pytest.approx(numeric, abs=1e-4)


def test_similarity_is_recovered() -> None:
    source = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) + 40.0
    motion = rigid_motion(1)
    target = 2.5 * source @ motion[:3, :3].T + motion[:3, 3]
    found = best_similarity(source, target)
    assert found.scale.item() == pytest.approx(2.5, rel=1e-4)
    torch.testing.assert_close(found.rotation.float(), motion[:3, :3], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found(source.double()).float(), target, atol=1e-3, rtol=1e-4)


def test_a_mirrored_cloud_gets_a_rotation() -> None:
    source = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    found = best_similarity(source, source * torch.tensor([-1.0, 1.0, 1.0]))
    assert torch.det(found.rotation).item() == pytest.approx(1.0)
    with pytest.raises(InputError, match="at least 3 points"):
        best_similarity(source[:2], source[:2])


@pytest.mark.parametrize("threshold", [5, 30])
def test_histogram_auc_is_the_mean_of_the_recalls_at_whole_degrees(threshold: int) -> None:
    """Closed form, and the computation of the published figures: numpy's histogram, summed up."""
    assert histogram_auc(torch.tensor([10.5]), 30) == pytest.approx(20 / 30)
    assert histogram_auc(torch.tensor([0.0, 30.0, 30.1, 180.0]), 30) == pytest.approx((1 + 1 / 30) / 4)
    errors = 60 * torch.rand(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts, _ = np.histogram(errors.numpy(), bins=np.arange(threshold + 1))
    assert histogram_auc(errors, threshold) == pytest.approx(np.cumsum(counts / 1000).mean(), abs=1e-9)
    assert 0 < histogram_auc(errors, threshold) - pose_auc(errors, float(threshold)) < 1 / threshold


def test_similarity_counts_points_by_weight() -> None:
    """A weight of 2 is the point twice, a weight of 0 is not there."""
    source = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3], [5, 5, 5]])
    target = source @ torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]) * 2 + torch.tensor([0.1, 0.0, -0.2])
    target = target + torch.tensor([[0.1], [0.0], [-0.2], [0.0], [9.0]])
    found = best_similarity(source, target, torch.tensor([2.0, 1, 1, 1, 0]))
    expected = best_similarity(source[[0, 0, 1, 2, 3]], target[[0, 0, 1, 2, 3]])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_similarity_of_cameras(count: int) -> None:
    """A quarter turn, twice the size, moved: of one camera all but the scale is known."""
    w2c = torch.eye(4).repeat(count, 1, 1)
    w2c[:, 0, 3] = -torch.arange(1.0, count + 1)
    rotation = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    scale, translation = (2.0 if count > 1 else 1.0), torch.tensor([5.0, 6.0, 7.0])
    moved = w2c.clone()
    moved[:, :3, :3] = w2c[:, :3, :3] @ rotation.mT
    moved[:, :3, 3] = scale * w2c[:, :3, 3] - moved[:, :3, :3] @ translation
    found = similarity_of_cameras(w2c, moved)
    torch.testing.assert_close(found.scale.item(), scale)
    torch.testing.assert_close(found.rotation, rotation.double())
    torch.testing.assert_close(found.translation, translation.double())
