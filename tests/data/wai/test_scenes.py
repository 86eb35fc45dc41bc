"""Scenes as files: formats, the meta file and its mistakes, video times, the log, split lists."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.image_io import UnreadableFileError
from data.wai.formats import cleaned_depth, load, store, store_depth
from data.wai.process_log import FAILED, FINISHED, ProcessLog
from data.wai.scene import WaiScene
from data.wai.scene_meta import Modality, find_modality, parse_scene_meta, read_scene_meta, scene_meta_content
from data.wai.split_lists import divided, read_array_list, scene_lists, write_lists
from data.wai.stages import run_stage
from geometry import InputError
from tests.data.wai.scenes import write_wall


def test_half_depth_keeps_what_is_stored_and_says_what_it_cannot_hold(tmp_path: Path) -> None:
    depth = np.array([[60.01, 70000.0, np.nan, -2.0, np.inf, 0.0]], np.float32)
    half = load(store(tmp_path / "a.exr", depth, "depth"), "depth")
    assert half[0, 0] == np.float32(60.0)  # a step of 1 / 32 m between 32 and 64 m
    assert np.isinf(half[0, 1])
    assert np.isnan(half[0, 2])
    assert half[0, 3] == -2
    exact = load(store_depth(tmp_path / "b.exr", depth, is_half=False), "depth")
    np.testing.assert_array_equal(exact, depth)
    np.testing.assert_allclose(cleaned_depth(exact), [[60.01, 70000, 0, 0, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "kind", "value"),
    [
        ("a.png", "binary", np.eye(5, dtype=bool)),
        ("a.exr", "scalar", np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)),
        ("a.exr", "normals", np.array([[[0, 0.6, 0.8], [0, 0, 0]]], np.float32)),
        ("a.npz", "numpy", np.arange(4)),
        ("a.ptz", "ptz", torch.arange(3)),
        ("a.sft", "latent", torch.ones(2)),
        ("m.npy", "mmap", np.ones((2, 3), np.float32)),
        ("a.yaml", "readable", {"x": [1, 2]}),
    ],
)
def test_what_is_stored_is_loaded(name: str, kind: str, value: Any, tmp_path: Path) -> None:
    got = load(store(tmp_path / name, value, kind), kind)
    if isinstance(value, dict):
        assert got == value
    else:
        np.testing.assert_array_equal(np.asarray(got), np.asarray(value))


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = store(tmp_path / "m.npy", np.ones((2, 3)), "mmap")
    assert path.name == "m--2x3.npy"
    wrong = path.with_name("m--3x2.npy")
    path.rename(wrong)
    with pytest.raises(InputError, match=r"expected the shape that its name says, got \(2, 3\)"):
        load(wrong, "mmap")
    with pytest.raises(InputError, match="normals of length 1 or 0, got 1 pixels"):
        store(tmp_path / "n.exr", np.full((1, 1, 3), 0.5), "normals")
    with pytest.raises(InputError, match="format that is supported, got 'video'"):
        load(tmp_path / "a.mp4", "video")
    with pytest.raises(InputError, match="one of the suffixes"):
        load(tmp_path / "a.bin")
    (tmp_path / "broken.exr").write_bytes(b"nothing")
    with pytest.raises(UnreadableFileError, match="cannot be read"):
        load(tmp_path / "broken.exr", "depth")


def content() -> dict[str, Any]:
    """The JSON of a scene of two frames."""
    frames = [
        {"frame_name": name, "image": f"{name}.png", "transform_matrix": np.eye(4).tolist()} for name in ("a", "b")
    ]
    return {
        "scene_name": "room",
        "dataset_name": "rooms",
        "version": "0.1",
        "shared_intrinsics": True,
        "camera_convention": "opencv",
        "camera_model": "PINHOLE",
        **{"fl_x": 10, "fl_y": 10, "cx": 4, "cy": 3, "w": 9, "h": 7},
        "frames": frames,
        "frame_modalities": {"image": {"frame_key": "image", "format": "image"}},
        "scene_modalities": {},
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scene_name": None}, "scene_name: expected a text"),
        ({"camera_convention": "opengl"}, "camera_convention opencv, got 'opengl'"),
        ({"camera_model": "PINHOL"}, "expected a camera model of PINHOLE"),
        ({"k1": 0.1}, "no distortion of a PINHOLE camera, got k1"),
        ({"camera_model": ["PINHOLE"]}, "expected a camera model of PINHOLE"),
        ({"held_out": 3}, "expected a list of names as held_out, got 3"),
        ({"_applied_transforms": [1]}, "expected an object as _applied_transforms"),
        ({"fl_x": None}, "expected a number fl_x, got None"),
        ({"frames": []}, "expected a list of frames"),
        ({"version": "9"}, "expected version 0.1, got 9"),
        ({"frame_modalities": {"depth": {"frame_key": "d", "format": "exr16"}}}, "expected a format of"),
        ({"frame_modalities": {"depth": {"frame_key": "d", "format": ["depth"]}}}, "expected a format of"),
        ({"frame_modalities": {"depth": {"scene_key": "d", "format": "depth"}}}, "exactly one of frame_key"),
    ],
)
def test_a_wrong_meta_file_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_scene_meta(content() | change, "here")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame_name": "b"}, "different frame names"),
        ({"image": "../secret.png"}, "below the scene's folder, got ../secret.png"),
        ({"transform_matrix": np.diag([2, 1, 1, 1]).tolist()}, "expected a rotation"),
        ({"transform_matrix": [[1]]}, "4x4 finite numbers"),
        ({"w": 0}, "w and h in whole pixels"),
        ({"near": "1"}, "expected a number near, got '1'"),
    ],
)
def test_a_wrong_frame_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    whole = content()
    whole["frames"][0] |= change
    with pytest.raises(InputError, match=message):
        parse_scene_meta(whole, "here")


def test_a_meta_file_comes_back_as_it_was_and_frames_override_the_scene() -> None:
    whole = content() | {"_applied_transformation": np.diag([2.0, 2, 2, 1]).tolist(), "licence": "mine"}
    whole["frames"][1]["fl_x"] = 12
    meta = parse_scene_meta(whole, "here")
    assert [meta.camera(frame).intrinsics[0, 0] for frame in meta.frames] == [10, 12]
    assert meta.applied_transform[0, 0] == 2
    again = parse_scene_meta(scene_meta_content(meta), "here")
    assert scene_meta_content(again) == scene_meta_content(meta)
    assert again.values["licence"] == "mine"
    assert "_applied_transform" in again.values


def test_modalities_are_found_by_path_group_and_whole_pattern() -> None:
    tree = {
        "depth_confidence": {"mvs": Modality("frame_key", "conf", "scalar")},
        "rendered_depth": Modality("frame_key", "rendered", "depth"),
        "pred_mask": {"one": Modality("frame_key", "m1", None), "two": Modality("frame_key", "m2", None)},
    }
    # the pattern does not match the beginning of depth_confidence, which is listed first
    assert find_modality(tree, "depth|rendered_depth", "here")[0] == "rendered_depth"
    assert find_modality(tree, "pred_mask/one", "here")[1].key == "m1"
    with pytest.warns(UserWarning, match="the last one is taken: two"):
        assert find_modality(tree, "pred_mask", "here")[1].key == "m2"
    with pytest.raises(InputError, match="expected a modality normals, got depth_confidence, rendered_depth"):
        find_modality(tree, "normals", "here")


def test_writing_keeps_the_file_before_as_backup(tmp_path: Path) -> None:
    scene = write_wall(tmp_path / "room", 2)
    first = (scene.root / "scene_meta.json").read_text()
    scene.with_scene_file("notes", scene.root / "notes.json", "readable").write()
    assert (scene.root / "_scene_meta_backup.json").read_text() == first
    assert find_modality(read_scene_meta(scene.root / "scene_meta.json").scene_modalities, "notes", "")[1].key


def test_poses_between_frames_of_a_video() -> None:
    whole = content()
    turn = [[0, 0, 1, 4], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]]
    whole["frames"][0] |= {"frame_name": "1.0"}
    whole["frames"][1] |= {"frame_name": "2.0", "transform_matrix": turn, "fl_x": 20}
    scene = WaiScene(Path(), parse_scene_meta(whole, "here"))
    middle = scene.load_frame(1.5)
    assert middle.is_interpolated
    np.testing.assert_allclose(middle.c2w[:3, 3], [2, 0, 0])
    np.testing.assert_allclose(middle.c2w[0, 0], np.cos(np.pi / 4))
    assert middle.camera.coefficients["fl_x"] == 15
    assert scene.load_frame(1.00005).name == "1.0"
    with pytest.raises(InputError, match="none on one side"):
        scene.load_frame(2.5)
    whole["frames"][1]["frame_name"] = "9.0"
    with pytest.raises(InputError, match="a gap of 8 s"):
        WaiScene(Path(), parse_scene_meta(whole, "here")).load_frame(3.0)


def test_a_stage_goes_on_after_a_failure_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets = {name: tmp_path / name for name in ("a", "b")}
    calls = []

    def work(name: str, folder: Path) -> str:
        calls.append(name)
        if name == "a" and len(calls) == 1:
            raise RuntimeError("out of luck")
        return ""

    assert [one.state for one in run_stage("stage", targets, work, settings={"x": 1})] == [FAILED, FINISHED]
    assert "out of luck" in json.loads((tmp_path / "a/_process_log.json").read_text())["stage"]["message"]
    assert [one.state for one in run_stage("stage", targets, work, settings={"x": 1})] == ["skipped", FINISHED]
    assert calls == ["a", "b", "a"]
    run_stage("stage", targets, work, settings={"x": 2})
    assert calls == ["a", "b", "a", "a", "b"]
    ProcessLog(tmp_path / "a").record("stage", "running")  # of a process that died
    run_stage("stage", targets, work, settings={"x": 2})
    assert calls[5:] == ["a"]
    with ProcessLog(tmp_path / "a").alone():
        (outcome,) = run_stage("stage", {"a": tmp_path / "a"}, work, overwrite=True)
    assert "locked" in outcome.message
    assert "a: failed: RuntimeError: out of luck" in capsys.readouterr().err


def test_split_lists_as_text_and_as_arrays(tmp_path: Path) -> None:
    names = [f"5a3ca9cb270f0e3f14d0ee{number:02x}" for number in range(20)]
    lists = divided(names, "blendedmvs", 0.1, 0.0, 0)
    assert lists["val"] == tuple(name for name in names if int(name[8:], 16) % 10 == 0)
    write_lists(tmp_path, "blendedmvs", lists, as_arrays=True)
    assert scene_lists(tmp_path) == {**lists, "test": ()}
    write_lists(tmp_path, "blendedmvs", {"train": names[:3]})
    assert scene_lists(tmp_path)["train"] == tuple(names[:3])
    assert len(divided(names, "", 0.2, 0.1, 0)["val"]) == 4
    evil = tmp_path / "evil.npy"
    with evil.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (1,)})
        pickle.dump([Path("x")], file)
    with pytest.raises(UnreadableFileError, match="among the names"):
        read_array_list(evil)
