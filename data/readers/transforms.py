"""Scenes with a `transforms.json` (nerfstudio, instant-ngp, Blender exports) -> `PosedScene`. Scene unit: the file's.

    {scan}/transforms.json    frames with file_path and transform_matrix (camera to world, OpenGL axes); fl_x fl_y cx cy
                              w h, or camera_angle_x and _y; k1 k2 k3 k4 p1 p2 with camera_model OPENCV (the default),
                              OPENCV_FISHEYE or PINHOLE: of all frames, or of one
    {scan}/images/...         as file_path says, with or without extension; `image_factor` 4 takes images_4 instead
    {scan}/scene.json         optional, as for COLMAP's models (data/readers/colmap.py)

Optional besides: mask_path and depth_file_path of a frame (16-bit PNG, 0.001 scene units per count unless
`depth_unit_scale_factor` or `integer_depth_scale` says otherwise), ply_file_path (points in the frames' world),
train_filenames, val_filenames, test_filenames. aabb_scale, scale, offset and applied_transform change nothing.

`datadir` holds such folders or is one. View numbers are positions among the sorted names. Held out are val_filenames,
else test_filenames, else what scene.json names, else all but train_filenames, else every 8th. Without near and far in
scene.json and without points, depth bounds are from SIFT matches that are triangulated with the given cameras
(data/readers/matched_points.py).
"""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh

from data.colmap_library import pycolmap
from data.image_io import image_size
from data.problems import LeftOut, Report, raise_problem
from data.readers.options import ReaderOptions
from data.readers.photographs import (
    Photograph,
    SceneDescription,
    build_scene,
    file_below,
    is_number,
    read_description,
    read_json,
)
from data.readers.splits import Split, folders_with, read_divided_by_views
from data.scene import PosedScene, ScenePoints
from geometry import InputError, require
from geometry.conversions import w2c_from_opengl_c2w

_FILE = "transforms.json"
_MAX_SIDE = 2**31
"""Pixels of an image that COLMAP's library can count."""
_MODELS = ("OPENCV", "OPENCV_FISHEYE", "PINHOLE", "SIMPLE_PINHOLE")
_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
_DEPTH_SCALE = 0.001
"""Scene units per count, nerfstudio's default: millimeters for a scene in meters."""


def read_transforms(
    datadir: Path,
    *,
    split: Split,
    scans: tuple[str, ...] | None = None,
    report: Report = raise_problem,
    options: ReaderOptions | None = None,
) -> list[PosedScene]:
    """Every scene there is, for every split: they are divided by views.

    Raises:
        InputError: for an unknown scan, and (unless `report` collects) for a damaged file, a missing image or an
            impossible camera.
    """
    options = options or ReaderOptions()
    return read_divided_by_views(
        datadir,
        find_transforms_scans(datadir),
        f"{_FILE}, or folders that have it",
        scans,
        report,
        lambda folder, scan: _read_scene(folder, scan, report, options),
    )


def find_transforms_scans(datadir: Path) -> dict[str, Path]:
    """Scan name -> folder."""
    return folders_with(datadir, _FILE)


def _read_scene(folder: Path, scan: str, report: Report, options: ReaderOptions) -> PosedScene:
    path = folder / _FILE
    content = read_json(path)
    entries = content.get("frames")
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: expected a list of frames, got {type(entries).__name__} without any")
    named = []
    for entry in entries:
        if isinstance(entry, dict) and isinstance(entry.get("file_path"), str):
            named.append((entry["file_path"], entry))
        else:
            report(InputError(f"{path}: expected frames with a file_path, got {str(entry)[:80]}"))
    named.sort(key=lambda pair: pair[0])
    photographs = []
    for view, (name, entry) in enumerate(named):
        if view > 0 and name == named[view - 1][0]:
            report(LeftOut("frames named twice", f"{path}: expected each image once, got another frame {name}"))
            continue
        try:
            photographs.append(_photograph(folder, view, name, content, entry, options))
        except InputError as error:
            report(error)
    points = _ply_points(folder, content.get("ply_file_path"), report)
    return build_scene(
        scan,
        photographs,
        points,
        {view: name for view, (name, _) in enumerate(named)},
        _description(folder, content),
        options,
        report,
    )


def _photograph(
    folder: Path, view: int, name: str, shared: dict[str, Any], entry: dict[str, Any], options: ReaderOptions
) -> Photograph:
    where = f"{folder / _FILE} frame {name}"
    image_path = file_below(folder, _reduced(name, options.image_factor))
    if image_path is None:
        raise LeftOut("frames without image", f"{where}: expected an image, got none")
    try:
        c2w = torch.tensor(entry["transform_matrix"], dtype=torch.float64)
    except (KeyError, TypeError, ValueError, RuntimeError):
        c2w = torch.zeros(0)
    require(
        c2w.shape == (4, 4), f"{where}: expected a 4x4 transform_matrix, got {str(entry.get('transform_matrix'))[:80]}"
    )
    return Photograph(
        view_id=view,
        image_path=image_path,
        w2c=w2c_from_opengl_c2w(c2w),
        camera=_camera(shared | entry, image_path, where),
        where=where,
        mask_path=_optional(folder, entry.get("mask_path"), where),
        depth_path=_optional(folder, entry.get("depth_file_path"), where),
    )


def _reduced(name: str, factor: int | None) -> str:
    """The same name below images_<factor>."""
    if factor in (None, 1):
        return name
    head, _, rest = name.removeprefix("./").partition("/")
    require(head == "images", f"--image_factor {factor}: expected images below images/, got {name}")
    return f"images_{factor}/{rest}"


def _optional(folder: Path, name: object, where: str) -> Path | None:
    if name is None:
        return None
    found = file_below(folder, name) if isinstance(name, str) else None
    require(found is not None, f"{where}: expected the file {name}, got none")
    return found


def _camera(values: dict[str, Any], image_path: Path, where: str) -> pycolmap.Camera:
    """The camera of a frame, for images of w x h, or of the file's size where these are not given."""

    def number(name: str, default: float | None = None) -> float | None:
        value = values.get(name, default)
        require(value is None or is_number(value), f"{where}: expected a number as {name}, got {value!r}")
        return None if value is None else float(value)

    height, width = number("h"), number("w")
    if height is None or width is None:
        height, width = map(float, image_size(image_path))
    fx, fy = number("fl_x"), number("fl_y")
    if fx is None:
        fx = _focal(number("camera_angle_x"), width)
    if fy is None:
        fy = _focal(number("camera_angle_y"), height) if "fl_x" not in values else fx
    fx, fy = (fy if fx is None else fx), (fx if fy is None else fy)
    require(
        bool(fx and fy and min(fx, fy) > 0) and min(height, width) >= 1 and max(height, width) < _MAX_SIDE,
        f"{where}: expected fl_x or camera_angle_x and a size above 0, got fl_x {values.get('fl_x')!r}, camera_angle_x "
        f"{values.get('camera_angle_x')!r}, {width:g}x{height:g}",
    )
    pinhole = [fx, fy, number("cx", width / 2), number("cy", height / 2)]
    model = str(values.get("camera_model", "OPENCV_FISHEYE" if values.get("is_fisheye") else "OPENCV"))
    require(model in _MODELS, f"{where}: expected a camera_model of {', '.join(_MODELS)}, got {model}")
    k1, k2, k3, k4, p1, p2 = (number(name, 0.0) for name in _DISTORTION)
    if "FISHEYE" in model:
        model, params = "OPENCV_FISHEYE", [*pinhole, k1, k2, k3, k4]
    elif "PINHOLE" in model or not any((k1, k2, k3, k4, p1, p2)):
        model, params = "PINHOLE", pinhole
    else:  # OpenCV's order: k4 is the first coefficient of its denominator
        model, params = "FULL_OPENCV", [*pinhole, k1, k2, p1, p2, k3, k4, 0.0, 0.0]
    return pycolmap.Camera(model=model, width=round(width), height=round(height), params=params)


def _focal(angle: float | None, side: float) -> float | None:
    if angle is None or not 0 < angle < math.pi:
        return None
    return 0.5 * side / math.tan(0.5 * angle)


def _ply_points(folder: Path, name: object, report: Report) -> ScenePoints | None:
    if not isinstance(name, str):
        return None
    try:
        path = file_below(folder, name, (".ply",))
        if path is None:  # exports often leave it out
            return None
        content = io.BytesIO(path.read_bytes())  # of a file trimesh asks for as many bytes as its header says
        vertices = np.asarray(trimesh.load(content, file_type="ply", process=False).vertices, np.float64)
    except InputError as error:
        report(error)
        return None
    except Exception as error:  # whatever a broken file makes the parser raise
        report(InputError(f"{folder / name}: expected a PLY file with points, got an unreadable one ({error})"))
        return None
    vertices = vertices[np.isfinite(vertices).all(axis=-1)]
    return ScenePoints(vertices, np.zeros(len(vertices), np.int64)) if len(vertices) else None


def _description(folder: Path, content: dict[str, Any]) -> SceneDescription:
    own = read_description(folder / "scene.json")
    lists = {kind: content.get(f"{kind}_filenames") for kind in ("train", "val", "test")}
    for kind, names in lists.items():
        require(
            names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names)),
            f"{folder / _FILE}: expected a list of names as {kind}_filenames, got {str(names)[:80]}",
        )
    scale = content.get("depth_unit_scale_factor", content.get("integer_depth_scale", _DEPTH_SCALE))
    require(is_number(scale) and scale > 0, f"{folder / _FILE}: expected a depth scale above 0, got {scale!r}")
    return SceneDescription(
        held_out=tuple(lists["val"] or lists["test"] or own.held_out),
        train=tuple(lists["train"] or ()),
        bounds=own.bounds,
        depth_scale=own.depth_scale or float(scale),
    )
