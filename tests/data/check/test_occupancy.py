"""The data doctor on sessions and Occ3D scenes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from data.check.__main__ import main
from data.occupancy.convert import main as convert
from tests.data.occupancy.test_convert import write_obj
from tests.data.occupancy.test_voxelize import CUBE, box

GOLDEN = Path(__file__).parents[2] / "golden" / "occupancy" / "occ3d_tiny"


@pytest.fixture
def sessions(tmp_path: Path) -> Path:
    """A drone that turns around a few blocks."""
    blocks = [box((x, y, 0), (x + 3, y + 2, 4)) for x, y in ((4, 1), (-7, -4), (2, -8), (-5, 6))]
    faces = np.concatenate([CUBE + 8 * number for number in range(4)])
    mesh = write_obj(tmp_path / "blocks.obj", np.concatenate(blocks), faces)
    grid = ["--range", "-12", "-12", "-1", "12", "12", "6", "--voxel", "1", "1", "1", "--z_reference", "world"]
    where = ["--trajectory", "orbit", "--margin", "-3", "--altitude", "6", "--speed", "4", "--frames", "9"]
    convert(["--mesh", str(mesh), "--out", str(tmp_path / "out"), *where, *grid])
    return tmp_path / "out"


def check(*arguments: str) -> int:
    try:
        main(list(arguments))
    except SystemExit as stop:
        return int(str(stop.code))
    return 0


def test_sound_sessions_pass_and_wrong_poses_are_found(sessions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check("--dataset_name", "sessions", "--datadir", str(sessions)) == 0
    assert "0 problems" in capsys.readouterr().out
    folder = sessions / "drone_20260101_000000"
    shutil.copytree(folder, sessions / "drone_copy")
    for path in (folder / "poses").iterdir():  # x y z w
        pose = json.loads(path.read_text())
        numbers = pose.pop("pose_13d")
        pose["pose_13d"] = [*numbers[:3], *numbers[4:7], numbers[3], *numbers[7:]]
        path.write_text(json.dumps(pose))
    pose["pose_13d"][3:7] = [0, 0, 0, 0]
    path.write_text(json.dumps(pose))
    (folder / "occupancy" / "000002_occupancy.npz").write_bytes(b"")
    assert check("--dataset_name", "sessions", "--datadir", str(sessions)) == 1
    printed = capsys.readouterr().out
    assert "better with quaternions in the order x y z w" in printed
    assert "000002_occupancy.npz cannot be read" in printed
    assert f"{path}: expected a quaternion of length 1, got 0" in printed
    shutil.copytree(sessions / "drone_copy", sessions / "drone_copy_2")
    assert check("--dataset_name", "sessions", "--datadir", str(sessions), "--scans", "drone_copy", "drone_copy_2") == 1
    assert "9 frames of drone_copy" in capsys.readouterr().out


def test_occ3d(capsys: pytest.CaptureFixture[str]) -> None:
    infos = str(next(GOLDEN.glob("*.pkl")))
    scan = ["--scans", "scene-9000"]
    assert check("--dataset_name", "occ3d", "--datadir", str(GOLDEN), "--infos", infos, *scan) == 0
    assert "checked occ3d: 1 scene, 4 frames" in capsys.readouterr().out
    assert check("--dataset_name", "occ3d", "--datadir", str(GOLDEN)) == 2
    assert "--infos" in capsys.readouterr().err
    assert check("--dataset_name", "occ3d", "--datadir", str(GOLDEN), "--grid", "small") == 2
    assert "--grid" in capsys.readouterr().err
