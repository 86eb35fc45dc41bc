"""Readers of Co3D and Virtual KITTI 2 on procedural copies (real geometry) and on broken files."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from data.cache import CACHE_VARIABLE
from data.check.__main__ import main as check
from data.image_io import read_uint16, write_image, write_uint16
from data.multi_view.sources import GroupKey, SceneFrames, evaluation_groups
from data.procedural.generate import generate
from data.procedural.layout_parts import GeneratorSettings, cached_scene, orbit
from data.procedural.sequence_writers import VKITTI_UNIT
from data.procedural.tracer import render_view
from data.readers import co3d, co3d_index
from data.readers.co3d import find_co3d_scans, read_co3d
from data.readers.registry import read_scenes
from data.readers.virtual_kitti import find_vkitti_scans, read_vkitti
from data.scene import PosedScene
from data.view_selection.neighbors import most_similar
from geometry import InputError, Views, pixel_centers, sample_at_pixels
from tests.data.readers.test_readers import message_of
from tests.data.tiny_scenes import FOCAL, HEIGHT, WIDTH, picture, w2c
from tests.scenes import ring_cameras

CO3D = GeneratorSettings(layout="co3d", width=40, height=32, views=24, seed=2, lights=1, first_scan=1)
VKITTI = GeneratorSettings(layout="vkitti", width=40, height=32, views=4, seed=2, lights=1, first_scan=1)


@pytest.fixture(scope="module")
def co3d_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("co3d") / "root"
    generate(folder, CO3D, 1, workers=1)
    return folder


@pytest.fixture(scope="module")
def vkitti(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vkitti") / "root"
    generate(folder, VKITTI, 2, workers=1)
    return folder


def write_sequence(root: Path, sequence: str, frames: int, kind: str = "train") -> Path:
    """A Co3D sequence of the tiny wall, depth 700 / 100; returns its annotation file."""
    listed = []
    for view in range(frames):
        file = f"toy/{sequence}/images/frame{view:06d}.jpg"
        intrinsics = [[FOCAL, 0, 39.5], [0, FOCAL, 31.5], [0, 0, 1]]
        matrix = w2c(view)
        matrix[:3, 3] /= 100
        listed.append({"filepath": file, "extri": matrix[:3].tolist(), "intri": intrinsics})
        write_image(root / file, picture(view % 8))
        depth = np.full((HEIGHT, WIDTH), 7.0, np.float16)
        write_uint16(root / f"toy/{sequence}/depths/frame{view:06d}.jpg.geometric.png", depth.view(np.uint16))
        mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
        mask[0], mask[1] = 128, 129
        write_image(root / f"toy/{sequence}/depth_masks/frame{view:06d}.png", mask)
    path = root / f"toy_{kind}.jgz"
    content = json.loads(gzip.decompress(path.read_bytes())) if path.is_file() else {}
    path.write_bytes(gzip.compress(json.dumps(content | {sequence: listed}).encode()))
    return path


def reprojection_error(views: Views) -> float:
    """Pixels between where the second view's depth says a point of the first lies and where the first said it was."""
    height, width = views.cameras.height, views.cameras.width
    pixels = pixel_centers(height, width, views.images)
    known = (views.depth[0] > 0).flatten()
    points = views.cameras[0].unproject(pixels[known], views.depth[0].flatten()[known])
    there = views.cameras[1].project(points)
    found = sample_at_pixels(views.depth[1][None], there.pixels, height, width)[:, 0]
    agree = there.visible & ((found - there.depth).abs() < 0.01 * there.depth)
    assert agree.sum() > 100
    back = views.cameras[0].project(views.cameras[1].unproject(there.pixels[agree], found[agree])).pixels
    return (back - pixels[known][agree]).norm(dim=-1).median().item()


def test_co3d_round_trip(co3d_root: Path) -> None:
    (scene,) = read_co3d(co3d_root, split="all")
    rig, unit = orbit(CO3D, 0)
    assert (scene.name, scene.scan, len(scene.frames)) == ("procedural/0001", "procedural/0001", 24)
    assert not scene.is_video
    views = scene.views([3, 7])
    torch.testing.assert_close(views.cameras.w2c, rig[[3, 7]].scaled(unit).w2c.float())
    torch.testing.assert_close(views.cameras.intrinsics, rig[[3, 7]].intrinsics.float())
    exact = render_view(cached_scene(2, 0, False), rig[3]).depth * np.float32(unit)
    known = views.depth[0].numpy() > 0
    assert (views.depth[0].numpy()[known] / exact[known] - 1).__abs__().max() < 2**-11
    assert (exact > 0).sum() - known.sum() == 26  # the farthest 2 percent of 40x32 pixels
    assert exact[~known & (exact > 0)].min() >= np.float32(exact[known].max() * (1 - 2**-10))
    assert views.near[0] < views.depth[0][views.depth[0] > 0].min()
    assert views.depth.max() < views.far[0]


def test_frames_of_the_copies_agree_with_each_other(co3d_root: Path, vkitti: Path) -> None:
    (first,) = read_co3d(co3d_root, split="all")
    view = 5
    assert reprojection_error(first.views([view, first.neighbors[view][0]])) < 0.1
    second = read_vkitti(vkitti, split="all")[0]
    assert reprojection_error(second.views([1, second.neighbors[1][0]])) < 0.1


def test_vkitti_round_trip(vkitti: Path) -> None:
    scenes = read_vkitti(vkitti, split="all")
    assert [scene.name for scene in scenes] == ["Scene01/clone/Camera_0", "Scene02/clone/Camera_0"]
    assert list(find_vkitti_scans(vkitti)) == [scene.scan for scene in scenes]
    rig, _ = orbit(VKITTI, 0)
    views = scenes[0].views([0, 3])
    torch.testing.assert_close(views.cameras.w2c, rig[[0, 3]].scaled(VKITTI_UNIT).w2c.float())
    torch.testing.assert_close(views.cameras.intrinsics, rig[[0, 3]].intrinsics.float())
    exact = render_view(cached_scene(2, 0, False), rig[0]).depth * np.float32(VKITTI_UNIT)
    assert np.abs(views.depth[0].numpy() - exact).max() <= 0.0051  # centimeters
    assert (views.depth == 0).any()  # nothing is seen: written as 655 m
    assert scenes[0].is_video
    assert [scene.scan[:7] for scene in read_vkitti(vkitti, split="train")] == ["Scene01"]
    assert [scene.scan[:7] for scene in read_vkitti(vkitti, split="val")] == ["Scene02"]
    (named,) = read_vkitti(vkitti, split="train", scans=("Scene02/clone",))
    assert named.scan == "Scene02/clone/Camera_0"


def test_lines_of_the_other_camera_are_not_mixed_up(vkitti: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(vkitti / "Scene01", root / "Scene01")
    frames = root / "Scene01" / "clone" / "frames"
    for kind in ("rgb", "depth"):
        shutil.copytree(frames / kind / "Camera_0", frames / kind / "Camera_1")
    left, right = read_vkitti(root, split="all")
    offset = right.frames[2].w2c - left.frames[2].w2c
    assert offset[0, 3].item() == pytest.approx(-0.5325, abs=1e-5)
    assert offset.abs().sum().item() == pytest.approx(0.5325, abs=1e-5)


def test_frames_for_training_and_evaluation(co3d_root: Path, vkitti: Path) -> None:
    scenes = [*read_co3d(co3d_root, split="all"), *read_vkitti(vkitti, split="train")]
    source = SceneFrames("mixed", scenes)
    for item in range(2):
        (group,) = source.sample_many([GroupKey(0, item, 3, 24, 40, seed=4)])
        assert group.views.images.shape == (3, 3, 24, 40)
        assert (group.views.depth > 0).float().mean() > 0.3
        assert group.names == (f"mixed/{scenes[item].name}",)
    (group,) = evaluation_groups(scenes, 3, max_groups=1)
    assert group.view_ids == (0, *scenes[0].neighbors[0][:2])


@pytest.mark.parametrize("name", ["co3d", "vkitti"])
def test_the_data_doctor_finds_nothing_wrong(name: str, request: pytest.FixtureRequest, capsys) -> None:
    folder = request.getfixturevalue({"co3d": "co3d_root"}.get(name, name))
    check(["--dataset_name", name, "--datadir", str(folder), "--max_pairs", "4"])
    assert capsys.readouterr().out.splitlines()[-1].endswith(" 0 problems")


def test_co3d_depth_counts_where_the_mask_is_above_128(tmp_path: Path) -> None:
    write_sequence(tmp_path, "a", 24)
    (scene,) = read_co3d(tmp_path, split="train")
    depth = scene.depth(3)
    assert depth[0].max() == 0
    assert depth[1:].min() == depth[1:].max() == 7
    torch.testing.assert_close(scene.frames[3].intrinsics[:2, 2], torch.tensor([40.0, 32.0]))
    assert scene.frames[3].depth_path.name == "frame000003.jpg.geometric.png"


def test_co3d_leaves_out_short_sequences_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_sequence(tmp_path, "short", 23)
    write_sequence(tmp_path, "long", 24)
    write_sequence(tmp_path, "held_out", 24, "test")
    assert [scene.scan for scene in read_co3d(tmp_path, split="train")] == ["toy/long"]
    assert [scene.scan for scene in read_co3d(tmp_path, split="val")] == ["toy/held_out"]
    assert [scene.scan for scene in read_co3d(tmp_path, split="all")] == ["toy/long", "toy/held_out"]
    assert [scene.scan for scene in read_co3d(tmp_path, split="val", scans=("toy",))] == ["toy/long", "toy/held_out"]
    said = capsys.readouterr().err
    assert said == f"{tmp_path}/toy_train.jgz: left out 1 of 2 sequences, which have fewer than 24 frames\n"
    assert set(find_co3d_scans(tmp_path)) == {"toy/long", "toy/held_out"}
    assert message_of(read_co3d, tmp_path, split="all", scans=("toy/short",)) == (
        f"{tmp_path}: expected scans that are there (toy/held_out, toy/long), got toy/short"
    )


def test_co3d_annotations_may_lie_in_their_own_folder_and_be_of_one_kind(tmp_path: Path) -> None:
    for sequence in ("a", "b"):
        path = write_sequence(tmp_path, sequence, 24)
    (tmp_path / "annotations").mkdir()
    path.rename(tmp_path / "annotations" / path.name)
    assert [scene.scan for scene in read_co3d(tmp_path, split="train")] == ["toy/a"]
    assert [scene.scan for scene in read_co3d(tmp_path, split="val")] == ["toy/b"]


def test_co3d_problems_name_the_file(tmp_path: Path, capsys) -> None:
    places = "here, in annotations/ or in --annotation_dir"
    assert message_of(read_co3d, tmp_path, split="all") == (
        f"{tmp_path}: expected {{category}}_train.jgz or _test.jgz, {places}, got none"
    )
    annotation = write_sequence(tmp_path, "a", 24)
    (scene,) = read_co3d(tmp_path, split="all")
    missing = tmp_path / "toy/a/depths/frame000005.jpg.geometric.png"
    missing.unlink()
    assert message_of(scene.depth, 5) == f"{missing}: expected an image file, got none"
    image = tmp_path / "toy/a/images/frame000006.jpg"
    image.unlink()
    assert message_of(scene.views, [6]) == f"{image}: expected an image file, got none"
    mask = tmp_path / "toy/a/depth_masks/frame000007.png"
    write_image(mask, np.zeros((8, 8), np.uint8))
    assert message_of(scene.depth, 7).startswith(f"{mask}: expected a mask of 80x64 (width x height)")
    gray = tmp_path / "toy/a/depths/frame000008.jpg.geometric.png"
    write_image(gray, np.zeros((HEIGHT, WIDTH), np.uint8))
    assert message_of(scene.depth, 8) == f"{gray}: expected a 16-bit gray image, got one of mode L"
    unmasked = tmp_path / "toy/a/depth_masks/frame000009.png"
    unmasked.unlink()
    with pytest.raises(SystemExit):
        check(["--dataset_name", "co3d", "--datadir", str(tmp_path), "--max_pairs", "1"])
    lines = capsys.readouterr().out
    assert all(str(path) in lines for path in (missing, image, mask, gray, unmasked))
    assert lines.splitlines()[-1].endswith("6 problems")  # once more by view
    content = json.loads(gzip.decompress(annotation.read_bytes()))
    content["a"][2]["extri"][0][0] = float("nan")
    annotation.write_bytes(gzip.compress(json.dumps(content).encode()))
    reported = []
    (scene,) = read_co3d(tmp_path, split="all", report=reported.append)
    nan = f"{annotation} sequence a frame 2 (frame000002.jpg): expected finite camera matrices, got NaN or infinity"
    assert [str(one) for one in reported] == [
        *(nan, f"{image}: expected an image, got none"),
        *(f"{path}: expected an image file, got none" for path in (missing, unmasked)),
    ]
    assert not {2, 6} & set(scene.frames)
    assert scene.frames[3].image_path.name == "frame000003.jpg"
    assert [view for view in scene.frames if not scene.has_depth(view)] == [5, 9]
    whole = annotation.read_bytes()
    for broken in (b"no gzip", whole[:-40], whole[:30] + bytes(40) + whole[70:]):
        annotation.write_bytes(broken)
        assert "expected gzip-compressed JSON, got an unreadable file" in message_of(read_co3d, tmp_path, split="all")


def test_a_broken_annotation_file_leaves_the_others(tmp_path: Path) -> None:
    broken = write_sequence(tmp_path, "a", 24)
    broken.write_bytes(broken.read_bytes()[:-40])
    write_sequence(tmp_path, "b", 24, "test")
    reported = []
    (scene,) = read_co3d(tmp_path, split="all", report=reported.append)
    assert scene.scan == "toy/b"
    assert [str(one).partition(":")[0] for one in reported] == [str(broken)]


def test_vkitti_problems_name_the_file(vkitti: Path, tmp_path: Path) -> None:
    assert message_of(read_vkitti, tmp_path, split="all") == (
        f"{tmp_path}: expected Scene*/*/frames/rgb/Camera_*/rgb_00000.jpg, got none"
    )
    shutil.copytree(vkitti / "Scene01", tmp_path / "Scene01")
    variant = tmp_path / "Scene01" / "clone"
    image = variant / "frames/rgb/Camera_0/rgb_00002.jpg"
    kept = image.read_bytes()
    image.unlink()
    reported = []
    (scene,) = read_vkitti(tmp_path, split="all", report=reported.append)
    assert list(scene.frames) == [0, 1, 3]
    assert [str(one) for one in reported] == [f"{image}: expected an image, as extrinsic.txt lists it, got none"]
    image.write_bytes(kept)
    lens = variant / "intrinsic.txt"
    lines = lens.read_text().splitlines()
    lens.write_text("\n".join(line for line in lines if not line.startswith("1 0 ")) + "\n")
    (scene,) = read_vkitti(tmp_path, split="all", report=reported.append)
    assert list(scene.frames) == [0, 2, 3]
    assert str(reported[1]) == f"{lens}: expected a line for frame 1 of Camera_0, got none"
    lens.write_text("\n".join([*lines[:3], lines[3] + " 7", *lines[4:]]))
    assert message_of(read_vkitti, tmp_path, split="all") == f"{lens} line 4: expected 6 numbers, got 7"
    lens.unlink()
    assert message_of(read_vkitti, tmp_path, split="all") == f"{lens}: expected a camera file, got none"
    lens.write_text("\n".join(lines))


def test_an_incomplete_vkitti_is_survived_and_counted(
    vkitti: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(vkitti / "Scene01", tmp_path / "Scene01")
    variant = tmp_path / "Scene01" / "clone"
    (variant / "frames/rgb/Camera_0.zip").write_text("a download that was left behind")
    (variant / "frames/rgb/Camera_left").mkdir()
    assert list(find_vkitti_scans(tmp_path)) == ["Scene01/clone/Camera_0"]
    empty = variant / "frames/rgb/Camera_1"
    empty.mkdir()
    depth = variant / "frames/depth/Camera_0/depth_00003.png"
    depth.unlink()
    reported = []
    (scene,) = read_vkitti(tmp_path, split="all", report=reported.append)
    assert [str(one) for one in reported] == [
        f"{depth}: expected an image file, got none",
        f"{empty}: expected images rgb_00000.jpg, got none",
    ]
    assert [view for view in scene.frames if not scene.has_depth(view)] == [3]
    read_scenes("vkitti", str(tmp_path), split="all", scans=None)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"vkitti in {tmp_path}: 2 problems")
    assert f": 1 depth map, 1 drive without images; {depth}: expected an image file, got none; {empty}: " in line
    empty.rmdir()
    shutil.rmtree(variant / "frames/depth")
    (scene,) = read_vkitti(tmp_path, split="all")
    assert scene.views([3]).depth is None


def test_a_drive_without_its_images_is_counted(vkitti: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The images are an archive of their own, so that a copy may have all but them; the doctor says so, too."""
    root = tmp_path / "vkitti"
    shutil.copytree(vkitti, root)
    lost = root / "Scene07" / "clone"
    shutil.copytree(next(root.glob("Scene*/clone")), lost)
    shutil.rmtree(lost / "frames" / "rgb")
    read_scenes("vkitti", str(root), split="all", scans=None)
    line = f"{lost}: expected a vkitti scan, got no more of one than extrinsic.txt, intrinsic.txt, frames/depth"
    assert line in capsys.readouterr().err
    with pytest.raises(SystemExit):
        check(["--dataset_name", "vkitti", "--datadir", str(root), "--max_pairs", "1"])
    assert line in capsys.readouterr().out


def test_vkitti_depth_beyond_80_meters_is_unknown(vkitti: Path) -> None:
    scene: PosedScene = read_vkitti(vkitti, split="all")[0]
    raw = read_uint16(scene.frames[0].depth_path)
    assert (scene.depth(0)[raw > 8000] == 0).all()
    assert raw.max() == 65535


def test_similar_views_look_the_same_way_from_nearby() -> None:
    cameras = ring_cameras(7)
    shuffled = [3, 0, 6, 2, 5, 1, 4]
    order = most_similar(cameras.w2c[shuffled], 1)  # the camera at one end of the arc
    assert [shuffled[row] for row in order] == [1, 2, 3, 4, 5, 6]
    # two cameras back to back at one place are unlike each other, whatever their distance
    w2c_matrices = cameras.w2c[[0, 0, 2]].clone()
    w2c_matrices[1, [0, 2]] *= -1
    assert most_similar(w2c_matrices, 0) == [2, 1]
    # turning on the spot: no distances at all
    assert most_similar(torch.eye(4).repeat(3, 1, 1), 0) == [1, 2]


def test_sixteen_bits_survive(tmp_path: Path) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    write_uint16(tmp_path / "depth.png", values)
    assert np.array_equal(read_uint16(tmp_path / "depth.png"), values)
    with pytest.raises(InputError, match="expected an image file, got none"):
        read_uint16(tmp_path / "none.png")


def test_an_incomplete_co3d_is_survived_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A missing folder, missing images, too few of them, and a sequence with less than 2 percent known depth."""
    root = tmp_path / "root"
    for name in ("gone", "few", "holes", "dark", "whole"):
        write_sequence(root, name, 24)
    shutil.rmtree(root / "toy/gone")
    for view in range(13):
        (root / f"toy/few/images/frame{view:06d}.jpg").unlink()
    (root / "toy/holes/images/frame000003.jpg").unlink()
    (root / "toy/holes/depths/frame000004.jpg.geometric.png").unlink()
    for view in range(24):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[:1, :60] = 255  # 60 of 5120 pixels are 1.2 percent
        write_image(root / f"toy/dark/depth_masks/frame{view:06d}.png", mask)
    scenes = read_scenes("co3d", str(root), split="all", scans=None)
    assert [scene.scan for scene in scenes] == ["toy/holes", "toy/whole"]
    assert set(scenes[0].frames) == set(range(24)) - {3}
    assert not scenes[0].has_depth(4)
    assert scenes[0].depth(5).max() == 7
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"co3d in {root}: 18 problems")
    assert (
        ": 14 frames without image, 1 sequence of fewer than 12 images, 1 sequence without images, 1 depth map, "
        f"1 sequence without known depth; {root}/toy/few/images/frame000000.jpg: expected an image, got none; "
    ) in line
    with pytest.raises(SystemExit):
        check(["--dataset_name", "co3d", "--datadir", str(root), "--max_pairs", "0"])
    assert "expected a folder of images, got none" in message_of(read_co3d, root, split="all", scans=("toy/gone",))


def test_the_doctor_lists_everything_that_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("gone", "holes", "blind"):
        write_sequence(tmp_path, name, 24)
    shutil.rmtree(tmp_path / "toy/gone")
    shutil.rmtree(tmp_path / "toy/blind/depths")
    images = [tmp_path / f"toy/holes/images/frame{view:06d}.jpg" for view in (3, 20)]
    for image in images:
        image.unlink()
    with pytest.raises(SystemExit):
        check(["--dataset_name", "co3d", "--datadir", str(tmp_path), "--max_pairs", "0"])
    lines = capsys.readouterr().out.splitlines()
    assert f"problem: {tmp_path}/toy/gone/images: expected a folder of images, got none" in lines
    assert [line for image in images for line in lines if str(image) in line] == [
        f"problem: {image}: expected an image, got none" for image in images
    ]
    assert sum("toy/blind/depths" in line for line in lines) == 24


def test_a_sequence_whose_images_are_all_broken_does_not_end_a_training(tmp_path: Path) -> None:
    for name in ("broken", "sound"):
        write_sequence(tmp_path, name, 24)
    scenes = read_co3d(tmp_path, split="all")
    assert [scene.name for scene in scenes] == ["toy/broken", "toy/sound"]
    for path in (tmp_path / "toy" / "broken" / "images").iterdir():
        path.write_bytes(b"half a picture")
    (group,) = SceneFrames("co3d", scenes).sample_many([GroupKey(0, 0, 2, 16, 16, 5)])
    assert group.names == ("co3d/toy/sound",)


def test_a_co3d_without_any_depth_is_read_without(tmp_path: Path) -> None:
    write_sequence(tmp_path, "a", 24)
    shutil.rmtree(tmp_path / "toy/a/depths")
    (scene,) = read_co3d(tmp_path, split="all")
    assert scene.read_depth is None
    frame = scene.frames[2]
    assert 0 < frame.near < frame.far
    assert scene.views([2]).depth is None


def test_annotations_in_another_folder(tmp_path: Path) -> None:
    root, folder = tmp_path / "root", tmp_path / "annotations_of_root"
    path = write_sequence(root, "a", 24)
    folder.mkdir()
    path.rename(folder / path.name)
    (scene,) = read_scenes("co3d", str(root), split="train", scans=None, annotation_dir=str(folder))
    assert scene.frames[0].image_path.is_relative_to(root)
    assert list(find_co3d_scans(root, folder)) == ["toy/a"]
    check(["--dataset_name", "co3d", "--datadir", str(root), "--annotation_dir", str(folder), "--max_pairs", "0"])
    for name, more in (("co3d", "expected a folder, got"), ("dtu", "expected - for dtu")):
        with pytest.raises(InputError, match=f"^--annotation_dir.*{more}"):
            read_scenes(name, str(root), split="train", scans=None, annotation_dir=str(tmp_path / "nowhere"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    return folder


def test_what_is_kept_equals_what_is_read(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    annotation = write_sequence(root, "a", 24)
    write_sequence(root, "short", 3)
    content = json.loads(gzip.decompress(annotation.read_bytes()))
    content["a"][2]["intri"][0][0] = -1.0
    annotation.write_bytes(gzip.compress(json.dumps(content).encode()))
    first = co3d_index.read_annotation(annotation)
    (scene,) = read_co3d(root, split="all", report=[].append)
    co3d_index.forget()
    with monkeypatch.context() as patch:
        patch.setattr(co3d_index, "_parse", lambda path: pytest.fail("the file was read again"))
        patch.setattr(co3d, "_read_depth", lambda path: pytest.fail("a depth map was read again"))
        again = co3d_index.read_annotation(annotation)
        (kept,) = read_co3d(root, split="all", report=[].append)
    assert (again.num_short, again.problems) == (first.num_short, first.problems) == (1, first.problems)
    assert len(first.problems) == 1
    assert again.sequences["a"].files == first.sequences["a"].files
    for name in ("view_ids", "w2c", "intrinsics"):
        assert np.array_equal(getattr(again.sequences["a"], name), getattr(first.sequences["a"], name))
    for view in (0, 23):
        one, other = scene.frames[view], kept.frames[view]
        assert (one.near, one.far, one.image_path) == (other.near, other.far, other.image_path)
        assert torch.equal(one.w2c, other.w2c)
        assert torch.equal(one.intrinsics, other.intrinsics)


def test_another_or_a_broken_file_is_read_anew(tmp_path: Path, cache: Path) -> None:
    root = tmp_path / "root"
    write_sequence(root, "a", 24)
    read_co3d(root, split="all")
    co3d_index.forget()
    write_sequence(root, "b", 24)  # the annotation is another one now
    assert [scene.scan for scene in read_co3d(root, split="all")] == ["toy/a", "toy/b"]
    files = [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert sorted(path.suffix for path in files) == [".json", ".npz"]  # nothing half-written, nothing old
    for damage in (lambda whole: whole[: len(whole) // 2], lambda whole: b"", lambda whole: b"x" * len(whole)):
        for path in files:
            path.write_bytes(damage(path.read_bytes()))
        co3d_index.forget()
        assert [scene.scan for scene in read_co3d(root, split="all")] == ["toy/a", "toy/b"]
    for view in range(24):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        write_image(root / f"toy/a/depth_masks/frame{view:06d}.png", mask)
    assert [scene.scan for scene in read_co3d(root, split="all", report=[].append)] == ["toy/b"]
