"""Data sets with files missing: what remains is used, what is left out is counted and named."""

import random
from pathlib import Path

import pytest

from data.novel_view.datamodule import NovelViewSpec, SceneDataModule
from geometry import InputError
from tests.data import tiny_scenes as tiny


def spec(root: Path, *, is_per_scene: bool = False, n_views: tuple[int, int] = (2, 3), **more: object) -> NovelViewSpec:
    return NovelViewSpec(dataset_name="dtu", datadir=str(root), is_per_scene=is_per_scene, n_views=n_views, **more)


def started(specification: NovelViewSpec) -> SceneDataModule:
    """As at the start of a run, when Lightning lets the first process prepare."""
    data = SceneDataModule(specification)
    data.prepare_data()
    return data


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three scans, two lightings, ten views: 90 files besides 10 cameras."""
    return tiny.write_dtu(tmp_path, scans=("a1", "b2", "c3"), views=10, lights=(2, 3))


def test_complete_data_says_one_line(root: Path, capsys: pytest.CaptureFixture) -> None:
    data = started(spec(root))
    assert capsys.readouterr().err == "depth: 40 of 40 targets\n"
    assert len(data.train_targets) == data.with_depth == 40


@pytest.mark.parametrize("seed", range(4))
def test_a_root_that_has_lost_files_is_read_without_them(root: Path, seed: int, capsys: pytest.CaptureFixture) -> None:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    lost = random.Random(seed).sample(files, 8)
    for path in lost:
        path.unlink()
    data = started(spec(root, n_views=(2, 2), num_val=100))
    problems, _, depth = capsys.readouterr().err.rstrip().rpartition("\n")
    cameras = {int(path.name[:8]) for path in lost if path.parent.name == "train"}
    images = {path for path in lost if path.parent.parent.name == "Rectified"}
    unread = {path for path in images if path.parent.name == "c3_train" and path.name[9] == "2"}
    assert f": {len(cameras) + len(images - unread)} problem" in problems
    assert depth.startswith(f"depth: {data.with_depth} of {len(data.train_targets)} targets")
    gone = {path for path in images if path.parent.name != "c3_train"}
    with_camera = [path for path in gone if int(path.name[5:8]) - 1 not in cameras]
    assert len(data.train_targets) == 4 * (10 - len(cameras)) - len(with_camera)
    paths = {frame.image_path for scene in data.train_scenes.values() for frame in scene.frames.values()}
    assert not paths & images
    data.try_loading()


def test_a_view_that_one_lighting_lacks_is_held_out_under_none(root: Path) -> None:
    """Every 8th view is held out, counted over the scan: a lighting without view 0 must not hold out view 1 instead."""
    (root / "Rectified" / "c3_train" / "rect_001_2_r5000.png").unlink()
    data = started(spec(root, scans=("c3",)))
    assert data.trained_on == {"c3": [1, 2, 3, 4, 5, 6, 7, 9]}


def test_missing_depth_is_listed_by_scan(root: Path, capsys: pytest.CaptureFixture) -> None:
    for scan, view in (("a1", 4), ("a1", 7), ("b2", 0)):
        (root / "Depths" / scan / f"depth_map_{view:04d}.pfm").unlink()
    data = started(spec(root))
    assert capsys.readouterr().err == "depth: 34 of 40 targets; none for views of a1: 4, 7; b2: 0\n"
    assert data.with_depth == 34


def test_targets_without_enough_sources_are_left_out(root: Path, capsys: pytest.CaptureFixture) -> None:
    for view in range(6):
        (root / "Rectified" / "a1_train" / f"rect_{view + 1:03d}_2_r5000.png").unlink()
    data = started(spec(root, n_views=(2, 5)))
    assert len(data.train_targets) == 30
    assert "4 problems" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"expected targets to train on, got none: scene a1/light2, view 6"):
        SceneDataModule(spec(root, n_views=(2, 30)))


def test_fine_tuning_leaves_out_what_cannot_be_decoded(root: Path, capsys: pytest.CaptureFixture) -> None:
    broken = root / "Rectified" / "b2_train" / "rect_003_3_r5000.png"
    broken.write_bytes(broken.read_bytes()[:100])
    data = started(spec(root, is_per_scene=True, scans=("b2",)))
    (scene,) = data.train_scenes.values()
    assert scene.train_views == (1, 3, 4, 5, 6, 7, 9)
    assert all(2 not in target.candidates for target in data.train_targets)
    problems, _ = capsys.readouterr().err.splitlines()
    assert problems.startswith(f"dtu in {root}: 1 problem (")
    assert f"{broken}: expected a complete image" in problems


def test_validation_leaves_out_what_cannot_be_decoded(root: Path, capsys: pytest.CaptureFixture) -> None:
    """Of scan c3 view 0 is held out; view 1, the nearest source of it, gives way to the next nearest."""
    for name in ("rect_002_3", "rect_009_3"):
        (root / "Rectified" / "c3_train" / f"{name}_r5000.png").write_bytes(b"damaged")
    data = started(spec(root))
    (target,) = data.val_targets
    assert (target.scene.scan, target.view_id) == ("c3", 0)
    assert target.candidates == (2, 3, 4, 5, 6, 7, 9)
    assert "2 problems" in capsys.readouterr().err
