"""`--poses model`: photographs that come with cameras, as a COLMAP model or a transforms.json.

Their pixels are those that the cameras were made for: EXIF's orientation is not applied.
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pycolmap
from jaxtyping import Float, UInt8
from torch import Tensor

from data.colmap_model import add_image, find_model, image_w2c, pinhole_camera, posed_images, read_model
from data.image_io import read_image, write_image
from data.problems import shortened
from data.readers.registry import read_scenes
from data.scene import PosedScene
from geometry import InputError, require
from render.photos.pictures import reduced
from render.reconstruct.matching import MatchingOptions, matched_database, quiet
from render.reconstruct.types import Photo, PhotoSet, Solution

Image = UInt8[np.ndarray, "height width 3"]
_IMAGES = "images"
_TRANSFORMS = "transforms.json"


class _Pose(NamedTuple):
    """A camera of a photograph of its size."""

    w2c: Float[Tensor, "4 4"]
    camera: pycolmap.Camera


class _Given(NamedTuple):
    """A photograph with a camera."""

    name: str
    read: Callable[[], Image]


def prepare(source: Path, folder: Path, *, max_side: int) -> PhotoSet:
    """Write the photographs that have a camera into `folder`, their longer side at most `max_side` pixels.

    Raises:
        InputError: for a source without cameras, or without one usable photograph.
    """
    photos, lost = [], []
    for index, given in enumerate(_given(source)):
        try:
            image = reduced(np.asarray(given.read()), max_side)
        except InputError:
            lost.append(given.name)
            continue
        name = f"{index:05d}.jpg"
        write_image(folder / name, image)
        photos.append(Photo(name, given.name, *image.shape[:2]))
    require(bool(photos), f"SOURCE {source}: expected photographs of the cameras there, got none of {len(lost)}")
    count = len(lost) + len(photos)
    missing = f"{len(lost)} of {count} photographs that have a camera cannot be read: {shortened(lost)}"
    return PhotoSet(folder, tuple(photos), is_video=False, warnings=(missing,) if lost else ())


def solution(source: Path, photos: PhotoSet, work: Path, *, seed: int = 0) -> Solution:
    """The cameras of the photographs that `prepare` has made of the same source, for their size.

    Without points in the model, matches of the photographs are triangulated; `work` is a folder for these.

    Raises:
        InputError: when no match fits the cameras.
    """
    folder, warnings = find_model(source), ()
    model = None if folder is None else _reduced_model(read_model(folder), photos)
    if model is None or not model.num_points3D():
        poses = _scene_poses(source, photos) if model is None else _model_poses(model)
        model = _triangulated(poses, photos, work, seed)
        warnings = ("the cameras came without points; those were triangulated from matches of the photographs",)
    model.update_point_3d_errors()
    return Solution(model, "model", reprojection_px=model.compute_mean_reprojection_error(), warnings=warnings)


def _given(source: Path) -> Iterator[_Given]:
    folder = find_model(source)
    if folder is None:
        scene = _scene(source)
        for view, name in _names(source, scene).items():
            yield _Given(name, partial(scene.image, view))
        return
    for image in posed_images(read_model(folder)):
        yield _Given(image.name, partial(read_image, source / _IMAGES / image.name))


def _names(source: Path, scene: PosedScene) -> dict[int, str]:
    """Of the photographs, as their folder is seen from the source."""
    return {view: os.path.relpath(frame.image_path, source) for view, frame in scene.frames.items()}


def _scene(source: Path) -> PosedScene:
    """Of a transforms.json, images without distortion."""
    require(
        (source / _TRANSFORMS).is_file(),
        f"SOURCE {source}: expected cameras for --poses model, sparse/0 or {_TRANSFORMS}, got neither",
    )
    (scene,) = read_scenes("transforms", str(source), split="all", scans=None)
    return scene


def _reduced_model(model: pycolmap.Reconstruction, photos: PhotoSet) -> pycolmap.Reconstruction:
    """Named as the photos are, for images of their size; images without a photo lose their camera."""
    of_name = {photo.source: photo for photo in photos.photos}
    scales: dict[int, tuple[float, float]] = {}
    for image in list(model.images.values()):
        photo = of_name.get(image.name)
        if photo is None:
            if image.has_pose:
                model.deregister_frame(image.frame_id)
            continue
        camera = model.cameras[image.camera_id]
        if image.camera_id not in scales:
            scales[image.camera_id] = (photo.width / camera.width, photo.height / camera.height)
            camera.rescale(photo.width, photo.height)
        require(
            (camera.width, camera.height) == (photo.width, photo.height),
            f"{photo.source}: expected {camera.width}x{camera.height} pixels, which other images of its camera have, "
            f"got {photo.width}x{photo.height}",
        )
        for point in image.points2D:
            point.xy = point.xy * scales[image.camera_id]
        image.name = photo.name
    return model


def _scene_poses(source: Path, photos: PhotoSet) -> dict[str, _Pose]:
    """By the names of the photos."""
    scene = _scene(source)
    frames = {name: scene.frames[view] for view, name in _names(source, scene).items()}
    found = {}
    for photo in photos.photos:
        frame = frames[photo.source]
        intrinsics = frame.intrinsics.double().clone()
        intrinsics[0] *= photo.width / frame.width
        intrinsics[1] *= photo.height / frame.height
        found[photo.name] = _Pose(frame.w2c, pinhole_camera(intrinsics, photo.height, photo.width))
    return found


def _model_poses(model: pycolmap.Reconstruction) -> dict[str, _Pose]:
    return {image.name: _Pose(image_w2c(image), model.cameras[image.camera_id]) for image in posed_images(model)}


def _triangulated(poses: dict[str, _Pose], photos: PhotoSet, work: Path, seed: int) -> pycolmap.Reconstruction:
    """The cameras as they are, and the points of matches that fit them.

    Raises:
        InputError: when there is none.
    """
    database = matched_database(photos, work, MatchingOptions(), seed=seed, num_threads=-1)
    model = pycolmap.Reconstruction()
    with pycolmap.Database.open(database) as opened:
        for image in sorted(opened.read_all_images(), key=lambda image: image.image_id):
            pose = poses.get(image.name)
            if pose is not None:
                camera = pycolmap.Camera(pose.camera)
                camera.camera_id = image.image_id  # one each
                add_image(model, image.image_id, image.name, pose.w2c, camera)
    folder = work / "triangulated"
    folder.mkdir(parents=True, exist_ok=True)
    with quiet():
        found = pycolmap.triangulate_points(model, database, photos.folder, folder, refine_intrinsics=False)
    require(
        found.num_points3D() > 0,
        f"expected cameras that fit the photographs, got {len(poses)} which none of their matches agrees with",
    )
    return found
