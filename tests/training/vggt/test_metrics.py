"""Scores of a network that knows the truth, up to what must not matter, and of one that does not."""

import math

import pytest
import torch

from geometry import InputError, Views
from models.vggt import VGGTOutput
from models.vggt.objective.ground_truth import ground_truth
from tests.training.vggt.tiny import frame_batch
from training.vggt.metrics import METRICS, MeanScores, depth_scores, group_scores, point_error
from training.vggt.pictures import group_picture


def true_views() -> Views:
    """One group with cameras VGGT can express: the principal point in the middle."""
    views = frame_batch(2)[:1].views
    views.cameras.intrinsics[..., 0, 2], views.cameras.intrinsics[..., 1, 2] = 20.0, 16.0
    return views


def perfect(views: Views, scale: float = 1.0, *, has_points: bool = True) -> VGGTOutput:
    truth = ground_truth(views)
    pose = truth.pose_enc.clone()
    pose[..., :3] *= scale
    depth = scale * truth.depth[..., None]
    points = scale * truth.points if has_points else None
    return VGGTOutput(pose_enc=pose, depth=depth, depth_conf=torch.ones_like(truth.depth), world_points=points)


@pytest.mark.parametrize("has_points", [True, False])
def test_the_truth_in_another_unit_is_perfect(has_points: bool) -> None:
    views = true_views()
    scores = group_scores(perfect(views, 3.0, has_points=has_points), views)
    assert scores["depth_absrel"] == pytest.approx(0, abs=1e-5)
    assert scores["depth_delta125"] == 1.0
    assert scores["point_error"] == pytest.approx(0, abs=1e-4)
    assert scores["auc5"] > 0.99
    assert scores["identity_auc30"] < scores["auc30"] == pytest.approx(1, abs=1e-2)
    assert scores["mean_depth_absrel"] > 0.01
    assert scores.keys() == set(METRICS)


def test_depth_by_hand() -> None:
    truth = torch.full((4, 50), 10.0)
    prediction = truth.clone()
    prediction[0] *= 1.5
    prediction[3, 0] = 0.01
    truth[3, 0] = 0.0
    scores = depth_scores(2 * prediction, truth, truth > 0)
    assert scores.scale == pytest.approx(0.5)
    assert scores.absrel == pytest.approx(0.5 * 50 / 199)
    assert scores.delta125 == pytest.approx(149 / 199)
    assert math.isnan(depth_scores(prediction, truth, torch.zeros_like(truth, dtype=torch.bool)).absrel)


def test_points_by_hand() -> None:
    truth = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    noise = 0.01 * torch.randn(400, 3, generator=torch.Generator().manual_seed(1))
    error = point_error(5 * (truth + noise) - 3, truth, torch.ones(400, dtype=torch.bool))
    assert error == pytest.approx(noise.norm(dim=-1).mean().item(), rel=0.1)


def test_without_depth_only_cameras_are_scored() -> None:
    views = true_views()
    output = perfect(views)
    views.depth.zero_()
    scores = group_scores(output, views)
    assert math.isnan(scores["depth_absrel"])
    assert math.isnan(scores["mean_depth_absrel"])
    assert math.isnan(scores["point_error"])
    assert scores["auc30"] == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("part", ["depth", "world_points", "pose_enc"])
def test_predictions_that_are_no_numbers_are_not_left_out_of_the_mean(part: str) -> None:
    views = true_views()
    output = perfect(views)
    getattr(output, part)[0, 1, 5] = math.nan
    with pytest.raises(InputError, match="expected finite predicted"):
        group_scores(output, views)


def test_fields_of_view_of_zero_are_scored() -> None:
    """What a network predicts that has learned nothing yet; its points are bad but numbers."""
    views = true_views()
    output = perfect(views, has_points=False)
    output.pose_enc[..., 7:] = 0
    assert 0 < group_scores(output, views)["point_error"] < 10


def test_means_leave_out_what_is_unknown() -> None:
    scores = MeanScores(("a", "b", "c"))
    scores.add({"a": 1.0, "b": math.nan})
    scores.add({"a": 3.0, "b": 5.0})
    means = scores.means()
    assert (means["a"], means["b"]) == (2.0, 5.0)
    assert math.isnan(means["c"])


def test_pictures_are_in_range_whatever_is_known() -> None:
    views = true_views()
    output = perfect(views)
    for one in (output, VGGTOutput(pose_enc=output.pose_enc)):
        picture = group_picture(one, views)
        assert picture.shape == (3 * 32, 4 * 40, 3)
        assert bool(((picture >= 0) & (picture <= 1)).all())
    views.depth.zero_()
    assert bool(torch.isfinite(group_picture(output, views)).all())
