"""Batches as truth; oracle predictions score 0 and 100 %, and what published metrics overlook is seen."""

import math
from dataclasses import replace

import pytest
import torch

from geometry import FrameBatch, Traits, pixel_centers
from models.mapanything.objective.losses import geometry_losses
from models.mapanything.objective.recipes import RECIPES, LossRecipe
from models.mapanything.objective.truth import GeometryTruth, mean_distance
from models.mapanything.output import Reconstruction, reconstruction_from_factors
from tests.training.vggt.tiny import frame_batch
from training.mapanything.metrics import METRICS, known_mean, set_metrics
from training.mapanything.truth import inputs_of_truth, truth_of_batch

RENDERED = Traits(meters=1e-3, is_synthetic=True)


def batch_with(traits: Traits) -> FrameBatch:
    return replace(frame_batch(1, views=4), traits=(traits,))


def oracle(truth: GeometryTruth, scale: float = 1.0, unit: float = 1.0) -> Reconstruction:
    """The truth itself in `unit` of its own, `scale` meters per unit."""
    return replace(
        reconstruction_from_factors(
            truth.rays, truth.depth_along_ray * unit, truth.quaternions, truth.translations * unit,
            scale=torch.full((len(truth.is_metric),), scale),
        ),
        confidence=torch.ones_like(truth.depth_along_ray),
        mask_logits=torch.where(truth.unambiguous, 30.0, -30.0),
    )  # fmt: skip


def test_truth_is_in_the_frame_of_view_0_and_in_meters() -> None:
    batch = batch_with(RENDERED)
    truth = truth_of_batch(batch)
    views = batch.views
    torch.testing.assert_close(truth.quaternions[0, 0], torch.tensor([0.0, 0, 0, 1]))
    known = views.depth > 0
    assert torch.equal(truth.valid, known)
    torch.testing.assert_close(truth.points_cam[..., 2][known], views.depth[known] * 1e-3)
    pixels = pixel_centers(*known.shape[-2:], views.depth).expand(*known.shape[:2], -1, -1)
    world = views.cameras.unproject(pixels, views.depth.flatten(-2)).unflatten(-2, known.shape[-2:])
    first = views.cameras.w2c[0, 0]
    expected = 1e-3 * (world @ first[:3, :3].mT + first[:3, 3])
    torch.testing.assert_close(truth.points[known], expected[known], atol=1e-5, rtol=1e-4)
    assert (truth.is_metric.item(), truth.is_synthetic.item()) == (True, True)
    assert torch.equal(truth.unambiguous, known)
    real = truth_of_batch(batch_with(Traits()))
    assert (real.is_metric.item(), real.is_synthetic.item()) == (False, False)
    assert real.unambiguous.all()
    inputs = inputs_of_truth(views.images, real)
    assert not inputs.shows_depth_scale.any()
    assert inputs.has_depth.all()


@pytest.fixture(scope="module")
def truth() -> GeometryTruth:
    return truth_of_batch(batch_with(RENDERED))


def test_an_oracle_is_perfect_in_any_unit(truth: GeometryTruth) -> None:
    found = set_metrics(oracle(truth, scale=4.0, unit=0.25), truth)
    assert set(found) == set(METRICS)
    for name, value in found.items():
        best = 100 if "auc" in name else 1 if "inlier" in name else 0
        assert value == pytest.approx(best, abs=2e-4 if "deg" in name else 1e-5), name
    assert set_metrics(oracle(truth, scale=2.0, unit=0.25), truth)["metric_scale_abs_rel"] == pytest.approx(0.5)
    other = set_metrics(oracle(truth), replace(truth, is_metric=torch.tensor([False])))
    assert math.isnan(other["metric_scale_abs_rel"])
    losses = geometry_losses(oracle(truth, scale=4.0, unit=0.25), truth, RECIPES["v1.1"])
    rest = {name: value.abs().max().item() for name, value in losses.terms.items() if name != "normals"}
    assert max(rest.values()) < 1e-4  # normals have a floor of one degree


def test_under_autocast_truth_losses_and_metrics_are_the_same(truth: GeometryTruth) -> None:
    """Networks may compute in bfloat16, geometry does not."""
    prediction = replace(oracle(truth, scale=4.0), points=oracle(truth).points * 1.1)
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            again = truth_of_batch(batch_with(RENDERED))
            losses = [geometry_losses(prediction, again, RECIPES[name]).total.item() for name in ("v1.1", "pi3")]
            results.append((*losses, *set_metrics(prediction, again).values()))
    assert results[0] == results[1]


def test_a_turned_map_and_opposite_motion_are_seen(truth: GeometryTruth) -> None:
    """Lengths and lines alone are right."""
    whole = oracle(truth)
    wrong = replace(whole, points=whole.points @ torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]))
    found = set_metrics(wrong, truth)
    assert found["pointmaps_inlier_thres_103"] > 0.99 > 0.2 > found["pointmaps_true_inlier_103"]
    opposite = set_metrics(replace(whole, translations=-whole.translations), truth)
    assert opposite["pose_auc_30"] > 99 > 1 > opposite["pose_true_auc_30"]


def test_views_without_depth_are_left_out_not_counted_as_perfect(truth: GeometryTruth) -> None:
    valid = truth.valid.clone()
    valid[:, 1] = False
    some = replace(truth, valid=valid)
    prediction = replace(oracle(truth), points=oracle(truth).points * 1.1)
    assert set_metrics(prediction, some)["pointmaps_abs_rel"] == pytest.approx(0, abs=1e-5)  # the unit takes it
    none = set_metrics(prediction, replace(truth, valid=torch.zeros_like(valid)))
    assert math.isnan(none["pointmaps_abs_rel"])
    assert math.isnan(none["pose_ate_mean"])  # no depth, no unit of length
    assert math.isnan(none["pose_ate_rmse"])
    assert not math.isnan(none["pose_rotation_deg"])
    assert known_mean([math.nan, 2.0]) == 2.0


def test_the_scales_gradient_reaches_the_scale_only(truth: GeometryTruth) -> None:
    """Points are detached there; in the other terms the scale cancels."""
    points = oracle(truth).points * (1 + 0.1 * torch.rand(truth.valid.shape)[..., None])
    leaf, scale = points.requires_grad_(), torch.full((1, 4), 2.0, requires_grad=True)
    prediction = replace(oracle(truth), points=leaf * scale[..., None, None, None], scale=scale)
    recipe = LossRecipe(
        points=0.0, points_cam=0.0, depth=0.0, rays=0.0, quaternions=0.0, translations=0.0, normals=0.0, gradients=0.0,
        mask=0.0,
    )  # fmt: skip
    geometry_losses(prediction, truth, recipe).total.backward()
    assert leaf.grad is None or float(leaf.grad.abs().max()) < 1e-7
    assert float(scale.grad.sum()) > 0  # it is twice too large
    assert mean_distance(truth.points, truth.valid).item() > 0
