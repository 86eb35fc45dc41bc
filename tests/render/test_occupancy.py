"""Photographs to a session: level, in meters, carved; and all files of one run on a posed scene."""

from pathlib import Path

import pytest
import torch

from data.occupancy.points import Carving, occupied_and_seen
from data.occupancy.sessions import read_session
from geometry import Cameras
from geometry.body_poses import body2world
from geometry.voxels import EgoGrid, GridFrame, VoxelGrid
from render.occupancy import main, measured
from render.reconstruct.chunk_alignment import PredictedView
from tests.render.tiny import SCAN, write_data

SPACE = EgoGrid(VoxelGrid((-1, -4, -3), (9, 4, 3), (1, 1, 1)), GridFrame("yaw", "vehicle"))


def wall_views(tilt: torch.Tensor) -> list[PredictedView]:
    """Two cameras side by side that see a wall 3.1 units ahead, two that look aside into the open; a unit is 2 m.

    The world is turned by `tilt`.
    """
    intrinsics = torch.tensor([[10.0, 0, 8], [0, 10, 6], [0, 0, 1]])
    views = []
    for number, (x, yaw, depth) in enumerate(((0.0, 0.0, 3.1), (0.5, 0.0, 3.1), (1.0, 0.7, 0.0), (1.5, -0.7, 0.0))):
        angle = torch.tensor(yaw)
        cos, sin, c2w, turned = angle.cos(), angle.sin(), torch.eye(4), torch.eye(4)
        c2w[0, 0], c2w[0, 2], c2w[2, 0], c2w[2, 2], c2w[0, 3] = cos, sin, -sin, cos, x
        turned[:3, :3] = tilt
        camera = Cameras(torch.linalg.inv(turned @ c2w), intrinsics, 12, 16)
        maps = torch.full((12, 16), depth), torch.ones(12, 16)
        views.append(PredictedView(f"{number}.jpg", camera, torch.zeros(3, 12, 16), *maps))
    return views


def test_a_wall_is_level_in_meters_and_the_way_to_it_is_free() -> None:
    tilt = torch.linalg.matrix_exp(torch.tensor([[0.0, -0.4, 0.2], [0.4, 0, -0.7], [-0.2, 0.7, 0]]))
    found = measured(wall_views(tilt), quantile=0.0, step=1, meters=2.0, period=0.5)
    first, second = body2world(found.poses[:2])
    torch.testing.assert_close(first[:3, :3], torch.eye(3, dtype=torch.float64), atol=5e-3, rtol=0)
    moved = (second - first)[:3, 3]
    torch.testing.assert_close(moved, torch.tensor([0, -1, 0], dtype=torch.float64), atol=5e-3, rtol=0)
    torch.testing.assert_close(found.poses[1, 7:10], 2 * moved, atol=5e-3, rtol=0)
    occupied, seen = occupied_and_seen(found.sweeps, SPACE, first.numpy(), Carving())
    assert occupied.any(axis=(1, 2)).tolist() == [number == 7 for number in range(10)]
    assert occupied[7, 1:7, 2:4].all()
    assert seen[1:6, 3:5, 2:4].all()
    assert not seen[8:].any()


def test_a_posed_scene_from_files_to_a_session(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """DTU's millimeters; the poses are the data set's, turned upright."""
    datadir = write_data(tmp_path / "dtu")
    where = ["--dataset_name", "dtu", "--datadir", str(datadir), "--scan", SCAN, "--meters", "0.001"]
    grid = ["--range", "-0.2", "-0.6", "-0.6", "1", "0.6", "0.6", "--voxel", "0.1", "0.1", "0.1"]
    vggt = ["--vggt_image_size", "56", "--max_images", "3", "--step", "1", "--device", "cpu", *grid]
    main([*where, *vggt, "--out", str(tmp_path / "out")])
    session = read_session(tmp_path / "out" / "rover_20260101_000000")
    assert session.info.masks == ("visible",)
    assert len(session.numbers) == 3
    arrays = session.arrays(0, ("occupancy", "visible"))
    assert 0 < arrays["occupancy"].sum() < arrays["visible"].sum()
    assert not (arrays["occupancy"] & ~arrays["visible"].astype(bool)).any()
    distances = (session.poses[1:, :3] - session.poses[:-1, :3]).norm(dim=-1)
    assert float(distances.max()) < 2.0  # meters, not millimeters
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "out")])
    assert "--images, --dataset_name" in capsys.readouterr().err
