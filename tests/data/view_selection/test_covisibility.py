import numpy as np
import pytest
import torch

from data.scene import ScenePoints
from data.view_selection.covisibility import angle_score, covisible_views


def test_the_score_of_an_angle():
    np.testing.assert_allclose(angle_score(np.array([5.0, 6.0, 4.0])), [1, np.exp(-0.005), np.exp(-0.5)])


@pytest.mark.parametrize("shared", [1, 3])
def test_views_are_ordered_by_common_points_at_a_good_angle(shared):
    degrees = torch.deg2rad(torch.tensor([0.0, 5.0, 0.5, 40.0, 5.0]))
    centers = {view: 10 * torch.stack([one.sin(), one * 0, -one.cos()]) for view, one in enumerate(degrees)}
    rows = {0: np.arange(3), 1: np.arange(shared), 2: np.arange(3), 3: np.arange(1), 4: np.zeros(0, np.int64)}
    found = covisible_views(centers, ScenePoints(np.zeros((3, 3)), np.full(3, 4), rows))
    assert found[0] == (1, 3, 2) or found[0] == (1, 2, 3)
    assert found[0][0] == 1  # 5 degrees, even with one point, beats 0.5 degrees with three
    assert 4 not in found  # observes nothing
