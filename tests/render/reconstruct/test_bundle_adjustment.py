"""The measure of cameras against matches in closed form, and which images hang together."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data.colmap_library import pycolmap
from geometry import Cameras
from render.reconstruct.bundle_adjustment import Bundle, MatchedImages, MatchedPair
from render.reconstruct.matching import MatchingOptions, matched_database
from tests.render.reconstruct.photo_sets import Lens, ring, take_photos

ROWS = np.arange(20)


@pytest.fixture(scope="module")
def matched(tmp_path_factory: pytest.TempPathFactory) -> MatchedImages:
    """Three photographs, whose features and matches are replaced by exact ones."""
    folder = tmp_path_factory.mktemp("matched")
    photos = take_photos(folder / "images", ring(3))
    database = matched_database(photos, folder, MatchingOptions(), seed=0, num_threads=1)
    return MatchedImages.read(database, [photo.name for photo in photos.photos])


def side_by_side() -> Cameras:
    w2c = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    w2c[:, 0, 3] = -torch.arange(3.0)
    return Lens().cameras(w2c)


def with_features(images: MatchedImages, shift: float) -> MatchedImages:
    """Features in the same rows of the images of cameras side by side; those of the last are `shift` rows below."""
    first = np.stack([5.0 * ROWS + 20, 3.0 * ROWS + 20], axis=-1)
    features = tuple(first + np.array([-10.0 * view, shift * (view == 2)]) for view in range(3))
    pairs = (MatchedPair(0, 1, np.stack([ROWS, ROWS], -1)), MatchedPair(1, 2, np.stack([ROWS, ROWS], -1)))
    return replace(images, keypoints=features, pairs=pairs)


def test_pairs_of_a_database_are_read(matched: MatchedImages) -> None:
    assert {(pair.first, pair.second) for pair in matched.pairs} <= {(0, 1), (0, 2), (1, 2), (1, 0), (2, 0), (2, 1)}
    assert matched.num_matches > 100
    truth = Bundle(matched, Lens().cameras(ring(3)), seed=0, num_threads=1)
    assert truth.epipolar_px < 0.3


@pytest.mark.parametrize("shift", [0.0, 4.0])
def test_epipolar_error_of_rows_that_correspond(matched: MatchedImages, shift: float) -> None:
    """Half of the matches are `shift` rows off: shift / sqrt(2), and the median is the lower of the middle two."""
    images = with_features(matched, shift)
    bundle = Bundle(images, side_by_side(), seed=0, num_threads=1)
    assert bundle.epipolar_px == pytest.approx(0.0, abs=1e-9)
    bundle.images = replace(images, pairs=images.pairs[1:])
    assert bundle.epipolar_px == pytest.approx(shift / 2**0.5, abs=1e-9)


def test_parts_share_points(matched: MatchedImages) -> None:
    bundle = Bundle(with_features(matched, 0.0), side_by_side(), seed=0, num_threads=1)
    assert bundle.parts() == []
    for row in ROWS:
        track = pycolmap.Track()
        for view in (0, 2):
            track.add_element(matched.image_ids[view], int(row))
        bundle.model.add_point3D(np.array([0.0, 0.0, 5.0]), track, np.zeros(3, np.uint8))
    assert bundle.placed == [0, 2]
    assert bundle.parts() == [[0, 2]]
