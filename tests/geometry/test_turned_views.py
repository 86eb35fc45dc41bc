"""Mirrored and rolled views: cameras and images turn together."""

from dataclasses import replace

import pytest
import torch

from geometry import Views
from geometry.turned_views import mirrored, rolled
from tests.scenes import random_views


def views() -> Views:
    """Not square, no camera centered, axes of the image not quite at right angles, with all maps there are."""
    known = random_views(3)
    skewed = known.cameras.intrinsics.clone()
    skewed[:, 0, 1] = 3.0
    known = replace(known, cameras=replace(known.cameras, intrinsics=skewed, host_intrinsics=skewed))
    return replace(known, mask=known.images[:, 0] > 0.5, no_surface=known.images[:, 1] > 0.5)


def points(count: int = 7) -> torch.Tensor:
    return 0.4 * torch.randn(3, count, 3, generator=torch.Generator().manual_seed(1))


def test_a_mirrored_point_lies_mirrored_in_the_image() -> None:
    before, after = views(), mirrored(views())
    seen = before.cameras.project(points())
    mirror = after.cameras.project(points() * torch.tensor([-1.0, 1.0, 1.0]))
    expected = torch.stack([before.cameras.width - seen.pixels[..., 0], seen.pixels[..., 1]], dim=-1)
    torch.testing.assert_close(mirror.pixels, expected, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(mirror.depth, seen.depth)
    assert torch.linalg.det(after.cameras.w2c[:, :3, :3]).allclose(torch.ones(3))
    assert torch.equal(after.images[..., 5, 31], before.images[..., 5, 0])


def test_cameras_are_exact_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = [mirrored(views()), *(rolled(views(), turns) for turns in range(4))]
    for after, known in zip(found, [mirrored(views()), *(rolled(views(), turns) for turns in range(4))], strict=True):
        assert after.cameras.w2c.dtype == after.cameras.intrinsics.dtype == torch.float32
        assert torch.equal(after.cameras.w2c, known.cameras.w2c)
        assert torch.equal(after.cameras.intrinsics, known.cameras.intrinsics)
        assert after.cameras.host_intrinsics is not None
        assert torch.equal(after.cameras.host_intrinsics, known.cameras.intrinsics)


@pytest.mark.parametrize("turns", [1, 2, 3, 5])
def test_a_point_of_the_same_world_lies_where_the_image_has_turned_to(turns: int) -> None:
    before, after = views(), rolled(views(), turns)
    seen = before.cameras.project(points())
    x, y = seen.pixels.unbind(-1)
    sizes = (before.cameras.height, before.cameras.width)
    for turn in range(turns % 4):
        x, y = sizes[turn % 2] - y, x
    found = after.cameras.project(points())
    torch.testing.assert_close(found.pixels, torch.stack([x, y], dim=-1), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(found.depth, seen.depth)
    torch.testing.assert_close(after.cameras.centers, before.cameras.centers)
    assert after.images.shape[-2:] == (after.cameras.height, after.cameras.width)


def test_a_quarter_turn_takes_every_map_along() -> None:
    before, after = views(), rolled(views(), 1)
    height = before.cameras.height
    for name in ("images", "depth", "mask", "no_surface"):  # pixel (x, y) -> (height - 1 - y, x) in whole numbers
        assert torch.equal(getattr(after, name)[..., 4, height - 1 - 7], getattr(before, name)[..., 7, 4]), name


def test_twice_mirrored_and_rolled_all_around_is_as_before() -> None:
    before = views()
    for after in (mirrored(mirrored(before)), rolled(rolled(before, 1), 3), rolled(before, 4), rolled(before, -4)):
        torch.testing.assert_close(after.cameras.w2c, before.cameras.w2c)
        torch.testing.assert_close(after.cameras.intrinsics, before.cameras.intrinsics)
        for name in ("images", "depth", "mask", "no_surface"):
            assert torch.equal(getattr(after, name), getattr(before, name))
