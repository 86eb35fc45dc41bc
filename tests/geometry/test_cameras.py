"""Projection, rays and camera edits against closed forms."""

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from geometry import (
    Cameras,
    InputError,
    Views,
    check_camera,
    look_at_point,
    pixel_centers,
    possible_cameras,
    rigid_inverse,
)
from tests.scenes import rigid_motion, ring_cameras


def one_camera() -> Cameras:
    intrinsics = torch.tensor([[50.0, 0, 16], [0, 40.0, 12], [0, 0, 1]])
    return Cameras(torch.eye(4), intrinsics, height=24, width=32)


def test_projection_by_hand() -> None:
    projection = one_camera().project(torch.tensor([[1.0, -0.5, 5.0], [0.0, 0.0, 2.0]]))
    # x = 50 * 1/5 + 16, y = 40 * -0.5/5 + 12
    torch.testing.assert_close(projection.pixels, torch.tensor([[26.0, 8.0], [16.0, 12.0]]))
    assert projection.depth.tolist() == [5, 2]


def test_unprojection_and_ray_by_hand() -> None:
    point = one_camera().unproject(torch.tensor([[26.0, 8.0]]), torch.tensor([5.0]))
    torch.testing.assert_close(point, torch.tensor([[1.0, -0.5, 5.0]]))
    rays = one_camera().rays(torch.tensor([[66.0, 12.0]]), torch.tensor(2.0), torch.tensor(4.0))
    root = 2**0.5
    torch.testing.assert_close(rays.directions, torch.tensor([[1 / root, 0.0, 1 / root]]))
    torch.testing.assert_close(rays.t_near, torch.tensor([2 * root]))
    torch.testing.assert_close(rays.cos_optical, torch.tensor([1 / root]))


def test_optical_axes_meet_by_hand() -> None:
    w2c = torch.eye(4).repeat(2, 1, 1)
    for view, side in enumerate((-1.0, 1.0)):
        axis = torch.tensor([-side, 0.0, 1.0]) / 2**0.5
        w2c[view, :3, :3] = torch.stack([torch.tensor([1.0, 0.0, side]) / 2**0.5, torch.tensor([0.0, 1.0, 0.0]), axis])
        w2c[view, :3, 3] = -w2c[view, :3, :3] @ torch.tensor([side, 0.0, 0.0])
    torch.testing.assert_close(look_at_point(w2c), torch.tensor([0.0, 0.0, 1.0]), atol=1e-6, rtol=0)


def test_points_behind_or_in_the_camera_plane_are_never_visible() -> None:
    points = torch.tensor([[0.0, 0.0, -2.0], [0.0, 0.0, 0.0], [0.1, 0.1, -1e-4], [0.0, 0.0, 1e-4]])
    projection = one_camera().project(points)
    assert projection.visible.tolist() == [False, False, False, True]
    assert torch.isfinite(projection.pixels).all()


def test_visibility_ends_at_the_image_border() -> None:
    camera = one_camera()
    pixels = torch.tensor([[0.01, 0.01], [31.99, 23.99], [-0.01, 5.0], [32.01, 5.0], [5.0, -0.01], [5.0, 24.01]])
    points = camera.unproject(pixels, torch.full((6,), 3.0))
    assert camera.project(points).visible.tolist() == [True, True, False, False, False, False]


def test_unproject_inverts_project() -> None:
    cameras = ring_cameras(4)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(4, 50, 2, generator=generator) * torch.tensor([32.0, 24.0])
    depth = 1 + 3 * torch.rand(4, 50, generator=generator)
    projection = cameras.project(cameras.unproject(pixels, depth))
    torch.testing.assert_close(projection.pixels, pixels, atol=1e-4, rtol=0)
    torch.testing.assert_close(projection.depth, depth)
    assert projection.visible.all()


def test_pixel_centers_start_at_one_half() -> None:
    centers = pixel_centers(2, 3, torch.zeros(()))
    assert centers.tolist() == [[0.5, 0.5], [1.5, 0.5], [2.5, 0.5], [0.5, 1.5], [1.5, 1.5], [2.5, 1.5]]


def test_rays_reach_the_unprojected_point_and_measure_depth_along_z() -> None:
    cameras = ring_cameras(3)
    pixels = pixel_centers(24, 32, cameras.w2c).expand(3, -1, 2)
    rays = cameras.rays(pixels, near=torch.full((3,), 2.0), far=torch.full((3,), 4.0))
    torch.testing.assert_close(rays.directions.norm(dim=-1), torch.ones(3, 768))
    torch.testing.assert_close(rays.t_near * rays.cos_optical, torch.full((3, 768), 2.0))
    at_far = rays.origins + rays.directions * rays.t_far[..., None]
    torch.testing.assert_close(at_far, cameras.unproject(pixels, torch.full((3, 768), 4.0)), atol=1e-5, rtol=0)


def test_geometry_keeps_full_precision_under_autocast() -> None:
    cameras = ring_cameras(2)
    pixels = pixel_centers(24, 32, cameras.w2c).expand(2, -1, 2)
    depth = torch.full((2, 768), 3.0)

    def everything() -> list[torch.Tensor]:
        points = cameras.unproject(pixels, depth)
        rays = cameras.rays(pixels, torch.ones(2), torch.full((2,), 4.0))
        return [points, cameras.project(points).pixels, rays.directions, rays.origins, cameras.centers]

    expected = everything()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reduced = everything()
    for one, other in zip(reduced, expected, strict=True):
        assert torch.equal(one, other)


def test_resizing_keeps_relative_positions() -> None:
    camera, point = one_camera(), torch.tensor([[0.3, 0.2, 4.0]])
    small = camera.resized(12, 8)
    assert (small.height, small.width) == (12, 8)
    expected = camera.project(point).pixels * torch.tensor([8 / 32, 12 / 24])
    torch.testing.assert_close(small.project(point).pixels, expected)


def test_cropping_moves_the_origin() -> None:
    camera, point = one_camera(), torch.tensor([[0.3, 0.2, 4.0]])
    window = camera.cropped(top=3, left=5, height=10, width=12)
    torch.testing.assert_close(window.project(point).pixels, camera.project(point).pixels - torch.tensor([5.0, 3.0]))


def test_rigid_inverse_and_centers() -> None:
    motion = rigid_motion()
    torch.testing.assert_close(rigid_inverse(motion) @ motion, torch.eye(4), atol=1e-6, rtol=0)
    cameras = ring_cameras(3)
    torch.testing.assert_close(cameras.centers.norm(dim=-1), torch.full((3,), 3.0))


def test_moving_world_and_cameras_together_changes_nothing() -> None:
    cameras, motion = ring_cameras(3).to(torch.float64), rigid_motion(1).double()
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = Cameras(cameras.w2c @ rigid_inverse(motion), cameras.intrinsics, cameras.height, cameras.width)
    moved_points = points @ motion[:3, :3].T + motion[:3, 3]
    before, after = cameras.project(points.expand(3, -1, 3)), moved.project(moved_points.expand(3, -1, 3))
    torch.testing.assert_close(after.pixels, before.pixels, atol=1e-3, rtol=1e-4)
    assert torch.equal(after.visible, before.visible)


def test_scaling_the_unit_scales_depth_only() -> None:
    cameras = ring_cameras(2)
    points = torch.randn(10, 3, generator=torch.Generator().manual_seed(0)).expand(2, -1, 3)
    before, after = cameras.project(points), cameras.scaled(200.0).project(points * 200)
    torch.testing.assert_close(after.pixels, before.pixels, atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(after.depth, before.depth * 200)


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda w2c, _: w2c[0].fill_(float("nan")), "finite"),
        (lambda w2c, _: w2c[:3, :3].mul_(2), "rotation"),
        (lambda w2c, _: w2c[0].mul_(-1), "rotation"),
        (lambda _, intrinsics: intrinsics[0, 0].neg_(), "focal"),
        (lambda _, intrinsics: intrinsics[2, 2].mul_(2), "last row"),
    ],
)
def test_impossible_cameras_are_refused_by_name(edit, expected: str) -> None:
    camera = one_camera()
    w2c, intrinsics = camera.w2c.clone(), camera.intrinsics.clone()
    edit(w2c, intrinsics)
    with pytest.raises(InputError, match=rf"^cam 7: .*{expected}") as caught:
        check_camera(w2c, intrinsics, "cam 7")
    assert "\n" not in str(caught.value)
    both = torch.stack([camera.w2c, w2c]), torch.stack([camera.intrinsics, intrinsics])
    assert possible_cameras(*both).tolist() == [True, False]


def test_shapes_are_checked_at_construction() -> None:
    cameras = ring_cameras(2)
    ids, bound = torch.arange(2), torch.ones(2)
    with pytest.raises(TypeCheckError):
        Views(torch.rand(2, 24, 32, 3), cameras, bound, bound, ids)
    with pytest.raises(TypeCheckError):
        Views(torch.rand(2, 3, 24, 32), cameras, torch.ones(3), bound, ids)
    with pytest.raises(TypeCheckError):
        Cameras(torch.eye(4)[None, :3], torch.eye(3)[None], 4, 4)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_turned_cameras_see_the_turned_image(quarters):
    intrinsics = torch.tensor([[50.0, 0, 15], [0, 40, 11], [0, 0, 1]], dtype=torch.float64)
    camera = Cameras(torch.eye(4, dtype=torch.float64), intrinsics, 24, 32)
    image = np.zeros((24, 32))
    image[5, 20] = 1
    point = camera.unproject(torch.tensor([[20.5, 5.5]], dtype=torch.float64), torch.tensor([3.0], dtype=torch.float64))
    turned = camera.turned(quarters)
    row, column = np.argwhere(np.rot90(image, quarters))[0]
    torch.testing.assert_close(
        turned.project(point).pixels, torch.tensor([[column + 0.5, row + 0.5]], dtype=torch.float64)
    )
    assert (turned.height, turned.width) == np.rot90(image, quarters).shape
    check_camera(turned.w2c, turned.intrinsics, "turned")
