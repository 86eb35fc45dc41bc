"""Depth that is brought to known points: constants, ramps, what is far from all points."""

import torch
from torch import Tensor

from geometry import pixel_centers
from models.vggt.depth_correction import PointDepths, corrected_depth

HEIGHT, WIDTH = 32, 40


def points(factor: Tensor, step: int = 3) -> PointDepths:
    """Every third pixel is known to be `factor` times 2."""
    pixels = pixel_centers(HEIGHT, WIDTH, factor).unflatten(0, (HEIGHT, WIDTH))[::step, ::step].flatten(0, 1)
    known = 2 * factor[::step, ::step].flatten()
    return PointDepths(pixels[None], known[None], torch.ones(1, len(known)))


def test_a_factor_is_found_whatever_the_weights() -> None:
    known = points(torch.full((HEIGHT, WIDTH), 1.5))
    known = PointDepths(known.pixels, known.depth, torch.rand(known.weight.shape, generator=torch.Generator()))
    torch.testing.assert_close(
        corrected_depth(torch.full((1, HEIGHT, WIDTH), 2.0), known), torch.full((1, HEIGHT, WIDTH), 3.0)
    )


def test_a_ramp_is_followed_and_outliers_are_bounded() -> None:
    ramp = torch.linspace(0.8, 1.25, WIDTH).expand(HEIGHT, WIDTH)
    known = points(ramp)
    wild = known.depth.clone()
    wild[0, 40] *= 1e6
    depth = torch.full((1, HEIGHT, WIDTH), 2.0)
    found = corrected_depth(depth, PointDepths(known.pixels, wild, known.weight))
    assert (found[0] / (2 * ramp)).log().abs().mean() < 0.05
    assert (found[0] / (2 * ramp)).log().abs().max() < 0.25


def test_far_from_points_the_median_holds_and_few_points_change_nothing() -> None:
    known = points(torch.full((HEIGHT, WIDTH), 1.5))
    left = known.pixels[..., 0] < 8
    depth = torch.full((1, HEIGHT, WIDTH), 2.0)
    found = corrected_depth(depth, PointDepths(known.pixels, known.depth, known.weight * left))
    torch.testing.assert_close(found, torch.full_like(found, 3.0))
    few = known.weight * (torch.arange(known.weight.shape[1]) < 9)
    assert torch.equal(corrected_depth(depth, PointDepths(known.pixels, known.depth, few)), depth)
