"""Other layouts to WAI and back through the reader."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.check.__main__ import check_data
from data.multi_view.sources import FixedGroups, FrameGroup, GroupKey, SceneFrames
from data.readers.registry import read_scenes
from data.wai.convert import main as convert_command
from data.wai.covisibility import main as covisibility_command
from data.wai.scene import WaiScene
from data.wai.scene_meta import read_scene_meta, write_scene_meta
from geometry import FrameBatch, Traits, Views
from tests.data.tiny_scenes import DEPTH, HEIGHT, WIDTH, write_blendedmvs, write_dtu
from tests.data.wai.scenes import HEIGHT as WALL_HEIGHT
from tests.data.wai.scenes import WIDTH as WALL_WIDTH
from tests.data.wai.scenes import write_wall
from training.mapanything.truth import truth_of_batch


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a DTU scan, in meters."""
    root = tmp_path_factory.mktemp("convert")
    write_dtu(root / "dtu", views=4)
    convert_command(["--from", "dtu", str(root / "dtu"), str(root / "wai")])
    return root


def test_a_scan_comes_back_in_meters(converted: Path) -> None:
    (before,) = read_scenes("dtu", str(converted / "dtu"), split="all", scans=("scan24",))
    (after,) = read_scenes("wai", str(converted / "wai"), split="all", scans=None)
    assert read_scene_meta(converted / "wai/scan24/scene_meta.json").is_metric
    assert (before.traits, after.traits) == (Traits(1e-3), Traits(1.0))
    assert list(after.frames) == list(before.frames)
    assert after.held_out_views == before.held_out_views
    one, other = before.views([0, 3]), after.views([0, 3])
    torch.testing.assert_close(other.images, one.images)
    torch.testing.assert_close(other.cameras.intrinsics, one.cameras.intrinsics)
    torch.testing.assert_close(other.cameras.centers, one.cameras.centers / 1000)
    torch.testing.assert_close(other.depth, torch.full((2, HEIGHT, WIDTH), DEPTH / 1000), rtol=2**-11, atol=0)
    torch.testing.assert_close(other.near, one.near / 1000)
    assert bool(other.mask.all())


def test_the_data_doctor_finds_nothing_wrong(converted: Path) -> None:
    assert check_data("wai", converted / "wai", None, 2).problems == []


def test_conversion_resumes_and_replaces_nothing_of_others(converted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = converted / "wai/scan24/images/000000.png"
    written = image.stat().st_mtime_ns
    convert_command(["--from", "dtu", str(converted / "dtu"), str(converted / "wai")])
    assert "conversion: 0 finished, 1 skipped, 0 failed" in capsys.readouterr().out
    assert image.stat().st_mtime_ns == written
    write_dtu(converted / "elsewhere", views=2)
    with pytest.raises(SystemExit):
        convert_command(["--from", "dtu", str(converted / "elsewhere"), str(converted / "wai")])
    assert f"got one of {converted / 'dtu'}; choose another DST" in capsys.readouterr().err
    assert image.stat().st_mtime_ns == written
    write_wall(converted / "mine" / "scan24", 2)
    before = (converted / "mine/scan24/scene_meta.json").read_text()
    with pytest.raises(SystemExit) as ended:
        convert_command(["--from", "dtu", str(converted / "dtu"), str(converted / "mine"), "--overwrite"])
    assert ended.value.code == 1
    assert "scan24: failed: " in capsys.readouterr().err  # and why
    assert (converted / "mine/scan24/scene_meta.json").read_text() == before


def test_what_is_missing_is_counted_and_a_bad_scene_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_blendedmvs(tmp_path / "src" / "good", views=4)
    (tmp_path / "src/good/rendered_depth_maps/00000001.pfm").write_bytes(b"broken")
    write_blendedmvs(tmp_path / "src" / "bad", views=3)
    for path in (tmp_path / "src/bad/blended_images").glob("*.jpg"):
        path.write_bytes(b"broken")
    with pytest.raises(SystemExit) as ended:
        convert_command(["--from", "blendedmvs", str(tmp_path / "src"), str(tmp_path / "out"), "--links"])
    assert ended.value.code == 1
    printed = capsys.readouterr()
    assert "1 finished, 0 skipped, 1 failed" in printed.out
    assert "good: finished: 1 depth maps left out" in printed.err
    image = tmp_path / "out/good/images/000000.jpg"
    assert image.is_symlink()
    assert not image.readlink().is_absolute()
    meta = read_scene_meta(tmp_path / "out/good/scene_meta.json")
    assert ["depth" in frame.values for frame in meta.frames] == [True, False, True, True]
    assert not meta.is_metric


def test_what_was_computed_from_a_scene_is_computed_again_when_it_is_converted_again(tmp_path: Path) -> None:
    """The new meta file does not name it."""
    write_dtu(tmp_path / "dtu", views=3)
    for meters in ("0.001", "0.01"):
        convert_command(["--from", "dtu", str(tmp_path / "dtu"), str(tmp_path / "wai"), "--meters", meters])
        covisibility_command([str(tmp_path / "wai"), "--long_side", "16"])
        (scene,) = read_scenes("wai", str(tmp_path / "wai"), split="all", scans=None)
        assert scene.covisibility is not None
    next((tmp_path / "wai/scan24/covisibility/v0").iterdir()).unlink()
    covisibility_command([str(tmp_path / "wai"), "--long_side", "16"])
    assert WaiScene.read(tmp_path / "wai/scan24").load_scene_modality("pairwise_covisibility").shape == (3, 3)


def test_mistakes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["--from", "wai", "a", "b"], "--from: expected one of"),
        (["--from", "dtu", "--meters", "-1", "a", "b"], "--meters: expected a number above 0"),
        (["--from", "procedural", str(tmp_path), "b"], "expected a folder of python -m data.procedural"),
        (["--from", "dtu", "--sparse_depth", str(tmp_path), "b"], "--sparse_depth"),
        (["--from", "dtu", str(tmp_path), str(tmp_path)], "expected another folder for the scenes"),
        (["--from", "dtu", str(tmp_path), __file__], "expected a folder for the results, got a file"),
        (["--from", "dtu", "a", "b", "--scenes"], "--scenes"),
    ):
        with pytest.raises(SystemExit) as ended:
            convert_command(words)
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


def test_bounds_come_from_depth_where_the_file_has_none(tmp_path: Path) -> None:
    write_wall(tmp_path / "room", 3)
    (scene,) = read_scenes("wai", str(tmp_path), split="all", scans=None)
    near, far = scene.near_far([0])
    np.testing.assert_allclose([near.item(), far.item()], [2 / 1.2, 2 * 1.2], rtol=1e-5)


def test_unit_and_rendering_of_a_scene_reach_the_batch(tmp_path: Path) -> None:
    """As the file says them, else by the name of the reference's data set."""
    path = tmp_path / "room" / "scene_meta.json"
    scene = write_wall(tmp_path / "room", 3)
    for name, values, expected in (
        ("rooms", {}, Traits(1.0)),
        ("tav2_wb", {}, Traits(1.0, is_synthetic=True)),
        ("tav2_wb", {"is_synthetic": False, "scale_type": "colmap"}, Traits()),
        ("rooms", {"is_synthetic": True}, Traits(1.0, is_synthetic=True)),
    ):
        write_scene_meta(path, replace(scene.meta, dataset_name=name, values={**scene.meta.values, **values}))
        (read,) = read_scenes("wai", str(tmp_path), split="all", scans=None)
        keys = [GroupKey(0, 0, 2, HEIGHT, WIDTH, seed) for seed in (1, 2)]
        batch = FrameBatch.stack(SceneFrames("wai", [read]).sample_many(keys))
        assert batch.traits == (expected, expected)
        groups = FixedGroups("wai", [FrameGroup(read, (0, 1))]).sample_many(keys)
        assert groups[0].traits == (expected,)


def test_masks_of_surfaces_and_rules_of_data_sets_decide_which_depth_counts(tmp_path: Path) -> None:
    scene = write_wall(tmp_path / "room", 2)
    first = scene.meta.frames[0].name
    surface = np.arange(WALL_WIDTH) < 20
    path = scene.store("moge/mask/0.png", np.tile(surface, (WALL_HEIGHT, 1)), "binary")
    scene = scene.with_frame_files("pred_mask/moge2", "moge_mask", "binary", {first: path})
    depth = np.full((WALL_HEIGHT, WALL_WIDTH), 2, np.float32)
    depth[:, 0] = 9  # a share of 1 / 32
    scene.store(f"depth/{first}.exr", depth, "depth")
    confidence = scene.store("conf/0.exr", np.tile(np.arange(WALL_WIDTH) / WALL_WIDTH, (WALL_HEIGHT, 1)), "scalar")
    scene = scene.with_frame_files("depth_confidence/mvs", "conf", "scalar", {first: confidence}).write()

    def loaded(name: str) -> Views:
        write_scene_meta(tmp_path / "room/scene_meta.json", replace(scene.meta, dataset_name=name))
        (read,) = read_scenes("wai", str(tmp_path), split="all", scans=None)
        key = GroupKey(0, 0, 2, WALL_HEIGHT, WALL_WIDTH, 0)
        return FixedGroups("wai", [FrameGroup(read, (0, 1))]).sample_many([key])[0].views

    plain = loaded("rooms")
    assert plain.no_surface[0, 5].tolist() == (~surface).tolist()
    assert not plain.no_surface[1].any()  # a frame without such a mask
    assert (plain.depth[0, 5] > 0).tolist() == surface.tolist()
    assert plain.depth[0, 5, 0] == 9
    far_cut = loaded("MVS-Synth")
    assert far_cut.depth[0, 5, 0] == 0
    assert far_cut.depth[0, 5, 1] == 2
    sure = loaded("dl3dv")
    assert (sure.depth[0, 5] > 0).tolist() == (surface & (np.arange(WALL_WIDTH) > 8)).tolist()
    truth = truth_of_batch(FrameBatch(plain[None], ("x",), torch.tensor([0]), (Traits(1.0),)))
    assert torch.equal(truth.unambiguous[0], ~plain.no_surface)
