"""Occ3D's layout: what lies between the recorded fixtures of it."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from data.occupancy.datamodule import OccupancyDataSpec, build_occupancy_data
from data.occupancy.occ3d import read_occ3d, read_plain_pickle
from data.occupancy.windows import Occ3dWindows
from data.problems import Problems
from geometry import InputError

GOLDEN = Path(__file__).parents[2] / "golden" / "occupancy" / "occ3d_tiny"


class Evil:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("touched_by_a_pickle"),)


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_of_arrays_only(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "infos.pkl"
    content = {"a": np.arange(3.0), "b": [np.float32(2), "c", {1, 2}]}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    read = read_plain_pickle(path)
    assert read["a"].tolist() == [0, 1, 2]
    assert read["b"] == content["b"]
    path.write_bytes(pickle.dumps({"infos": {"s": [Evil()]}}, protocol=protocol))
    with pytest.raises(InputError, match="no array and no plain container"):
        read_plain_pickle(path)
    assert not Path("touched_by_a_pickle").exists()
    (tmp_path / "gts").mkdir()
    frame = {"token": "t", "ego2global_translation": [0, 0, 0], "ego2global_rotation": [1, 0, 0, 0]}
    for wrong in ({"gt_ego_fut_trajs": np.zeros((1, 3))}, {"gt_ego_fut_trajs": []}, {"pose_mode": []}, {"token": 1}):
        (tmp_path / "odd.pkl").write_bytes(pickle.dumps({"infos": {"s": [frame | wrong]}}, protocol=protocol))
        problems = Problems()
        with pytest.raises(InputError, match="expected gts"):
            read_occ3d(tmp_path, tmp_path / "odd.pkl", report=problems.add)
        assert len(problems.lines) == 1
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(InputError, match="cannot be read"):
        read_plain_pickle(path)


def test_windows_know_only_what_led_into_a_frame() -> None:
    scenes = read_occ3d(GOLDEN, next(GOLDEN.glob("*.pkl")))
    windows = Occ3dWindows(scenes, 2, 1, visible="camera")
    assert len(windows) == 4
    sample = windows[1]
    assert sample.steps is not None
    torch.testing.assert_close(sample.steps, scenes[0].steps[:3])  # of frames 1 to 3: the step of the one before
    assert sample.visible is not None
    assert 0 < int(sample.visible.sum()) < sample.visible.numel()
    assert sample.maneuvers is not None
    assert sample.maneuvers.tolist() == list(scenes[0].maneuvers[1:])
    torch.testing.assert_close(scenes[0].steps_into(2)[2], scenes[0].steps[:2].sum(0), atol=1e-4, rtol=0)


def test_frames_by_annotations_and_gaps(tmp_path: Path) -> None:
    """Without infos: order by time, steps from poses; a missing frame cuts the scene in two."""
    scene = read_occ3d(GOLDEN, next(GOLDEN.glob("*.pkl")))[0]
    frames = {
        token: {
            "timestamp": str(10 - row),  # backwards, and one digit more for the first
            "ego_pose": {"translation": pose[:3], "rotation": pose[3:7]},
        }
        for row, (token, pose) in enumerate(zip(scene.tokens, scene.poses.tolist(), strict=True))
    }
    (tmp_path / "annotations.json").write_text(json.dumps({"scene_infos": {scene.name: frames}}))
    for row in (0, 1, 3):
        folder = tmp_path / "gts" / scene.name / scene.tokens[row]
        folder.mkdir(parents=True)
        (folder / "labels.npz").symlink_to(scene.label_file(row))
    problems = Problems()
    parts = read_occ3d(tmp_path, report=problems.add)
    assert [part.tokens for part in parts] == [scene.tokens[3:], scene.tokens[1::-1]]
    assert len(problems.lines) == 1
    torch.testing.assert_close(parts[1].steps[0], -scene.steps[0], atol=1e-4, rtol=0)
    assert parts[1].maneuvers == (2, 2)


def test_own_split_of_the_data_set(tmp_path: Path) -> None:
    scenes = read_occ3d(GOLDEN, next(GOLDEN.glob("*.pkl")))
    assert len(scenes) == 2
    infos = {}
    for scene in scenes:
        infos[scene.name] = {
            token: {"timestamp": token, "ego_pose": {"translation": pose[:3], "rotation": pose[3:7]}}
            for token, pose in zip(scene.tokens, scene.poses.tolist(), strict=True)
        }
    names = [scene.name for scene in scenes]
    record = {"scene_infos": infos, "train_split": [names[1], "scene-9999"], "val_split": [names[0]]}
    (tmp_path / "annotations.json").write_text(json.dumps(record))
    (tmp_path / "gts").symlink_to(GOLDEN / "gts")
    spec = OccupancyDataSpec(dataset="occ3d", datadir=str(tmp_path), history=1, future=1)
    data = build_occupancy_data(spec)
    assert data.names == {"train": [names[1]], "val": [names[0]], "test": [names[0]]}
    assert [part.tokens for part in read_occ3d(tmp_path, scenes=[names[0]])] == [scenes[0].tokens]
    record["val_split"] = names
    (tmp_path / "annotations.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="train_split or val_split"):
        build_occupancy_data(spec)
