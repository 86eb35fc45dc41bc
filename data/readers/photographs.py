"""Photographs with cameras of any kind -> `PosedScene`: what the readers of COLMAP's and nerfstudio's files share."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from data.colmap_library import pycolmap
from data.image_io import UnreadableFileError, image_size, is_file
from data.problems import LeftOut, Report
from data.readers.matched_points import matched_points
from data.readers.options import ReaderOptions
from data.readers.splits import present_only, split_views
from data.rectification import Rectification, camera_of_size, canvas_of, onto_canvas, undistortion
from data.rectified_files import RectifiedFiles, SparseDepth
from data.scene import Frame, PosedScene, ScenePoints
from data.view_selection.covisibility import covisible_views
from data.view_selection.neighbors import complete_neighbors
from geometry import Cameras, InputError, check_camera, require
from geometry.plain_files import plain_file
from geometry.plain_json import parse_json

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
_ASPECT_TOLERANCE = 0.02
"""Relative: reduced images have whole numbers of pixels, turned ones are off by far more."""
_QUANTILES = (0.005, 0.995)
"""Of the depths of a view's points: so many at either end may be wrong matches. Chosen by hand."""
_MAX_FAR, _BULK = 2.0, 0.9
"""A view's far is at most twice the median of all views', as some see past the scene into a background of few points;
but never so near that less than this share of its own points is enclosed. Chosen by hand."""
_NEAR_FACTOR, _FAR_FACTOR = 0.8, 1.2
"""On these quantiles: points are sparse, surfaces go on before and behind them. As for LLFF, chosen by hand."""
_MIN_POINTS = 20
"""With fewer of its own a view takes those of all views; chosen by hand, so that a quantile means something."""
_MAX_REPROJECTION = 2.0
"""Pixels; points that are farther from where a view saw them are no depth of that view. Chosen by hand."""
_SURE_TRACK = 3
"""Views of a point that one of them has confirmed: two always agree along their epipolar lines."""


@dataclass(frozen=True)
class Photograph:
    """One image with its camera as the files say; the image file may be smaller than the camera's image."""

    view_id: int
    image_path: Path
    w2c: Float[Tensor, "4 4"]
    camera: pycolmap.Camera
    where: str
    """For messages: the file and the entry."""
    mask_path: Path | None = None
    depth_path: Path | None = None
    rows: Int[np.ndarray, " observation"] | None = None
    """Of the scene's points, those that it observes."""
    pixels: Float[np.ndarray, "observation 2"] | None = None
    """(x, y) where it does, in pixels of `camera`."""


@dataclass(frozen=True)
class SceneDescription:
    """What lies beside the photographs and holds for all of them (`scene.json`, or fields of `transforms.json`)."""

    held_out: tuple[str, ...] = ()
    """Names of images; none: every 8th."""
    train: tuple[str, ...] = ()
    """Names of images; none: all that are not held out."""
    bounds: tuple[float, float] | None = None
    """Near and far of all views, scene units; None: from the points."""
    depth_scale: float | None = None
    """Scene units per count of 16-bit depth maps."""


def read_description(path: Path) -> SceneDescription:
    """`scene.json`; all its fields may be absent, and so may the file.

    Raises:
        InputError: for a file that is no JSON object, or a field of another kind.
    """
    if not path.is_file():
        return SceneDescription()
    content = read_json(path)
    held_out, near, far = content.get("held_out") or [], content.get("near"), content.get("far")
    scale = content.get("depth_scale")
    require(
        isinstance(held_out, list) and all(isinstance(name, str) for name in held_out),
        f"{path}: expected a list of image names under held_out, got {held_out!r}",
    )
    if near is not None or far is not None:
        require(
            is_number(near) and is_number(far) and 0 < near < far,
            f"{path}: expected numbers 0 < near < far, got near {near!r} and far {far!r}",
        )
    require(scale is None or (is_number(scale) and scale > 0), f"{path}: expected depth_scale above 0, got {scale!r}")
    return SceneDescription(tuple(held_out), (), None if near is None else (float(near), float(far)), scale)


def read_json(path: Path) -> dict:
    """A file with one JSON object.

    Raises:
        InputError: for an unreadable file, or anything else in it.
    """
    try:
        content = parse_json(plain_file(path).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected JSON, got an unreadable file ({error})") from None
    require(isinstance(content, dict), f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def is_number(value: object) -> bool:
    """A finite int or float; JSON knows NaN and infinity besides."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def file_below(folder: Path, name: str, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> Path | None:
    """The file of that name in a folder, or of that name but for its extension; None: there is none.

    Raises:
        InputError: for a name that leads out of the folder.
    """
    relative = PurePosixPath(name.replace("\\", "/"))
    require(
        bool(relative.parts) and "\0" not in name and not relative.is_absolute() and ".." not in relative.parts,
        f"{folder}: expected names of files in this folder, got {name!r}",
    )
    exact = folder / relative
    if exact.suffix.lower() in suffixes and is_file(exact):
        return exact
    others = (path for suffix in suffixes for path in (exact.with_suffix(suffix), exact.with_suffix(suffix.upper())))
    appended = (exact.with_name(exact.name + suffix) for suffix in suffixes)
    return next((path for path in (*appended, *others) if is_file(path)), None)


def image_folder(folder: Path, factor: int | None) -> Path:
    """`images_<factor>`, or `images` for None and 1.

    Raises:
        InputError: for a folder that is not there.
    """
    chosen = folder / ("images" if factor in (None, 1) else f"images_{factor}")
    if not chosen.is_dir():
        found = ", ".join(sorted(path.name for path in folder.glob("images*") if path.is_dir())) or "none"
        option = "" if factor is None else f"--image_factor {factor}: "
        raise InputError(f"{option}expected the folder {chosen}, got: {found}")
    return chosen


def build_scene(
    scan: str,
    photographs: Sequence[Photograph],
    points: ScenePoints | None,
    names: Mapping[int, str],
    description: SceneDescription,
    options: ReaderOptions,
    report: Report,
    notes: Sequence[str] = (),
) -> PosedScene:
    """All photographs on one canvas, with depth bounds, neighbors and a split.

    `names`: of all views that the cameras are listed for, also of those without an image: the split must not depend on
    what is missing.

    Raises:
        InputError: when no photograph is usable, or there is nothing to take depth bounds from.
    """
    chosen = _rectified(photographs, report)
    if not chosen:
        raise InputError(f"{scan}: expected at least one image with a usable camera, got none")
    ways = {photograph.view_id: way for photograph, way in chosen}
    kept = [photograph for photograph, _ in chosen]
    cameras = {one.view_id: ways[one.view_id].camera(one.w2c) for one in kept}
    seen = None if points is None else _on_canvas(points, kept, ways)
    if seen is None and (description.bounds is None or options.sparse_depth):
        seen = _matched(kept, cameras, ways)
        notes = [*notes, f"{scan}: no points came with the cameras; {len(seen.points_world)} are triangulated matches"]
    bounds, bound_notes = _bounds(scan, cameras, seen, description)
    sparse = _sparse_depth(kept, cameras, seen) if options.sparse_depth and seen is not None else {}
    frames = {
        one.view_id: Frame(
            view_id=one.view_id,
            image_path=one.image_path,
            w2c=cameras[one.view_id].w2c.float(),
            intrinsics=cameras[one.view_id].intrinsics.float(),
            height=cameras[one.view_id].height,
            width=cameras[one.view_id].width,
            near=bounds[one.view_id][0],
            far=bounds[one.view_id][1],
            depth_path=one.depth_path or (one.image_path if one.view_id in sparse else None),
            mask_path=one.mask_path,
        )
        for one in kept
    }
    require(
        not options.sparse_depth or bool(sparse) or any(one.depth_path for one in kept),
        f"--sparse_depth: expected observed points in {scan}, got none",
    )
    files = RectifiedFiles(ways, description.depth_scale or 1.0, sparse)
    train, held_out = _split(scan, names, description, report)
    centers = {view: frame.center for view, frame in frames.items()}
    return PosedScene(
        name=scan,
        scan=scan,
        frames=frames,
        neighbors=complete_neighbors(centers, None if seen is None else covisible_views(centers, seen)),
        train_views=present_only(train, frames),
        held_out_views=present_only(held_out, frames),
        read_depth=files.read_depth if any(frame.depth_path for frame in frames.values()) else None,
        is_depth_sparse=bool(sparse),
        read_image=files.read_image,
        read_mask=files.read_mask,
        notes=(*notes, *_rectification_notes(scan, list(ways.values())), *bound_notes),
        points=seen,
    )


def _rectified(photographs: Sequence[Photograph], report: Report) -> list[tuple[Photograph, Rectification]]:
    """Usable photographs with their ways onto the canvas."""
    found: list[tuple[Photograph, Rectification]] = []
    of_camera: dict[tuple, Rectification] = {}
    for photograph in photographs:
        try:
            camera = _camera_of_file(photograph)
            key = (camera.model_name, camera.width, camera.height, *camera.params)
            if key not in of_camera:
                of_camera[key] = undistortion(camera)
            way = of_camera[key]
            check_camera(photograph.w2c, way.camera(photograph.w2c).intrinsics, photograph.where)
        except InputError as error:
            report(error if photograph.where in str(error) else InputError(f"{photograph.where}: {error}"))
            continue
        found.append((photograph, way))
    if not found:
        return []
    canvas = canvas_of([way for _, way in found])
    upright = [photograph for photograph, way in found if way.pinhole_size == canvas]
    down = torch.stack([photograph.w2c[1, :3] for photograph in upright]).mean(0)
    return [(photograph, onto_canvas(way, canvas, photograph.w2c, down)) for photograph, way in found]


def _camera_of_file(photograph: Photograph) -> pycolmap.Camera:
    camera, (height, width) = photograph.camera, image_size(photograph.image_path)
    if not (camera.height > 0 and abs(width * camera.height / (height * max(camera.width, 1)) - 1) < _ASPECT_TOLERANCE):
        raise InputError(
            f"{photograph.image_path}: expected the proportions of {camera.width}x{camera.height} (width x height), "
            f"which its camera is for, got {width}x{height}"
        )
    return camera_of_size(camera, height, width)


def _on_canvas(
    points: ScenePoints, photographs: Sequence[Photograph], ways: Mapping[int, Rectification]
) -> ScenePoints:
    rows, pixels = {}, {}
    for one in photographs:
        if one.rows is None or one.pixels is None:
            continue
        way = ways[one.view_id]
        resize = np.array(way.file_size[::-1]) / (one.camera.width, one.camera.height)
        rows[one.view_id], pixels[one.view_id] = one.rows, way.pixels(one.pixels * resize)
    return replace(points, rows=rows, pixels=pixels)


def _matched(
    photographs: Sequence[Photograph], cameras: Mapping[int, Cameras], ways: Mapping[int, Rectification]
) -> ScenePoints:
    """Points from the photographs themselves; those that cannot be read take no part."""
    paths = {one.view_id: one.image_path for one in photographs}
    black = Frame(0, Path(), torch.eye(4), torch.eye(3), 0, 0, 0.0, 0.0)

    def read(view: int) -> np.ndarray:
        try:
            return files.read_image(replace(black, view_id=view, image_path=paths[view]), 0)
        except UnreadableFileError:  # reported where it is loaded
            return np.zeros((cameras[view].height, cameras[view].width, 3), np.uint8)

    files = RectifiedFiles(ways)
    status = {view: path.stat() for view, path in paths.items()}
    identity = "|".join(
        f"{paths[view].resolve()} {one.st_mtime_ns} {one.st_size} {ways[view]}" for view, one in status.items()
    )
    return matched_points(cameras, read, identity)


def _bounds(
    scan: str, cameras: Mapping[int, Cameras], points: ScenePoints | None, description: SceneDescription
) -> tuple[dict[int, tuple[float, float]], list[str]]:
    """Near and far of every view, and what had to be assumed."""
    if description.bounds is not None:
        return dict.fromkeys(cameras, description.bounds), []
    if points is None or not len(points.points_world):
        raise InputError(
            f"{scan}: expected points to take near and far from, got none; write them into its scene.json as "
            '{"near": ..., "far": ...}'
        )
    every = torch.from_numpy(points.points_world)
    found, least, few = {}, {}, []
    for view, camera in cameras.items():
        projected = camera.project(every)
        depth = projected.depth.numpy()
        own = depth[points.rows[view]] if view in points.rows else depth[:0]
        own = own[own > 0]
        if len(own) < _MIN_POINTS:
            if points.rows:
                few.append(view)
            own = depth[projected.visible.numpy()]
        own = own if len(own) >= _MIN_POINTS else depth[depth > 0]
        require(len(own) > 0, f"{scan}: expected points in front of view {view}, got none")
        near, bulk, far = np.quantile(own, (_QUANTILES[0], _BULK, _QUANTILES[1])).tolist()
        found[view], least[view] = (_NEAR_FACTOR * near, _FAR_FACTOR * far), _FAR_FACTOR * bulk
    most = _MAX_FAR * float(np.median([far for _, far in found.values()]))
    reduced = {view: (near, max(most, least[view])) for view, (near, far) in found.items() if far > most}
    reduced = {view: bounds for view, bounds in reduced.items() if bounds[1] < found[view][1]}
    found |= reduced
    notes = (
        [f"near and far of {len(few)} views from points of the others, as they observe few themselves"] if few else []
    )
    if reduced:
        notes.append(f"far of {len(reduced)} views reduced: few of their points are behind it")
    return found, [f"{scan}: {note}" for note in notes]


def _sparse_depth(
    photographs: Sequence[Photograph], cameras: Mapping[int, Cameras], points: ScenePoints
) -> dict[int, SparseDepth]:
    """Depth of the points that a view without a depth map observes, where they are sure."""
    found = {}
    for one in photographs:
        if one.depth_path is not None or one.view_id not in points.rows:
            continue
        camera, rows, measured = cameras[one.view_id], points.rows[one.view_id], points.pixels[one.view_id]
        projected = camera.project(torch.from_numpy(points.points_world[rows]))
        error = np.linalg.norm(projected.pixels.numpy() - measured, axis=-1)
        good = (error < _MAX_REPROJECTION) & projected.visible.numpy()  # false for NaN
        sure = good & (points.track_lengths[rows] >= _SURE_TRACK)
        good = sure if sure.sum() >= _MIN_POINTS else good
        depth = projected.depth.numpy()[good]
        inside = np.floor(projected.pixels.numpy()[good][:, ::-1]).astype(np.int64)
        inside = np.clip(inside, 0, [camera.height - 1, camera.width - 1])
        order = np.argsort(depth, kind="stable")
        if len(depth):
            found[one.view_id] = SparseDepth(inside[order], depth[order].astype(np.float32))
    return found


def _split(
    scan: str, names: Mapping[int, str], description: SceneDescription, report: Report
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(training views, held-out views): the listed ones, with or without extension; else those that are not listed for
    training, else every 8th held out."""
    exact = {_plain(name): view for view, name in names.items()}
    known = {str(PurePosixPath(name).with_suffix("")): view for name, view in exact.items()} | exact

    def views_of(listed: Sequence[str], what: str) -> tuple[int, ...]:
        found = {}
        for name in map(_plain, listed):
            view = known.get(name, known.get(str(PurePosixPath(name).with_suffix(""))) if name else None)
            if view is None:
                report(LeftOut(f"{what} names without a view", f"{scan}: expected a camera of {what} image {name!r}"))
            else:
                found[view] = None
        return tuple(sorted(found))

    held_out, train = views_of(description.held_out, "held-out"), views_of(description.train, "training")
    held_out = held_out or tuple(view for view in names if train and view not in train)
    if not held_out:
        return split_views(tuple(names))
    train = train or tuple(names)
    return tuple(view for view in train if view not in held_out), held_out


def _plain(name: str) -> str:
    return str(PurePosixPath(name)) if name else ""


def _rectification_notes(scan: str, ways: Sequence[Rectification]) -> list[str]:
    """One sentence that counts what was done to how many photographs; none where nothing was."""

    def is_scaled(way: Rectification) -> bool:
        return way.resized_to != way.turned_size

    counts = Counter(
        {
            "freed of lens distortion": sum(way.lens is not None for way in ways),
            "turned by 90 degrees": sum(way.quarter_turns % 4 != 0 for way in ways),
            "resized": sum(map(is_scaled, ways)),
            "cropped": sum(way.size != way.resized_to for way in ways),
        }
    )
    done = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    height, width = ways[0].size
    return [f"{scan}: {len(ways)} images on one canvas of {width}x{height}: {done}"] if done else []
