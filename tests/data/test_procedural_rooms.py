"""Rooms of every family: colors that tell the position, units, overlapping photographs, files that read back."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data.procedural import render_view, torch_textures
from data.procedural.__main__ import main
from data.procedural.indoor import FAMILIES, METERS, room_subject
from data.procedural.textures import CHECKER, CoordinateTexture
from data.procedural.writers import METRIC_LIST
from data.readers.blendedmvs import read_blendedmvs

SIZE = (32, 40)


def test_color_is_the_place_between_two_corners() -> None:
    texture = CoordinateTexture(np.array([-10.0, 0.0, 0.0]), np.array([10.0, 40.0, 5.0]), cell=4.0)
    points = np.array([[-10.0, 0.0, 0.0], [0.0, 10.0, 5.0], [10.0, 40.0, 2.5]], np.float32).T
    found = texture.color(points, points, footprint=2.0)  # squares of two pixels are left out
    np.testing.assert_allclose(found.T, [[0.12] * 3, [0.5, 0.31, 0.88], [0.88, 0.88, 0.5]], atol=1e-6)
    checkered = texture.color(points, points, footprint=1.0)
    np.testing.assert_allclose(np.abs(checkered - found), CHECKER, atol=1e-6)
    in_torch = torch_textures.color(texture, torch.from_numpy(points.T), torch.from_numpy(points.T), 1.0)
    np.testing.assert_allclose(in_torch.numpy(), checkered.T, atol=1e-6)


def test_walls_of_a_colored_room_show_where_they_are() -> None:
    """Upright walls get three quarters of the light that comes from everywhere."""
    subject = room_subject("coordinate", 3, 0, 3, SIZE)
    camera = subject.rig[0]
    rendered = render_view(subject.scene, camera)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    pixels = torch.from_numpy(np.stack([columns, rows], -1).reshape(-1, 2))
    depth = torch.from_numpy(rendered.depth.reshape(-1)).double()
    points = camera.unproject(pixels, depth).numpy()
    side = np.abs(np.abs(points[:, :2]) - (300.0, 250.0)).min(1) < 1e-2
    assert side.sum() > 200
    expected = 0.75 * (0.12 + 0.76 * (points - (-300.0, -250.0, 0.0)) / (600.0, 500.0, 300.0))
    error = np.abs(rendered.rgb.reshape(-1, 3) - expected)[side]
    assert np.median(error) < 0.75 * CHECKER + 1e-3
    assert np.quantile(error, 0.9) < 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_room_is_the_same_every_time_and_its_unit_is_drawn(family: str) -> None:
    subjects = [room_subject(family, 0, index, 3, SIZE) for index in range(10)]
    again = room_subject.__wrapped__(family, 0, 7, 3, SIZE)
    assert torch.equal(again.rig.w2c, subjects[7].rig.w2c)
    assert (again.unit, again.is_metric) == (subjects[7].unit, subjects[7].is_metric)
    metric = [subject.unit / METERS for subject in subjects if subject.is_metric]
    low, high = FAMILIES[family].sizes
    assert 3 <= len(metric) < 10
    assert low * 0.999 <= min(metric) <= max(metric) <= high * 1.001
    assert len({subject.unit for subject in subjects if not subject.is_metric}) == 10 - len(metric)
    focal = [subject.rig.intrinsics[0, 0, 0].item() / SIZE[1] for subject in subjects]
    assert FAMILIES[family].focal[0] <= min(focal) <= max(focal) <= FAMILIES[family].focal[1]


def test_neighbors_on_the_arc_see_the_same_wall() -> None:
    subject = room_subject("free", 1, 2, 4, SIZE)
    axes = subject.rig.w2c[:, 2, :3]
    turns = torch.rad2deg(torch.acos((axes[1:] * axes[:-1]).sum(-1)))
    view = 2 * np.degrees(np.arctan(SIZE[1] / 2 / subject.rig.intrinsics[0, 0, 0].item()))
    assert (turns < 0.95 * view).all()
    assert (subject.rig.centers.abs()[:, :2] < 400).all()


def test_files_read_back(tmp_path: Path) -> None:
    root = tmp_path / "rooms"
    arguments = ["--layout", "blendedmvs", "--rooms", "free", "--out", str(root), "--scenes", "2", "--views", "3"]
    main([*arguments, "--width", "40", "--height", "32", "--workers", "1"])
    scenes = read_blendedmvs(root, split="test", scans=("free0001", "free0002"))
    subjects = [room_subject("free", 0, index, 3, SIZE) for index in range(2)]
    for scene, subject in zip(scenes, subjects, strict=True):
        torch.testing.assert_close(scene.frames[1].w2c, subject.rig[1].scaled(subject.unit).w2c.float())
        assert scene.image(1).shape == (*SIZE, 3)
        rendered = render_view(subject.scene, subject.rig[1])
        np.testing.assert_allclose(scene.depth(1), rendered.depth * subject.unit, rtol=1e-5)
        np.testing.assert_allclose(scene.image(1) / 255, rendered.rgb, atol=0.51 / 255)  # PNG
    named = (root / METRIC_LIST).read_text().split()
    assert named == [scene.name for scene, subject in zip(scenes, subjects, strict=True) if subject.is_metric]


def test_other_layouts_have_no_rooms(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for more in (["--layout", "dtu", "--rooms", "free"], ["--layout", "blendedmvs", "--rooms", "cave"]):
        with pytest.raises(SystemExit):
            main([*more, "--out", str(tmp_path / "out"), "--scenes", "1", "--views", "20"])
        assert "--rooms" in capsys.readouterr().err
