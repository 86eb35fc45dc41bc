"""Undistorted images as large as the photograph."""

import numpy as np
import pytest

from data.colmap_library import pycolmap
from data.rectification import as_large_as_file, undistortion

HEIGHT, WIDTH, FOCAL = 90, 120, 110.0


def lens(k1: float) -> pycolmap.Camera:
    """Negative: a barrel, whose corners are drawn inward."""
    params = [FOCAL, WIDTH / 2 + 2, HEIGHT / 2, k1]
    return pycolmap.Camera(camera_id=1, model="SIMPLE_RADIAL", width=WIDTH, height=HEIGHT, params=params)


@pytest.mark.parametrize("k1", [-0.2, 0.2])
def test_the_result_has_the_size_of_the_file_square_pixels_and_none_blank(k1: float):
    """A white photograph stays white up to the borders, and the middle is where its ray leads."""
    camera = lens(k1)
    way = as_large_as_file(undistortion(camera))
    assert way.size == way.pinhole_size == way.resized_to == (HEIGHT, WIDTH)
    fx, fy, cx, cy = way.pinhole
    assert fx == pytest.approx(fy)
    image = way.image(np.full((HEIGHT, WIDTH, 3), 255, np.uint8))
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert image[1:-1, 1:-1].min() > 250
    np.testing.assert_allclose(way.pixels(np.array([[WIDTH / 2 + 2, HEIGHT / 2]])), [[cx, cy]], atol=1e-6)


def test_a_pinhole_photograph_is_left_alone():
    """Nothing to undo."""
    camera = pycolmap.Camera(camera_id=1, model="PINHOLE", width=WIDTH, height=HEIGHT, params=[FOCAL, FOCAL, 60, 45])
    assert as_large_as_file(undistortion(camera)).is_identity
