"""Which way is up, and that the frame of a model does not matter."""

import math

import numpy as np
import pytest
import torch

from data.colmap_library import pycolmap
from data.colmap_model import image_w2c, model_points, posed_images
from geometry import rigid_inverse
from render.reconstruct.orientation import orient, up_direction, upright
from tests.render.reconstruct.conftest import Solved
from tests.render.reconstruct.photo_sets import look_at, ring

RNG = np.random.default_rng(7)


def rotations(w2c: torch.Tensor) -> np.ndarray:
    """Camera to world."""
    return rigid_inverse(w2c)[:, :3, :3].numpy()


def random_rotation() -> pycolmap.Rotation3d:
    """Of any angle."""
    rotation = pycolmap.Rotation3d(RNG.normal(size=4))
    rotation.normalize()
    return rotation


def rolled(c2w: np.ndarray, degrees: float) -> np.ndarray:
    """Cameras turned about their axis."""
    angle = math.radians(degrees)
    turn = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    return c2w @ turn


@pytest.mark.parametrize("degrees", [5.0, 40.0])
def test_level_cameras_say_up(degrees: float):
    """The world of the ring has z up, whether the cameras stand close together or all around."""
    np.testing.assert_allclose(up_direction(rotations(ring(9, degrees=degrees))), [0, 0, 1], atol=0.02)


def test_a_few_photographs_on_their_side_do_not_matter():
    """Two of nine were taken upright without a note in EXIF."""
    c2w = rotations(ring(9, degrees=40.0))
    c2w[[2, 5]] = rolled(c2w[[2, 5]], 90)
    np.testing.assert_allclose(up_direction(c2w), [0, 0, 1], atol=0.02)


def test_a_third_of_the_photographs_of_a_front_on_their_side_do_not_matter():
    """All rows are then perpendicular to the direction of view too, which is not up."""
    c2w = rotations(ring(12, degrees=2.0, elevation=15.0))
    c2w[::3] = rolled(c2w[::3], 90)
    np.testing.assert_allclose(up_direction(c2w), [0, 0, 1], atol=0.15)


@pytest.mark.parametrize("degrees", [90, -90])
@pytest.mark.parametrize(("step", "elevation"), [(40.0, 30.0), (40.0, 12.0), (12.0, 30.0)])
def test_an_orbit_of_photographs_that_are_all_on_their_side_is_upright(degrees: int, step: float, elevation: float):
    """As all of a camera whose orientation is not in EXIF; they look down on what they show."""
    c2w = rolled(rotations(ring(9, degrees=step, elevation=elevation)), degrees)
    np.testing.assert_allclose(up_direction(c2w), [0, 0, 1], atol=0.02)


def test_cameras_that_look_straight_down_say_up_by_their_axes():
    """Headings all around: the mean up of the images is zero."""
    centers = torch.zeros(6, 3, dtype=torch.float64)
    angle = torch.arange(6, dtype=torch.float64) * math.pi / 3
    c2w = rotations(
        look_at(centers, torch.stack([angle.cos() * 1e-3, angle.sin() * 1e-3, -torch.ones(6)], dim=-1).double())
    )
    np.testing.assert_allclose(up_direction(c2w), [0, 0, 1], atol=0.01)


def test_up_turns_with_the_world():
    """Any rotation, and hand-held tilts."""
    tilts = RNG.normal(0, 4, 12)
    c2w = np.concatenate([rolled(one[None], tilt) for one, tilt in zip(rotations(ring(12)), tilts, strict=True)])
    turn = random_rotation().matrix()
    np.testing.assert_allclose(up_direction(turn @ c2w), turn @ up_direction(c2w), atol=1e-9)
    assert up_direction(c2w)[2] > math.cos(math.radians(5))


def test_an_oriented_model_is_upright_centered_and_of_unit_distance(solved: Solved):
    """The first camera looks along +y, nobody leans, and the median distance to what is seen is 1."""
    model = pycolmap.Reconstruction(solved.solution.model)
    orient(model)
    c2w = rigid_inverse(torch.stack([image_w2c(image) for image in posed_images(model)])).numpy()
    assert np.abs(c2w[:, 2, 0]).max() < 0.02  # rows are horizontal
    assert (c2w[:, 2, 1] < -0.7).all()  # the images' down shows downward
    assert abs(c2w[0, 0, 2]) < 1e-9
    assert c2w[0, 1, 2] > 0
    np.testing.assert_allclose(np.median(model_points(model).points_world, axis=0), 0, atol=1e-9)
    distances = [
        np.linalg.norm(point.xyz - model.images[element.image_id].projection_center())
        for point in model.points3D.values()
        for element in point.track.elements
    ]
    assert np.median(distances) == pytest.approx(1, abs=1e-9)


def test_the_frame_and_unit_of_the_model_do_not_matter(solved: Solved):
    """Orienting a moved, turned and scaled copy gives the same world."""
    one, other = pycolmap.Reconstruction(solved.solution.model), pycolmap.Reconstruction(solved.solution.model)
    other.transform(pycolmap.Sim3d(13.0, random_rotation(), np.array([3.0, -50, 8])))
    orient(one)
    orient(other)
    for first, second in zip(posed_images(one), posed_images(other), strict=True):
        np.testing.assert_allclose(first.cam_from_world().matrix(), second.cam_from_world().matrix(), atol=1e-7)
    np.testing.assert_allclose(model_points(one).points_world, model_points(other).points_world, atol=1e-6)


def test_cameras_without_points_are_scaled_by_their_spread(solved: Solved):
    """The farthest is 1 away from their mean."""
    model = pycolmap.Reconstruction(solved.solution.model)
    for point in list(model.points3D):
        model.delete_point3D(point)
    model.transform(upright(model))
    centers = np.stack([image.projection_center() for image in posed_images(model)])
    assert np.linalg.norm(centers - centers.mean(0), axis=-1).max() == pytest.approx(1)
