import shutil

import numpy as np
import pytest
import torch
from skimage import data as photographs

from data.check.__main__ import main
from data.check.consistency import depth_agreement
from data.image_io import write_image, write_pfm
from data.readers.dtu import read_dtu
from geometry import Cameras
from geometry.epipolar import fundamental_matrix, sampson_distance
from tests.data import tiny_scenes as tiny


def run(capsys, *arguments) -> tuple[int, list[str]]:
    status = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        status = stop.code
    return status, capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("dataset_name", "write"),
    [
        ("dtu", tiny.write_dtu),
        ("dtu", tiny.write_idr),
        ("blendedmvs", tiny.write_blendedmvs),
        ("llff", tiny.write_llff),
        ("blender", tiny.write_blender),
    ],
)
def test_sound_scenes_pass(tmp_path, capsys, dataset_name, write):
    write(tmp_path / "scan")
    status, lines = run(capsys, "--dataset_name", dataset_name, "--datadir", tmp_path / "scan")
    assert status == 0, lines
    assert len(lines) == 1
    assert lines[0].startswith(f"checked {dataset_name}: 1 scene, ")
    assert lines[0].endswith(", 0 problems")


def test_every_problem_is_listed(tmp_path, capsys):
    tiny.write_dtu(tmp_path, scans=("scan3", "scan4"), views=9)
    images = tmp_path / "Rectified" / "scan3_train"
    truncated = images / "rect_002_3_r5000.png"
    truncated.write_bytes(truncated.read_bytes()[:300])
    cameras = tmp_path / "Cameras" / "train"
    (cameras / "00000002_cam.txt").unlink()
    (cameras / "00000003_cam.txt").write_text("extrinsic\n")
    small = tmp_path / "Depths" / "scan4" / "depth_map_0004.pfm"
    write_pfm(small, np.ones((4, 4), np.float32))
    far = tmp_path / "Depths" / "scan4" / "depth_map_0005.pfm"
    write_pfm(far, np.full((tiny.HEIGHT, tiny.WIDTH), 0.7, np.float32))
    (tmp_path / "Depths" / "scan4" / "depth_map_0006.pfm").unlink()
    status, lines = run(capsys, "--dataset_name", "dtu", "--datadir", tmp_path)
    assert status == 1
    *problems, summary = lines
    assert summary.endswith(", 6 problems")
    assert problems == [
        f"problem: {cameras / '00000002_cam.txt'}: expected a camera file, got none",
        f"problem: {cameras / '00000003_cam.txt'}: expected `extrinsic` and 16 numbers, `intrinsic` and 9, "
        "then 2 to 4, got 1 words",
        f"problem: {truncated}: expected a complete image, got one that cannot be decoded (image file is truncated)",
        f"problem: {small}: expected a depth map of 80x64 or 200x150 (width x height), got 4x4",
        f"problem: {far}: expected a median depth between near 425 and far 905, got 0.7",
        "problem: scan4/light3: expected a depth file for every view, got none for views [6]",
    ]


def test_an_unreadable_first_image_does_not_hide_the_scene(tmp_path, capsys):
    path = tiny.write_dtu(tmp_path) / "Rectified" / "scan24_train" / "rect_001_3_r5000.png"
    path.write_bytes(b"")
    status, (problem, summary) = run(capsys, "--dataset_name", "dtu", "--datadir", tmp_path)
    assert status == 1
    assert problem.startswith(f"problem: {path}: expected a complete image, got one that cannot be decoded")
    assert "1 scene, 6 views" in summary


def test_nothing_to_check_is_an_error(tmp_path, capsys):
    assert run(capsys, "--dataset_name", "dtu", "--datadir", tmp_path / "nowhere")[0] == 2
    assert run(capsys, "--dataset_name", "dtu", "--datadir", tmp_path)[0] == 2
    tiny.write_dtu(tmp_path)
    assert run(capsys, "--dataset_name", "dtu", "--datadir", tmp_path, "--scans", "scan9")[0] == 2
    assert run(capsys, "--dataset_name", "dtu", "--datadir", tmp_path, "--scans")[0] == 2
    assert run(capsys, "--dataset_name", "nope", "--datadir", tmp_path)[0] == 2


def test_wrong_pose_is_seen_in_depth(tmp_path, capsys):
    tiny.write_dtu(tmp_path, views=4)
    moved = tiny.w2c(1)
    moved[2, 3] = 50.0
    path = tmp_path / "Cameras" / "train" / "00000001_cam.txt"
    path.write_text(tiny.camera_text(moved, tiny.intrinsics(0.25), "425 2.5"))
    status, (problem, _) = run(capsys, "--dataset_name", "dtu", "--datadir", tmp_path)
    assert status == 1
    image = tmp_path / "Rectified" / "scan24_train" / "rect_002_3_r5000.png"
    assert problem.startswith(
        f"problem: {image}: expected view 1 to agree with its neighbors, got 0 % of the depth within 1 % of view "
    )


def test_depth_agreement_of_a_wall(tmp_path):
    (scene,) = read_dtu(tiny.write_dtu(tmp_path), split="all")
    assert depth_agreement(scene, 0, 2) == 1


def test_sampson_distance_is_in_pixels():
    intrinsics = torch.tensor([[100.0, 0, 40], [0, 100, 32], [0, 0, 1]], dtype=torch.float64)
    first = Cameras(torch.eye(4, dtype=torch.float64), intrinsics, 64, 80)
    second = Cameras(torch.from_numpy(tiny.w2c(1)), intrinsics, 64, 80)
    fundamental = fundamental_matrix(first, second)
    pixels = torch.tensor([[10.0, 20.0], [50.0, 3.0]], dtype=torch.float64)
    on_line = pixels + torch.tensor([7.0, 0])
    assert sampson_distance(fundamental, pixels, on_line).abs().max() < 1e-9
    off_line = pixels + torch.tensor([7.0, 2.0])  # half of the error is the first image's
    torch.testing.assert_close(
        sampson_distance(fundamental, pixels, off_line), torch.full((2,), 2 / 2**0.5, dtype=torch.float64)
    )


def test_wrong_pose_is_seen_in_matches(tmp_path, capsys):
    tiny.write_blendedmvs(tmp_path)
    shutil.rmtree(tmp_path / "rendered_depth_maps")
    photograph = photographs.astronaut()
    for view in range(6):
        image = np.ascontiguousarray(photograph[:256, 8 * view : 8 * view + 320])
        write_image(tmp_path / "blended_images" / f"{view:08d}.jpg", image)
        path = tmp_path / "cams" / f"{view:08d}_cam.txt"
        path.write_text(tiny.camera_text(tiny.w2c(view), tiny.intrinsics(4.0), "425 2.5"))
    assert run(capsys, "--dataset_name", "blendedmvs", "--datadir", tmp_path)[0] == 0
    moved = tiny.w2c(2)
    moved[1, 3] = 40.0
    (tmp_path / "cams" / "00000002_cam.txt").write_text(tiny.camera_text(moved, tiny.intrinsics(4.0), "425 2.5"))
    status, (problem, _) = run(capsys, "--dataset_name", "blendedmvs", "--datadir", tmp_path)
    assert status == 1
    image = tmp_path / "blended_images" / "00000002.jpg"
    assert problem.startswith(
        f"problem: {image}: expected view 2 to agree with its neighbors, got a median Sampson distance of "
    )
