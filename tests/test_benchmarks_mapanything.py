"""Baselines and checks of the proof where the answer is known, and the whole of it at toy size."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import mapanything_real
from benchmarks.mapanything import checks, criteria
from benchmarks.mapanything.__main__ import main
from benchmarks.mapanything.baselines import TrainingMeans, constant_prediction, filled_nearest, trivial_prediction
from benchmarks.mapanything.rooms import require_no_leak
from benchmarks.mapanything.scores import CONSTANT, MEAN, HeldOut, of_network, scored, without_network
from data.scene import PosedScene, ScenePoints
from geometry import Cameras, FrameBatch, InputError, Traits, Views
from geometry.pixel_rays import unit_rays
from models.mapanything.output import Reconstruction, reconstruction_from_factors
from training.mapanything.truth import truth_of_batch

HEIGHT, WIDTH = 16, 24


def held_out(sets: int = 2, views: int = 3) -> HeldOut:
    """Planes at camera z 2, seen by cameras one unit apart; in meters."""
    w2c = torch.eye(4).expand(sets, views, 4, 4).clone()
    w2c[..., 0, 3] = -torch.arange(views).float()
    intrinsics = torch.tensor([[20.0, 0, 12], [0, 20.0, 8], [0, 0, 1]]).expand(sets, views, 3, 3).clone()
    shape = (sets, views)
    depth = torch.full((*shape, HEIGHT, WIDTH), 2.0)
    images = torch.rand(*shape, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    cameras = Cameras(w2c, intrinsics, HEIGHT, WIDTH)
    ids = torch.zeros(shape, dtype=torch.int64)
    seen = Views(images, cameras, torch.ones(shape), torch.full(shape, 3.0), ids, depth=depth)
    batch = FrameBatch(seen, ("room",) * sets, torch.arange(sets), (Traits(meters=1.0, is_synthetic=True),) * sets)
    truth = truth_of_batch(batch)
    return HeldOut(batch, truth, 1, TrainingMeans.of(truth))


class Obedient(torch.nn.Module):
    """Gives back what it is given, in meters if it is told so; without depth everything is one meter away."""

    def forward(self, inputs) -> Reconstruction:
        rays = torch.where(inputs.has_rays[..., None, None, None], inputs.rays, _default_rays(inputs.images))
        distance = torch.where(inputs.has_depth[..., None, None], inputs.depth_along_ray, 1.0)
        quaternions = torch.where(inputs.has_pose[..., None], inputs.quaternions, torch.tensor([0.0, 0, 0, 1]))
        translations = torch.where(inputs.has_pose[..., None], inputs.translations, 0.0)
        told = (inputs.shows_depth_scale | inputs.shows_pose_scale).any(1)
        scale = torch.where(told, 1.0, 1 / distance.flatten(1).mean(1))
        return reconstruction_from_factors(rays, distance, quaternions, translations, scale=scale)


def _default_rays(images: torch.Tensor) -> torch.Tensor:
    rays = unit_rays(torch.tensor([[20.0, 0, 12], [0, 20.0, 8], [0, 0, 1]]), *images.shape[-2:])
    return rays.expand(*images.shape[:2], *rays.shape)


def test_unknown_pixels_take_the_nearest_value() -> None:
    depth = torch.zeros(1, 2, 3, 5)
    depth[0, 0, 1, 0], depth[0, 0, 1, 4] = 2.0, 7.0
    filled = filled_nearest(depth)
    assert filled[0, 0, :, 1].tolist() == [2.0] * 3
    assert filled[0, 0, :, 3].tolist() == [7.0] * 3
    assert (filled[0, 1] == 0).all()


def test_what_is_given_is_put_together_exactly_and_the_rest_is_the_mean() -> None:
    one = held_out()
    everything = scored(trivial_prediction(one.means, one.inputs("everything")), one.truth)
    assert everything["pointmaps_abs_rel"] < 1e-6
    assert everything["metric_scale_abs_rel"] < 1e-6
    # all rooms are alike here: means are the truth, but for where the cameras are
    assert one.means.per_motion == pytest.approx(one.means.meters / 1.5)
    still = scored(constant_prediction(one.means, one.inputs("images")), one.truth)
    assert still["ray_dirs_err_deg"] < 1e-3
    assert still["pose_rotation_deg"] < 1e-3
    assert still["pointmaps_abs_rel"] > 0.1
    poses = one.inputs("poses")
    larger = replace(poses, translations=3 * poses.translations)
    for inputs, size in ((poses, 1.0), (larger, 3.0)):  # as far as the motion demands
        found = trivial_prediction(one.means, inputs).depth_along_ray
        torch.testing.assert_close(found, size * one.truth.depth_along_ray, rtol=1e-5, atol=1e-5)


def test_checks_see_what_a_network_does_with_its_inputs() -> None:
    one = held_out()
    network = Obedient()
    assert checks.followed_scale(network, one, "everything")["geometric_mean"] == pytest.approx(3, rel=1e-5)
    hidden = checks.followed_scale(network, one, "depth_up_to_scale")
    assert hidden["geometric_mean"] == pytest.approx(1, rel=1e-5)
    order = checks.order_errors(network, one, "everything")
    assert max(order.values()) < 1e-5
    bare = checks.bare_view_errors(network, one)
    assert bare["everything"] < 1e-5 < bare["bare"]
    seen = checks.metrics_that_see(one)
    assert seen["opposite motion"]["pose_auc_30"] == 100 > seen["opposite motion"]["pose_true_auc_30"]
    assert seen["turned maps"]["pointmaps_inlier_thres_103"] == 1 > seen["turned maps"]["pointmaps_true_inlier_103"]


def test_a_network_that_looks_at_the_order_of_views_is_caught() -> None:
    class Partial(Obedient):
        def forward(self, inputs) -> Reconstruction:
            shift = torch.arange(inputs.images.shape[1])[None, :, None, None].float()
            return super().forward(replace(inputs, depth_along_ray=inputs.depth_along_ray + 0.1 * shift))

    assert checks.order_errors(Partial(), held_out(), "everything")["others"] > 1e-2


def test_verdicts() -> None:
    good, bad = criteria._at_most(1, "a", 0.2, 0.3), criteria._at_most(1, "a", 0.4, 0.3)
    lines = criteria.table([[good], [bad]]).splitlines()
    assert lines[-1] == "| 1 | a | 0.2 | 0.4 | at most 0.3 | **missed** |"
    assert criteria.table([[good], [good]]).endswith("| met |")


def test_points_fall_into_the_pixels_that_see_them() -> None:
    points = ScenePoints(
        points_world=torch.tensor([[0.0, 0, 2], [0.0, 0, 1], [9.0, 0, 1], [0, 0, -1]]).double().numpy(),
        track_lengths=torch.zeros(4).long().numpy(),
        rows={5: torch.arange(4).numpy()},
    )
    scene = PosedScene("a", "a", {}, {}, (), (), points=points)
    intrinsics = torch.tensor([[40.0, 0, 20.5], [0, 40.0, 16.5], [0, 0, 1]])[None]
    cameras = Cameras(torch.eye(4)[None], intrinsics, 32, 40)
    views = Views(torch.zeros(1, 3, 32, 40), cameras, torch.ones(1), torch.ones(1), torch.tensor([5]))
    depth = mapanything_real.depth_of_points(scene, views)
    assert depth[0, 16, 20] == 1
    assert (depth > 0).sum() == 1


def test_only_hidden_pixels_of_photographs_are_scored() -> None:
    one = held_out(1, 2)
    views = one.batch.views[0]
    size = (mapanything_real._HEIGHT, mapanything_real._WIDTH)
    assert size == (32, 40)
    depth = torch.full((2, *size), 2.0)
    cameras = Cameras(views.cameras.w2c, views.cameras.intrinsics, *size)
    views = replace(views, images=torch.rand(2, 3, *size), depth=depth, cameras=cameras)
    set_of_views = mapanything_real.hidden(views, 1.0, "all but a block", 0)
    assert (~set_of_views.given).sum() == 2 * 16 * 20
    scores = mapanything_real.filled_scores(Obedient(), set_of_views)
    assert scores["nearest"] < 0.2
    assert scores["network"] == 1  # gives back that nothing is known
    assert scores["known"] == 1


def test_the_whole_proof(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "proof"
    main(["--quick", "--out", str(out), "--seeds", "0", "--steps", "2", "--workers", "1"])
    printed = capsys.readouterr().out
    assert "12 rooms, no two with the same first photograph" in printed
    metrics = json.loads((out / "metrics.json").read_text())
    rows = metrics["rows"]["coordinate, 2 views"]
    assert {CONSTANT, MEAN, of_network("images"), without_network("everything")} <= rows.keys()
    assert rows[without_network("everything")]["pointmaps_abs_rel"] < 1e-5
    (verdicts,) = metrics["criteria"]
    assert {one["number"] for one in verdicts} == {1, 2, 3, 4, 5, 6, 7, 8, 10, 11}
    machinery = [one for one in verdicts if one["number"] in (6, 10)]
    assert all(one["is_met"] for one in machinery)  # nothing learned is needed for these
    assert (out / "rooms.png").stat().st_size > 0
    with pytest.raises(InputError, match="expected a room of its own"):
        require_no_leak([out / "rooms" / "free", out / "rooms" / "free"])
