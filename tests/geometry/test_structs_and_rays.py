"""Batch types, ray intervals, lookups, conversions."""

import pytest
import torch

from geometry import RayBundle, RaySamples, SceneBatch, pixel_centers, rigid_inverse, sample_at_pixels
from geometry.conversions import (
    camera_from_projection,
    cameras_from_llff,
    intrinsics_from_integer_centers,
    intrinsics_to_integer_centers,
    w2c_from_opengl_c2w,
)
from tests.scenes import random_batch, random_views, rigid_motion


def test_stack_index_and_move() -> None:
    views = random_views(3)
    stacked = type(views).stack([views, views])
    assert stacked.images.shape == (2, 3, 3, 24, 32)
    assert torch.equal(stacked[1].cameras.w2c, views.cameras.w2c)
    assert stacked[:, 0].cameras.intrinsics.shape == (2, 3, 3)
    doubled = views.to(torch.float64)
    assert doubled.cameras.w2c.dtype == torch.float64
    assert doubled.ids.dtype == torch.int64
    assert doubled.cameras.height == 24


def test_stack_joins_names_and_refuses_different_sizes() -> None:
    batch = random_batch(2)
    assert batch.names == ("scene0", "scene1")
    with pytest.raises(ValueError, match="images"):
        SceneBatch.stack([random_batch(1)[0], random_batch(1, height=20)[0]])


def test_intervals_cover_the_ray_exactly() -> None:
    t = torch.tensor([[2.1, 2.2, 3.0, 3.9]])
    samples = RaySamples.from_positions(t, torch.tensor([2.0]), torch.tensor([4.0]))
    torch.testing.assert_close(samples.deltas, torch.tensor([[0.15, 0.45, 0.85, 0.55]]))
    assert samples.deltas.sum().item() == pytest.approx(2.0)
    assert ((samples.t_starts <= t) & (t <= samples.t_ends)).all()


def test_sample_points() -> None:
    rays = RayBundle(
        torch.tensor([[1.0, 0, 0]]), torch.tensor([[0, 0, 1.0]]), torch.ones(1), torch.ones(1) * 3, torch.ones(1)
    )
    samples = RaySamples.from_positions(torch.tensor([[1.5, 2.5]]), rays.t_near, rays.t_far)
    assert rays.at(samples.t).tolist() == [[[1, 0, 1.5], [1, 0, 2.5]]]


def test_lookup_at_pixel_centers_returns_the_pixels() -> None:
    maps = torch.rand(2, 5, 6, 8)
    pixels = pixel_centers(6, 8, maps).expand(2, -1, 2)
    values = sample_at_pixels(maps, pixels, height=6, width=8)
    torch.testing.assert_close(values, maps.flatten(2).transpose(1, 2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_lookup_is_the_same_at_every_resolution(scale: int) -> None:
    """A linear ramp over the image is read exactly from maps of any resolution: no half-pixel drift."""
    rows, cols = 24 // scale, 32 // scale
    centers = pixel_centers(rows, cols, torch.zeros(())) * scale
    maps = centers.T.reshape(1, 2, rows, cols)
    pixels = 4 + torch.rand(1, 30, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([24.0, 16.0])
    torch.testing.assert_close(sample_at_pixels(maps, pixels, 24, 32), pixels, atol=1e-4, rtol=0)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_lookup_of_no_pixels(batch: tuple[int, ...]) -> None:
    assert sample_at_pixels(torch.rand(*batch, 5, 4, 6), torch.zeros(*batch, 0, 2), 4, 6).shape == (*batch, 0, 5)


def test_lookup_survives_positions_that_are_no_numbers() -> None:
    pixels = torch.tensor([[[float("nan"), 1.0], [float("inf"), 1.0], [-1e30, 2.0]]])
    assert torch.isfinite(sample_at_pixels(torch.rand(1, 3, 4, 4), pixels, 4, 4)).all()


def test_opengl_camera_looks_down_its_negative_z() -> None:
    c2w = torch.eye(4)
    c2w[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    w2c = w2c_from_opengl_c2w(c2w)
    in_front_and_above = torch.tensor([1.0, 2.5, -1.0, 1.0])
    torch.testing.assert_close(w2c @ in_front_and_above, torch.tensor([0.0, -0.5, 4.0, 1.0]))


def test_integer_center_shift_is_half_a_pixel_and_reversible() -> None:
    intrinsics = torch.tensor([[361.5, 0, 82.9], [0, 360.4, 66.4], [0, 0, 1]])
    shifted = intrinsics_from_integer_centers(intrinsics)
    assert shifted[0, 2].item() == pytest.approx(83.4)
    assert shifted[1, 2].item() == pytest.approx(66.9)
    torch.testing.assert_close(intrinsics_to_integer_centers(shifted), intrinsics)


def test_llff_rows() -> None:
    row = torch.zeros(1, 17, dtype=torch.float64)
    matrix = torch.zeros(3, 5, dtype=torch.float64)
    # columns down, right, back, center, (height, width, focal): a camera at z = 5 that looks along -z of the world
    matrix[:, 0], matrix[:, 1] = torch.tensor([0.0, -1, 0]), torch.tensor([1.0, 0, 0])
    matrix[:, 2], matrix[:, 3] = torch.tensor([0.0, 0, 1]), torch.tensor([0.0, 0, 5])
    matrix[:, 4] = torch.tensor([400.0, 600, 500])
    row[0, :15], row[0, 15:] = matrix.flatten(), torch.tensor([1.0, 9.0])
    w2c, intrinsics, bounds = cameras_from_llff(row, height=200, width=300)
    point = torch.tensor([0.5, 1.0, 1.0, 1.0], dtype=torch.float64)
    assert (w2c[0] @ point).tolist() == [0.5, -1.0, 4.0, 1.0]
    assert intrinsics[0].tolist() == [[250, 0, 150], [0, 250, 100], [0, 0, 1]]
    assert bounds.tolist() == [[1, 9]]


def test_projection_matrix_is_taken_apart() -> None:
    w2c = rigid_motion(3).double()
    intrinsics = torch.tensor([[2892.3, 0, 823.2], [0, 2883.2, 619.1], [0, 0, 1]], dtype=torch.float64)
    recovered_w2c, recovered_intrinsics = camera_from_projection(-0.37 * (intrinsics @ w2c[:3]))
    torch.testing.assert_close(recovered_w2c, w2c, atol=1e-6, rtol=0)
    torch.testing.assert_close(recovered_intrinsics, intrinsics, atol=1e-3, rtol=0)
    torch.testing.assert_close(rigid_inverse(recovered_w2c)[:3, 3], rigid_inverse(w2c)[:3, 3], atol=1e-5, rtol=0)
