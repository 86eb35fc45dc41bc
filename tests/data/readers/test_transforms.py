"""transforms.json: the same cameras as COLMAP's, fields of a frame, splits, and what is missing or nonsense."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from skimage import data as astronauts

from data.cache import CACHE_VARIABLE
from data.image_io import write_image, write_uint16
from data.problems import Problems
from data.readers.matched_points import matched_points
from data.readers.options import ReaderOptions
from data.readers.registry import read_scenes
from data.scene import PosedScene
from geometry import Cameras, InputError
from tests.data import photo_scenes as photos
from tests.data import tiny_scenes as tiny


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


def write(root: Path, **fields: object) -> Path:
    photos.write_transforms(root, ply_file_path="points.ply", **fields)
    trimesh.PointCloud(photos.points()).export(root / "points.ply")
    return root


def edit(root: Path, change) -> None:
    content = json.loads((root / "transforms.json").read_text())
    change(content)
    (root / "transforms.json").write_text(json.dumps(content))


def read(root: Path, problems: Problems | None = None, name: str = "transforms", **options: object) -> PosedScene:
    (scene,) = read_scenes(
        name, str(root), split="all", scans=None, options=ReaderOptions(**options), problems=problems
    )
    return scene


def test_both_formats_give_the_same_scene(tmp_path):
    first = read(write(tmp_path / "a"))
    second = read(photos.write_colmap(tmp_path / "b"), name="colmap")
    assert first.held_out_views == second.held_out_views == (0, 8)
    for view, frame in first.frames.items():
        torch.testing.assert_close(frame.w2c, second.frames[view].w2c)
        torch.testing.assert_close(frame.intrinsics, second.frames[view].intrinsics)
        assert frame.near == pytest.approx(second.frames[view].near, rel=1e-4)
        np.testing.assert_array_equal(first.image(view), second.image(view))


def test_fields_of_a_frame_win_and_angles_give_focal_lengths(tmp_path):
    root = write(tmp_path / "a")
    edit(root, lambda content: [content.pop(name) for name in ("fl_x", "fl_y", "cx", "cy", "w", "h")])
    edit(root, lambda content: content.update(camera_angle_x=2 * math.atan(0.4)))
    edit(root, lambda content: content["frames"][2].update(fl_x=90.0, fl_y=80.0, cx=39.0))
    scene = read(root)
    torch.testing.assert_close(scene.frames[0].intrinsics, photos.INTRINSICS.float())
    assert scene.frames[2].intrinsics.tolist() == [[90, 0, 39], [0, 80, 32], [0, 0, 1]]


@pytest.mark.parametrize("fields", [{"k1": -0.2}, {"camera_model": "OPENCV_FISHEYE"}, {"is_fisheye": True}])
def test_distortion_is_removed(tmp_path, fields):
    (note,) = read(write(tmp_path / "a", **fields)).notes
    assert "9 freed of lens distortion" in note


def test_lists_of_names_are_the_split(tmp_path):
    names = [f"./images/IMG_{view:03d}" for view in range(9)]
    scene = read(write(tmp_path / "a", train_filenames=names[:4], val_filenames=names[5:7]))
    assert (scene.train_views, scene.held_out_views) == ((0, 1, 2, 3), (5, 6))


def test_what_is_not_listed_for_training_is_held_out(tmp_path):
    names = [f"images/IMG_{view:03d}.png" for view in range(9)]
    scene = read(write(tmp_path / "a", train_filenames=names[2:]))
    assert (scene.train_views, scene.held_out_views) == (tuple(range(2, 9)), (0, 1))
    scene = read(write(tmp_path / "b", train_filenames=names))
    assert (scene.train_views, scene.held_out_views) == (tuple(range(1, 8)), (0, 8))


def test_masks_depth_and_transparency(tmp_path):
    root = write(tmp_path / "a")
    rgba = np.dstack([tiny.picture(0), np.full((64, 80), 255, np.uint8)])
    rgba[0, 0] = 0
    write_image(root / "images/IMG_000.png", rgba)
    write_image(root / "m.png", np.full((64, 80), 255, np.uint8))
    write_uint16(root / "d.png", np.full((64, 80), 7000, np.uint16))
    edit(root, lambda content: content["frames"][0].update(mask_path="m.png", depth_file_path="d.png"))
    views = read(root).views([0])
    assert views.images[0, :, 0, 0].tolist() == [0, 0, 0]
    assert bool(views.mask.all())
    torch.testing.assert_close(views.depth, torch.full((1, 64, 80), 7.0))


def test_smaller_images_are_taken_from_their_folder(tmp_path):
    root = write(tmp_path / "a")
    for view in range(9):
        write_image(root / "images_2" / f"IMG_{view:03d}.png", tiny.picture(view)[::2, ::2])
    half = read(root, image_factor=2)
    np.testing.assert_array_equal(half.image(3), tiny.picture(3)[::2, ::2])
    assert half.frames[3].intrinsics.tolist() == [[50, 0, 20], [0, 50, 16], [0, 0, 1]]
    edit(root, lambda content: content["frames"][2].update(file_path="photos/IMG_002.png"))
    problems = Problems()
    assert len(read(root, problems, image_factor=2).frames) == 8
    assert list(problems.lines) == ["--image_factor 2: expected images below images/, got photos/IMG_002.png"]


def test_points_that_no_view_is_known_to_observe_are_no_depth(tmp_path):
    with pytest.raises(InputError, match="--sparse_depth: expected observed points in a, got none"):
        read(write(tmp_path / "a"), sparse_depth=True)


def test_missing_frames_are_counted(tmp_path, capsys):
    root = write(tmp_path / "a")
    for view in (1, 2):
        (root / "images" / f"IMG_{view:03d}.png").unlink()
    assert len(read(root).frames) == 7
    assert "2 frames without image" in capsys.readouterr().err


NAN = [[math.nan] * 4] * 4


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"transform_matrix": NAN}, "expected finite camera matrices"),
        ({"transform_matrix": [[1, 2], [3]]}, "expected a 4x4 transform_matrix"),
        ({"transform_matrix": [[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]}, "expected a rotation matrix"),
        ({"fl_x": 0}, "a size above 0, got fl_x 0"),
        ({"fl_x": "wide"}, "expected a number as fl_x"),
        ({"k1": math.inf}, "expected a number as k1"),
        ({"w": 7}, "expected the proportions of 7x64"),
        ({"camera_model": "EQUIRECTANGULAR"}, "expected a camera_model of OPENCV"),
        ({"file_path": "../../IMG_003.png"}, "expected names of files in this folder"),
        ({"mask_path": "nowhere.png"}, "expected the file nowhere.png, got none"),
        ({"file_path": 7}, "expected frames with a file_path"),
    ],
)
def test_an_impossible_frame_is_named(tmp_path, change, expected):
    root, problems = write(tmp_path / "a"), Problems()
    edit(root, lambda content: content["frames"][3].update(change))
    assert len(read(root, problems).frames) == 8
    (line,) = problems.lines
    assert expected in line


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"frames": []}', '{"frames": 3}'])
def test_a_broken_file_is_named(tmp_path, text):
    (tmp_path / "transforms.json").write_text(text)
    with pytest.raises(InputError, match=r"transforms\.json: expected"):
        read(tmp_path)


def test_of_frames_with_one_image_the_first_is_taken(tmp_path):
    """Two cameras of one photograph cannot both be right."""
    root = write(tmp_path / "a")
    edit(root, lambda content: content["frames"].append(content["frames"][0]))
    problems = Problems(str(root))
    assert len(read(root, problems).frames) == len(json.loads((root / "transforms.json").read_text())["frames"]) - 1


@pytest.mark.parametrize(("name", "message"), [("a.txt", "which is a file"), ("x" * 300, "which does not exist")])
def test_what_is_no_folder_is_said(tmp_path, name, message):
    (tmp_path / "a.txt").touch()
    with pytest.raises(InputError, match=message):
        read(tmp_path / name)


def test_points_from_matches_lie_on_the_wall():
    """A photograph on the plane z = 7, seen by cameras 0.56 apart: 8 pixels."""
    photograph = astronauts.astronaut()
    images = {view: np.ascontiguousarray(photograph[:256, 8 * view : 8 * view + 320]) for view in range(3)}
    intrinsics = torch.tensor([[100.0, 0, 160], [0, 100, 128], [0, 0, 1]], dtype=torch.float64)
    cameras = {view: Cameras(photos.w2c(4 * view), intrinsics, 256, 320) for view in range(3)}
    points = matched_points(cameras, images.__getitem__, "astronaut")
    assert len(points.points_world) > 100
    assert abs(np.median(points.points_world[:, 2]) - 7) < 0.02
    again = matched_points(cameras, lambda view: pytest.fail("an image was opened again"), "astronaut")
    np.testing.assert_array_equal(points.points_world, again.points_world)
    view, rows = next(iter(points.rows.items()))
    projected = cameras[view].project(torch.from_numpy(points.points_world[rows])).pixels
    assert np.linalg.norm(projected - points.pixels[view], axis=-1).max() < 2
