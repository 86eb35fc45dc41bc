"""The scene that is written: pinhole images and a model that fits them."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from data.colmap_library import pycolmap
from data.colmap_model import add_image, image_w2c, observations, pinhole_intrinsics, posed_images, read_model
from data.image_io import read_image
from geometry import Cameras, InputError
from render.reconstruct.scene_folder import write_scene
from render.reconstruct.types import Solution
from tests.render.reconstruct.conftest import K1, Solved
from tests.render.reconstruct.photo_sets import FOCAL, HEIGHT, WIDTH, Lens, photograph


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
    sizes = {photo.name: (photo.height, photo.width) for photo in solved.photos.photos}
    for image in posed_images(model):
        camera = model.cameras[image.camera_id]
        assert (camera.height, camera.width) == sizes[image.name]
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


def test_images_are_what_a_pinhole_camera_sees(solved: Solved, tmp_path: Path):
    """Of true cameras: photographs of the world by the cameras of the scene, without distortion, look the same."""
    model = pycolmap.Reconstruction()
    params = [FOCAL, WIDTH / 2, HEIGHT / 2, K1]
    camera = pycolmap.Camera(camera_id=1, model="SIMPLE_RADIAL", width=WIDTH, height=HEIGHT, params=params)
    views = [0, 2, 4]
    for view in views:
        add_image(model, view + 1, solved.photos.photos[view].name, solved.w2c[view], camera)
    write_scene(Solution(model, "colmap"), solved.photos, tmp_path / "scene")

    (camera,) = read_model(tmp_path / "scene" / "sparse" / "0").cameras.values()
    expected = photograph(solved.w2c[2], Lens(camera.height, camera.width, camera.mean_focal_length()))
    name = solved.photos.photos[2].name
    assert _correlation(read_image(tmp_path / "scene" / "images" / name), expected) > 0.97
    assert _correlation(read_image(solved.photos.folder / name), expected) < 0.93


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
        write_scene(Solution(model, "colmap"), solved.photos, tmp_path / "scene")
    assert list(tmp_path.iterdir()) == []
