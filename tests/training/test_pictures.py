"""Depth in color."""

import torch

from training.pictures import colored_depth


def test_colors_of_depth_are_spread_over_its_inverse_where_far_is_many_times_near() -> None:
    """From 1 to 100 the middle color is that of z = 1 / ((1 + 1 / 100) / 2) = 1.98; from 1 to 3 that of z = 2."""
    middle = colored_depth(torch.tensor([[2.0]]), 1.0, 3.0)
    wide = colored_depth(torch.tensor([[1.0, 2 / 1.01, 100.0, 0.0]]), 1.0, 100.0)
    narrow = colored_depth(torch.tensor([[1.0, 3.0]]), 1.0, 3.0)
    torch.testing.assert_close(wide[0, 1], middle[0, 0], atol=0.02, rtol=0)
    torch.testing.assert_close(wide[0, [0, 2]], narrow[0])
    assert not wide[0, 3].any()
