"""Numbers that tell why photographs do not connect."""

import math

import numpy as np
import pytest

from data.colmap_library import pycolmap
from render.reconstruct.overlap import Overlap, largest_group, turning_residual, why_nothing_registered

HEIGHT, WIDTH, FOCAL = 180, 240, 220.0
LENS = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])


def turned(degrees: float) -> np.ndarray:
    """Homography of a camera that turns about its y axis."""
    rotation = pycolmap.Rotation3d(np.array([0, math.radians(degrees), 0])).matrix()
    return LENS @ rotation @ np.linalg.inv(LENS)


def test_homographies_of_a_turning_camera_leave_no_residual():
    """Whatever their scale; up to the steps of focal length that are tried."""
    homographies = [factor * turned(degrees) for factor, degrees in ((1, 5), (-3, 10), (0.1, 20))]
    assert turning_residual(homographies, HEIGHT, WIDTH) < 0.02


def test_homographies_of_a_plane_leave_about_the_baseline_over_the_depth():
    """A step of 0.4 sideways before a wall at distance 1: H = K (I + t n^T / d) K^-1."""
    homography = LENS @ (np.eye(3) + np.outer([0.4, 0, 0], [0, 0, 1.0])) @ np.linalg.inv(LENS)
    # singular values of [[1, 0.4], [0, 1]] are 1.2198 and 0.8198
    assert turning_residual([homography], HEIGHT, WIDTH) > 0.9 * 0.4 * FOCAL / (5 * WIDTH)
    assert turning_residual([homography, turned(20), turned(-30)], HEIGHT, WIDTH) > 0.1


@pytest.mark.parametrize(
    ("pairs", "members"),
    [
        ([], set()),
        ([(1, 2), (2, 5), (3, 4)], {1, 2, 5}),
        ([(1, 2), (3, 4), (2, 3)], {1, 2, 3, 4}),
        ([(7, 8)] * 2, {7, 8}),
    ],
)
def test_the_largest_group_of_connected_photographs(pairs: list[tuple[int, int]], members: set[int]):
    """In any order of the pairs."""
    assert largest_group(pairs) == members
    assert largest_group(pairs[::-1]) == members


@pytest.mark.parametrize(
    ("overlap", "cause"),
    [
        (Overlap(10, 60.0, 0, 0), "they show 60 features in the median"),
        (Overlap(10, 900.0, 45, 10, 0.02), "45 of 45 pairs show the same things, but all are taken from one point"),
        (Overlap(10, 900.0, 3, 4, 0.5), "only 3 of 45 pairs show the same things and connect at most 4 photographs"),
        (Overlap(10, 900.0, 30, 10, 0.5), "30 of 45 pairs show the same things, but too few from different places"),
    ],
)
def test_each_cause_has_its_sentence(overlap: Overlap, cause: str):
    """With the numbers."""
    assert cause in why_nothing_registered(overlap)
