"""Losses: recorded values and gradients of the reference, closed forms, and the quirks that are fixed here."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from geometry.errors import InputError
from models.vggt.objective.dense_losses import DenseOptions, depth_loss, point_loss, quantile_filter
from models.vggt.objective.ground_truth import GroundTruth
from models.vggt.objective.losses import UNIT_RANGE, CameraNorm, LossWeights, camera_loss, vggt_objective
from models.vggt.objective.surface_terms import SurfaceTerm
from models.vggt.objective.track_loss import track_loss
from models.vggt.objective.track_targets import TrackTargets
from models.vggt.vggt import VGGTOutput
from tests import goldens

FOLDER = Path(__file__).parents[3] / "golden" / "training"


@pytest.fixture(scope="module")
def arrays() -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in goldens.read_arrays(FOLDER / "losses.npz").items()}


def recorded_truth(arrays: dict[str, Tensor]) -> GroundTruth:
    depth, points, mask = arrays["norm_depths"], arrays["norm_world_points"], arrays["point_masks"]
    return GroundTruth(arrays["gt_pose_encoding"], depth, points, mask, torch.ones(len(depth)))


def recorded_output(arrays: dict[str, Tensor]) -> VGGTOutput:
    encodings = [arrays[f"pred_pose_enc_{stage}"].clone().requires_grad_() for stage in range(4)]
    names = ("depth", "depth_conf", "world_points", "world_points_conf")
    maps = {name: arrays[f"pred_{name}"].clone().requires_grad_() for name in names}
    return VGGTOutput(pose_enc=encodings[-1], pose_enc_list=encodings, **maps)


def test_values_and_gradients_equal_the_record() -> None:
    results = goldens.check_training(FOLDER)
    assert {item.name for item in results["losses.json"]} == set(json.loads((FOLDER / "losses.json").read_text()))
    assert len(results["losses.npz"]) == 17
    assert [item for items in results.values() for item in items if not item.is_within] == []


def perfect(truth: GroundTruth, confidence: float = 1.0) -> VGGTOutput:
    conf = torch.full_like(truth.depth, confidence)
    return VGGTOutput(
        pose_enc_list=[truth.pose_enc] * 2,
        depth=truth.depth[..., None],
        depth_conf=conf,
        world_points=truth.points,
        world_points_conf=conf,
    )


def test_a_perfect_prediction_is_left_with_the_logarithm_of_its_confidence(arrays: dict[str, Tensor]) -> None:
    losses = vggt_objective(perfect(recorded_truth(arrays), math.e), recorded_truth(arrays)).named()
    assert losses["objective"].item() == pytest.approx(-0.4, abs=1e-6)
    for name, value in losses.items():
        expected = -0.4 if name == "objective" else -0.2 if name.startswith("conf") else 0.0
        assert value.item() == pytest.approx(expected, abs=1e-6), name


def test_a_constant_depth_error(arrays: dict[str, Tensor]) -> None:
    truth = recorded_truth(arrays)
    confidence = torch.full_like(truth.depth, 3.0)
    loss = depth_loss(truth.depth[..., None] + 0.25, confidence, truth.depth, truth.mask)
    assert loss.reg.item() == pytest.approx(0.25, rel=1e-4)
    assert loss.conf.item() == pytest.approx(0.75 - 0.2 * math.log(3), rel=1e-4)
    assert loss.surface.item() == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(("norm", "expected"), [(CameraNorm.L1, 0.1), (CameraNorm.L2, 0.1 * math.sqrt(3))])
def test_a_constant_translation_error(arrays: dict[str, Tensor], norm: CameraNorm, expected: float) -> None:
    true = arrays["gt_pose_encoding"]
    off = true.clone()
    off[..., :3] += 0.1
    loss = camera_loss(torch.stack([off] * 4), true, arrays["point_masks"], LossWeights(camera_norm=norm))
    decay = (1 + 0.6 + 0.36 + 0.216) / 4
    assert loss.camera.item() == pytest.approx(expected * decay, rel=1e-5)
    assert (loss.R.item(), loss.FL.item()) == (0.0, 0.0)


def test_the_sign_of_a_quaternion_does_not_matter(arrays: dict[str, Tensor]) -> None:
    """Per stage: the record itself has no prediction nearer to -q."""
    encodings = torch.stack([arrays[f"pred_pose_enc_{stage}"] for stage in range(4)])
    flipped = encodings.clone()
    flipped[1, ..., 3:7] *= -1
    flipped.requires_grad_()
    encodings.requires_grad_()
    losses = [camera_loss(pose, arrays["gt_pose_encoding"], arrays["point_masks"]) for pose in (encodings, flipped)]
    assert losses[0].R.item() == losses[1].R.item() > 0
    losses[0].camera.backward()
    losses[1].camera.backward()
    torch.testing.assert_close(flipped.grad[1, ..., 3:7], -encodings.grad[1, ..., 3:7])
    torch.testing.assert_close(flipped.grad[0], encodings.grad[0])


def test_cameras_whose_first_view_is_nearly_empty_do_not_count(arrays: dict[str, Tensor]) -> None:
    mask = arrays["point_masks"].clone()
    mask[0, 0] = False
    encodings = arrays["pred_pose_enc_0"][None].clone().requires_grad_()
    loss = camera_loss(encodings, arrays["gt_pose_encoding"], mask)
    loss.camera.backward()
    assert loss.camera.item() == 0.0
    assert (encodings.grad == 0).all()


def test_cameras_of_a_sample_without_depth_count_up_to_scale() -> None:
    """True translations twice as long as predicted cost nothing; another direction and the other parts do."""
    true = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 2, 0]]])
    rest = torch.tensor([0, 0, 0, 1.0, 0.8, 0.9]).expand(1, 3, 6)
    truth = torch.cat([true, rest], dim=-1)
    nothing = torch.zeros(1, 3, 8, 8, dtype=torch.bool)
    for factor in (0.1, 1.0, 4.0):
        predicted = torch.cat([factor * true, rest], dim=-1)[None].repeat(4, 1, 1, 1).requires_grad_()
        loss = camera_loss(predicted, truth, nothing)
        assert loss.camera.item() == pytest.approx(0, abs=1e-6)
    other = torch.cat([true.roll(1, dims=-1), rest + 0.1], dim=-1)[None].repeat(4, 1, 1, 1).requires_grad_()
    loss = camera_loss(other, truth, nothing)
    # <t_predicted, t_true> is 0, so the true ones count at the least unit: 3 (1 + 0.05) / 9 per iteration
    stages = (1 + 0.6 + 0.36 + 0.216) / 4
    assert loss.T.item() == pytest.approx(stages * 3 * (1 + UNIT_RANGE[0]) / 9, rel=1e-5)
    assert loss.R.item() == pytest.approx(stages * 0.1, rel=1e-5)
    loss.camera.backward()
    assert (other.grad[..., 1:, :] != 0).any(-1).all()
    still = torch.cat([torch.zeros_like(true), rest], dim=-1)[None].repeat(4, 1, 1, 1).requires_grad_()
    loss = camera_loss(still, truth, nothing)
    loss.camera.backward()
    assert loss.T.item() > 0  # predicting no translation is not a way out
    assert still.grad[-1, 0, 1, 0] < 0 > still.grad[-1, 0, 2, 1]


def test_samples_with_depth_are_not_altered_by_one_without(arrays: dict[str, Tensor]) -> None:
    encodings = arrays["pred_pose_enc_0"][None]
    truth, mask = arrays["gt_pose_encoding"], arrays["point_masks"]
    alone = camera_loss(encodings, truth, mask)
    both = camera_loss(
        torch.cat([encodings, encodings], dim=1), torch.cat([truth, truth]), torch.cat([mask, mask & False])
    )
    without = camera_loss(encodings, truth, mask & False)
    num_known = int((mask[:, 0].flatten(1).sum(-1) > 100).sum())
    expected = (num_known * alone.camera + len(mask) * without.camera) / (num_known + len(mask))
    torch.testing.assert_close(both.camera, expected)


def test_next_to_no_valid_pixel_gives_zeros_on_the_graph(arrays: dict[str, Tensor]) -> None:
    truth = recorded_truth(arrays)
    mask = torch.zeros_like(truth.mask)
    mask[:, 1, :9, :5] = True  # 90 pixels in all, none in a first view
    output = recorded_output(arrays)
    losses = vggt_objective(output, dataclasses.replace(truth, mask=mask))
    assert all(value.item() == 0 for value in losses.named().values())
    losses.objective.backward()
    for leaf in (*output.pose_enc_list, output.depth, output.depth_conf, output.world_points, output.world_points_conf):
        assert (leaf.grad == 0).all()


def test_masked_pixels_have_no_influence(arrays: dict[str, Tensor]) -> None:
    truth = recorded_truth(arrays)
    values = {"depth": truth.depth, "points": truth.points}
    holes = {name: value.clone() for name, value in values.items()}
    for value in holes.values():
        value[~truth.mask] = float("nan")
    output = recorded_output(arrays)
    expected = vggt_objective(output, truth).objective.item()
    assert vggt_objective(output, dataclasses.replace(truth, **holes)).objective.item() == expected


def test_no_neighbor_term_and_no_filter() -> None:
    depth = torch.rand(1, 2, 8, 9, generator=torch.Generator().manual_seed(0)) + 1
    mask = torch.ones_like(depth, dtype=torch.bool)
    loss = depth_loss(depth[..., None] * 2, torch.ones_like(depth), depth, mask, DenseOptions(None, None))
    assert loss.surface.item() == 0.0
    assert loss.reg.item() == pytest.approx(depth.mean().item(), rel=1e-6)
    assert loss.total.item() == pytest.approx(2 * depth.mean().item(), rel=1e-6)


def test_normals_of_a_tilted_plane() -> None:
    """The angle between two planes is the angle of every normal, at any scale."""
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(20.0), indexing="ij")
    flat = torch.stack([x, y, torch.full_like(x, 5.0)], -1)[None, None]
    tilted = torch.stack([x, y, 5.0 + 0.75 * x], -1)[None, None]
    mask, confidence = torch.ones(1, 1, 16, 20, dtype=torch.bool), torch.full((1, 1, 16, 20), 2.0)
    plain = point_loss(tilted, confidence, flat, mask, DenseOptions(SurfaceTerm.NORMAL, None))
    weighted = point_loss(tilted, confidence, flat, mask, DenseOptions(SurfaceTerm.NORMAL_CONF, None))
    assert plain.surface.item() == pytest.approx(1 - 0.8, rel=1e-5)
    assert weighted.surface.item() == pytest.approx(2 * 0.2 - 0.2 * math.log(2), rel=1e-5)


def test_nan_in_a_prediction_reaches_the_loss(arrays: dict[str, Tensor]) -> None:
    """The reference counts such pixels as right."""
    truth = recorded_truth(arrays)
    depth = truth.depth[..., None].clone()
    depth[truth.mask[..., None].nonzero()[:1].unbind(-1)] = float("nan")
    loss = depth_loss(depth, torch.ones_like(truth.depth), truth.depth, truth.mask)
    assert loss.reg.isnan()
    assert loss.conf.isnan()


def test_quantile_filter_drops_outliers_exactly() -> None:
    values = torch.arange(2500.0).flip(0) / 100
    every = torch.ones(2500, dtype=torch.bool)
    first = torch.arange(2500) < 2000  # 24.99 to 5
    assert torch.equal(quantile_filter(values, every, 0.9), values < 22.485)
    assert torch.equal(quantile_filter(values, first, 0.9), first & (values < 22.985))
    assert torch.equal(quantile_filter(values, first, 0.5), first)  # 1000 would remain, which is too few
    few = torch.arange(2500) < 1000
    assert torch.equal(quantile_filter(values, few, 0.9), few)


def test_losses_are_full_precision_under_autocast(arrays: dict[str, Tensor]) -> None:
    output, truth = recorded_output(arrays), recorded_truth(arrays)
    expected = vggt_objective(output, truth)
    with torch.autocast("cpu", torch.bfloat16):
        got = vggt_objective(output, truth)
    assert got.objective.dtype == torch.float32
    assert got.objective.item() == expected.objective.item()


def test_tasks_take_part_when_predicted_and_weighted(arrays: dict[str, Tensor]) -> None:
    output, truth = recorded_output(arrays), recorded_truth(arrays)
    camera_only = vggt_objective(output, truth, LossWeights(depth=0.0, point=0.0))
    assert set(camera_only.named()) == {"objective", "camera", "T", "R", "FL"}
    assert camera_only.objective.item() == pytest.approx(5 * camera_only.camera.item())
    with pytest.raises(InputError, match="nothing to train"):
        vggt_objective(VGGTOutput(), truth)
    with pytest.raises(InputError, match="track"):
        LossWeights(track=-0.1)


def perfect_tracks() -> tuple[Tensor, Tensor]:
    points = torch.rand(1, 3, 6, 2, generator=torch.Generator().manual_seed(0)) * 20
    visible = torch.tensor([1, 1, 1, 1, 0, 0]).bool().expand(1, 3, 6).clone()
    visible[:, 2, 0] = False
    return points, visible


def test_track_losses_closed_form() -> None:
    points, visible = perfect_tracks()
    sure = torch.where(visible, 20.0, -20.0)
    off = points + torch.tensor([1.0, 2.0])
    off[:, 2, 0] += 500  # invisible there: the coordinates do not count, the confidence should call it wrong
    off[..., 4:, :] += 900  # not visible in the first view: nothing counts
    right = torch.full_like(sure, 20.0)
    right[:, 2, 0] = -20
    loss = track_loss(torch.stack([off, off]), sure, right, points, visible)
    assert loss.coords.item() == pytest.approx(1.5 * (0.8 + 1) / 2, rel=1e-5)
    assert loss.vis.item() == pytest.approx(0.0, abs=1e-6)
    assert loss.conf.item() == pytest.approx(0.0, abs=1e-6)


def test_tracks_of_nothing_visible_give_zeros_on_the_graph() -> None:
    points, visible = perfect_tracks()
    coords, logits = points[None].clone().requires_grad_(), torch.zeros(1, 3, 6, requires_grad=True)
    loss = track_loss(coords, logits, None, points, torch.zeros_like(visible))
    loss.total.backward()
    assert loss.total.item() == 0.0
    assert (coords.grad == 0).all()
    assert (logits.grad == 0).all()


def test_tracks_enter_the_objective(arrays: dict[str, Tensor]) -> None:
    points, visible = perfect_tracks()
    targets = TrackTargets(points, visible, visible[:, 0])
    logits = torch.zeros(1, 3, 6, requires_grad=True)
    output = VGGTOutput(track_list=[points + 1], vis_logits=logits, conf_logits=logits)
    losses = vggt_objective(output, recorded_truth(arrays), LossWeights(), targets)
    assert losses.track.item() == pytest.approx(1.0, rel=1e-5)
    assert losses.vis.item() == losses.conf_track.item() == pytest.approx(math.log(2), rel=1e-5)
    assert losses.objective.item() == pytest.approx(0.05 * (1 + 2 * math.log(2)), rel=1e-5)
    with pytest.raises(InputError, match="queries"):
        vggt_objective(recorded_output(arrays), recorded_truth(arrays), LossWeights(), targets)
