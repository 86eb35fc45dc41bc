"""Views by list, folders and sizes of images, and options that a data set does not have."""

from pathlib import Path

import pytest

from data.readers.options import ReaderOptions
from data.readers.registry import READERS, announce_own_split, read_scenes
from data.readers.splits import mvsnerf_views, shipped_list
from data.scene import PosedScene
from geometry import InputError
from tests.data.tiny_scenes import FOCAL, HEIGHT, WIDTH, write_blender, write_dtu, write_llff

FERN = (17, 2, 7, 6, 11, 1, 8, 18, 3, 16, 4, 14, 9, 10, 0, 15), (12, 13, 5, 19)


def read(name: str, root: Path, **options: object) -> PosedScene:
    (scene,) = read_scenes(name, str(root), split="all", scans=None, options=ReaderOptions(**options))
    return scene


@pytest.fixture(scope="module")
def fern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llff(tmp_path_factory.mktemp("llff") / "fern", views=20)


def test_lists_have_sixteen_and_four_views_of_eight_scenes_each() -> None:
    for dataset in ("llff", "blender"):
        scenes = [row.split()[0] for row in shipped_list(f"{dataset}_views_train")]
        assert len(scenes) == len(set(scenes)) == 8
        assert scenes == [row.split()[0] for row in shipped_list(f"{dataset}_views_held_out")]
        for scene in scenes:
            train, held_out = mvsnerf_views(dataset, scene)
            assert (len({*train}), len({*held_out}), len({*train, *held_out})) == (16, 4, 20)
    assert mvsnerf_views("llff", "fern") == FERN
    assert mvsnerf_views("blender", "lego")[1] == (63, 70, 18, 28)
    assert mvsnerf_views("llff", "lego") == ((), ())


def test_llff_by_list_and_by_its_own_rule(fern: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    listed = read("llff", fern, view_split="mvsnerf")
    assert (listed.train_views, listed.held_out_views, listed.view_split) == (*FERN, "mvsnerf")
    own = read("llff", fern)
    assert (own.held_out_views, own.view_split) == ((0, 8, 16), "own")
    # a scene that is not listed, and one of a listed name that lacks listed views, keep the rule of the format
    for name in ("nameless", "fern"):
        other = read("llff", write_llff(tmp_path / name), view_split="mvsnerf")
        assert (other.held_out_views, other.view_split) == ((0, 8), "own")
        announce_own_split(ReaderOptions(view_split="mvsnerf"), [listed, other])
        (line,) = capsys.readouterr().err.splitlines()
        assert line == (
            "--view_split mvsnerf: the data set's own split instead for scenes that the lists do not name, "
            f"or that lack a listed view: {name}"
        )
    announce_own_split(ReaderOptions(view_split="mvsnerf"), [listed])
    announce_own_split(ReaderOptions(), [own])
    assert not capsys.readouterr().err


def test_blender_by_list_takes_both_from_the_training_frames(tmp_path: Path) -> None:
    root = write_blender(tmp_path / "lego", views=72)
    for path in (root / "val").iterdir():
        path.unlink()  # held-out views are training frames: nothing of val is looked at
    scene = read("blender", root, view_split="mvsnerf")
    assert (scene.train_views, scene.held_out_views) == mvsnerf_views("blender", "lego")
    assert set(scene.frames) == set(range(72))


def test_blender_test_split(tmp_path: Path) -> None:
    root = write_blender(tmp_path / "scene", held_out="test")
    write_blender(root, held_out="val")
    scene = read("blender", root, view_split="test")
    assert {scene.frames[view].image_path.parent.name for view in scene.held_out_views} == {"test"}
    assert {own.image_path.parent.name for own in read("blender", root).frames.values()} == {"train", "val"}
    (root / "transforms_test.json").unlink()
    with pytest.raises(InputError, match=r"--view_split test: expected .*transforms_test.json, got none"):
        read("blender", root, view_split="test")


def test_llff_folder_and_size(fern: Path) -> None:
    half, quarter = read("llff", fern, llff_factor=2), read("llff", fern)
    assert half.frames[3].image_path.parent.name == "images_2"
    assert quarter.frames[3].image_path.parent.name == "images_4"
    assert half.frames[3].intrinsics[0, 0] == pytest.approx(2 * FOCAL)
    with pytest.raises(InputError, match=r"--llff_factor 8: expected the folder .*images_8, got only: images_2"):
        read("llff", fern, llff_factor=8)
    # 80 x 64 to 60 x 40: proportions change, and with them f_x against f_y
    resized = read("llff", fern, llff_size=(60, 40))
    views = resized.views([3, 4])
    assert views.images.shape == (2, 3, 40, 60)
    matrix = views.cameras.intrinsics[0]
    assert matrix.diagonal().tolist() == pytest.approx([FOCAL * 60 / WIDTH, FOCAL * 40 / HEIGHT, 1.0])
    assert matrix[:2, 2].tolist() == pytest.approx([30.0, 20.0])
    assert resized.views([3], 0.5).images.shape == (1, 3, 20, 30)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dtu", {"llff_factor": 4}, "--llff_factor 4: does not belong to --dataset_name dtu"),
        ("dtu", {"llff_size": (960, 640)}, "--llff_size 960 640: does not belong to --dataset_name dtu"),
        ("dtu", {"view_split": "mvsnerf"}, "--view_split mvsnerf: does not belong to --dataset_name dtu"),
        ("llff", {"view_split": "test"}, "--view_split: expected own, mvsnerf for llff, got test"),
        ("llff", {"view_split": "every8"}, "--view_split: expected one of own, mvsnerf, test, got 'every8'"),
        ("llff", {"llff_size": (960,)}, r"--llff_size: expected width and height in pixels, got \[960\]"),
        ("llff", {"llff_factor": 0}, "--llff_factor: expected 1 or more, got 0"),
        ("dtu", {"image_factor": 2}, "--image_factor 2: does not belong to --dataset_name dtu"),
        ("llff", {"sparse_depth": True}, "--sparse_depth True: does not belong to --dataset_name llff"),
        ("colmap", {"image_factor": 0}, "--image_factor: expected 1 or more, got 0"),
        ("transforms", {"llff_factor": 4}, "--llff_factor 4: does not belong to --dataset_name transforms"),
        ("blender", {"llff_factor": 1}, "--llff_factor 1: does not belong to --dataset_name blender"),
    ],
)
def test_options_of_other_data_sets_are_refused(name: str, options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read(name, write_dtu(tmp_path), **options)


def test_every_named_option_exists() -> None:
    known = set(ReaderOptions.__dataclass_fields__)
    assert all(set(reader.options) <= known for reader in READERS.values())
