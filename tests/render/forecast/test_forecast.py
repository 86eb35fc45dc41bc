"""Forecasts of a session: commands, the truth from elsewhere, and all files of one run."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from data.occupancy.convert import main as convert
from data.occupancy.occ3d import FREE, OCC3D_SPACE
from data.occupancy.procedural_world import SMALL_SPACE, ProceduralWorlds, WorldSpec
from data.occupancy.types import OccupancyBatch
from geometry import InputError
from geometry.body_poses import relative_to, rotation_of, yaw_of
from models.occupancy.aligned import AlignedConfig
from models.occupancy.networks import ALIGNED, OCCWORLD, NetworkPlan, build_network, save_network, sizes_of
from render.forecast.__main__ import main, truth_from
from render.forecast.commands import Command

SPEC = WorldSpec(movers=0)
OCC3D = Path(__file__).parents[2] / "golden" / "occupancy" / "occ3d_tiny"


def write_network(folder: Path, name: str = "tiny", plan: NetworkPlan | None = None) -> Path:
    """An untrained network; the default's forecast is the last grid moved to where it is seen from."""
    sizes = AlignedConfig(history=3, future=4, width=4, levels=1, motion_width=8)
    plan = plan or NetworkPlan(ALIGNED, sizes, SMALL_SPACE, history=3, future=4)
    torch.manual_seed(0)
    network = build_network(plan)
    save_network(network, plan, folder / f"{name}.safetensors", folder / f"{name}.json", {})
    return folder / f"{name}.safetensors"


@pytest.fixture
def batch() -> OccupancyBatch:
    return OccupancyBatch.stack([ProceduralWorlds(SPEC, 3, seed=2)[0]])


def test_maneuvers_go_on_from_the_last_pose(batch: OccupancyBatch) -> None:
    history, recorded = batch.history_poses[0], batch.relative_future[0]
    speed = float((history[-1] - history[-2])[:2].norm())
    assert Command("predicted").plan(history, recorded, 0.5) is None
    assert Command("recorded").plan(history, recorded, 0.5) is recorded
    left = Command("left:0.2").plan(history, recorded, 0.5)
    assert left is not None
    torch.testing.assert_close(yaw_of(rotation_of(left[:, 3:7])), 0.2 * torch.arange(1, 5, dtype=torch.float64))
    torch.testing.assert_close(left[0, :2].norm(), torch.tensor(speed, dtype=torch.float64))
    assert float(left[-1, 1]) > 0
    torch.testing.assert_close(left[0, 12], torch.tensor(0.4, dtype=torch.float64))
    down = Command("descend:1").plan(history, recorded, 0.5)
    assert down is not None
    torch.testing.assert_close(down[:, 2], -torch.arange(1, 5, dtype=torch.float64))
    stay = Command("stay").plan(history, recorded, 0.5)
    assert stay is not None
    assert float(stay[:, :3].abs().max()) < 1e-9
    for wrong in ("up", "left:fast", "left:nan", "straight:1"):
        with pytest.raises(InputError, match="--command"):
            Command(wrong)


def test_truth_is_seen_from_where_a_command_leads(batch: OccupancyBatch) -> None:
    """From the true poses it is the truth; a quarter turn later the grid is turned."""
    same, known = truth_from(batch, SMALL_SPACE, batch.future_poses[0], 0)
    assert torch.equal(same, batch.future[0])
    assert bool(known.all())
    turned = batch.future_poses[0].clone()
    yaw = yaw_of(rotation_of(turned[:, 3:7])) + math.pi / 2
    turned[:, 3:7] = torch.stack([(yaw / 2).cos(), 0 * yaw, 0 * yaw, (yaw / 2).sin()], dim=-1)
    seen, _ = truth_from(batch, SMALL_SPACE, turned, 0)
    assert torch.equal(seen, batch.future[0].rot90(-1, (1, 2)))


def test_a_session_from_files_to_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(["--procedural", "1", "--out", str(tmp_path / "sessions")])
    network, session = write_network(tmp_path), tmp_path / "sessions" / "drone_20260101_000000"
    out = tmp_path / "out"
    common = ["--ckpt", str(network), "--session", str(session), "--out", str(out), "--side", "32"]
    main([*common, "--command", "recorded", "left", "--gif"])
    printed = capsys.readouterr().out
    assert (out / "forecast.gif").stat().st_size > 500
    record = json.loads((out / "steps.json").read_text())
    assert record["windows"] == [list(range(7)), list(range(4, 11))]
    rows = record["commands"]["recorded"]
    assert [row["seconds"] for row in rows] == [0.5, 1.0, 1.5, 2.0]
    assert all(0 < row["iou"] < 1 for row in rows)
    assert rows[0]["position_m"] >= 0
    assert "left" in printed
    grids = sorted(path.name for path in (out / "recorded").glob("*.npz"))
    assert grids == [f"{number:06d}_occupancy.npz" for number in range(3, 11)]
    poses = [json.loads((out / "left" / f"{number:06d}_pose.json").read_text())["pose_13d"] for number in (3, 4)]
    first, second = torch.tensor(poses, dtype=torch.float64)
    torch.testing.assert_close(yaw_of(rotation_of(relative_to(first, second)[3:7])), torch.tensor(0.15).double())
    assert np.load(out / "left" / "000003_occupancy.npz")["occupancy"].shape == (32, 32, 16)
    for wrong in (["sideways"], ["left", "left"]):
        with pytest.raises(SystemExit):
            main([*common, "--command", *wrong])
        assert "--command" in capsys.readouterr().err
    assert [Command(text).folder for text in ("left", "left:0.1", "left:0.2")] == ["left", "left_0.1", "left_0.2"]


def test_classes_of_a_scene_of_occ3d(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = AlignedConfig(history=2, future=1, width=4, levels=1, motion_width=8, num_classes=18, free_class=FREE)
    plan = NetworkPlan(ALIGNED, sizes, OCC3D_SPACE, history=2, future=1, num_classes=18, free_class=FREE)
    network, infos = write_network(tmp_path, "classes", plan), str(next(OCC3D.glob("*.pkl")))
    scene, out = next((OCC3D / "gts").iterdir()), tmp_path / "out"
    common = ["--ckpt", str(network), "--out", str(out), "--side", "32", "--gif", "--max_windows", "1"]
    main([*common, "--session", str(scene), "--infos", infos])
    assert "mIoU" in capsys.readouterr().out
    record = json.loads((out / "steps.json").read_text())
    (row,) = record["commands"]["recorded"]
    assert (record["session"], row["seconds"]) == (scene.name, 0.5)
    assert 0 < row["miou"] < row["iou"] <= 1
    assert np.load(next((out / "recorded").glob("*.npz")))["occupancy"].max() == FREE
    for given, message in (
        (["--session", str(tmp_path), "--infos", infos], "expected --session gts/<scene>"),
        (["--session", str(scene), "--infos", infos, "--ckpt", str(write_network(tmp_path))], "expected the grid of"),
    ):
        with pytest.raises(SystemExit):
            main([*common, *given])
        assert message in capsys.readouterr().err


def test_occworld_is_told_maneuvers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(["--procedural", "1", "--out", str(tmp_path / "sessions")])
    sizes = sizes_of(OCCWORLD, json.loads(Path("configs/occupancy/sizes/tiny_occworld.json").read_text()), "sizes")
    plan = NetworkPlan(OCCWORLD, sizes, SMALL_SPACE, history=3, future=4)
    network, session = write_network(tmp_path, "occworld", plan), tmp_path / "sessions" / "drone_20260101_000000"
    common = ["--ckpt", str(network), "--session", str(session), "--out", str(tmp_path), "--side", "16", "--gif"]
    main([*common, "--max_windows", "1", "--command", "recorded", "left", "predicted"])
    table = json.loads((tmp_path / "steps.json").read_text())["commands"]
    assert [len(rows) for rows in table.values()] == [4, 4, 4]
    assert all(row["position_m"] is None for rows in table.values() for row in rows)
    left, recorded = (
        np.stack([np.load(path)["occupancy"] for path in sorted((tmp_path / name).glob("*.npz"))])
        for name in ("left", "recorded")
    )
    assert left.shape == recorded.shape == (4, 32, 32, 16)
    with pytest.raises(SystemExit):
        main([*common, "--command", "climb"])
    assert "with occworld" in capsys.readouterr().err
