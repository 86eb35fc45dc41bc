"""`--poses model`: photographs that come with cameras, as a COLMAP model or a transforms.json.

They are read as every command reads them (data/readers/colmap.py, data/readers/transforms.py): without distortion, all
in one size. Their pixels are those that the cameras were made for: EXIF's orientation is not applied.
"""

import os
from collections import defaultdict
from pathlib import Path

import numpy as np
from torch import Tensor

from data.colmap_library import pycolmap
from data.colmap_model import add_image, find_model, pinhole_camera
from data.image_io import write_image
from data.problems import shortened
from data.readers.matched_points import matched_points
from data.readers.registry import read_scenes
from data.scene import PosedScene, ScenePoints
from geometry import InputError, require
from render.photos.options import MIN_CAMERAS
from render.photos.pictures import reduced
from render.photos.source_state import state_of
from render.reconstruct.types import Photo, PhotoSet, Solution

_TRANSFORMS = "transforms.json"


def prepare(source: Path, folder: Path, *, max_side: int) -> PhotoSet:
    """Write the photographs that have a camera into `folder`, their longer side at most `max_side` pixels.

    Raises:
        InputError: for a source without cameras or with too few of them, or without one usable photograph.
    """
    scene = _scene(source)
    require(
        len(scene.frames) >= MIN_CAMERAS,
        f"SOURCE {source}: expected at least {MIN_CAMERAS} photographs with a camera, got {len(scene.frames)}",
    )
    photos, lost = [], []
    for view, name in _names(source, scene).items():
        try:
            image = reduced(scene.image(view), max_side)
        except InputError:
            lost.append(name)
            continue
        file = f"{view:05d}.jpg"
        write_image(folder / file, image)
        photos.append(Photo(file, name, *image.shape[:2]))
    require(bool(photos), f"SOURCE {source}: expected photographs of the cameras there, got none of {len(lost)}")
    count = len(lost) + len(photos)
    missing = f"{len(lost)} of {count} photographs that have a camera cannot be read: {shortened(lost)}"
    return PhotoSet(folder, tuple(photos), is_video=False, warnings=(missing,) if lost else ())


def solution(source: Path, photos: PhotoSet) -> Solution:
    """The cameras of the photographs that `prepare` has made of the same source, for their size.

    Without points in the model, matches of the photographs are triangulated.

    Raises:
        InputError: when no match fits the cameras.
    """
    scene, warnings = _scene(source), ()
    points = scene.points
    if points is None or not points.rows:
        cameras = {view: scene.cameras([view])[0].map(Tensor.double) for view in scene.frames}
        points = matched_points(cameras, scene.image, state_of(source))
        warnings = ("the cameras came without points; those were triangulated from matches of the photographs",)
    require(
        len(points.points_world) > 0,
        f"SOURCE {source}: expected cameras that fit the photographs, got {len(photos.photos)} that none of their "
        "matches agrees with",
    )
    model = _model_of(scene, {name: view for view, name in _names(source, scene).items()}, points, photos)
    return Solution(model, "model", reprojection_px=model.compute_mean_reprojection_error(), warnings=warnings)


def _scene(source: Path) -> PosedScene:
    has_model = find_model(source) is not None
    require(
        has_model or (source / _TRANSFORMS).is_file(),
        f"SOURCE {source}: expected cameras for --poses model, sparse/0 or {_TRANSFORMS}, got neither",
    )
    (scene,) = read_scenes("colmap" if has_model else "transforms", str(source), split="all", scans=None)
    return scene


def _names(source: Path, scene: PosedScene) -> dict[int, str]:
    """Of the photographs, as their folder is seen from the source."""
    return {view: os.path.relpath(frame.image_path, source) for view, frame in scene.frames.items()}


def _model_of(
    scene: PosedScene, view_of: dict[str, int], points: ScenePoints, photos: PhotoSet
) -> pycolmap.Reconstruction:
    """Pinhole cameras of the photos, and the points that two of them observe."""
    model = pycolmap.Reconstruction()
    tracks: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for image_id, photo in enumerate(photos.photos, start=1):
        view = view_of[photo.source]
        frame = scene.frames[view]
        scale = np.array([photo.width / frame.width, photo.height / frame.height])
        intrinsics = frame.intrinsics.double().clone()
        intrinsics[0] *= scale[0]
        intrinsics[1] *= scale[1]
        camera = pinhole_camera(intrinsics, photo.height, photo.width, image_id)
        pixels = points.pixels.get(view, np.zeros((0, 2)))
        is_known = np.isfinite(pixels).all(1)
        add_image(model, image_id, photo.name, frame.w2c, camera, pixels[is_known] * scale)
        for index, row in enumerate(points.rows.get(view, np.zeros(0, np.int64))[is_known]):
            tracks[int(row)].append((image_id, index))
    for row, seen in sorted(tracks.items()):
        if len({image_id for image_id, _ in seen}) > 1:
            track = pycolmap.Track()
            for image_id, index in dict(reversed(seen)).items():
                track.add_element(image_id, index)
            model.add_point3D(points.points_world[row], track)
    model.extract_colors_for_all_images(photos.folder)
    model.update_point_3d_errors()
    return model
