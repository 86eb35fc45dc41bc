"""Sources and depth bounds of cameras anywhere."""

from dataclasses import replace

import pytest
import torch

from render.source_pool import SourcePool
from tests.render.tiny import moved
from tests.scenes import rigid_motion, ring_cameras


def pool(count: int = 5) -> SourcePool:
    near = torch.full((count,), 2.0)
    return SourcePool(tuple(range(10, 10 + count)), ring_cameras(count), near, near * 2)


def test_the_view_itself_comes_first_and_sets_are_in_ascending_order():
    views = pool()
    assert views.ranked(views.cameras.w2c[3])[0] == 13
    assert views.nearest(views.cameras.w2c[4], 3) == (12, 13, 14)
    turned = views.cameras.w2c[4].clone()
    turned[:3, 3] = -turned[:3, :3] @ views.cameras.centers[2]  # at the place of 12, looking as 14 does
    assert views.ranked(turned).index(14) < views.ranked(turned).index(10)


def test_a_camera_at_a_sources_place_has_its_bounds():
    views = pool()
    assert views.bounds(views.cameras[2:3], (12,)) == pytest.approx((2.0, 4.0), rel=1e-5)


def test_bounds_move_along():
    """One unit back along the axis everything is one unit farther away; flying in, near stays in front of the lens."""
    views = pool()
    camera = views.cameras[2:3]
    for forward, expected in ((-1.0, (3.0, 5.0)), (1.0, (1.0, 3.0)), (1.82, (0.2, 2.18))):
        w2c = camera.w2c.clone()
        w2c[:, 2, 3] -= forward
        assert views.bounds(replace(camera, w2c=w2c), (12,)) == pytest.approx(expected, rel=1e-4)


def test_where_nothing_is_seen_bounds_are_the_sources():
    views = pool()
    w2c = views.cameras.w2c[2:3].clone()
    w2c[:, :3] *= torch.tensor([[-1.0], [1.0], [-1.0]])
    assert views.bounds(replace(views.cameras[2:3], w2c=w2c), (11, 12)) == pytest.approx((2.0, 4.0))


def test_choice_and_bounds_do_not_depend_on_the_world():
    views, motion = pool(), rigid_motion(3)
    there = replace(views, cameras=moved(views.cameras, motion))
    for end in (0, 4):  # all others at different distances
        assert views.ranked(views.cameras.w2c[end]) == there.ranked(there.cameras.w2c[end])
    sources = (10, 11, 12)
    assert there.bounds(there.cameras[3:4], sources) == pytest.approx(
        views.bounds(views.cameras[3:4], sources), rel=1e-4
    )
