"""Meshes and sweeps -> sessions, and what sensors see of a mesh."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from data.occupancy.convert import main
from data.occupancy.points import Carving, Sweep, occupied_and_seen, read_points
from data.occupancy.procedural_world import ProceduralWorlds, WorldSpec
from data.occupancy.ray_casting import SKY, Lidar, PinholeCamera, picture, scan
from data.occupancy.sessions import read_session
from data.occupancy.trajectories import orbit, random_drive, read_trajectory, survey
from data.occupancy.windows import SessionWindows
from data.problems import Problems
from geometry import InputError
from geometry.body_poses import body2world, yaw_of
from geometry.voxels import EgoGrid, GridFrame, VoxelGrid
from tests.data.occupancy.test_voxelize import CUBE, box

BOUNDS = np.array([[-20.0, -10], [20, 10]])
GRID = ["--range", "-8", "-8", "-4", "8", "8", "4", "--voxel", "1", "1", "1", "--z_reference", "vehicle"]


def write_obj(path: Path, vertices: np.ndarray, faces: np.ndarray) -> Path:
    lines = [f"v {x} {y} {z}" for x, y, z in vertices] + [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in faces]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_lidar_in_a_box_sees_its_walls() -> None:
    """Every ray ends on the box, at its exact distance; intensity is the cosine to the wall."""
    triangles = box((-3, -4, -2), (5, 4, 2))[CUBE]
    points = scan(triangles, Lidar(beams=5, elevation=(-40.0, 40.0), columns=90))
    assert len(points) == 450
    off = np.abs(points[:, :3] / np.where(points[:, :3] > 0, [5, 4, 2], [3, 4, 2]))
    assert np.allclose(off.max(axis=1), 1)
    level = points[2::5]  # the middle beam
    ahead = level[np.abs(level[:, 0] - 5) < 1e-9]
    distances = np.linalg.norm(ahead[:, :3], axis=1)
    assert np.allclose(ahead[:, 3], 5 / distances)
    far = scan(triangles + np.array([100.0, 0, 0]), Lidar(beams=1, elevation=(0.0, 0.0), max_range=50.0))
    assert len(far) == 0
    noisy = scan(triangles, Lidar(beams=5, elevation=(-40.0, 40.0), columns=90, noise=0.1), np.random.default_rng(0))
    change = np.linalg.norm(noisy[:, :3], axis=1) - np.linalg.norm(points[:, :3], axis=1)
    assert 0.08 < change.std() < 0.12


def test_the_nearest_surface_is_in_the_picture() -> None:
    """A far red wall and a near green one to the left of the axis, seen ahead; behind there is sky."""
    wall = np.array([[0.0, -1, -1], [0, 1, -1], [0, 1, 1], [0, -1, 1]])
    quad = np.array([[0, 1, 2], [0, 2, 3]])
    triangles = np.concatenate([(20 * wall + np.array([10, 0, 0]))[quad], (wall + np.array([3, 1, 0]))[quad]])
    colors = np.array([[1.0, 0, 0]] * 2 + [[0, 1.0, 0]] * 2)
    image = picture(triangles, colors, PinholeCamera(0.0, 40, 60))
    assert image[20, 15, 1] > 100  # the near one
    assert image[20, 15, 0] == 0
    assert image[20, 45, 0] > 100
    assert image[20, 45, 1] == 0
    behind = picture(triangles, colors, PinholeCamera(math.pi, 40, 60))
    assert np.array_equal(behind, np.broadcast_to((255 * SKY).astype(np.uint8), behind.shape))


def test_paths() -> None:
    lines = survey(BOUNDS, 40, step=2.0, spacing=5.0, z=7.0, period=0.5)
    assert float((lines[1:, :2] - lines[:-1, :2]).norm(dim=-1).max()) < 2.01
    assert float(lines[10, 7:10].norm()) == pytest.approx(4.0)
    assert set(lines[:, 2].tolist()) == {7.0}
    circle = orbit(BOUNDS, 30, step=1.0, z=5.0, period=0.5, faces_center=True)
    to_center = -circle[:, :2] / 10
    heading = body2world(circle)[:, :2, 0]
    torch.testing.assert_close(heading, to_center)
    torch.testing.assert_close(circle[:, 12], torch.full((30,), 0.2, dtype=torch.float64))

    def is_free(place: np.ndarray) -> bool:
        return bool(abs(place[0]) > 2 or abs(place[1]) > 2)

    drive = random_drive(BOUNDS, np.array([[0.0, 0], [5, 0]]), 80, is_free, step=1.0, z=1.0, period=0.5, seed=1)
    assert drive[0, :2].tolist() == [5, 0]
    assert all(is_free(pose[:3].numpy()) for pose in drive)
    assert float(drive[:, 0].abs().max()) <= 20
    moved = (drive[1:, :2] - drive[:-1, :2]).norm(dim=-1)
    assert float((moved > 0.99).double().mean()) > 0.9


def test_trajectory_files(tmp_path: Path) -> None:
    path = tmp_path / "path.txt"
    path.write_text("# x y z\n0 0 1\n0, 2, 1\n0 4 1\n")
    poses = read_trajectory(path, 0.5)
    torch.testing.assert_close(yaw_of(body2world(poses)[:, :3, :3]), torch.full((3,), math.pi / 2, dtype=torch.float64))
    assert poses[1, 7:10].tolist() == [0, 4, 0]
    matrices = body2world(poses).tolist()
    as_json = tmp_path / "path.json"
    as_json.write_text(json.dumps([{"T4x4": matrix} for matrix in matrices]))
    torch.testing.assert_close(read_trajectory(as_json, 0.5), poses)
    as_json.write_text(json.dumps({"frames": [{"pose_13d": pose} for pose in poses.tolist()]}))
    torch.testing.assert_close(read_trajectory(as_json, 0.5), poses)
    path.write_text("0 0 1\n1 2\n")
    with pytest.raises(InputError, match="frame 1"):
        read_trajectory(path, 0.5)
    path.write_text("2 0 0 0 0 1 0 0 0 0 1 0\n")
    with pytest.raises(InputError, match="rotation"):
        read_trajectory(path, 0.5)


def test_from_a_mesh_to_a_session_and_back_by_its_own_sweeps(tmp_path: Path) -> None:
    """Moving by one voxel moves the grid by one; sweeps recorded on the way give a part of the solid's surface."""
    mesh = write_obj(tmp_path / "box.obj", box((2.2, -1.8, -3.1), (5.2, 2.2, 1.1)), CUBE)
    path = tmp_path / "path.txt"
    path.write_text("0 0 0 1 0 0 0\n1 0 0 1 0 0 0\n")
    common = ["--out", str(tmp_path / "out"), *GRID]
    lidar = ["--lidar", "--lidar_columns", "360", "--lidar_elevation", "-30", "30"]
    main(["--mesh", str(mesh), "--trajectory", str(path), "--ground_height", "-3", "--fill_ground", *lidar, *common])
    session = read_session(tmp_path / "out" / "drone_20260101_000000")
    first, second = (session.occupancy(number) for number in session.numbers)
    assert first[:, :, 0].all()
    assert np.array_equal(first[1:], second[:-1])
    assert session.info.ground_height == -3
    assert session.info.world == "box"
    poses = [["--poses", str(path)], ["--agent", "rover", "--accumulate", "1"]]
    main(["--points", str(session.folder / "lidar"), *poses[0], *poses[1], *common])
    measured = read_session(tmp_path / "out" / "rover_20260101_000000")
    arrays = measured.arrays(0, ("occupancy", "visible"))
    seen = arrays["occupancy"] > 0
    assert int(seen.sum()) > 10
    assert not (seen & (first == 0)).any()
    assert arrays["visible"][8:11, 8, 4].tolist() == [1] * 3  # what lies between vehicle and box, and the wall
    assert arrays["visible"][12, 8, 4] == 0  # inside


def test_images_and_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mesh = write_obj(tmp_path / "box.obj", box((2.2, -1.8, -3.1), (5.2, 2.2, 1.1)), CUBE)
    out = ["--out", str(tmp_path / "out"), *GRID]
    main(
        ["--mesh", str(mesh), "--trajectory", "random", "--frames", "2", "--margin", "9", "--images", "12", "16", *out]
    )
    one = tmp_path / "one.txt"
    one.write_text("0 0 0\n")
    images = sorted((tmp_path / "out" / "drone_20260101_000000" / "images").iterdir())
    assert len(images) == 12
    assert images[0].name == "000000_CAM_BACK.jpg"
    for wrong, named in (
        (["--mesh", str(mesh), "--every", "2"], "--every"),
        (["--points", str(tmp_path), "--lidar"], "--lidar"),
        (["--mesh", str(mesh), "--fill_ground"], "--fill_ground"),
        (["--mesh", str(tmp_path / "x.step")], "x.step"),
        (["--mesh", str(mesh), "--period", "0"], "--period"),
        (["--mesh", str(mesh), "--speed", "inf"], "--speed"),
        (["--mesh", str(mesh), "--margin", "-9"], "--margin"),
        (["--mesh", str(mesh), "--spacing", "1e-9"], "--spacing"),
        (["--mesh", str(mesh), "--lidar_beams", "8"], "--lidar"),
        (["--mesh", str(mesh), "--max_lod", "1"], "--max_lod"),
        (["--mesh", str(mesh), "--trajectory", "orbit", "--spacing", "9"], "--spacing"),
        (["--mesh", str(mesh), "--trajectory", str(one), "--altitude", "9"], "--altitude"),
        (["--mesh", str(mesh), "--trajectory", str(one), "--date", "../x"], "session"),
        (["--mesh", str(mesh), "--trajectory", str(one), "--out", str(mesh)], "--out"),
        (["--procedural", "1", "--speed", "3"], "--speed"),
        (["--mesh", str(mesh), "--voxel", "1e-300", "1", "1"], "grid"),
    ):
        with pytest.raises(SystemExit):
            main([*out, *wrong])
        error = capsys.readouterr().err
        assert named in error.splitlines()[-1]
        assert "Traceback" not in error


def test_what_rays_pass_through_is_free(tmp_path: Path) -> None:
    space = EgoGrid(VoxelGrid((0, 0, 0), (8, 4, 2), (1, 1, 1)), GridFrame())
    wall = np.array([[5.5, y, 0.5] for y in (0.5, 1.5, 2.5, 3.5)])
    stray = Sweep(np.array([-1.0, 1.5, 0.5]), np.array([[3.5, 1.5, 0.5]]))
    rays = Sweep(np.array([-1.0, 1.5, 0.5]), np.repeat(wall, 20, axis=0))
    kept, seen = occupied_and_seen([rays, stray], space, np.eye(4), Carving(min_share=0.1))
    assert [tuple(cell) for cell in np.argwhere(kept).tolist()] == [(5, y, 0) for y in range(4)]
    assert seen[:6, 1, 0].all()
    assert not seen[6:].any()
    assert not seen[..., 1].any()
    raw, _ = occupied_and_seen([rays, stray], space, np.eye(4), Carving(min_share=0.0))
    assert raw[3, 1, 0]
    np.savetxt(tmp_path / "sweep.txt", np.full((3, 4), 0.5), delimiter=",")
    assert read_points(tmp_path / "sweep.txt").shape == (3, 4)
    np.save(tmp_path / "sweep.npy", np.array([[1.0, 2, 3], [np.nan, 0, 0], [0, 1e200, 0], [0, 0, -np.inf]]))
    problems = Problems()
    assert read_points(tmp_path / "sweep.npy", problems.add).tolist() == [[1, 2, 3, 0]]
    assert "3 points of 4" in problems.lines[0]


def test_procedural_worlds_by_their_meshes_are_the_worlds(tmp_path: Path) -> None:
    """Mesh, session, loader: what a data set of procedural worlds yields directly."""
    main(["--procedural", "5", "--sessions", "2", "--frames", "7", "--out", str(tmp_path)])
    sessions = [read_session(tmp_path / f"drone_20260101_00000{number}") for number in range(2)]
    for number, session in enumerate(sessions):
        read = SessionWindows([session], 3, 4)[0]
        made = ProceduralWorlds(WorldSpec(), 2, seed=5)[number]
        for name in ("history", "future", "history_poses", "future_poses", "commands", "ground_height"):
            torch.testing.assert_close(getattr(read, name), getattr(made, name), msg=name)
        assert read.moving is not None
        assert torch.equal(read.moving, made.moving)
