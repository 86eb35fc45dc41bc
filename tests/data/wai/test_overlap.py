"""Covisibility and confidence against closed forms on a wall, and the reference's records."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.wai.covisibility import main as covisibility_command
from data.wai.depth_confidence import main as confidence_command
from data.wai.overlap import PRESETS, DepthViews, OverlapRule, covisibility, frusta_touch, may_overlap, median_depth
from data.wai.scene import WaiScene
from data.wai.scene_meta import Modality
from data.wai.undistort import main as undistort_command
from data.wai.undistort import rectification
from tests import golden_wai
from tests.data.wai.scenes import DEPTH, FOCAL, HEIGHT, STEP, WIDTH, write_wall

GOLDEN = Path(__file__).parents[2] / "golden" / "wai"


@pytest.mark.parametrize("name", ["scene", "covisibility", "sampling", "views"])
def test_records_of_the_reference(name: str) -> None:
    folder = GOLDEN / name
    checked = golden_wai.kind_of(folder)(folder)
    assert [item for items in checked.values() for item in items if not item.is_within] == []
    assert sum(map(len, checked.values())) >= 8


def wall(views: int = 3) -> DepthViews:
    """Cameras in a row before a wall."""
    matrix = np.array([[FOCAL, 0, 15.5], [0, FOCAL, 11.5], [0, 0, 1]])
    c2w = np.tile(np.eye(4), (views, 1, 1))
    c2w[:, 0, 3] = STEP * np.arange(views)
    depth = np.full((views, HEIGHT, WIDTH), DEPTH, np.float32)
    return DepthViews.make(depth, np.tile(matrix, (views, 1, 1)), c2w)


def test_overlap_of_a_wall_is_exact_and_asymmetric_with_holes() -> None:
    views = wall()
    got = covisibility(views, PRESETS["gt"])
    np.testing.assert_allclose(got, [[1, 0.875, 0.75], [0.875, 1, 0.875], [0.75, 0.875, 1]], atol=1e-6)
    depth = views.depth.clone()
    depth[1, :, 16:] = 0
    holes = replace(views, depth=depth)
    got = covisibility(holes, PRESETS["mvs"])
    # view 0 finds view 1's known columns 0..15 at its own 4..19; view 1's known ones are all seen by view 0
    np.testing.assert_allclose([got[0, 1], got[1, 0], got[1, 1]], [0.5, 0.5, 0.5], atol=1e-6)
    of_target = covisibility(holes, PRESETS["mvs"], OverlapRule(of_target=True))
    np.testing.assert_allclose([of_target[0, 1], of_target[1, 0]], [1, 0.5], atol=1e-6)


def test_relative_thresholds_do_not_depend_on_the_unit() -> None:
    views = wall()
    depth = views.depth.clone()
    depth[1] += 0.06  # of 2: within 0.02 * 2 + 0.02 * 2 * ln 2 + 0.005 * 2 = 0.078
    for unit in (1.0, 10.0, 0.1):
        c2w = views.c2w.clone()
        c2w[:, :3, 3] *= unit
        scene = replace(views, depth=depth * unit, c2w=c2w)
        got = covisibility(scene, PRESETS["relative"].scaled(median_depth(scene)))
        assert got[0, 1] == pytest.approx(0.875), unit
    assert covisibility(replace(views, depth=depth * 10), PRESETS["gt"])[0, 1] == 0


def test_the_quick_test_loses_no_overlap_and_saves_views_apart() -> None:
    """With principal points near the border, where the reference's frusta are wrong."""
    generator = torch.Generator().manual_seed(0)
    views = wall(12)
    matrices, c2w = views.intrinsics.clone(), views.c2w.clone()
    matrices[::2, 0, 2], matrices[1::2, 0, 2] = 0.1 * WIDTH, 0.9 * WIDTH
    c2w[:, 0, 3] = 12 * torch.rand(12, generator=generator, dtype=torch.float64)
    depth = 1 + torch.rand(12, HEIGHT, WIDTH, generator=generator)
    views = replace(views, intrinsics=matrices, c2w=c2w, depth=depth)
    every = covisibility(views, PRESETS["mvs"], candidates=np.ones((12, 12), bool))
    np.testing.assert_array_equal(covisibility(views, PRESETS["mvs"]), every)
    assert not may_overlap(views).all()
    assert (every[~frusta_touch(views)] > 0).any()


def test_commands_write_what_the_meta_file_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_wall(tmp_path / "room", 4)
    (tmp_path / "room/depth/000003.exr").write_bytes(b"broken")
    write_wall(tmp_path / "bare", 2, with_depth=False)
    with pytest.raises(SystemExit) as ended:
        covisibility_command([str(tmp_path), "--long_side", "32"])
    assert ended.value.code == 1
    printed = capsys.readouterr()
    assert "covisibility: 1 finished, 0 skipped, 1 failed" in printed.out
    assert "bare: failed" in printed.err
    assert "room: finished: 1 of 4 frames have no depth" in printed.err
    assert "000003.exr: expected a file of format depth" in printed.err
    room = WaiScene.read(tmp_path / "room")
    values = room.load_scene_modality("pairwise_covisibility")
    assert isinstance(values, np.memmap)
    np.testing.assert_allclose(values[0], [1, 0.875, 0.75, 0], atol=1e-6)
    assert room.meta.values["covisibility_settings"]["thresholds"]["absolute"] == 0.1
    confidence_command([str(tmp_path / "room"), "--long_side", "32"])
    next((tmp_path / "room").rglob("*depth_confidence/*.exr")).unlink()
    confidence_command([str(tmp_path / "room"), "--long_side", "32"])  # what is gone is computed again
    frame = WaiScene.read(tmp_path / "room").load_frame(0, ["depth_confidence/depth"])
    confidence = frame.modalities["depth_confidence/depth"]
    # the first four columns are seen by nobody else, and a view does not confirm itself
    np.testing.assert_allclose(confidence, np.tile(np.arange(WIDTH) >= 4, (HEIGHT, 1)), atol=1e-6)
    for state in ("1 finished, 0 skipped", "0 finished, 1 skipped"):
        covisibility_command([str(tmp_path / "room"), "--size", "24", "32", "--confidence", "0.5"])
        assert f"covisibility: {state}, 0 failed" in capsys.readouterr().out
    # those four do not count any more, neither as a source nor as a target
    (values,) = WaiScene.read(tmp_path / "room").load_scene_modality("pairwise_covisibility")[:1]
    np.testing.assert_allclose(values, [0.875, 0.875, 0.75, 0], atol=1e-6)


@pytest.mark.parametrize("model", ["OPENCV", "OPENCV_FISHEYE"])
def test_undistorted_pixels_are_where_the_lens_put_them(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = write_wall(tmp_path / "in" / "room", 3)
    bend = {"k1": 0.05, "k2": -0.02} | dict.fromkeys(("k3", "k4") if "FISH" in model else ("p1", "p2"), 0.004)
    values = {**scene.meta.values, "camera_model": model, **bend}
    tree = {**scene.meta.frame_modalities, "image": Modality("frame_key", "image", None)}  # the suffix says the format
    scene = replace(scene, meta=replace(scene.meta, values=values, frame_modalities=tree))
    scene = scene.write("scene_meta_distorted.json")
    camera = scene.meta.camera(scene.meta.frames[0])
    found = rectification(camera, "here")
    row, column = 5, 27
    new = found.camera.coefficients
    x, y = (column - new["cx"]) / new["fl_x"], (row - new["cy"]) / new["fl_y"]
    r2 = x * x + y * y
    if "FISH" in model:
        angle = np.arctan(np.sqrt(r2))
        bent = angle * (1 + sum(bend[f"k{i}"] * angle ** (2 * i) for i in range(1, 5))) / np.sqrt(r2)
        u, v = x * bent, y * bent
    else:
        radial = 1 + bend["k1"] * r2 + bend["k2"] * r2 * r2
        u = x * radial + 2 * bend["p1"] * x * y + bend["p2"] * (r2 + 2 * x * x)
        v = y * radial + bend["p1"] * (r2 + 2 * y * y) + 2 * bend["p2"] * x * y
    assert found.columns[row, column] == pytest.approx(FOCAL * u + 15.5, abs=1e-3)
    assert found.rows[row, column] == pytest.approx(FOCAL * v + 11.5, abs=1e-3)
    assert found.columns.min() >= -0.01
    assert found.columns.max() <= WIDTH - 0.99
    (tmp_path / "in/room/images/000001.png").write_bytes(b"half an image")
    (tmp_path / "in/room/depth/000002.exr").unlink()
    undistort_command([str(tmp_path / "in"), str(tmp_path / "out")])
    assert "1 of 3 frames left out" in capsys.readouterr().err
    kept = WaiScene.read(tmp_path / "out" / "room").meta.frames
    assert [(one.name, "depth" in one.values) for one in kept] == [("000000", True), ("000002", False)]
    frame = WaiScene.read(tmp_path / "out" / "room").load_frame(0, ["image", "depth"])
    assert frame.camera.model == "PINHOLE"
    assert frame.modalities["image"].shape == (3, HEIGHT, WIDTH)
    np.testing.assert_array_equal(frame.modalities["depth"], np.full((HEIGHT, WIDTH), DEPTH))


def test_sparse_points_give_shares_of_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every second pixel of every second row before a wall; the last camera is elsewhere; one has a post before it."""
    scene = write_wall(tmp_path / "room", 4, apart=(3,), with_depth=False)
    paths = {}
    for view, frame in enumerate(scene.meta.frames):
        depth = np.zeros((HEIGHT, WIDTH), np.float32)
        depth[::2, ::2] = DEPTH
        if view == 2:
            depth[:, 16:] = np.where(depth[:, 16:] > 0, DEPTH / 2, 0)
        paths[frame.name] = scene.store(f"sparse_depth/{frame.name}.exr", depth, "depth")
    scene.with_frame_files("sparse_depth", "sparse_depth", "depth", paths).write()
    covisibility_command([str(tmp_path), "--long_side", "32"])
    room = WaiScene.read(tmp_path / "room")
    assert "room: finished: from sparse points" in capsys.readouterr().err
    assert room.meta.values["covisibility_settings"]["thresholds"]["relative"] == 0.1
    found = np.array(room.load_scene_modality("pairwise_covisibility"))
    np.testing.assert_allclose(np.diag(found), 1)
    assert found[0, 1] == pytest.approx(14 / 16)  # columns 4, 6, ... of 0, 2, ...
    assert found[0, 2] == pytest.approx(8 / 16, abs=1 / 16)  # 8 to 22; what lies behind the post is hidden
    assert not found[:3, 3].any()
    with pytest.raises(SystemExit):
        covisibility_command([str(tmp_path), "--upstream_compatible"])
