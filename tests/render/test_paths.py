"""Camera path files: what they hold comes back, what a curve through them keeps, and what is refused."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from geometry import Cameras, InputError
from render.paths import PathFile, frames_of, intrinsics_of_fov, read_path, write_path
from tests.render.tiny import moved
from tests.scenes import rigid_motion, ring_cameras

IDENTITY = [[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
CAMERA = {"c2w": IDENTITY, "vertical_fov": 90.0}


def written(folder: Path, content: object) -> Path:
    file = folder / "path.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def around(count: int) -> Cameras:
    """Turning about the y axis by equal steps, all the way around, at (sin, 0, cos) of the angle."""
    angles = torch.arange(count, dtype=torch.float64) / count * 2 * math.pi
    c2w = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    c2w[:, 0, 0] = c2w[:, 2, 2] = angles.cos()
    c2w[:, 0, 2], c2w[:, 2, 0] = angles.sin(), -angles.sin()
    c2w[:, :3, 3] = c2w[:, :3, 2]
    intrinsics = intrinsics_of_fov(1.0, 24, 32).double().repeat(count, 1, 1)
    return Cameras(torch.linalg.inv(c2w), intrinsics, 24, 32)


@pytest.mark.parametrize("frames", [None, 7])
def test_what_is_written_is_read(frames: int | None, tmp_path: Path):
    near = torch.tensor([1.0, 2.0, 3.0])
    path = PathFile(ring_cameras(3), near, near * 4, frames, closed=frames is not None, fps=12.5)
    write_path(tmp_path / "new" / "p.json", path)
    back = read_path(tmp_path / "new" / "p.json", (1, 1))
    assert torch.allclose(back.cameras.w2c, path.cameras.w2c, atol=1e-6)
    assert torch.allclose(back.cameras.intrinsics, path.cameras.intrinsics)
    assert (back.cameras.height, back.cameras.width) == (path.cameras.height, path.cameras.width)
    assert torch.equal(back.near, near)
    assert torch.equal(back.far, near * 4)
    assert (back.frames, back.closed, back.fps) == (frames, frames is not None, 12.5)


def test_a_path_by_hand(tmp_path: Path):
    path = read_path(written(tmp_path, {"cameras": [CAMERA]}), (24, 32))
    # 90 degrees over 24 rows: f = 12 / tan 45
    assert path.cameras.intrinsics[0].tolist() == [[pytest.approx(12), 0, 16], [0, pytest.approx(12), 12], [0, 0, 1]]
    assert (path.cameras.height, path.cameras.width, path.near, path.frames, path.fps) == (24, 32, None, None, None)
    own = read_path(written(tmp_path, {"cameras": [CAMERA], "width": 64, "height": 48, "frames": 5}), (24, 32))
    assert (own.cameras.height, own.cameras.width, own.frames) == (48, 64, 5)
    assert torch.equal(frames_of(own).cameras.w2c, torch.eye(4).repeat(5, 1, 1))


def test_frames_without_a_curve_are_the_cameras():
    cameras = ring_cameras(3)
    assert torch.equal(frames_of(PathFile(cameras)).cameras.w2c, cameras.w2c)


@pytest.mark.parametrize("closed", [False, True])
def test_the_curve_passes_the_cameras_at_even_times(closed: bool):
    cameras = around(5)
    near = torch.arange(1.0, 6.0)
    frames = frames_of(PathFile(cameras, near, near * 2, frames=20 if closed else 17, closed=closed))
    assert torch.allclose(frames.cameras.w2c[::4], cameras.w2c, atol=1e-9)
    assert torch.allclose(frames.near[::4], near)
    assert frames.far[2].item() == pytest.approx(3.0)
    rotation = frames.cameras.w2c[:, :3, :3]
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand_as(rotation), atol=1e-9)


def test_a_closed_curve_around_a_circle_stays_near_it_and_is_the_same_everywhere():
    cameras = around(8)  # the last quaternion is nearly minus the first
    frames = frames_of(PathFile(cameras, frames=32, closed=True)).cameras
    # between two of 8 points: 0.5 * (9/8 * 2 cos 22.5 - 1/8 * 2 cos 67.5) = 0.9915 of the radius
    middle = (9 * math.cos(math.pi / 8) - math.cos(3 * math.pi / 8)) / 8
    assert torch.allclose(frames.centers[2::4].norm(dim=-1), torch.full((8,), middle, dtype=torch.float64))
    axes = frames.c2w[:, :3, 2]
    cosines = (axes * axes.roll(-1, 0)).sum(-1)
    assert cosines.min() > math.cos(2 * math.pi / 32 * 1.1)  # no turn the other way around


def test_an_open_curve_of_two_cameras_is_straight():
    cameras = ring_cameras(2)
    frames = frames_of(PathFile(cameras), 5).cameras
    steps = torch.linspace(0, 1, 5)[:, None]
    expected = cameras.centers[:1] * (1 - steps) + cameras.centers[1:] * steps
    assert torch.allclose(frames.centers, expected, atol=1e-6)


@pytest.mark.parametrize("closed", [False, True])
def test_curves_move_and_scale_with_the_world(closed: bool):
    cameras, motion = around(5), rigid_motion(3).double()
    path = PathFile(cameras, frames=9, closed=closed)
    expected = frames_of(path).cameras
    there = frames_of(replace(path, cameras=moved(cameras, motion))).cameras
    assert torch.allclose(there.w2c, moved(expected, motion).w2c, atol=1e-9)
    large = frames_of(replace(path, cameras=cameras.scaled(200.0))).cameras
    assert torch.allclose(large.w2c, expected.scaled(200.0).w2c, atol=1e-9)


def test_nerfstudio(tmp_path: Path):
    """Its camera looks along -z with +y up: a half turn about x from ours."""
    entry = {"camera_to_world": [1, 0, 0, 5, 0, 1, 0, 6, 0, 0, 1, 7, 0, 0, 0, 1], "fov": 90, "aspect": 4 / 3}
    theirs = {"camera_type": "perspective", "render_height": 24, "render_width": 32, "fps": 24, "seconds": 1}
    path = read_path(written(tmp_path, {**theirs, "camera_path": [entry, entry]}), (1, 1))
    assert path.cameras.c2w[1].tolist() == [[1, 0, 0, 5], [0, -1, 0, 6], [0, 0, -1, 7], [0, 0, 0, 1]]
    assert path.cameras.intrinsics[0, 1, 1].item() == pytest.approx(12)
    assert (path.cameras.height, path.cameras.width, path.fps, path.frames) == (24, 32, 24, None)
    with pytest.raises(InputError, match="camera_type: expected perspective, got 'fisheye'"):
        read_path(written(tmp_path, {"camera_type": "fisheye", "camera_path": [entry]}), (1, 1))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected JSON"),
        ([], "expected a JSON object, got a list"),
        ({}, "cameras: expected a list of cameras"),
        ({"cameras": []}, "cameras: expected a list of cameras"),
        ({"cameras": [CAMERA], "speed": 1}, r"expected entries among .*, got \['speed'\]"),
        ({"cameras": [CAMERA, 3]}, "camera 1: expected an object, got a int"),
        ({"cameras": [{"c2w": IDENTITY}]}, "camera 0: expected one of intrinsics and vertical_fov"),
        ({"cameras": [{"vertical_fov": 50}]}, "camera 0, c2w: expected 4 x 4 numbers, got None"),
        ({"cameras": [{**CAMERA, "c2w": IDENTITY[:3]}]}, "c2w: expected 4 x 4 numbers"),
        ({"cameras": [{**CAMERA, "c2w": [[2.0, 0, 0, 0], *IDENTITY[1:]]}]}, "camera 0: expected a rotation matrix"),
        ({"cameras": [{**CAMERA, "c2w": [*IDENTITY[:3], [0, 0, 1, 1]]}]}, "expected the last row 0 0 0 1"),
        ({"cameras": [{**CAMERA, "vertical_fov": 180}]}, "vertical_fov: expected degrees between 0 and 180, got 180"),
        ({"cameras": [{**CAMERA, "fov": 50}]}, r"camera 0: expected entries among .*, got \['fov'\]"),
        ({"cameras": [{**CAMERA, "near": 1.0}]}, "expected near and far, got one of them"),
        ({"cameras": [{**CAMERA, "near": 2.0, "far": 1.0}]}, "expected near below far"),
        ({"cameras": [CAMERA, {**CAMERA, "near": 2.0, "far": 4.0}]}, "near: expected a positive one in every camera"),
        ({"cameras": [CAMERA], "frames": 0}, "frames: expected a whole number of at least 1, .* got 0"),
        ({"cameras": [CAMERA], "fps": 0}, "fps: expected a number of at least 0.1, at most 1000, got 0"),
        (
            {"cameras": [CAMERA], "width": 10**400},
            "expected JSON, got a whole number of 401 digits",
        ),
        ({"cameras": [{**CAMERA, "c2w": [[10**400, 0, 0, 0], *IDENTITY[1:]]}]}, "got a whole number of 401 digits"),
        ({"cameras": [{**CAMERA, "vertical_fov": True}]}, "vertical_fov: expected degrees between 0 and 180, got True"),
        ("[" * 100_000, "expected JSON, got maximum recursion depth"),
        ({"cameras": [CAMERA], "height": 2.5}, "height: expected a whole number of at least 1, .* got 2.5"),
        ({"cameras": [CAMERA], "closed": 1}, "closed: expected true or false"),
    ],
)
def test_what_is_refused(content: object, message: str, tmp_path: Path):
    with pytest.raises(InputError, match=message):
        read_path(written(tmp_path, content), (24, 32))


def test_no_file(tmp_path: Path):
    with pytest.raises(InputError, match=r"--path .*none\.json: expected a file"):
        read_path(tmp_path / "none.json", (24, 32))
