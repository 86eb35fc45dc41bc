"""Properties that every camera path has, and what each kind is for."""

import math
from dataclasses import replace

import pytest
import torch

from geometry import Cameras, InputError, Views
from render.trajectories import TRAJECTORIES, automatic_kind, camera_path, interpolate, upward
from tests.render.tiny import moved
from tests.scenes import random_views, rigid_motion, ring_cameras

ALL = pytest.mark.parametrize("name", list(TRAJECTORIES))


def views_of(cameras: Cameras) -> Views:
    return replace(random_views(len(cameras.w2c)), cameras=cameras)


def uneven_views(count: int = 5) -> Views:
    """On an arc of 46 degrees, at different heights, each turned a little more."""
    cameras = ring_cameras(count)
    w2c = cameras.w2c.double().clone()
    w2c[:, 1, 3] += torch.tensor([0.1, -0.2, 0.15, 0.3, -0.1, 0.0, 0.25, -0.3, 0.05])[:count]
    return views_of(replace(cameras, w2c=w2c, intrinsics=cameras.intrinsics.double()))


def surrounding(count: int = 8, elevation: float = 0.5) -> Views:
    """All around the z axis at radius 2, looking at the origin, z up."""
    angles = torch.arange(count, dtype=torch.float64) / count * 2 * math.pi
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    centers = 2 * torch.stack(
        [
            angles.cos() * math.cos(elevation),
            angles.sin() * math.cos(elevation),
            torch.full_like(angles, math.sin(elevation)),
        ],
        dim=-1,
    )
    forward = -centers / 2
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up.expand_as(forward)), dim=-1)
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=1)
    w2c = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    w2c[:, :3, :3], w2c[:, :3, 3] = rotation, -(rotation @ centers[..., None])[..., 0]
    cameras = ring_cameras(count)
    return views_of(replace(cameras, w2c=w2c, intrinsics=cameras.intrinsics.double()))


@ALL
@pytest.mark.parametrize("frames", [1, 2, 7, 24])
def test_as_many_rigid_cameras_as_asked_for(name: str, frames: int):
    views = uneven_views()
    path = camera_path(name, views, frames)
    assert path.cameras.w2c.shape == (frames, 4, 4)
    assert path.cameras.intrinsics.shape == (frames, 3, 3)
    assert (path.near == views.near.min()).all()
    assert (path.far == views.far.max()).all()
    assert len(path.near) == len(path.far) == frames
    rotation = path.cameras.w2c[:, :3, :3]
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand_as(rotation), atol=1e-9)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(frames, dtype=torch.float64))


@ALL
def test_paths_move_with_the_world(name: str):
    views, motion = uneven_views(), rigid_motion(3).double()
    expected = moved(camera_path(name, views, 9).cameras, motion)
    path = camera_path(name, replace(views, cameras=moved(views.cameras, motion)), 9)
    assert torch.allclose(path.cameras.w2c, expected.w2c, atol=1e-5)


@ALL
def test_paths_scale_with_the_world(name: str):
    views = uneven_views()
    scaled = replace(views, cameras=views.cameras.scaled(200.0), near=views.near * 200, far=views.far * 200)
    expected = camera_path(name, views, 9).cameras.scaled(200.0)
    assert torch.allclose(camera_path(name, scaled, 9).cameras.w2c, expected.w2c, rtol=1e-6, atol=1e-6)


@ALL
def test_no_frames(name: str):
    with pytest.raises(InputError, match="--frames"):
        camera_path(name, uneven_views(), 0)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_interpolation_passes_every_view_exactly_and_returns(count: int):
    views = views_of(ring_cameras(9)[torch.tensor([0, 3, 1, 7, 5, 2, 8, 4, 6])[:count]])
    path = interpolate(views, 4 * count + 1)
    assert torch.equal(path.w2c[0], views.cameras.w2c[0])
    assert torch.equal(path.w2c[-1], views.cameras.w2c[0])
    assert torch.equal(path.intrinsics[0], views.cameras.intrinsics[0])
    for w2c in views.cameras.w2c:
        assert (path.w2c[::4] == w2c).all((-1, -2)).any()


def test_interpolation_takes_the_short_way_at_even_speed():
    cameras = ring_cameras(2)  # 0.8 rad apart
    path = interpolate(views_of(cameras), 9)
    halfway = path.w2c[2, :3, :3]
    angle = torch.acos(((halfway @ cameras.w2c[0, :3, :3].T).diagonal().sum() - 1) / 2)
    assert angle.item() == pytest.approx(0.4, abs=1e-3)
    assert torch.allclose(path.centers[1], torch.lerp(*cameras.centers, 0.25), atol=1e-6)
    assert torch.allclose(path.centers[6], path.centers[2], atol=1e-6)


def test_interpolation_does_not_zigzag():
    cameras = ring_cameras(5)[torch.tensor([0, 4, 1, 3, 2])]
    path = interpolate(views_of(cameras), 200)
    length = (path.centers[1:] - path.centers[:-1]).norm(dim=-1).sum()
    ends = (cameras.centers[0] - cameras.centers[1]).norm()
    assert length < 2.1 * ends


def test_spiral_looks_at_its_focus_from_within_the_views():
    views = uneven_views()
    path = camera_path("spiral", views, 40).cameras
    c2w = views.cameras.c2w
    forward = torch.nn.functional.normalize(c2w[:, :3, 2].mean(0), dim=0)
    focus = c2w[:, :3, 3].mean(0) + forward / (0.25 / 2.0 + 0.75 / 4.0)
    pixels = path.project(focus.expand(40, 1, 3)).pixels[:, 0]
    assert torch.allclose(pixels, path.intrinsics[:, :2, 2])
    reach = (views.cameras.centers - views.cameras.centers.mean(0)).norm(dim=-1).max()
    assert (path.centers - views.cameras.centers.mean(0)).norm(dim=-1).max() <= reach


def test_orbit_of_surrounding_views_is_the_whole_circle():
    path = camera_path("orbit", surrounding(), 12).cameras
    assert torch.allclose(path.centers.norm(dim=-1), torch.full((12,), 2.0, dtype=torch.float64))
    assert torch.allclose(path.centers[:, 2], torch.full((12,), 2 * math.sin(0.5), dtype=torch.float64))
    pixels = path.project(torch.zeros(12, 1, 3, dtype=torch.float64)).pixels[:, 0]
    assert torch.allclose(pixels, path.intrinsics[:, :2, 2])
    steps = (path.centers.roll(-1, 0) - path.centers).norm(dim=-1)
    assert torch.allclose(steps, steps[0].expand(12))


def test_orbit_of_one_sided_views_stays_on_their_side():
    views = views_of(ring_cameras(5))
    path = camera_path("orbit", views, 20).cameras
    reach = views.cameras.centers[:, 0].abs().max()
    assert path.centers[:, 0].abs().max() <= reach + 1e-4
    assert torch.allclose(path.centers.norm(dim=-1), torch.full((20,), 3.0), atol=1e-4)


def test_views_without_a_common_point_or_direction():
    parallel = ring_cameras(3)
    w2c = torch.eye(4).repeat(3, 1, 1)
    w2c[:, 0, 3] = torch.tensor([0.0, 1.0, 2.0])
    with pytest.raises(InputError, match="orbit"):
        camera_path("orbit", views_of(replace(parallel, w2c=w2c)), 5)
    with pytest.raises(InputError, match="spiral"):
        camera_path("spiral", surrounding(elevation=0.0), 5)


def outward(count: int = 8) -> Views:
    """On the circle of `surrounding`, looking away from its middle."""
    views = surrounding(count, elevation=0.0)
    turn = torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=torch.float64))
    return replace(views, cameras=replace(views.cameras, w2c=turn @ views.cameras.w2c))


def grid(columns: int = 5, rows: int = 3) -> Views:
    """A plane of parallel cameras."""
    w2c = torch.eye(4, dtype=torch.float64).repeat(rows * columns, 1, 1)
    w2c[:, 0, 3] = torch.arange(columns, dtype=torch.float64).repeat(rows)
    w2c[:, 1, 3] = torch.arange(rows, dtype=torch.float64).repeat_interleave(columns)
    cameras = ring_cameras(rows * columns)
    return views_of(replace(cameras, w2c=w2c, intrinsics=cameras.intrinsics.double()))


def some(views: Views, chosen: list[int]) -> Views:
    return views[torch.tensor(chosen)]


@pytest.mark.parametrize(
    ("views", "kind"),
    [
        (surrounding(), "orbit"),
        (surrounding(elevation=0.0), "orbit"),
        (some(surrounding(12), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]), "orbit"),  # a gap of 90 degrees
        (some(surrounding(12), [0, 1, 2, 3, 4, 5, 6, 7]), "interpolate"),  # one of 150
        (outward(), "interpolate"),
        (grid(), "interpolate"),
        (views_of(ring_cameras(5)), "interpolate"),  # from one side
        (views_of(ring_cameras(1)), "interpolate"),
    ],
)
def test_auto_is_an_orbit_of_closed_captures_only(views: Views, kind: str):
    assert automatic_kind(views) == kind
    path = camera_path("auto", views, 12).cameras
    assert torch.isfinite(path.w2c).all()
    if kind == "orbit":
        assert torch.equal(path.w2c, camera_path("orbit", views, 12).cameras.w2c)


def test_auto_keeps_away_from_what_was_not_captured():
    """8 of 12 views around an object: the way from the last to the first would lead through it."""
    views = some(surrounding(12), [0, 1, 2, 3, 4, 5, 6, 7])
    path = camera_path("auto", views, 61).cameras
    assert path.centers.norm(dim=-1).min() > 1.9
    azimuth = torch.atan2(path.centers[:, 1], path.centers[:, 0]) % (2 * math.pi)
    assert azimuth.min() > -1e-6
    assert azimuth.max() < 7 / 12 * 2 * math.pi + 1e-6
    assert torch.allclose(path.w2c[0], path.w2c[-1])


def test_auto_of_a_camera_array_goes_around_its_rim():
    path = camera_path("auto", grid(), 29).cameras
    assert path.centers[:, 0].min().item() == -4
    assert path.centers[:, 0].max().item() == 0
    assert path.centers[:, 1].min().item() == -2
    assert torch.equal(path.w2c[0], path.w2c[-1])


def test_auto_of_a_room_looks_all_around_it():
    path = camera_path("auto", outward(), 24).cameras
    axes = path.c2w[:, :3, 2]
    assert (torch.atan2(axes[:, 1], axes[:, 0]).sort().values.diff() < 0.8).all()
    assert path.centers.norm(dim=-1).max() < 2.0001


@ALL
def test_views_on_their_side_do_not_roll_the_path(name: str) -> None:
    """A third of a capture, as landscape photographs on the canvas of portrait ones, or upside down."""
    for turned, quarters in ([1, 4], 1), ([0, 3], 3), ([2, 5], 2):
        views = surrounding(6) if name == "orbit" else uneven_views(6)
        cameras = views.cameras
        on_side = cameras[torch.tensor(turned)].turned(quarters)
        on_side = on_side.cropped(
            *((on_side.height - cameras.height) // 2, (on_side.width - cameras.width) // 2),
            *(cameras.height, cameras.width),
        )
        w2c, intrinsics = cameras.w2c.clone(), cameras.intrinsics.clone()
        w2c[turned], intrinsics[turned] = on_side.w2c, on_side.intrinsics
        mixed = replace(views, cameras=replace(cameras, w2c=w2c, intrinsics=intrinsics))
        assert automatic_kind(mixed) == automatic_kind(views)
        path, upright = camera_path(name, mixed, 9).cameras, camera_path(name, views, 9).cameras
        torch.testing.assert_close(path.w2c, upright.w2c, atol=1e-6, rtol=0)
        assert (path.height, path.width) == (upright.height, upright.width)
        torch.testing.assert_close(path.intrinsics, upright.intrinsics)


@pytest.mark.parametrize("quarters", [(1, 1, 1), (3, 3, 3), (1, 3, 2)])
def test_up_is_that_of_the_views_that_are_not_on_their_side(quarters: tuple[int, ...]) -> None:
    """Along a facade, where the rows of those on their side would have what is looked at be up."""
    views = surrounding(36, elevation=0.0)
    cameras = replace(views.cameras[torch.arange(9)], height=40, width=40)
    w2c = cameras.w2c.clone()
    for view, count in zip((0, 3, 7), quarters, strict=True):
        w2c[view] = cameras[view].turned(count).w2c
    up = upward(replace(cameras, w2c=w2c).c2w)
    torch.testing.assert_close(up, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), atol=1e-6, rtol=0)


def test_views_that_look_down_from_all_around_stay_as_they_are() -> None:
    views = surrounding(8, elevation=1.5)
    path = interpolate(views, 9)
    assert torch.equal(camera_path("interpolate", views, 9).cameras.w2c, path.w2c)
