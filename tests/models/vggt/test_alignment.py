"""The scale of predicted depth under given cameras: closed forms, one wrong view, and what cannot be known."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from geometry import Cameras, pixel_centers, rigid_inverse
from models.vggt.alignment import DepthAlignment, align_depth, inverse_depth_maps, weighted_quantile
from tests.scenes import rigid_motion, ring_cameras, slanted_plane_depth

HEIGHT, WIDTH = 24, 32
UNIT = 0.037


def sphere_depth(cameras: Cameras, radius: float = 1.2) -> Tensor:
    """Camera z of a sphere about the origin, 0 beside it."""
    pixels = pixel_centers(cameras.height, cameras.width, cameras.w2c).expand(len(cameras.w2c), -1, 2)
    ones = torch.ones(pixels.shape[:2])
    rays = cameras.rays(pixels, ones[:, 0], ones[:, 0])
    along = -(rays.origins * rays.directions).sum(-1)
    inside = radius**2 - (rays.origins.square().sum(-1) - along.square())
    t = torch.where(inside > 0, along - inside.clamp_min(0).sqrt(), torch.zeros(()))
    return (t * rays.cos_optical).unflatten(-1, (cameras.height, cameras.width))


def predicted(cameras: Cameras, unit: float = UNIT) -> Tensor:
    """The same cameras in another world frame and unit, as VGGT would predict them."""
    w2c = cameras.w2c @ rigid_inverse(rigid_motion(3))
    w2c[..., :3, 3] *= unit
    return w2c[None]


def align(cameras: Cameras, depth: Tensor, w2c: Tensor) -> DepthAlignment:
    return align_depth(depth[None], (depth > 0).float()[None], w2c, cameras[None])


@pytest.mark.parametrize("views", [2, 3, 7, 16])
def test_exact_under_a_similarity(views: int) -> None:
    cameras = ring_cameras(views, HEIGHT, WIDTH)
    found = align(cameras, slanted_plane_depth(cameras) * UNIT, predicted(cameras))
    assert found.scale.item() == pytest.approx(1 / UNIT, rel=1e-3)
    assert found.residual.item() < 1e-3


def test_cameras_alone_decide_where_depth_says_nothing() -> None:
    """A plane before cameras that move parallel to it agrees with itself at every scale."""
    cameras = ring_cameras(3, HEIGHT, WIDTH)
    w2c = torch.eye(4).repeat(3, 1, 1)
    w2c[:, 0, 3] = torch.tensor([-0.3, 0.1, 0.4])
    cameras = replace(cameras, w2c=w2c)
    found = align(cameras, torch.full((3, HEIGHT, WIDTH), 2.0) * UNIT, predicted(cameras))
    assert found.scale.item() == pytest.approx(1 / UNIT, rel=1e-3)


def test_depth_alone_decides_where_predicted_cameras_are_wrong() -> None:
    cameras = ring_cameras(4, HEIGHT, WIDTH)
    nonsense = torch.eye(4).repeat(1, 4, 1, 1)
    nonsense[..., :3, 3] = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0))
    found = align(cameras, sphere_depth(cameras) * UNIT, nonsense)
    assert found.scale.item() == pytest.approx(1 / UNIT, rel=0.03)


def test_one_wrong_view_changes_little() -> None:
    cameras = ring_cameras(5, HEIGHT, WIDTH)
    depth, w2c = sphere_depth(cameras) * UNIT, predicted(cameras)
    depth[1] *= 3
    w2c[0, 1, :3, 3] += 4 * UNIT
    found = align(cameras, depth, w2c)
    assert found.scale.item() == pytest.approx(1 / UNIT, rel=0.02)


def test_residual_is_the_relative_error_of_depth() -> None:
    cameras = ring_cameras(3, HEIGHT, WIDTH)
    noise = torch.randn(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    depth = sphere_depth(cameras) * UNIT * (1 + 0.05 * noise)
    found = align(cameras, depth, predicted(cameras))
    assert found.scale.item() == pytest.approx(1 / UNIT, rel=0.03)
    assert 0.02 < found.residual.item() < 0.08


def test_identical_centers_are_named() -> None:
    """Without a baseline no scale can be known; the other group of the batch is not affected."""
    cameras = ring_cameras(3, HEIGHT, WIDTH)
    depth = sphere_depth(cameras)
    still = replace(cameras, w2c=cameras.w2c[:1].expand(3, 4, 4))
    both = Cameras.stack([still, cameras])
    found = align_depth(
        torch.stack([depth, depth]) * UNIT,
        (torch.stack([depth, depth]) > 0).float(),
        predicted(cameras).expand(2, -1, -1, -1),
        both,
    )
    assert found.scale[0] == 1
    assert torch.isinf(found.residual[0])
    assert found.scale[1].item() == pytest.approx(1 / UNIT, rel=0.03)
    single = align(cameras[:1], depth[:1], predicted(cameras)[:, :1])
    assert torch.isinf(single.residual).all()


def test_views_without_known_depth_are_named() -> None:
    cameras = ring_cameras(3, HEIGHT, WIDTH)
    assert torch.isinf(align(cameras, torch.zeros(3, HEIGHT, WIDTH), predicted(cameras)).residual).all()


def test_order_and_units_do_not_matter() -> None:
    cameras, order = ring_cameras(4, HEIGHT, WIDTH), [2, 0, 3, 1]
    noise = torch.randn(4, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    depth, w2c = sphere_depth(cameras) * UNIT * (1 + 0.02 * noise), predicted(cameras)
    first = align(cameras, depth, w2c)
    shuffled = align(cameras[order], depth[order], w2c[:, order])
    torch.testing.assert_close(shuffled.scale, first.scale, rtol=1e-3, atol=0)
    in_millimeters = align(cameras.scaled(1000.0), depth, w2c)
    torch.testing.assert_close(in_millimeters.scale, 1000 * first.scale, rtol=1e-3, atol=0)
    torch.testing.assert_close(in_millimeters.residual, first.residual, rtol=1e-2, atol=1e-4)


def test_inverse_depth_between_two_pixels_by_hand() -> None:
    depth, weight = torch.tensor([[[[1.0, 3.0, 0.0]]]]), torch.tensor([[[[1.0, 1.0, 0.0]]]])
    weighted_inverse, certainty = inverse_depth_maps(depth, weight)[0, 0, :, 0]
    assert (certainty[:2].mean() / weighted_inverse[:2].mean()).item() == pytest.approx(1.5)
    assert (certainty[2], weighted_inverse[2]) == (0, 0)


def test_weighted_quantile_by_hand() -> None:
    values = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [1.0, 1.0, 1.0]])
    weights = torch.tensor([[1.0, 1.0, 1.0], [5.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    quantile = weighted_quantile(values, weights, 0.5)
    assert quantile[:2].tolist() == [2, 3]
    assert torch.isnan(quantile[2])
