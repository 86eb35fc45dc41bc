"""Fusion of exact depth: points on the surface, wrong depth dropped, nothing depends on the world's frame or unit."""

from dataclasses import replace

import pytest
import torch

from data.depth_fusion import fused_points, surface_normals, thinned
from data.point_cloud import ColoredPoints
from geometry import InputError
from tests.data.exact_maps import scaled, some_motion, sphere_maps, wall_maps


def test_points_lie_on_the_sphere_and_have_its_colors() -> None:
    fused = fused_points(sphere_maps(), spacing=0.0, wants_normals=True)
    points, colors, normals = fused.cloud
    assert fused.agreeing == 3
    assert 0.7 < fused.kept < 1
    assert len(points) == int(fused.confirmed.sum())
    # bilinear depth between pixels 1 / 34 apart on a surface of curvature 1; more where it is seen from the side
    assert (points.norm(dim=-1) - 1).abs().max() < 0.02
    assert (points.norm(dim=-1) - 1).abs().median() < 5e-4
    assert (colors.float() - (points + 1) * 127.5).abs().median() < 1
    seen = normals.norm(dim=-1) > 0
    # no normals at the edge of the disk: of 2 r = 34 pixels across, a share of about 2 / r
    assert seen.float().mean() > 0.85
    assert (normals[seen] * points[seen]).sum(-1).median() > 0.999


def test_wrong_depth_of_one_view_is_dropped() -> None:
    """A fifth too near, in the air: no surface there that another view could see (a fifth too far, the back is)."""
    maps = sphere_maps()
    wrong = maps.depth.clone()
    wrong[5] *= 0.8
    fused = fused_points(replace(maps, depth=wrong), spacing=0.0)
    assert fused.confirmed[5].sum() == 0
    assert fused.confirmed[4].sum() > 300
    assert (fused.cloud.points_world.norm(dim=-1) - 1).abs().max() < 0.05
    assert (fused.depth[5] == 0).all()
    everything = fused_points(replace(maps, depth=wrong), agreeing=0, spacing=0.0)
    assert everything.kept == 1
    # the nearest true depth is 3, so the nearest wrong one is 2.4, 1.6 from the middle
    assert (everything.cloud.points_world.norm(dim=-1) - 1).max() == pytest.approx(0.6, abs=0.01)


def test_depth_is_the_mean_of_the_views_that_agree() -> None:
    """Of a wall that equal cameras see at 1.0, 1.004 and 1.008: 1.004. One that sees it at 2 has no part in it."""
    maps = wall_maps((1.0, 1.004, 1.008, 2.0), (1.0,) * 4)
    fused = fused_points(maps, agreeing=1, spacing=0.0)
    assert torch.allclose(fused.depth[:3], torch.tensor(1.004).expand(3, 32, 32), atol=1e-4)
    assert (fused.depth[3] == 0).all()


def test_a_view_that_sees_nothing_has_no_points() -> None:
    maps = sphere_maps(count=16)
    depth = maps.depth.clone()
    depth[5] = 0
    fused = fused_points(replace(maps, depth=depth), spacing=0.0)
    assert fused.confirmed[5].sum() == 0
    assert fused.confirmed[4].sum() > 100
    nothing = fused_points(replace(maps, depth=torch.zeros_like(depth)))
    assert (len(nothing.cloud.points_world), nothing.known) == (0, 0)


def test_tolerances_decide() -> None:
    maps = sphere_maps(count=16)
    wrong = maps.depth.clone()
    wrong[5] *= 1.02
    loose = fused_points(replace(maps, depth=wrong), depth_tolerance=0.05, pixel_tolerance=3.0, spacing=0.0)
    strict = fused_points(replace(maps, depth=wrong), spacing=0.0)
    assert loose.confirmed[5].sum() > 3 * strict.confirmed[5].sum()


def test_moved_and_scaled_worlds() -> None:
    motion = some_motion()
    plain = fused_points(sphere_maps(count=16), spacing=0.0, wants_normals=True)
    moved = fused_points(sphere_maps(count=16, motion=motion), spacing=0.0, wants_normals=True)
    rotation, offset = motion[:3, :3].float(), motion[:3, 3].float()
    both = plain.confirmed & moved.confirmed
    assert both.sum() > 0.999 * plain.confirmed.sum()  # but for rounding at the tolerances
    expected = plain.cloud.points_world[both[plain.confirmed]] @ rotation.T + offset
    difference = (moved.cloud.points_world[both[moved.confirmed]] - expected).norm(dim=-1)
    assert (difference < 1e-4).float().mean() > 0.999  # others: another view more or less agrees
    turned = plain.cloud.normals[both[plain.confirmed]] @ rotation.T
    assert (turned - moved.cloud.normals[both[moved.confirmed]]).abs().max() < 1e-2
    larger, thin = fused_points(scaled(sphere_maps(count=16), 250.0)), fused_points(sphere_maps(count=16))
    assert larger.spacing == pytest.approx(250 * thin.spacing, rel=1e-4)
    assert len(larger.cloud.points_world) == pytest.approx(len(thin.cloud.points_world), rel=0.01)
    assert (larger.cloud.points_world.norm(dim=-1) / 250 - 1).abs().max() < 0.02


def test_thinning_leaves_one_mean_point_in_a_cell() -> None:
    points = torch.tensor([[0.0, 0.0, 0.0], [0.4, 0.2, 0.0], [1.5, 0.0, 0.0]])
    colors = torch.tensor([[0, 0, 0], [100, 50, 0], [9, 9, 9]], dtype=torch.uint8)
    normals = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    thin = thinned(ColoredPoints(points, colors, normals), 1.0)
    assert torch.allclose(thin.points_world, torch.tensor([[0.2, 0.1, 0.0], [1.5, 0.0, 0.0]]))
    assert thin.colors.tolist() == [[50, 25, 0], [9, 9, 9]]
    assert torch.allclose(thin.normals, torch.tensor([[0.5**0.5, 0.5**0.5, 0.0], [0.0, 0.0, 1.0]]))
    for spacing in (1e-9, 1e-30):  # the numbers of the cells of the latter have no int64
        with pytest.raises(InputError, match="--spacing: expected at least"):
            thinned(ColoredPoints(points, colors), spacing)


def test_normals_of_a_slanted_plane() -> None:
    """Depth z = 2 + x, x = (u - c) z / f: z = 2 / (1 - (u - c) / f)."""
    maps = sphere_maps(count=1, size=20)
    slope = (torch.arange(20) + 0.5 - 10) / 28
    camera = maps.cameras[0]
    camera = replace(camera, w2c=torch.eye(4))
    normals = surface_normals(camera, (2 / (1 - slope)).expand(20, 20))
    expected = torch.tensor([1.0, 0.0, -1.0]) / 2**0.5
    assert torch.allclose(normals[1:-1, 1:-1], expected.expand(18, 18, 3), atol=1e-5)
    assert normals[0].abs().max() == 0


def test_more_agreeing_views_than_there_are() -> None:
    with pytest.raises(InputError, match="--agreeing: expected 0 to 2"):
        fused_points(sphere_maps(count=3), agreeing=3)
    assert fused_points(sphere_maps(count=3)).agreeing == 2
