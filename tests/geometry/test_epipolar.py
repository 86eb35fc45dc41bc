"""Fundamental matrix and Sampson distance against closed forms."""

import pytest
import torch

from geometry import Cameras
from geometry.epipolar import fundamental_matrix, sampson_distance


def sideways_pair() -> tuple[Cameras, Cameras]:
    """K = I and t = (1, 0, 0): rows correspond."""
    moved = torch.eye(4)
    moved[0, 3] = 1.0
    return Cameras(torch.eye(4), torch.eye(3), 24, 32), Cameras(moved, torch.eye(3), 24, 32)


def test_fundamental_matrix_of_a_sideways_step_compares_rows() -> None:
    fundamental = fundamental_matrix(*sideways_pair())
    first, second = torch.tensor([3.0, 7.0, 1.0]), torch.tensor([9.0, 2.0, 1.0])
    assert (second @ fundamental @ first).item() == pytest.approx(7.0 - 2.0)


def test_sampson_distance_of_two_rows_is_shared_by_both_points() -> None:
    fundamental = fundamental_matrix(*sideways_pair())
    distance = sampson_distance(fundamental, torch.tensor([[3.0, 7.0]]), torch.tensor([[9.0, 5.0]]))
    assert distance.item() == pytest.approx(2 / 2**0.5)
