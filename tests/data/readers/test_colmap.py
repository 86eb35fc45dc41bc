"""Scenes with COLMAP models: cameras, lenses, mixed sizes, bounds, points, and what is missing or nonsense."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from data.cache import CACHE_VARIABLE
from data.check.__main__ import main as check
from data.colmap_library import pycolmap
from data.image_io import write_image, write_uint16
from data.problems import Problems
from data.readers.options import ReaderOptions
from data.readers.registry import read_scenes
from data.scene import PosedScene
from geometry import InputError
from tests.data import photo_scenes as photos
from tests.data import tiny_scenes as tiny


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return photos.write_colmap(tmp_path / "scene")


def read(root: Path, problems: Problems | None = None, **options: object) -> PosedScene:
    (scene,) = read_scenes(
        "colmap", str(root), split="all", scans=None, options=ReaderOptions(**options), problems=problems
    )
    return scene


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("text", [False, True])
def test_cameras_split_and_pixels(tmp_path, text):
    scene = read(photos.write_colmap(tmp_path / "scene", text=text))
    assert (scene.name, list(scene.frames), scene.held_out_views) == ("scene", list(range(9)), (0, 8))
    assert scene.frames[3].image_path.name == "IMG_003.png"
    torch.testing.assert_close(scene.frames[3].w2c, photos.w2c(3).float())
    assert scene.frames[3].intrinsics.tolist() == photos.INTRINSICS.tolist()
    np.testing.assert_array_equal(scene.image(3), tiny.picture(3))
    assert scene.notes == ()
    assert scene.read_depth is None


def test_bounds_are_the_quantiles_of_the_points_with_a_margin(root):
    scene, depth = read(root), photos.points()[:, 2]
    near, far = np.quantile(depth, [0.005, 0.995])
    assert scene.frames[4].near == pytest.approx(0.8 * near)
    assert scene.frames[4].far == pytest.approx(1.2 * far)
    (root / "scene.json").write_text(json.dumps({"held_out": ["IMG_002.png", "IMG_005"], "near": 1.5, "far": 20}))
    described = read(root)
    assert (described.frames[4].near, described.frames[4].far) == (1.5, 20)
    assert (described.held_out_views, 2 in described.train_views) == ((2, 5), False)


@pytest.mark.parametrize(("num_distant", "is_reduced"), [(2, True), (10, False)])
def test_a_few_distant_points_of_one_view_do_not_ruin_its_far(tmp_path, monkeypatch, num_distant, is_reduced):
    """Of 40 points those that only views 3 and 4 observe are ten times as far: some background, or what they show."""
    world = photos.points()
    world[:num_distant] *= 10
    monkeypatch.setattr(photos, "points", lambda: world)
    scene = read(photos.write_colmap(tmp_path / "scene", seen_by=dict.fromkeys(range(num_distant), (3, 4))))
    far = scene.frames[0].far
    assert far == pytest.approx(1.2 * world[num_distant:, 2].max(), rel=0.02)
    if is_reduced:
        assert scene.frames[3].far == pytest.approx(2 * far)
        assert scene.notes == ("scene: far of 2 views reduced: few of their points are behind it",)
    else:
        assert scene.frames[3].far > 9 * far
        assert np.mean(world[:, 2] < scene.frames[3].far) >= 0.9


def test_without_points_matches_of_the_images_give_bounds(root, tmp_path):
    for name in ("images.txt", "points3D.txt", "cameras.txt"):
        assert not (root / "sparse/0" / name).exists()
    pycolmap.Reconstruction(root / "sparse/0").write_text(str(tmp_path))
    shutil.rmtree(root / "sparse/0")
    (root / "sparse/0").mkdir()
    lines = (tmp_path / "images.txt").read_text().splitlines()
    bare = [line if index % 2 == 0 else "" for index, line in enumerate(line for line in lines if line[0] != "#")]
    (root / "sparse/0/images.txt").write_text("\n".join(bare) + "\n")
    (root / "sparse/0/points3D.txt").touch()
    shutil.copy(tmp_path / "cameras.txt", root / "sparse/0")
    scene = read(root)
    assert any("triangulated matches" in note for note in scene.notes)
    # the points of the model, which is gone, lay around depth 7
    assert all(0 < frame.near < 7 < frame.far for frame in scene.frames.values())


def test_neighbors_share_points_at_a_good_angle(root):
    # at depth 7 a baseline of 0.14 per view is 1.1 degrees: 4 views away are 4.6, the best there are
    assert read(root).neighbors[0][0] in (4, 5)


DISTORTED = {
    "SIMPLE_RADIAL": [100.0, 40, 32, -0.2],
    "OPENCV": [100.0, 101, 41, 31, -0.1, 0.02, 0.001, -0.002],
    "OPENCV_FISHEYE": [100.0, 100, 40, 32, 0.01, 0, 0, 0],
    "FULL_OPENCV": [100.0, 101, 41, 31, -0.1, 0.02, 0.001, -0.002, 0.003, 0.01, 0, 0],
}


@pytest.mark.parametrize("model", DISTORTED)
@pytest.mark.parametrize("has_cache", [True, False])
def test_points_are_where_the_undistorted_image_shows_them(tmp_path, monkeypatch, own_cache, model, has_cache):
    """A picture that is black but for a dot at a point's distorted place."""
    if not has_cache:
        monkeypatch.setenv(CACHE_VARIABLE, "off")
    camera = pycolmap.Camera(model=model, width=80, height=64, params=DISTORTED[model])
    root = photos.write_colmap(tmp_path / "scene", camera=camera)
    y, x = np.mgrid[:64, :80] + 0.5
    at = camera.img_from_cam(photos.points()[3])
    dot = 255 * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / 8)
    write_image(root / "images" / "IMG_000.png", np.repeat(dot[..., None], 3, axis=-1).astype(np.uint8))
    scene = read(root)
    frame, image = scene.frames[0], scene.image(0)[..., 0].astype(float)
    y, x = np.mgrid[: frame.height, : frame.width] + 0.5
    center = np.array([(image * x).sum(), (image * y).sum()]) / image.sum()
    point = scene.cameras([0]).project(torch.from_numpy(photos.points()[None, 3:4]).float()).pixels[0, 0]
    np.testing.assert_allclose(center, point, atol=0.1)
    np.testing.assert_allclose(scene.points.pixels[0][3], point, atol=1e-3)
    assert scene.notes == (
        f"scene: 9 images on one canvas of {frame.width}x{frame.height}: 9 freed of lens distortion",
    )
    assert len(list(own_cache.rglob("*.png"))) == has_cache  # nothing is undistorted that is not opened


def test_portrait_images_are_turned_onto_the_canvas(tmp_path):
    scene = read(photos.write_colmap(tmp_path / "scene", portrait=(2, 4)))
    assert scene.notes == ("scene: 9 images on one canvas of 80x64: 2 turned by 90 degrees",)
    for view in (2, 4):  # turned back: the picture, its pose and its intrinsics are what they were
        np.testing.assert_array_equal(scene.image(view), tiny.picture(view))
        torch.testing.assert_close(scene.frames[view].w2c, photos.w2c(view).float())
        torch.testing.assert_close(scene.frames[view].intrinsics, photos.INTRINSICS.float())
    assert scene.views([1, 2, 4]).images.shape == (3, 3, 64, 80)


def test_smaller_files_scale_the_camera_and_others_are_refused(root):
    for view in range(9):
        path = root / "images_2" / f"IMG_{view:03d}.png"
        write_image(path, tiny.picture(view)[::2, ::2])
    half = read(root, image_factor=2)
    assert (half.frames[0].height, half.frames[0].width) == (32, 40)
    assert half.frames[0].intrinsics.tolist() == [[50, 0, 20], [0, 50, 16], [0, 0, 1]]
    write_image(root / "images" / "IMG_001.png", tiny.picture(1)[:, :40])
    problems = Problems()
    assert 1 not in read(root, problems).frames
    assert "expected the proportions of 80x64" in problems.lines[0]
    with pytest.raises(InputError, match="--image_factor 4: expected the folder"):
        read(root, image_factor=4)


def test_sparse_depth_survives_resizing(root):
    scene = read(root, sparse_depth=True)
    depth = scene.depth(0)
    assert 30 < (depth > 0).sum() <= 40
    row, column = np.argwhere(depth > 0)[0]
    at = scene.points.pixels[0].astype(int).tolist()
    assert [column, row] in at
    assert depth[row, column] in photos.points()[:, 2].astype(np.float32)
    quarter = scene.views([0], 0.25).depth[0]
    assert int((quarter > 0).sum()) > 15
    assert scene.has_depth(0)
    assert not read(root).has_depth(0)


def test_masks_and_depth_maps(root):
    for view in range(9):
        write_image(root / "masks" / f"IMG_{view:03d}.png.png", np.full((32, 40), 255 * (view > 0), np.uint8))
        write_uint16(root / "depth" / f"IMG_{view:03d}.png", np.full((64, 80), 700, np.uint16))
    (root / "scene.json").write_text('{"depth_scale": 0.01}')
    views = read(root).views([0, 1])
    assert views.mask.float().mean((1, 2)).tolist() == [0, 1]
    torch.testing.assert_close(views.depth, torch.full((2, 64, 80), 7.0))


def test_what_is_missing_is_counted_and_the_split_stays(root):
    for view in (1, 8):
        (root / "images" / f"IMG_{view:03d}.png").unlink()
    problems = Problems()
    scene = read(root, problems)
    assert (len(scene.frames), scene.held_out_views) == (7, (0,))
    assert len(problems.lines) == 2
    assert "IMG_001.png: expected an image, got none" in problems.lines[0]


def test_points_that_images_observe_but_the_model_lacks(tmp_path):
    """Of a model whose points were thinned by hand: the last one has the largest number."""
    root = photos.write_colmap(tmp_path / "scene", text=True)
    whole, file = read(root), root / "sparse" / "0" / "points3D.txt"
    lines = file.read_text().splitlines()
    last = max((line for line in lines if not line.startswith("#")), key=lambda line: int(line.split()[0]))
    lines.remove(last)
    file.write_text("\n".join(lines) + "\n")
    scene = read(root)
    gone = sum((rows == len(whole.points.points_world) - 1).sum() for rows in whole.points.rows.values())
    assert gone > 0
    assert scene.notes == (f"scene: {gone} observations are of points that the model lacks and are left out",)
    assert sum(map(len, scene.points.rows.values())) == sum(map(len, whole.points.rows.values())) - gone


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("images.txt", "IMG_003.png", "../../IMG_003.png", "expected names of files in this folder"),
        ("images.txt", "IMG_003.png", "/etc/passwd", "expected names of files in this folder"),
        ("images.txt", "97 1 0 0 0", "97 0 0 0 0", "expected finite camera matrices"),
        ("cameras.txt", "80 64 100 100", "80 64 0 100", "expected a focal length above 0"),
        ("cameras.txt", "PINHOLE 80 64 100 100 40 32", "EQUIRECTANGULAR 80 64 80 64", "field of view below 180"),
    ],
)
def test_impossible_entries_are_named(tmp_path, file, old, new, expected):
    root, problems = photos.write_colmap(tmp_path / "scene", text=True), Problems()
    replace_in(root / "sparse/0" / file, old, new)
    for name in ("frames.txt", "rigs.txt"):  # as before COLMAP 4: the poses of images.txt count
        (root / "sparse/0" / name).unlink()
    if file == "cameras.txt":
        with pytest.raises(InputError, match=expected):
            read(root)
        return
    assert len(read(root, problems).frames) == 8
    (line,) = problems.lines
    assert expected in line


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"held_out": "IMG_000.png"}', "expected a list of image names"),
        ('{"near": 3, "far": 2}', "expected numbers 0 < near < far"),
        ('{"near": NaN, "far": 2}', "expected numbers 0 < near < far"),
        ("[1", "expected JSON"),
    ],
)
def test_a_broken_scene_json_is_named(root, content, expected):
    (root / "scene.json").write_text(content)
    with pytest.raises(InputError, match=expected):
        read(root)


def test_the_doctor_measures_reprojection_and_bounds(root, capsys):
    check(["--dataset_name", "colmap", "--datadir", str(root), "--max_pairs", "0"])
    assert "points of 9 views reproject to" in capsys.readouterr().out
    (root / "scene.json").write_text('{"near": 6.9, "far": 7}')
    with pytest.raises(SystemExit):
        check(["--dataset_name", "colmap", "--datadir", str(root), "--max_pairs", "0"])
    assert "between near 6.9 and far 7, got" in capsys.readouterr().out


def test_the_doctor_sees_a_wrong_camera_by_its_points(tmp_path, capsys):
    root = photos.write_colmap(tmp_path / "scene", text=True)
    replace_in(root / "sparse/0/images.txt", "97 1 0 0 0", "97 0.995 0 0.0998 0")
    (root / "sparse/0/frames.txt").unlink()  # as before COLMAP 4: the poses of images.txt count
    (root / "sparse/0/rigs.txt").unlink()
    with pytest.raises(SystemExit):
        check(["--dataset_name", "colmap", "--datadir", str(root), "--max_pairs", "0"])
    assert "points that view 3 observes to project within 2 pixels of where they are seen" in capsys.readouterr().out
