"""Doubts about a model, each on a model that gives cause for it."""

from pathlib import Path

import numpy as np
import pytest

from data.colmap_library import pycolmap
from geometry import InputError
from render.reconstruct.model_checks import (
    check_model,
    keep_connected,
    match_agreement,
    relative_spread,
    sampson_distance,
)
from render.reconstruct.types import PhotoSet
from tests.render.reconstruct.conftest import Solved

NO_PHOTOS = PhotoSet(Path(), (), is_video=False)


@pytest.fixture
def model(solved: Solved) -> pycolmap.Reconstruction:
    """A sound one, to be spoiled."""
    return pycolmap.Reconstruction(solved.solution.model)


def test_a_sound_model_gives_no_cause_for_doubt(model: pycolmap.Reconstruction):
    """What the other tests start from."""
    assert check_model(model, NO_PHOTOS) == []


def test_the_spread_is_that_of_the_cameras_over_the_depth():
    """Centers 1 to either side of the middle, points 4 in front."""
    assert relative_spread(np.array([[-1.0, 0, 0], [1, 0, 0]]), np.array([[0.0, 0, 4]])) == pytest.approx(0.25)


def test_the_distance_to_the_epipolar_line_is_shared_by_both_images():
    """A step along x of a camera that does not turn: lines are rows, and rows that differ by 0.1 share the miss."""
    step = np.array([[1.0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]])
    first = np.array([[0.0, 0.2, 1], [0.5, 0.0, 1]])
    second = np.array([[0.4, 0.2, 1], [0.1, 0.1, 1]])
    np.testing.assert_allclose(sampson_distance(first, second, step), [0, 0.1 / 2**0.5], atol=1e-12)


def test_matches_agree_with_sound_cameras_and_not_with_one_that_nodded(solved: Solved, model: pycolmap.Reconstruction):
    """A quarter of the pairs has the second image of eight, whose camera nods by 10 degrees."""
    (database,) = solved.work.glob("*.db")
    assert match_agreement(model, database) > 0.97
    second = sorted(model.images.values(), key=lambda image: image.name)[1]
    turn = pycolmap.Rigid3d(pycolmap.Rotation3d(np.array([np.radians(10), 0, 0])), np.zeros(3))
    model.frame(second.frame_id).rig_from_world = turn * second.cam_from_world()
    assert 0.5 < match_agreement(model, database) < 0.9


def test_images_that_hardly_any_point_holds_lose_their_pose(model: pycolmap.Reconstruction):
    """Three of eight share nine points with the others."""
    names = {image.image_id: image.name for image in model.images.values()}
    apart = {number for number, name in names.items() if name >= "photo_005"}
    crossing = 0
    for number, point in list(model.points3D.items()):
        seen = {element.image_id for element in point.track.elements}
        if seen & apart and seen - apart:
            crossing += 1
            if crossing > 9:
                model.delete_point3D(number)
    keep_connected(model)
    assert crossing > 9
    assert {image.name for image in model.images.values() if image.has_pose} == {f"photo_{n:03d}.png" for n in range(5)}
    assert all(point.track.length() >= 2 for point in model.points3D.values())


def test_groups_that_hang_together_at_one_image_lose_the_smaller(model: pycolmap.Reconstruction):
    """Photograph 4 sees points with 0 to 3 and others with 5 to 7, and no point is seen from both sides of it."""
    names = {image.image_id: image.name for image in model.images.values()}
    before = {number for number, name in names.items() if name < "photo_004.png"}
    behind = {number for number, name in names.items() if name > "photo_004.png"}
    for at, (number, point) in enumerate(list(model.points3D.items())):
        left_out = (before, behind)[at % 2]
        for image, feature in [(element.image_id, element.point2D_idx) for element in point.track.elements]:
            if image in left_out and number in model.points3D:  # a point that one image sees alone is deleted
                model.delete_observation(image, feature)
    hinge = {number for number, name in names.items() if name == "photo_004.png"}
    tracks = [{element.image_id for element in point.track.elements} for point in model.points3D.values()]
    for side in (before, behind):
        assert sum(1 for seen in tracks if seen & hinge and seen & side) >= 10
    keep_connected(model)
    assert {image.name for image in model.images.values() if image.has_pose} == {f"photo_{n:03d}.png" for n in range(5)}


def test_a_sound_model_keeps_all_images(model: pycolmap.Reconstruction):
    """Its points hold them."""
    points = model.num_points3D()
    keep_connected(model)
    assert (model.num_reg_images(), model.num_points3D()) == (8, points)


def test_matches_that_contradict_the_cameras_are_warned_of(model: pycolmap.Reconstruction):
    """With their share."""
    assert any("only 76% of the matches" in warning for warning in check_model(model, NO_PHOTOS, 0.757))


def test_too_few_points_are_refused(model: pycolmap.Reconstruction):
    """29 remain."""
    for point in list(model.points3D)[29:]:
        model.delete_point3D(point)
    with pytest.raises(InputError, match="only 29 points"):
        check_model(model, NO_PHOTOS)


def test_cameras_at_one_point_are_refused(model: pycolmap.Reconstruction):
    """Everything else far away."""
    for point in model.points3D.values():
        point.xyz = point.xyz + 1e4 * point.xyz / np.linalg.norm(point.xyz)
    with pytest.raises(InputError, match="all 8 cameras stand at one point"):
        check_model(model, NO_PHOTOS)


def test_points_on_a_plane_are_warned_of(model: pycolmap.Reconstruction):
    """Flattened."""
    for point in model.points3D.values():
        point.xyz = point.xyz * [1, 1, 1e-4]
    assert any("one plane" in warning for warning in check_model(model, NO_PHOTOS))


def test_a_large_reprojection_error_is_warned_of(model: pycolmap.Reconstruction):
    """In pixels."""
    for point in model.points3D.values():
        point.error = 2.5
    assert any("2.50 pixels" in warning for warning in check_model(model, NO_PHOTOS))


@pytest.mark.parametrize(("focal", "degrees"), [(30.0, 152), (5000.0, 3)])
def test_lenses_that_do_not_exist_are_warned_of(model: pycolmap.Reconstruction, focal: float, degrees: int):
    """Field of view across 240 pixels."""
    for camera in model.cameras.values():
        camera.focal_length = focal
    warnings = check_model(model, NO_PHOTOS)
    assert len(warnings) == 2
    assert all(f"a field of view of {degrees} degrees" in warning for warning in warnings)
