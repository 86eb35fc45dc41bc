"""Cameras by kind of motion and rooms seen from inside: closed forms, what groups have in common, refusals."""

import numpy as np
import pytest
import torch

from data.procedural import make_scene
from data.procedural.motions import (
    FIELD_OF_VIEW,
    FORWARD,
    LOWEST,
    ORBIT,
    PAN,
    PARALLEL,
    RIG,
    SIDEWAYS,
    Lens,
    MotionMix,
    Recipe,
    Stand,
    before_table,
    center_of,
    drawn_together,
    moving_cameras,
    raised,
    random_lens,
)
from data.procedural.photographs import photograph_wall
from data.procedural.rooms import Room, clear_of, furnished, magnified, random_room, room_around
from data.procedural.textures import NoiseTexture, PatternTexture, PhotoTexture
from data.procedural.torch_tracer import render_views
from geometry import Cameras, InputError

LENS = Lens(field_of_view=60.0, height=96, width=128)
STAND = Stand(center=np.array([0.0, 300.0, 200.0]), aim=np.array([0.0, 0.0, 40.0]))


def _many(kind: str, *, is_rolled: bool = False, lens: Lens = LENS, groups: int = 40) -> list[list[np.ndarray]]:
    recipe = Recipe(kind, in_room=False, is_rolled=is_rolled)
    return [moving_cameras(np.random.default_rng(seed), recipe, STAND, lens, 5) for seed in range(groups)]


def _turns(w2c: list[np.ndarray]) -> np.ndarray:
    """Degrees between the axes of all cameras."""
    axes = np.stack([one[2, :3] for one in w2c])
    return np.degrees(np.arccos(np.clip(axes @ axes.T, -1, 1)))


def test_a_lens_sees_its_field_of_view_across_the_longer_side():
    for height, width in ((96, 128), (128, 96)):
        cameras = Lens(60.0, height, width).cameras(np.random.default_rng(0), [np.eye(4)] * 2)
        focal = cameras.intrinsics[0, 0, 0].item()
        assert 2 * np.degrees(np.arctan(64 / focal)) == pytest.approx(60.0)
        assert cameras.intrinsics.shape == (2, 3, 3)
        assert (cameras.height, cameras.width) == (height, width)


def test_fields_of_view_are_log_uniform_and_the_table_stays_framed():
    rng = np.random.default_rng(0)
    lenses = [random_lens(rng, 96, 128) for _ in range(2000)]
    angles = np.array([lens.field_of_view for lens in lenses])
    assert angles.min() >= FIELD_OF_VIEW[0]
    assert angles.max() <= FIELD_OF_VIEW[1]
    assert np.median(angles) == pytest.approx(np.sqrt(22 * 75), rel=0.05)
    widths = [2 * before_table(rng, lens).depth * lens.half_tangent for lens in lenses]
    rig = 2 * 608.6 * np.tan(np.radians(12.5))
    assert 0.74 * rig < min(widths)
    assert max(widths) < 1.31 * rig


def test_parallel_cameras_hardly_turn_and_move_sideways_or_forward():
    width, sides, forwards = 2 * STAND.depth * LENS.half_tangent, 0, 0
    for w2c in _many(PARALLEL):
        turns = _turns(w2c)
        moves = (np.stack([center_of(one) for one in w2c]) - STAND.center) @ w2c[0][:3, :3].T
        extent = np.ptp(moves, axis=0)
        assert turns.max() < 30
        is_forward = extent[2] > np.linalg.norm(extent[:2])
        forwards, sides = forwards + is_forward, sides + (not is_forward)
        assert np.linalg.norm(moves, axis=1).max() < max(0.75 * SIDEWAYS[1] * width, FORWARD[1] * STAND.depth)
    assert sides > 2 * forwards > 10


def test_a_pan_turns_independently_of_how_it_moves():
    """Within the field of view; the sign of the turn says nothing about that of the move, as it does in an orbit."""

    def agreement(kind: str) -> float:
        products = []
        for w2c in _many(kind, groups=150):
            relative = w2c[1] @ np.linalg.inv(w2c[0])
            products.append(np.sign(relative[0, 2] * relative[0, 3]))  # turn about y against move along x
        return float(np.mean(products))

    assert agreement(ORBIT) < -0.6
    assert abs(agreement(PAN)) < 0.25
    assert all(_turns(w2c).max() < 0.7 * LENS.field_of_view for w2c in _many(PAN))
    assert max(_turns(w2c).max() for w2c in _many(PAN)) > 15


def test_an_orbit_keeps_its_distance_and_looks_at_the_same_place():
    for w2c in _many(ORBIT):
        for one in w2c:
            aim = one[:3, :3] @ STAND.aim + one[:3, 3]
            assert np.hypot(*aim[:2]) / aim[2] < 0.5 * LENS.half_tangent
            assert np.linalg.norm(aim) == pytest.approx(STAND.depth, rel=0.5)


def test_only_rolled_cameras_roll_far():
    def rolls(kind: str, is_rolled: bool) -> np.ndarray:
        """Degrees from upright."""
        cameras = np.stack([one for group in _many(kind, is_rolled=is_rolled) for one in group])
        return np.degrees(np.abs(np.arctan2(cameras[:, 0, 2], -cameras[:, 1, 2])))

    for kind in (PARALLEL, PAN, ORBIT):
        assert np.quantile(rolls(kind, False), 0.9) < 25
        assert np.quantile(rolls(kind, True), 0.5) > 45
        for w2c in _many(kind, is_rolled=True, groups=3):
            for one in w2c:
                np.testing.assert_allclose(one[:3, :3] @ one[:3, :3].T, np.eye(3), atol=1e-12)
                assert np.linalg.det(one[:3, :3]) == pytest.approx(1)


def test_cameras_are_lifted_above_the_table_and_drawn_into_a_room():
    w2c = _many(ORBIT)[0]
    turned = [one[:3, :3] for one in w2c]
    below = [one.copy() for one in w2c]
    for one in below:
        one[:3, 3] = -one[:3, :3] @ (center_of(one) - np.array([0, 0, 1000.0]))
    lifted = raised(below)
    assert min(center_of(one)[2] for one in lifted) == pytest.approx(LOWEST)
    assert raised(w2c)[0] == pytest.approx(w2c[0])
    low, high = np.array([-50.0, -40.0, 10.0]), np.array([50.0, 40.0, 60.0])
    inside = drawn_together(w2c, low, high)
    centers = np.stack([center_of(one) for one in inside])
    assert (centers >= low - 1e-9).all()
    assert (centers <= high + 1e-9).all()
    before = np.stack([center_of(one) for one in w2c])
    factor = np.linalg.norm(centers[1] - centers[0]) / np.linalg.norm(before[1] - before[0])
    np.testing.assert_allclose(centers - centers[0], factor * (before - before[0]), atol=1e-9)
    for one, rotation in zip(inside, turned, strict=True):
        np.testing.assert_array_equal(one[:3, :3], rotation)


def test_a_room_encloses_its_cameras_in_every_direction():
    """A ray that leaves a camera inside meets a wall at the distance of its plane, and nothing is unknown."""
    rng = np.random.default_rng(3)
    room = Room(np.array([-300.0, -200.0, 0.0]), np.array([300.0, 200.0, 250.0]))
    scene = make_scene(0)
    walls = room.walls(rng)
    assert len(walls) == 6
    assert len(room.walls(rng, has_ceiling=False)) == 5
    down = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    down[2, 3] = 100.0  # at height 100, looking at the floor
    along_x = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 100], [1, 0, 0, 0], [0, 0, 0, 1]])
    intrinsics = torch.tensor([[8.0, 0, 8], [0, 8, 8], [0, 0, 1]]).expand(2, 3, 3)
    cameras = Cameras(torch.stack([down, along_x]), intrinsics, 16, 16)
    depth = render_views(scene.__class__((*walls,), scene.lights), cameras).depth
    assert (depth > 0).all()
    assert depth[0, 8, 8].item() == pytest.approx(100.0, abs=0.01)
    assert depth[1, 8, 8].item() == pytest.approx(300.0, abs=0.01)
    around = room_around(rng, np.array([[400.0, 0, 300], [0, -500.0, 20]]))
    assert (around.high > (400, 500, 300)).all()
    assert (around.low[:2] < (-400, -500)).all()
    assert around.low[2] < -16


def test_furniture_stands_in_the_room_and_nothing_stands_in_a_cameras_way():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        room = random_room(rng)
        stand = room.stand(rng, LENS)
        assert ((room.low < stand.center) & (stand.center < room.high)).all()
        assert stand.depth > 20
        scene = furnished(rng, make_scene(seed), room)
        boxes = [item for item in scene.items if item.casts_shadow]
        assert len(boxes) > 5
        assert all((np.abs(item.center[:2]) < room.high[:2]).all() for item in boxes)
        assert min(light.ambient for light in scene.lights) > 0.4
        kept = clear_of(scene, stand.center[None], 40.0).items
        assert 6 <= len(kept) <= len(scene.items)
        assert kept[:6] == scene.items[:6]
        for item in kept[6:]:
            assert np.linalg.norm(item.center - stand.center) > 40


def test_a_solid_about_a_camera_is_left_out():
    scene = make_scene(0)
    item = scene.items[-1]
    assert item in clear_of(scene, item.center[None] + 500, 15.0).items
    assert item not in clear_of(scene, item.center[None], 15.0).items


def test_magnified_textures():
    noise = NoiseTexture(np.zeros((3, 3)), cell=1.0, veins=0.0, offset=np.zeros(3))
    assert magnified(noise, 3.0).cell == 3.0
    pattern = PatternTexture(np.zeros((2, 3)), axes=np.eye(3), offset=np.zeros(3))
    np.testing.assert_allclose(magnified(pattern, 2.0).axes, np.eye(3) / 2)
    photo = PhotoTexture("coins.png", "box", 50.0, 0.0, np.zeros(2), np.ones(3), 20.0)
    assert magnified(photo, 2.0).width == 100.0


def test_shares_are_kept():
    mix = MotionMix.parse(("rig=0.3", "parallel=0.25", "pan=0.25", "orbit=0.2"), rooms=0.5, rolls=0.1)
    rng = np.random.default_rng(0)
    recipes = [mix.draw(rng) for _ in range(4000)]
    counts = {kind: sum(one.kind == kind for one in recipes) / 4000 for kind in (RIG, PARALLEL, PAN, ORBIT)}
    assert counts == pytest.approx({RIG: 0.3, PARALLEL: 0.25, PAN: 0.25, ORBIT: 0.2}, abs=0.02)
    assert sum(one.in_room for one in recipes) / 4000 == pytest.approx(0.25, abs=0.02)
    assert sum(one.is_rolled for one in recipes) / 4000 == pytest.approx(0.07, abs=0.01)
    assert not any(one.is_rolled for one in recipes if one.kind == RIG)
    assert not any(one.in_room for one in recipes if one.kind in (RIG, ORBIT))


@pytest.mark.parametrize(
    ("texts", "rooms", "rolls", "named"),
    [
        (
            ("spin=1",),
            0.5,
            0.1,
            "--procedural_motions: expected kinds among rig, parallel, pan, orbit, got",
        ),
        (("pan",), 0.5, 0.1, "--procedural_motions: expected words like pan=0.25, got 'pan'"),
        (("pan=1", "pan=2"), 0.5, 0.1, "--procedural_motions: expected each kind once"),
        (("pan=0",), 0.5, 0.1, r"--procedural_motions: expected pan=SHARE above 0, got pan=0\.0"),
        (("pan=nan",), 0.5, 0.1, "--procedural_motions: expected pan=SHARE above 0"),
        (("pan=1",), 1.5, 0.1, "--procedural_rooms: expected a share from 0 to 1, got 1.5"),
        (("pan=1",), 0.5, -0.1, "--procedural_rolls: expected a share from 0 to 1, got -0.1"),
    ],
)
def test_shares_that_cannot_be_drawn_are_refused(texts: tuple[str, ...], rooms: float, rolls: float, named: str):
    with pytest.raises(InputError, match=f"^{named}"):
        MotionMix.parse(texts, rooms, rolls)


def test_pictures_of_a_photograph_differ_by_the_homography_of_its_plane():
    """H = K2 (R + t n^T / d) K1^-1 for the plane n . x = d in the first camera (Hartley & Zisserman, 13.1)."""
    rng = np.random.default_rng(3)
    w2c = moving_cameras(rng, Recipe(PAN, in_room=False, is_rolled=True, is_photo=True), STAND, LENS, 2)
    cameras = LENS.cameras(rng, w2c)
    scene = photograph_wall(rng, STAND, LENS, np.stack([center_of(one) for one in w2c]))
    (wall,) = scene.items
    normal = w2c[0][:3, :3] @ wall.rotation[2]
    distance = normal @ (w2c[0][:3, :3] @ STAND.aim + w2c[0][:3, 3])
    relative = w2c[1] @ np.linalg.inv(w2c[0])
    first, second = cameras.intrinsics.numpy()
    inverse = np.linalg.inv(first)
    homography = second @ (relative[:3, :3] + np.outer(relative[:3, 3], normal) / distance) @ inverse

    views = render_views(scene, cameras, samples=4)
    assert (views.depth > 0).all()
    ys, xs = np.mgrid[: LENS.height, : LENS.width]
    pixels = np.stack([xs + 0.5, ys + 0.5, np.ones(xs.shape)]).reshape(3, -1)
    np.testing.assert_allclose(views.depth[0].flatten(), distance / (normal @ inverse @ pixels), rtol=1e-4)

    x, y, z = homography @ pixels
    grid = np.stack([2 * x / z / LENS.width - 1, 2 * y / z / LENS.height - 1], axis=-1)
    is_inside = torch.from_numpy((np.abs(grid) < 0.95).all(-1) & (z > 0))
    assert is_inside.float().mean() > 0.2
    sampled = torch.nn.functional.grid_sample(
        views.images[1:], torch.from_numpy(grid).float()[None, None], align_corners=False
    )[0, :, 0]
    error = (sampled - views.images[0].flatten(1)).abs().mean(0)[is_inside]
    shuffled = (sampled.flip(1) - views.images[0].flatten(1)).abs().mean(0)[is_inside]
    assert error.mean() < 0.03
    assert error.mean() < 0.3 * shuffled.mean()


def test_photographs_take_their_share_and_leave_other_streams_as_they_were():
    shares = (("rig", 0.5), ("pan", 0.5))
    mix, without = MotionMix(shares, rooms=1.0, photos=0.4), MotionMix(shares, rooms=1.0)
    rng, other = np.random.default_rng(0), np.random.default_rng(0)
    recipes = [mix.draw(rng) for _ in range(2000)]
    assert sum(one.is_photo for one in recipes) / 2000 == pytest.approx(0.2, abs=0.03)
    assert not any(one.is_photo and (one.in_room or one.kind == RIG) for one in recipes)
    assert without.draw(np.random.default_rng(0))[:3] == (recipes[0].kind, recipes[0].kind == PAN, recipes[0].is_rolled)
    for _ in range(5):
        without.draw(other)
    again = np.random.default_rng(0)
    for _ in range(5):
        again.choice(2, p=[0.5, 0.5])
        again.random(2)
    assert other.random() == again.random()
