"""A solution -> a scene that every other command reads: `--dataset_name colmap --datadir FOLDER`."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from data.colmap_library import pycolmap
from data.colmap_model import posed_images, write_model
from data.image_io import read_image
from data.rectification import Rectification, as_large_as_file, undistortion
from geometry import InputError
from render.reconstruct.orientation import orient
from render.reconstruct.types import PhotoSet, Solution
from training.files import staged_folder

_JPEG = {"quality": 95, "subsampling": 0}


def write_scene(solution: Solution, photos: PhotoSet, folder: Path) -> None:
    """Write `folder/images/*` and `folder/sparse/0`, all or nothing; `folder` must be absent or empty.

    Images lose the distortion of their lens and keep name and size; photographs without a camera are left out. The
    model is COLMAP's binary one with PINHOLE cameras, points, tracks and the features moved along, in the upright world
    of `orientation`.

    Raises:
        InputError: when `folder` holds something or cannot be written, a photograph is missing, or a lens fits no
            pinhole camera.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder}: expected an empty folder or a new name, got one that holds files")
    model = pycolmap.Reconstruction(solution.model)
    orient(model)
    images = posed_images(model)
    ways = {
        number: as_large_as_file(undistortion(model.cameras[number]))
        for number in sorted({image.camera_id for image in images})
    }
    with staged_folder(folder) as staging:
        (staging / "images").mkdir()
        for image in images:
            way = ways[image.camera_id]
            _write_undistorted(photos.folder / image.name, staging / "images" / image.name, way)
            _move_features(image, way)
        for number, way in ways.items():
            _make_pinhole(model.cameras[number], way)
        write_model(model, staging / "sparse" / "0")


def _write_undistorted(source: Path, target: Path, way: Rectification) -> None:
    photograph = read_image(source)
    if photograph.shape[:2] != way.file_size:
        height, width = way.file_size
        got = f"{photograph.shape[1]}x{photograph.shape[0]}"
        raise InputError(f"{source}: expected a photograph of {width}x{height} pixels as its camera says, got {got}")
    try:
        if way.is_identity:
            shutil.copyfile(source, target)
        else:
            Image.fromarray(way.image(photograph)).save(target, **_JPEG)
    except OSError as error:
        raise InputError(f"{target.name}: expected room for images, got: {error.strerror or error}") from None


def _move_features(image: pycolmap.Image, way: Rectification) -> None:
    measured = np.array([point.xy for point in image.points2D]).reshape(-1, 2)
    for point, moved in zip(image.points2D, way.pixels(measured), strict=True):
        point.xy = moved


def _make_pinhole(camera: pycolmap.Camera, way: Rectification) -> None:
    camera.model = pycolmap.CameraModelId.PINHOLE
    camera.params = list(way.pinhole)
