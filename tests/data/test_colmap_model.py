import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from data.colmap_library import pycolmap
from data.colmap_model import (
    add_image,
    find_model,
    image_w2c,
    model_points,
    observations,
    pinhole_camera,
    pinhole_intrinsics,
    pose_of,
    posed_images,
    read_model,
    write_model,
)
from geometry import Cameras, InputError

BINARY = ("cameras.bin", "frames.bin", "images.bin", "points3D.bin", "rigs.bin")
INTRINSICS = torch.tensor([[50.0, 0, 16.25], [0, 40, 12.5], [0, 0, 1]], dtype=torch.float64)


def turned(angle: float) -> torch.Tensor:
    """World to camera: a turn about y, then a shift."""
    matrix = torch.eye(4, dtype=torch.float64)
    cos, sin = np.cos(angle), np.sin(angle)
    matrix[:3] = torch.tensor([[cos, 0, sin, 0.5], [0, 1, 0, -0.25], [-sin, 0, cos, 4.0]])
    return matrix


@pytest.fixture(scope="module")
def model() -> pycolmap.Reconstruction:
    """Two images that see two points exactly."""
    model = pycolmap.Reconstruction()
    points = np.array([[0.1, 0.2, 0.3], [-0.5, 0.4, 1.0]])
    for image_id, name in ((4, "b.jpg"), (9, "a.jpg")):
        camera = Cameras(turned(0.1 * image_id), INTRINSICS, 24, 32)
        pixels = camera.project(torch.from_numpy(points)).pixels.numpy()
        add_image(model, image_id, name, camera.w2c, pinhole_camera(INTRINSICS, 24, 32, 3), pixels)
    for row, point in enumerate(points):
        track = pycolmap.Track([pycolmap.TrackElement(4, row), pycolmap.TrackElement(9, row)])
        model.add_point3D(point, track, np.array([7, 8, row], np.uint8))
    return model


@pytest.fixture(scope="module")
def written(model: pycolmap.Reconstruction, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_model(model, folder / "binary")
    write_model(model, folder / "text", text=True)
    return folder


@pytest.mark.parametrize("kind", ["binary", "text"])
def test_cameras_poses_and_points_come_back(model, written, kind):
    read = read_model(written / kind)
    assert [image.name for image in posed_images(read)] == ["a.jpg", "b.jpg"]
    torch.testing.assert_close(image_w2c(read.image(4)), turned(0.4), rtol=0, atol=1e-12)
    assert pinhole_intrinsics(read.camera(3)).tolist() == INTRINSICS.tolist()
    points = model_points(read)
    assert points.points_world.tolist() == [[0.1, 0.2, 0.3], [-0.5, 0.4, 1.0]]
    assert points.colors.tolist() == [[7, 8, 0], [7, 8, 1]]
    assert points.track_lengths.tolist() == [2, 2]
    seen = observations(read.image(9))
    camera = Cameras(image_w2c(read.image(9)), pinhole_intrinsics(read.camera(3)), 24, 32)
    torch.testing.assert_close(
        torch.from_numpy(seen.pixels), camera.project(torch.from_numpy(points.points_world)).pixels
    )


def test_pixels_are_pycolmaps(model):
    """COLMAP puts the center of the top-left pixel at (0.5, 0.5), as we do: K is the same matrix."""
    point = torch.tensor([[0.3, -0.2, 0.1]], dtype=torch.float64)
    ours = Cameras(image_w2c(model.image(4)), pinhole_intrinsics(model.camera(3)), 24, 32).project(point).pixels[0]
    np.testing.assert_allclose(ours, model.image(4).project_point(point[0].numpy()), atol=1e-12)
    np.testing.assert_allclose(pose_of(turned(0.3)).matrix(), turned(0.3)[:3], atol=1e-12)


def test_text_before_colmap_4(written, tmp_path):
    for part in ("cameras", "images", "points3D"):
        shutil.copy(written / "text" / f"{part}.txt", tmp_path)
    torch.testing.assert_close(image_w2c(read_model(tmp_path).image(9)), turned(0.9), rtol=0, atol=1e-12)


def test_the_other_kind_of_files_is_replaced(model, written, tmp_path):
    folder = shutil.copytree(written / "binary", tmp_path / "model")
    write_model(model, folder, text=True)
    assert {path.suffix for path in folder.iterdir()} == {".txt"}


def test_a_scene_has_its_model_in_one_of_four_places(written, tmp_path):
    assert find_model(tmp_path) is None
    for place in ("colmap/sparse/0", "sparse", "sparse/0"):
        shutil.copytree(written / "text", tmp_path / place, dirs_exist_ok=True)
        assert find_model(tmp_path) == tmp_path / place


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_cut_binary_file_is_named(written, tmp_path, name, share):
    folder = shutil.copytree(written / "binary", tmp_path / "model")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=rf"{name}: expected a complete binary file of COLMAP"):
        read_model(folder)


@pytest.mark.parametrize("name", BINARY)
def test_noise_in_a_binary_file_is_no_model(written, tmp_path, name):
    folder = shutil.copytree(written / "binary", tmp_path / "model")
    (folder / name).write_bytes(np.random.default_rng(0).bytes(4000))
    with pytest.raises(InputError, match=name):
        read_model(folder)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("images.txt", " 3 b.jpg", " 7 b.jpg"),  # no such camera
        ("images.txt", " 4 3 b.jpg", " nan 3 b.jpg"),
        ("cameras.txt", "PINHOLE", "FOO"),
        ("cameras.txt", " 12.5", ""),
        ("points3D.txt", " 9 1", " 9 77"),
        ("images.txt", "9 ", "4 "),
    ],
)
def test_nonsense_in_a_text_file_is_one_error(written, tmp_path, name, old, new):
    for part in ("cameras.txt", "images.txt", "points3D.txt"):
        shutil.copy(written / "text" / part, tmp_path)
    text = (tmp_path / name).read_text()
    assert old in text
    (tmp_path / name).write_text(text.replace(old, new))
    with pytest.raises(InputError, match="expected a complete COLMAP model") as caught:
        read_model(tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_parts_and_empty_models_are_named(written, tmp_path):
    with pytest.raises(InputError, match="got none of cameras, images, points3D"):
        read_model(tmp_path / "nowhere")
    folder = shutil.copytree(written / "binary", tmp_path / "model")
    (folder / "points3D.bin").unlink()
    with pytest.raises(InputError, match="got none of points3D"):
        read_model(folder)
    write_model(pycolmap.Reconstruction(), tmp_path / "empty")
    with pytest.raises(InputError, match="expected at least one image with a pose, got 0 images"):
        read_model(tmp_path / "empty")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="expected a folder that can be written to"):
        write_model(pycolmap.Reconstruction(), tmp_path / "file" / "below")


def test_a_distorted_camera_has_no_intrinsics_of_its_own():
    camera = pycolmap.Camera.create_from_model_name(5, "OPENCV", 500.0, 640, 480)
    with pytest.raises(InputError, match="camera 5: expected one of PINHOLE, SIMPLE_PINHOLE, got OPENCV"):
        pinhole_intrinsics(camera)
