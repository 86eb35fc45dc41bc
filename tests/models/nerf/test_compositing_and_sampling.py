"""Volume rendering and sampling against closed forms."""

import math

import pytest
import torch

from geometry import RayBundle, RaySamples
from models.nerf.compositing import FieldOutput, composite, weights_from_density
from models.nerf.depth_range import FARTHER, NEARER
from models.nerf.ray_sampling import importance_positions, merged, stratified_samples, widened


def rays_of_length(length: float, count: int = 1, near: float = 2.0, cos_optical: float = 0.8) -> RayBundle:
    return RayBundle(
        origins=torch.zeros(count, 3),
        directions=torch.tensor([[0.0, 0.6, 0.8]]).expand(count, 3),
        t_near=torch.full((count,), near),
        t_far=torch.full((count,), near + length),
        cos_optical=torch.full((count,), cos_optical),
    )


@pytest.mark.parametrize("count", [4, 64, 512])
@pytest.mark.parametrize("is_jittered", [False, True])
def test_opacity_of_a_slab_does_not_depend_on_the_samples(count: int, is_jittered: bool) -> None:
    rays = rays_of_length(2.0)
    samples = stratified_samples(rays, count, torch.rand(1, count) if is_jittered else None)
    weights = weights_from_density(torch.full((1, count), 0.7), samples.deltas)
    assert weights.sum().item() == pytest.approx(1 - math.exp(-0.7 * 2.0), abs=1e-5)


def test_weights_by_hand() -> None:
    # alphas 1 - exp(-ln 2) = 1/2, 3/4, 0
    density = torch.tensor([[math.log(2), math.log(2), 0.0]])
    weights = weights_from_density(density, torch.tensor([[1.0, 2.0, 5.0]]))
    torch.testing.assert_close(weights, torch.tensor([[0.5, 0.5 * 0.75, 0.0]]))


def test_weights_gradients() -> None:
    density = torch.rand(2, 5, dtype=torch.float64, requires_grad=True)
    deltas = torch.rand(2, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda values: weights_from_density(values, deltas), density)


def test_composited_color_depth_and_background() -> None:
    rays = rays_of_length(4.0)
    samples = RaySamples.from_positions(torch.tensor([[3.0, 5.0]]), rays.t_near, rays.t_far)
    field = FieldOutput(torch.tensor([[math.log(2) / 2, 0.0]]), torch.tensor([[[1.0, 0.5, 0.0], [0.0, 0.0, 1.0]]]))
    black, white = (composite(field, samples, rays, background) for background in (0.0, 1.0))
    torch.testing.assert_close(black.rgb, torch.tensor([[0.5, 0.25, 0.0]]))
    torch.testing.assert_close(white.rgb, torch.tensor([[1.0, 0.75, 0.5]]))
    assert black.opacity.item() == pytest.approx(0.5)
    # a half-transparent surface at t = 3 is at depth 3 * 0.8, not halfway to the camera
    assert black.depth.item() == pytest.approx(2.4)


def test_an_empty_ray_has_no_depth() -> None:
    rays = rays_of_length(1.0)
    samples = stratified_samples(rays, 8)
    output = composite(FieldOutput(torch.zeros(1, 8), torch.ones(1, 8, 3)), samples, rays, 0.3)
    assert output.depth.item() == 0
    torch.testing.assert_close(output.rgb, torch.full((1, 3), 0.3))


def test_compositing_scales_with_the_unit() -> None:
    rays, scaled_rays = rays_of_length(2.0, near=1.0), rays_of_length(400.0, near=200.0)
    density, rgb = torch.rand(1, 16), torch.rand(1, 16, 3)
    one = composite(FieldOutput(density, rgb), stratified_samples(rays, 16), rays, 0.0)
    other = composite(FieldOutput(density / 200, rgb), stratified_samples(scaled_rays, 16), scaled_rays, 0.0)
    torch.testing.assert_close(other.rgb, one.rgb)
    torch.testing.assert_close(other.depth, one.depth * 200)


def test_stratified_positions_lie_one_in_each_bin() -> None:
    rays = rays_of_length(8.0, count=20)
    jitter = torch.rand(20, 16, generator=torch.Generator().manual_seed(0))
    samples = stratified_samples(rays, 16, jitter)
    bins = torch.floor((samples.t - 2.0) / 0.5)
    assert torch.equal(bins, torch.arange(16.0).expand(20, 16))
    middle = stratified_samples(rays, 16)
    torch.testing.assert_close(middle.t[0, :2], torch.tensor([2.25, 2.75]))
    torch.testing.assert_close(middle.deltas, torch.full((20, 16), 0.5))


def test_open_rays_have_most_samples_between_the_bounds_that_were_opened() -> None:
    """From 2 to 4, opened: 1 of 10 samples before 2, 6 in equal steps, 3 behind, in equal steps of the inverse."""
    rays = rays_of_length(4 * FARTHER - 2 * NEARER, near=2 * NEARER)
    t = stratified_samples(rays, 10, is_open=True).t[0]
    torch.testing.assert_close(t[1:7], torch.linspace(2, 4, 13)[1::2])
    torch.testing.assert_close(1 / t[0], (1 / rays.t_near[0] + 1 / 2) / 2)
    torch.testing.assert_close(1 / t[7:], torch.linspace(1 / 4, 1 / (4 * FARTHER), 7)[1::2])
    jittered = stratified_samples(rays, 10, torch.rand(1, 10), is_open=True).t[0]
    assert (jittered.diff() > 0).all()
    torch.testing.assert_close(
        stratified_samples(rays, 10, torch.zeros(1, 10), is_open=True).t[0, 1], torch.tensor(2.0)
    )


def test_importance_positions_follow_a_known_histogram() -> None:
    rays = rays_of_length(4.0)
    samples = stratified_samples(rays, 4)
    weights = torch.tensor([[0.0, 0.25, 0.75, 0.0]])
    t = importance_positions(samples, weights, 400)
    assert ((t >= 3) & (t <= 5)).all()
    assert (t < 4).float().mean().item() == pytest.approx(0.25, abs=0.005)
    assert (t.diff() >= 0).all()
    # uniform inside an interval: quantiles of the second one are evenly spaced over [3, 4]
    torch.testing.assert_close(t[0, :100], 3 + (torch.arange(100) + 0.5) / 100, atol=1e-4, rtol=0)


def test_importance_positions_of_uniform_weights_are_uniform() -> None:
    rays = rays_of_length(2.0, count=3)
    samples = stratified_samples(rays, 5)
    t = importance_positions(samples, torch.ones(3, 5), 10)
    torch.testing.assert_close(t[0], 2 + (torch.arange(10) + 0.5) / 5)


def test_widened_weights_reach_the_neighbors_of_a_peak() -> None:
    peak = torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0]])
    torch.testing.assert_close(widened(peak), torch.tensor([[0.01, 0.51, 1.01, 0.51, 0.01]]))


def test_merging_keeps_order_and_length() -> None:
    rays = rays_of_length(4.0)
    samples = stratified_samples(rays, 4)
    both, order = merged(samples, torch.tensor([[2.6, 5.9]]), rays)
    torch.testing.assert_close(both.t, torch.tensor([[2.5, 2.6, 3.5, 4.5, 5.5, 5.9]]))
    assert order.tolist() == [[0, 4, 1, 2, 3, 5]]
    assert both.deltas.sum().item() == pytest.approx(4.0)
