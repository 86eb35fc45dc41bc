"""Sessions on disk: what is written comes back; what is broken is named; splits do not leak."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.occupancy.sessions import SessionInfo, SessionWriter, is_moving, parse_pose, read_session, read_sessions
from data.occupancy.splits import leaks, require_disjoint, split_sessions
from data.occupancy.windows import SessionWindows
from data.problems import Problems
from geometry import InputError
from geometry.voxels import EgoGrid, GridFrame, VoxelGrid
from tests.geometry.test_body_poses import pose

SPACE = EgoGrid(VoxelGrid((-2, -2, -1), (2, 2, 1), (1, 1, 1)), GridFrame())


def write(root: Path, name: str, frames: int = 6, *, world: str = "", step: float = 1.0) -> Path:
    writer = SessionWriter(root, name, SessionInfo(SPACE, period=0.25, ground_height=-0.5, world=world))
    start = float(sum(map(ord, name)))
    for frame in range(frames):
        occupied = np.zeros(SPACE.grid.size, dtype=np.uint8)
        occupied[frame % 4] = 1
        writer.add(frame, pose(start + step * frame, 0, 1, 0.1), occupied, {"moving": occupied > 0})
    return writer.finish()


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    session = read_session(write(tmp_path, "rover_a"))
    assert session.agent == 0
    assert session.info.space == SPACE
    assert session.info.period == 0.25
    assert session.numbers == tuple(range(6))
    windows = SessionWindows([session], 2, 3)
    assert len(windows) == 2
    sample = windows[1]
    assert sample.history[:, :, 0, 0].tolist() == [[0, 1, 0, 0], [0, 0, 1, 0]]
    assert sample.future[:, :, 0, 0].tolist() == [[0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0]]
    assert sample.moving is not None
    assert torch.equal(sample.moving, sample.future > 0)
    assert sample.commands is not None
    ahead = math.cos(0.1) * torch.tensor([1.0, 2, 3], dtype=torch.float64)
    torch.testing.assert_close(sample.commands[:, 0], ahead)
    torch.testing.assert_close(sample.future_poses[0], session.poses[3])
    assert sample.frames.tolist() == [1, 2, 3, 4, 5]
    with pytest.raises(InputError, match="nothing is replaced"):
        write(tmp_path, "rover_a")


def test_windows_do_not_span_what_is_missing(tmp_path: Path) -> None:
    folder = write(tmp_path, "drone_a", 8)
    (folder / "poses" / "000003.json").unlink()
    (folder / "poses" / "000006.json").write_text("{}")
    problems = Problems()
    session = read_session(folder, report=problems.add)
    assert session.numbers == (0, 1, 2, 4, 5, 7)
    assert len(problems.lines) == 2
    assert session.windows(2, 1) == [(0, 1), (1, 2), (4, 5)]
    assert session.windows(2, 2) == [(0, 2), (2, 4), (5, 7)]


def test_still_windows_are_left_out_on_request(tmp_path: Path) -> None:
    session = read_session(write(tmp_path, "drone_a", step=0.04))
    assert len(session.windows(3, 1)) == 4
    assert session.windows(3, 1, needs_motion=True) == []
    assert is_moving(torch.tensor([[0.0, 0, 0], [0.05, 0, 0], [0.1, 0, 0]], dtype=torch.float64))


def test_other_grids_and_broken_files_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path, "drone_a")
    other = replace(SPACE, grid=VoxelGrid((-2, -2, -1), (2, 2, 2), (1, 1, 1)))
    with pytest.raises(InputError, match=r"session.json.*expected the grid"):
        read_session(folder, other)
    (folder / "session.json").unlink()
    with pytest.raises(InputError, match=r"000000_occupancy.npz: expected occupancy as uint8 \[4, 4, 3\]"):
        read_session(folder, other)
    with pytest.raises(InputError, match="neither"):
        read_session(folder)
    (folder / "occupancy" / "000002_occupancy.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"000002_occupancy.npz cannot be read"):
        read_session(folder, SPACE).occupancy(2)
    with (folder / "occupancy" / "000003_occupancy.npz").open("wb") as file:
        np.save(file, np.zeros(3))  # no archive, but an array
    with pytest.raises(InputError, match=r"000003_occupancy.npz cannot be read"):
        read_session(folder, SPACE).occupancy(3)
    wrong = {"altitude": 3, "masks": [{}], "period": math.inf, "grid": {**SPACE.record(), "size": 3}}
    for name, value in wrong.items():
        (folder / "session.json").write_text(json.dumps(SessionInfo(SPACE).record() | {name: value}))
        with pytest.raises(InputError, match=name):
            read_session(folder)


def test_poses_that_say_less_or_nonsense() -> None:
    place = {"position": dict.fromkeys("xyz", 1), "orientation": dict.fromkeys("wxyz", 0.5)}
    assert parse_pose(place | {"velocity": None}, "here") == parse_pose(place, "here")
    for wrong in ({"velocity": [1, 2, 3]}, {"velocity": {"linear": 3}}, {"position": [0, 0, 0]}, {"pose_13d": ["a"]}):
        with pytest.raises(InputError, match="here"):
            parse_pose(place | wrong, "here")


def test_dummies_are_skipped_only_when_asked_for(tmp_path: Path) -> None:
    for name in ("drone_dummy_1", "drone_b", "walker_c"):
        write(tmp_path, name.replace("walker", "rover"))
    (tmp_path / "rover_c").rename(tmp_path / "walker_c")
    problems = Problems()
    names = [session.name for session in read_sessions(tmp_path, report=problems.add)]
    assert names == ["drone_b", "drone_dummy_1"]
    assert len(problems.lines) == 1
    kept = read_sessions(tmp_path, skips_dummies=True, report=problems.add)
    assert [session.name for session in kept] == ["drone_b"]
    assert len(problems.lines) == 2
    with pytest.raises(InputError, match="drone_x"):
        read_sessions(tmp_path, names=["drone_x"])


def test_splits_are_whole_worlds_and_copies_are_found(tmp_path: Path) -> None:
    for number in range(6):
        write(tmp_path, f"drone_{number}", 3, world=f"w{number // 2}")
    sessions = read_sessions(tmp_path)
    splits = split_sessions(sessions, (0.2, 0.2), split_by="world")
    assert [len(splits[split]) for split in ("train", "val", "test")] == [2, 2, 2]
    assert all(len({session.world for session in members}) == 1 for members in splits.values())
    require_disjoint(splits)
    assert splits == split_sessions(sessions[::-1], (0.2, 0.2), split_by="world")
    by_session = split_sessions(sessions, (0.1, 0.0))
    assert [len(by_session[split]) for split in ("train", "val", "test")] == [5, 1, 0]
    copied = splits["train"][0].folder
    shutil.copytree(copied, tmp_path / "rover_copy")
    splits["val"].append(read_session(tmp_path / "rover_copy"))
    assert leaks(splits) == [f"3 frames of {copied.name} (train) occur in rover_copy (val) as well"]
    with pytest.raises(InputError, match="expected no frame in two"):
        require_disjoint(splits)
