"""The scene that is written: pinhole images and a model that fits them."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from data.colmap_library import pycolmap
from data.colmap_model import image_w2c, observations, pinhole_intrinsics, posed_images, read_model
from data.image_io import read_image
from geometry import Cameras, InputError, rigid_inverse
from geometry.pose_metrics import best_similarity
from render.reconstruct.scene_folder import write_scene
from tests.render.reconstruct.conftest import Solved
from tests.render.reconstruct.photo_sets import Lens, photograph


@pytest.fixture(scope="module")
def scene(solved: Solved, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written once."""
    folder = tmp_path_factory.mktemp("scene") / "scene"
    write_scene(solved.solution, solved.photos, folder)
    return folder


def test_a_scene_has_all_images_and_one_model(scene: Path, solved: Solved):
    """Nothing else: no leftovers of the undistortion, no distorted images."""
    assert sorted(path.name for path in scene.iterdir()) == ["images", "sparse"]
    assert [path.name for path in (scene / "sparse").iterdir()] == ["0"]
    assert sorted(path.name for path in (scene / "images").iterdir()) == [photo.name for photo in solved.photos.photos]
    model = read_model(scene / "sparse" / "0")
    assert {camera.model_name for camera in model.cameras.values()} == {"PINHOLE"}
    for image in posed_images(model):
        camera = model.cameras[image.camera_id]
        assert read_image(scene / "images" / image.name).shape == (camera.height, camera.width, 3)


def test_points_fall_on_their_moved_features(scene: Path):
    """As pinhole cameras project them, with an error like before."""
    model = read_model(scene / "sparse" / "0")
    for image in posed_images(model):
        camera = model.cameras[image.camera_id]
        seen = observations(image)
        points = torch.from_numpy(np.stack([model.points3D[index].xyz for index in seen.point_ids]))
        ours = Cameras(image_w2c(image), pinhole_intrinsics(camera), camera.height, camera.width)
        errors = (ours.project(points).pixels - torch.from_numpy(seen.pixels)).norm(dim=-1)
        assert len(errors) > 50
        assert errors.mean() < 0.4


def test_images_are_what_a_pinhole_camera_sees(scene: Path, solved: Solved):
    """Photographs of the world by the cameras of the scene, without distortion, look the same."""
    model = read_model(scene / "sparse" / "0")
    images = posed_images(model)
    image = images[0]
    camera = model.cameras[image.camera_id]
    c2w = rigid_inverse(torch.stack([image_w2c(one) for one in images]))
    move = best_similarity(c2w[:, :3, 3], rigid_inverse(solved.w2c)[:, :3, 3])
    moved = c2w[0].clone()
    moved[:3, :3], moved[:3, 3] = move.rotation @ c2w[0, :3, :3], move(c2w[:1, :3, 3])[0]
    expected = photograph(rigid_inverse(moved), Lens(camera.height, camera.width, camera.mean_focal_length()))
    written = read_image(scene / "images" / image.name)
    assert _correlation(written, expected) > 0.9
    distorted = cv2.resize(read_image(solved.photos.folder / image.name), (camera.width, camera.height))
    assert _correlation(distorted, expected) < 0.8


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    blurred = [cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.5).ravel() for image in (first, second)]
    return float(np.corrcoef(*blurred)[0, 1])


def test_a_folder_in_use_is_left_alone(scene: Path, solved: Solved):
    """Also by a second call."""
    with pytest.raises(InputError, match="expected an empty folder or a new name"):
        write_scene(solved.solution, solved.photos, scene)


def test_nothing_is_left_where_a_photograph_is_missing(solved: Solved, tmp_path: Path):
    """The folder does not even begin."""
    model = pycolmap.Reconstruction(solved.solution.model)
    posed_images(model)[0].name = "away.png"
    with pytest.raises(InputError, match=r"away\.png"):
        write_scene(type(solved.solution)(model, "colmap"), solved.photos, tmp_path / "scene")
    assert list(tmp_path.iterdir()) == []
