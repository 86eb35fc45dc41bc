"""A VGGT that is right up to noise: refinement brings its cameras nearer to the truth, or leaves them and says why."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from benchmarks.camera_refinement import disturbed
from data.colmap_model import image_w2c, pose_of
from data.image_io import write_image
from geometry import InputError
from geometry.pose_metrics import relative_pose_errors
from render.reconstruct import bundle_adjustment
from render.reconstruct.bundle_adjustment import Bundle
from render.reconstruct.types import Photo, PhotoSet, Solution
from render.reconstruct.vggt_cameras import solve, solve_from
from tests.render.reconstruct.photo_sets import FOCAL, joined, ring, take_photos
from tests.render.reconstruct.predictions import prediction

NEAR, APART = 5, 2


class Shot(NamedTuple):
    """Five photographs of one side, and two of another place that share nothing with any other."""

    photos: PhotoSet
    w2c: torch.Tensor
    work: Path


@pytest.fixture(scope="module")
def shot(tmp_path_factory: pytest.TempPathFactory) -> Shot:
    folder = tmp_path_factory.mktemp("shot")
    near, apart = ring(NEAR), ring(APART, start=150, degrees=90)
    photos = joined(
        take_photos(folder / "images", near), take_photos(folder / "images", apart, world=1, prefix="other")
    )
    return Shot(photos, torch.cat([near, apart]), folder / "work")


def poses(solution: Solution, photos: PhotoSet) -> torch.Tensor:
    return torch.stack([image_w2c(solution.model.find_image_with_name(photo.name)) for photo in photos.photos])


def test_refined_cameras_are_nearer_to_the_truth_and_the_others_keep_vggts(shot: Shot) -> None:
    predicted = disturbed(shot.w2c, degrees=4, centers=0.03)
    solution = solve_from(prediction(shot.photos, predicted, 1.05 * FOCAL), shot.photos, shot.work)
    found = poses(solution, shot.photos)
    before = relative_pose_errors(predicted[:NEAR], shot.w2c[:NEAR])
    after = relative_pose_errors(found[:NEAR], shot.w2c[:NEAR])
    assert before.rotation.median() > 3
    assert after.rotation.max() < 0.3
    assert after.translation.max() < 1
    torch.testing.assert_close(found[NEAR:], predicted[NEAR:], atol=1e-6, rtol=0)
    # in VGGT's frame and unit: what is refined lies about where it was
    torch.testing.assert_close(found[:NEAR], predicted[:NEAR], atol=0.6, rtol=0)
    assert solution.poses == "vggt"
    assert solution.unregistered == ()
    assert solution.reprojection_px is not None
    assert solution.reprojection_px < 0.6
    measures = solution.measures
    assert measures["epipolar_px"] < 0.5 < 5 < measures["epipolar_predicted_px"]
    assert measures["refined"] == NEAR
    assert 1 < measures["alignment_degrees"] < 6
    assert 0.5 < measures["observations_kept"] <= 1
    assert measures["focal_spread"] == 0
    assert measures["confidence"] == 2
    said = [warning for warning in solution.warnings if "too few matches" in warning]
    assert len(said) == 1
    assert "2 of 7 photographs" in said[0]
    assert "other_000.png; other_001.png" in said[0]


def test_every_photograph_sees_points(shot: Shot) -> None:
    """Triangulated ones, or such of VGGT's depth: near and far come from them."""
    solution = solve_from(prediction(shot.photos, shot.w2c, FOCAL), shot.photos, shot.work)
    for photo in shot.photos.photos:
        assert solution.model.find_image_with_name(photo.name).num_points3D >= 15
    other = solution.model.find_image_with_name("other_000.png")
    seen = [point for point in other.points2D if point.has_point3D()]
    for point in seen[:: len(seen) // 10]:
        world = solution.model.points3D[point.point3D_id].xyz
        depth = (other.cam_from_world() * world)[2]
        assert depth == pytest.approx(4.0, abs=1e-4)
        np.testing.assert_allclose(other.project_point(world), point.xy, atol=1e-3)
    assert solution.measures["points"] == solution.model.num_points3D()


def test_without_refinement_the_cameras_are_vggts_and_their_reprojection_is_said(shot: Shot) -> None:
    predicted = disturbed(shot.w2c, degrees=1, centers=0.006)
    solution = solve_from(prediction(shot.photos, predicted, FOCAL), shot.photos, shot.work, refine=False)
    torch.testing.assert_close(poses(solution, shot.photos), predicted, atol=1e-6, rtol=0)
    assert solution.reprojection_px is not None
    assert solution.reprojection_px > 0.6
    assert solution.measures["epipolar_px"] == solution.measures["epipolar_predicted_px"] > 1
    assert "refined" not in solution.measures


def test_refinement_that_makes_it_worse_is_given_up(shot: Shot, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(bundle: Bundle, *, refine_distortion: bool) -> None:
        for image, pose in zip(bundle.images.image_ids, disturbed(shot.w2c, degrees=2, centers=0.02), strict=True):
            bundle.model.images[image].frame.rig_from_world = pose_of(pose)

    monkeypatch.setattr(Bundle, "_solve", spoil)
    monkeypatch.setattr(bundle_adjustment, "ROUNDS", (64.0,))
    solution = solve_from(prediction(shot.photos, shot.w2c, FOCAL), shot.photos, shot.work)
    torch.testing.assert_close(poses(solution, shot.photos), shot.w2c, atol=1e-6, rtol=0)
    assert any("bundle adjustment was given up" in warning for warning in solution.warnings)
    assert "refined" not in solution.measures


@pytest.fixture(scope="module")
def one_place(tmp_path_factory: pytest.TempPathFactory) -> Shot:
    """The same photograph three times."""
    folder = tmp_path_factory.mktemp("one_place")
    w2c = ring(1).expand(3, 4, 4)
    return Shot(take_photos(folder / "images", w2c), w2c, folder / "work")


@pytest.mark.parametrize("degrees", [0.0, 12.0, 180.0])
def test_images_that_are_all_the_same_keep_vggts_cameras(one_place: Shot, degrees: float) -> None:
    """Nothing is to be triangulated, whatever cameras are said."""
    predicted = ring(3, degrees=degrees)
    solution = solve_from(prediction(one_place.photos, predicted, FOCAL), one_place.photos, one_place.work)
    torch.testing.assert_close(poses(solution, one_place.photos), predicted, atol=1e-6, rtol=0)
    assert solution.measures["matches"] > 100
    assert any("VGGT's own" in warning for warning in solution.warnings)


@pytest.mark.parametrize("degrees", [0.0, 170.0])
def test_cameras_that_have_nothing_to_do_with_the_matches_do_no_harm(shot: Shot, degrees: float) -> None:
    """All at one place, or turned away: kept or adjusted, with finite numbers, and never fitting worse."""
    predicted = disturbed(shot.w2c[:1].expand(len(shot.w2c), 4, 4), degrees=degrees, centers=0.0)
    solution = solve_from(prediction(shot.photos, predicted, FOCAL), shot.photos, shot.work)
    assert poses(solution, shot.photos).isfinite().all()
    assert solution.model.num_reg_images() == len(shot.w2c)
    assert solution.measures["epipolar_px"] <= solution.measures["epipolar_predicted_px"]


def test_without_matches_all_is_vggts(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name, np.full((40, 60, 3), 90, dtype=np.uint8))
    photos = PhotoSet(tmp_path, tuple(Photo(name, name, 40, 60) for name in ("a.png", "b.png")), is_video=False)
    predicted = ring(2)
    said = prediction(photos, predicted, 50.0)
    solution = solve_from(said, photos, tmp_path / "work")
    torch.testing.assert_close(poses(solution, photos), predicted, atol=1e-6, rtol=0)
    assert solution.reprojection_px is None
    assert solution.measures["matches"] == 0
    assert any("no two of the 2 photographs have matches" in warning for warning in solution.warnings)
    assert solution.model.num_points3D() > 100


def test_focal_lengths_of_one_lens_are_shared_and_their_spread_is_said(shot: Shot) -> None:
    truth = prediction(shot.photos, shot.w2c, FOCAL)
    for index, view in enumerate(truth.views):
        view.camera.intrinsics[:2, :2] *= 0.7 + 0.1 * index
    solution = solve_from(truth, shot.photos, shot.work, refine=False)
    assert len(solution.model.cameras) == 1
    assert next(iter(solution.model.cameras.values())).mean_focal_length() == pytest.approx(FOCAL, rel=1e-4)
    assert solution.measures["focal_spread"] > 0.2
    assert any("focal lengths of one camera deviate" in warning for warning in solution.warnings)


def test_one_photograph_is_refused(shot: Shot) -> None:
    alone = PhotoSet(shot.photos.folder, shot.photos.photos[:1], is_video=False)
    with pytest.raises(InputError, match="expected at least 2 photographs, got 1"):
        solve(alone, shot.work)


def test_the_shipped_network_says_that_photographs_are_beyond_it(shot: Shot) -> None:
    few = PhotoSet(shot.photos.folder, shot.photos.photos[:3], is_video=False)
    solution = solve(few, shot.work, refine=False)
    assert any("photographs are beyond it" in warning for warning in solution.warnings)
    assert solution.model.num_reg_images() == 3
