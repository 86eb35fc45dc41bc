"""Which photographs are matched."""

from pathlib import Path

import pytest
import torch

from data.colmap_library import pycolmap
from render.reconstruct.matching import MatchingOptions, matched_database, quiet, similar_pairs
from tests.render.reconstruct.photo_sets import ring, take_photos


def test_similar_pairs_are_those_with_the_most_mutual_matches():
    """Images 0 and 3 share nine of ten features, 1 and 2 share four, no others any."""
    features = torch.eye(128)
    descriptors = [features[:10], features[20:30], features[26:36], torch.cat([features[:9], features[50:51]])]
    assert similar_pairs(descriptors, 1) == {(0, 3), (1, 2)}
    assert similar_pairs(descriptors, 3) == {(0, 3), (1, 2)}


def test_an_image_without_features_is_similar_to_none():
    """Nor does it stop the others."""
    descriptors = [torch.eye(128)[:10], torch.zeros(0, 128), torch.eye(128)[:10]]
    assert similar_pairs(descriptors, 2) == {(0, 2)}


def test_of_many_photographs_neighbors_and_similar_ones_are_matched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The last photograph is taken where the first was: that pair closes the loop; not all 21 pairs are matched."""
    monkeypatch.setattr("render.reconstruct.matching.EXHAUSTIVE_BELOW", 3)
    monkeypatch.setattr("render.reconstruct.matching._NEIGHBORS", 1)
    monkeypatch.setattr("render.reconstruct.matching._SIMILAR", 1)
    photos = take_photos(tmp_path / "images", torch.cat([ring(6, degrees=20.0), ring(1, start=2.0)]))
    database = matched_database(photos, tmp_path / "work", MatchingOptions(), seed=0, num_threads=1)
    with pycolmap.Database.open(database) as opened:
        assert len(opened.read_two_view_geometry(1, 7).inlier_matches) > 100
        assert 6 <= opened.num_matched_image_pairs() <= 12


def test_quiet_restores_the_level_of_the_log():
    """Nothing but what ends the process is logged inside."""
    before = pycolmap.logging.minloglevel
    with quiet():
        assert pycolmap.logging.minloglevel == int(pycolmap.logging.FATAL)
    assert pycolmap.logging.minloglevel == before
