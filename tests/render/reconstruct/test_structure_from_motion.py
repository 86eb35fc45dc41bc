"""Cameras from photographs alone, against the true ones."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.colmap_library import pycolmap
from data.colmap_model import image_w2c, posed_images
from geometry import InputError, rigid_inverse
from geometry.pose_metrics import best_similarity, relative_pose_errors
from render.reconstruct import structure_from_motion
from render.reconstruct.matching import MatchingOptions, matched_database
from render.reconstruct.structure_from_motion import solve
from tests.render.reconstruct.conftest import K1, Solved
from tests.render.reconstruct.photo_sets import FOCAL, Lens, joined, pan, ring, take_photos


def found_w2c(model: pycolmap.Reconstruction) -> torch.Tensor:
    """Of the registered images, by name."""
    return torch.stack([image_w2c(image) for image in posed_images(model)])


def assert_equal_up_to_similarity(found: torch.Tensor, true: torch.Tensor):
    """Within half a degree, and a percent of the radius 4.5 of the ring."""
    assert relative_pose_errors(found, true).rotation.max() < 0.5
    centers, true_centers = rigid_inverse(found)[:, :3, 3], rigid_inverse(true)[:, :3, 3]
    assert (best_similarity(centers, true_centers)(centers) - true_centers).norm(dim=-1).max() < 0.045


def test_cameras_are_the_true_ones_up_to_a_similarity(solved: Solved):
    """Upright and sideways photographs are all placed."""
    assert solved.solution.unregistered == ()
    assert_equal_up_to_similarity(found_w2c(solved.solution.model), solved.w2c)


def test_the_distorting_lens_is_found(solved: Solved):
    """One camera for each size; focal length within 2 percent, k1 within 0.03."""
    cameras = sorted(solved.solution.model.cameras.values(), key=lambda camera: camera.width)
    assert [(camera.width, camera.height) for camera in cameras] == [(180, 240), (240, 180)]
    for camera in cameras:
        focal, _, _, k1 = camera.params
        assert focal == pytest.approx(FOCAL, rel=0.02)
        assert k1 == pytest.approx(K1, abs=0.03)


def test_the_reprojection_error_is_small_and_nothing_is_warned_of(solved: Solved):
    """Noise of rendered images."""
    assert solved.solution.poses == "colmap"
    assert 0 < (solved.solution.reprojection_px or 0) < 0.3
    assert solved.solution.warnings == ()


def test_a_second_call_finds_the_matches_again_and_gives_the_same_cameras(
    solved: Solved, monkeypatch: pytest.MonkeyPatch
):
    """Bit for bit, although nothing is matched."""

    def extract_features(*_args: object) -> None:
        raise AssertionError("features are extracted again")

    monkeypatch.setattr(pycolmap, "extract_features", extract_features)
    again = solve(solved.photos, solved.work, num_threads=1)
    assert torch.equal(found_w2c(again.model), found_w2c(solved.solution.model))
    assert len(list(solved.work.glob("*.db"))) == 1


def test_other_photographs_or_seeds_do_not_find_the_matches_of_the_first(solved: Solved, tmp_path: Path):
    """The same folder may serve another set of photographs."""
    few, ours = MatchingOptions(max_features=50), replace(solved.photos, photos=solved.photos.photos[:2])
    other = take_photos(tmp_path / "images", solved.w2c[:2], solved.lenses[:2], world=1)
    for photos, seed in ((ours, 0), (other, 0), (ours, 1), (ours, 0)):
        matched_database(photos, tmp_path / "work", few, seed=seed, num_threads=1)
    assert len(list((tmp_path / "work").glob("*.db"))) == 3


def test_features_of_several_threads_are_numbered_as_the_photographs_are(tmp_path: Path):
    """Whichever is found first: the mapper begins at the same pair."""
    photos = take_photos(tmp_path / "images", ring(6), Lens(height=60, width=80, focal=70.0))
    database = matched_database(photos, tmp_path / "work", MatchingOptions(), seed=0, num_threads=2)
    with pycolmap.Database.open(database) as opened:
        names = {image.image_id: image.name for image in opened.read_all_images()}
    assert names == {number + 1: photo.name for number, photo in enumerate(photos.photos)}


def test_a_focal_length_from_exif_is_taken(tmp_path: Path):
    """As a prior: it is refined."""
    photos = take_photos(tmp_path / "images", ring(4), Lens(focal=300.0), knows_focal=True)
    model = solve(photos, tmp_path / "work", num_threads=1).model
    (camera,) = model.cameras.values()
    assert camera.has_prior_focal_length
    assert camera.params[0] == pytest.approx(300, rel=0.02)


def test_of_two_scenes_the_larger_is_kept_and_the_other_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """They have nothing in common, so that further attempts would find nothing else."""
    monkeypatch.setattr(structure_from_motion, "ATTEMPTS", structure_from_motion.ATTEMPTS[:1])
    folder = tmp_path / "images"
    ours, other = take_photos(folder, ring(4)), take_photos(folder, ring(3), world=1, prefix="other")
    solution = solve(joined(ours, other), tmp_path / "work", num_threads=1)
    assert [image.name for image in posed_images(solution.model)] == [photo.name for photo in ours.photos]
    assert solution.unregistered == tuple(photo.name for photo in other.photos)
    assert "3 of 7 photographs have no camera" in solution.warnings[0]
    assert any("3 photographs form a scene of their own" in warning for warning in solution.warnings)


def test_a_camera_that_only_turned_is_refused(tmp_path: Path):
    """COLMAP itself returns a model of such photographs, with wild depths."""
    photos = take_photos(tmp_path / "images", pan(6), Lens(k1=-0.1))
    with pytest.raises(InputError, match=r"6 photographs: \d+ of 15 pairs .* taken from one point"):
        solve(photos, tmp_path / "work", num_threads=1)


def test_photographs_without_overlap_are_refused_with_what_to_do(tmp_path: Path):
    """Four sides of the world."""
    photos = take_photos(tmp_path / "images", ring(4, degrees=90.0))
    with pytest.raises(InputError, match=r"4 photographs: only \d of 6 pairs .* overlapping the next by two thirds"):
        solve(photos, tmp_path / "work", num_threads=1)


def test_photographs_without_texture_are_refused(tmp_path: Path):
    """Seen from far above the world, there is the sky alone."""
    w2c = ring(3)
    w2c[:, 2, 3] += 500
    photos = take_photos(tmp_path / "images", w2c)
    with pytest.raises(InputError, match=r"they show \d+ features in the median, expected at least 150"):
        solve(photos, tmp_path / "work", num_threads=1)


def test_two_photographs_are_refused(tmp_path: Path):
    """Before anything is computed."""
    photos = take_photos(tmp_path / "images", ring(2))
    with pytest.raises(InputError, match="at least 3 photographs, got 2"):
        solve(photos, tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_an_interrupted_run_leaves_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The next one starts anew."""
    photos = take_photos(tmp_path / "images", ring(3))

    def match_image_pairs(*_args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pycolmap, "match_image_pairs", match_image_pairs)
        with pytest.raises(KeyboardInterrupt):
            solve(photos, tmp_path / "work", num_threads=1)
    assert [path for path in (tmp_path / "work").iterdir() if path.suffix == ".db"] == []
    assert len(posed_images(solve(photos, tmp_path / "work", num_threads=1).model)) == 3
