import json

import numpy as np
import pytest
import torch

from data.image_io import write_image, write_pfm
from data.readers.blendedmvs import read_blendedmvs
from data.readers.blender import read_blender
from data.readers.llff import read_llff
from data.readers.registry import read_scenes
from geometry import InputError
from tests.data import tiny_scenes as tiny

INTRINSICS = torch.tensor([[100.0, 0, 40], [0, 100, 32], [0, 0, 1]])


def message_of(read, *args, **kwargs) -> str:
    with pytest.raises(InputError) as error:
        read(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("is_nested", [False, True])
def test_blendedmvs(tmp_path, is_nested):
    folder = tiny.write_blendedmvs(tmp_path / "5a3")
    (scene,) = read_blendedmvs(tmp_path if is_nested else folder, split="train")
    assert scene.name == "5a3"
    assert sorted(scene.frames) == [0, 1, 2, 3, 4, 5]
    assert scene.neighbors[2] == (5, 4, 3, 1, 0)
    assert (scene.train_views, scene.held_out_views) == ((1, 2, 3, 4, 5), (0,))
    views = scene.views([1])
    torch.testing.assert_close(views.cameras.intrinsics[0], INTRINSICS)
    assert views.cameras.centers[0].tolist() == [14, 0, 0]
    assert (views.near.item(), views.far.item()) == (425, 900)
    assert views.depth.unique().tolist() == [700]


def test_blendedmvs_min_max_line_and_no_depth(tmp_path):
    folder = tiny.write_blendedmvs(tmp_path / "room", last_line="4.5 8.25")
    for path in (folder / "rendered_depth_maps").iterdir():
        path.unlink()
    (scene,) = read_blendedmvs(folder, split="val")
    assert (scene.frames[0].near, scene.frames[0].far) == (4.5, 8.25)
    assert scene.views([0]).depth is None


def test_blendedmvs_problems(tmp_path):
    folder = tiny.write_blendedmvs(tmp_path / "5a3")
    # cameras of the low-resolution set beside high-resolution images
    for view in range(6):
        write_image(folder / "blended_images" / f"{view:08d}.jpg", np.zeros((170, 213, 3), np.uint8))
    path = folder / "cams" / "00000000_cam.txt"
    assert message_of(read_blendedmvs, folder, split="all") == (
        f"{path}: expected a principal point near the center of the 213x170 image, got (39.5, 31.5): "
        "intrinsics are for another image size?"
    )
    tiny.write_blendedmvs(folder)
    (folder / "blended_images" / "00000002.jpg").unlink()
    assert message_of(read_blendedmvs, folder, split="all") == (
        f"{folder / 'blended_images' / '00000002.jpg'}: expected an image, got none"
    )
    tiny.write_blendedmvs(folder)
    (folder / "cams" / "00000003_cam.txt").unlink()
    assert message_of(read_blendedmvs, folder, split="all") == (
        f"{folder / 'cams' / '00000003_cam.txt'}: expected a camera file, got none"
    )
    tiny.write_blendedmvs(folder)
    write_pfm(folder / "rendered_depth_maps" / "00000001.pfm", np.ones((8, 8), np.float32))
    (scene,) = read_blendedmvs(folder, split="all")
    assert "expected a depth map of 80x64 (width x height), got 8x8" in message_of(scene.views, [1])


def test_llff_takes_the_smallest_images_and_known_poses(tmp_path):
    folder = tiny.write_llff(tmp_path / "fern")
    (scene,) = read_llff(tmp_path, split="train")
    assert scene.name == "fern"
    assert (scene.train_views, scene.held_out_views) == ((1, 2, 3, 4, 5, 6, 7), (0, 8))
    views = scene.views([0, 3])
    torch.testing.assert_close(views.cameras.intrinsics[0], INTRINSICS)
    torch.testing.assert_close(views.cameras.w2c[1], torch.from_numpy(tiny.w2c(3)).float())
    torch.testing.assert_close(views.near, torch.full((2,), 0.8 * 600))
    torch.testing.assert_close(views.far, torch.full((2,), 1.2 * 808))
    assert scene.neighbors[0][:2] == (1, 2)
    assert [one.name for one in read_llff(folder, split="test")] == ["fern"]


def test_llff_problems(tmp_path):
    folder = tiny.write_llff(tmp_path / "fern")
    path = folder / "poses_bounds.npy"
    good = np.load(path)
    np.save(path, good[:5])
    assert message_of(read_llff, folder, split="all") == (
        f"{path}: expected 9 rows of 17, one per image, got shape (5, 17)"
    )
    bad = good.copy()
    bad[2, 3] = np.nan
    np.save(path, bad)
    assert message_of(read_llff, folder, split="all") == (
        f"{path} row 2 (IMG_002.png): expected finite camera matrices, got NaN or infinity"
    )
    bad = good.copy()
    bad[:, 4] = 999
    np.save(path, bad)
    assert "expected the proportions of 320x999 as in poses_bounds.npy, got 80x64" in message_of(
        read_llff, folder, split="all"
    )


@pytest.mark.parametrize("held_out", ["val", "test"])
def test_blender(tmp_path, held_out):
    tiny.write_blender(tmp_path / "lego", held_out=held_out)
    (scene,) = read_blender(tmp_path, split="train")
    assert (scene.name, scene.train_views, scene.held_out_views) == ("lego", (0, 1, 2, 3), (1000, 1001))
    views = scene.views([3, 1001])
    torch.testing.assert_close(views.cameras.intrinsics[0], INTRINSICS)
    torch.testing.assert_close(views.cameras.w2c[0], torch.from_numpy(tiny.w2c(3)).float())
    assert (views.near.tolist(), views.far.tolist()) == ([2, 2], [6, 6])
    assert views.images[:, :, 0, 0].unique().tolist() == [1]  # transparent over white
    assert scene.frames[1001].image_path.parent.name == held_out


def test_blender_without_held_out_frames(tmp_path):
    tiny.write_blender(tmp_path, views=9, held_out=None)
    (scene,) = read_blender(tmp_path, split="train")
    assert scene.held_out_views == (0, 8)


def test_blender_problems(tmp_path):
    tiny.write_blender(tmp_path)
    (tmp_path / "train" / "r_2.png").unlink()
    assert message_of(read_blender, tmp_path, split="all") == (
        f"{tmp_path / 'train' / 'r_2.png'}: expected the image of frame 2 of transforms_train.json, got none"
    )
    tiny.write_blender(tmp_path)
    path = tmp_path / "transforms_train.json"
    content = json.loads(path.read_text())
    content["frames"][1]["transform_matrix"][0][3] = float("nan")
    path.write_text(json.dumps(content))
    assert message_of(read_blender, tmp_path, split="all") == (
        f"{path} frame 1 (r_1.png): expected finite camera matrices, got NaN or infinity"
    )
    path.write_text('{"frames": []}')
    assert message_of(read_blender, tmp_path, split="all") == (
        f"{path}: expected JSON with camera_angle_x and frames, got KeyError('camera_angle_x')"
    )


@pytest.mark.parametrize(
    ("name", "write", "lost", "left"),
    [
        ("blendedmvs", tiny.write_blendedmvs, "blended_images/00000002.jpg", [0, 1, 3, 4, 5]),
        ("blendedmvs", tiny.write_blendedmvs, "cams/00000002_cam.txt", [0, 1, 3, 4, 5]),
        ("blender", tiny.write_blender, "train/r_2.png", [0, 1, 3, 1000, 1001]),
        ("dtu", tiny.write_idr, "image/000002.png", [0, 1, 3, 4, 5]),
        ("llff", tiny.write_llff, "images_4/IMG_002.png", None),
        ("llff", tiny.write_llff, "poses_bounds.npy", None),
        ("blender", tiny.write_blender, "transforms_train.json", None),
    ],
)
def test_a_lost_file_costs_a_view_or_a_scan(tmp_path, capsys, name, write, lost, left):
    """Named at the start; the other scan stays whole, and the split of what is left is that of the whole."""
    write(tmp_path / "a")
    write(tmp_path / "b")
    whole = {scene.scan: scene for scene in read_scenes(name, str(tmp_path), split="all", scans=None)}
    assert capsys.readouterr().err == ""
    (tmp_path / "a" / lost).unlink()
    scenes = {scene.scan: scene for scene in read_scenes(name, str(tmp_path), split="all", scans=None)}
    line = capsys.readouterr().err
    assert line.startswith(f"{name} in {tmp_path}: 1 problem (")
    assert str(tmp_path / "a") in line
    assert sorted(scenes["b"].frames) == sorted(whole["b"].frames)
    if left is None:
        assert list(scenes) == ["b"]
        return
    assert sorted(scenes["a"].frames) == left
    assert set(scenes["a"].train_views) == set(whole["a"].train_views) & set(left)
    assert set(scenes["a"].held_out_views) == set(whole["a"].held_out_views) & set(left)


def test_nothing_usable_is_an_error_that_says_why(tmp_path):
    tiny.write_llff(tmp_path / "a")
    (tmp_path / "a" / "images_4" / "IMG_002.png").unlink()
    with pytest.raises(InputError, match=r"at least one llff scene in split 'all', got none: .*expected 8 rows of 17"):
        read_scenes("llff", str(tmp_path), split="all", scans=None)
