"""WAI scenes of cameras with distortion to pinhole ones: `python -m data.wai.undistort /path/to/wai wai_pinhole`.

Reads `scene_meta_distorted.json` of a scene, else `scene_meta.json`. Images are resampled to a pinhole camera of the
same size with a centered principal point, whose focal length is the least that shows nothing beyond the photograph;
depth (camera z, which does not change) and masks by nearest pixel. Other modalities are left out and named. Exit
status 1 if a scene failed.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float

from data.image_io import UnreadableFileError
from data.problems import LeftOut, Problems, Report, shortened
from data.wai.formats import format_of_suffix, load, store
from data.wai.process_log import FAILED, ProcessLog
from data.wai.scene import WaiScene
from data.wai.scene_meta import (
    CAMERA_KEYS,
    DISTORTED_META_NAME,
    META_NAME,
    PINHOLE,
    FrameMeta,
    Modality,
    WaiCamera,
    find_modality,
    modalities,
    with_modality,
    write_scene_meta,
)
from data.wai.stages import Outcome, Parser, add_stage_options, find_scenes, finish, require_folder, run_stage
from geometry import InputError, one_line_errors, require

STAGE = "undistort"
_BORDER_POINTS = 101
"""Per side of the photograph, between which its undistorted outline is straight enough."""
_KINDS = ("image", "depth", "binary")


class Rectification(NamedTuple):
    """From a photograph with distortion to a pinhole image of its size."""

    camera: WaiCamera
    rows: Float[np.ndarray, "height width"]
    """Where in the photograph a pixel is from, integer pixel centers."""
    columns: Float[np.ndarray, "height width"]

    def image(self, image: Float[np.ndarray, "channel height width"]) -> Float[np.ndarray, "height width channel"]:
        """Bilinear."""
        return self._sampled(image.transpose(1, 2, 0), cv2.INTER_LINEAR)

    def nearest(self, values: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "height width"]:
        """Nearest pixel: depth is never mixed across an edge."""
        return self._sampled(values, cv2.INTER_NEAREST)

    def _sampled(self, array: np.ndarray, interpolation: int) -> np.ndarray:
        columns, rows = self.columns.astype(np.float32), self.rows.astype(np.float32)
        return cv2.remap(array, columns, rows, interpolation, borderMode=cv2.BORDER_CONSTANT, borderValue=0)


def rectification(camera: WaiCamera, where: str) -> Rectification:
    """The pinhole camera for an OPENCV or OPENCV_FISHEYE one.

    Raises:
        InputError: where the distortion leaves no rectangle around the axis.
    """
    matrix, bend = camera.intrinsics, _distortion(camera)
    width, height = camera.width, camera.height
    x, y = np.linspace(0, width - 1, _BORDER_POINTS), np.linspace(0, height - 1, _BORDER_POINTS)
    left, right, top, bottom = (
        _normalized(np.stack(np.broadcast_arrays(columns, rows), axis=-1), camera.model, matrix, bend)
        for columns, rows in ((0.0, y), (width - 1.0, y), (x, 0.0), (x, height - 1.0))
    )
    half_x = min(-left[:, 0].max(), right[:, 0].min())
    half_y = min(-top[:, 1].max(), bottom[:, 1].min())
    require(
        half_x > 0 and half_y > 0 and bool(np.isfinite([half_x, half_y]).all()),
        f"{where}: expected a distortion that leaves the middle of the image, got none",
    )
    focal = max((width - 1) / 2 / half_x, (height - 1) / 2 / half_y)
    new = {"fl_x": focal, "fl_y": focal, "cx": (width - 1) / 2, "cy": (height - 1) / 2}
    pinhole = WaiCamera(PINHOLE, width, height, new)
    make = cv2.fisheye.initUndistortRectifyMap if "FISHEYE" in camera.model else cv2.initUndistortRectifyMap
    columns, rows = make(matrix, bend, np.eye(3), pinhole.intrinsics, (width, height), cv2.CV_32FC1)
    return Rectification(pinhole, rows, columns)


def undistort(source: Path, name: str, folder: Path) -> str:
    """Write the pinhole scene of one scene; says what was left out.

    Raises:
        InputError: for files that cannot be read.
    """
    scene = WaiScene.read(source, DISTORTED_META_NAME if (source / DISTORTED_META_NAME).is_file() else META_NAME)
    _, image = find_modality(scene.meta.frame_modalities, "image", scene.meta.where)
    entries = [(one, _with_kind(scene, entry)) for one, entry in modalities(scene.meta.frame_modalities)]
    known = [(one, entry) for one, entry in entries if entry.kind in _KINDS]
    maps: dict[tuple[Any, ...], Rectification] = {}
    problems = Problems()
    made = [_frame(scene, frame, image, known, maps, folder, problems.add) for frame in scene.meta.frames]
    frames = [frame for frame in made if frame is not None]
    require(len(frames) > 0, f"{scene.meta.where}: expected images, got none: {shortened(problems.lines)}")
    tree: dict[str, Any] = {}
    for one, entry in known:
        tree = with_modality(tree, one, entry)
    skipped = [one for one, entry in entries if entry.kind not in _KINDS]
    values = {key: value for key, value in scene.meta.values.items() if key not in CAMERA_KEYS}
    meta = replace(
        scene.meta,
        frames=tuple(frames),
        frame_modalities=tree,
        scene_modalities={},
        values={**values, "camera_model": PINHOLE, "shared_intrinsics": False},
    )
    ProcessLog(folder).forget_others(STAGE)
    write_scene_meta(folder / META_NAME, meta)
    skipped += [one for one, _ in modalities(scene.meta.scene_modalities)]
    said = [f"left out: {', '.join(skipped)}"] if skipped else []
    said += [f"{len(made) - len(frames)} of {len(made)} frames left out"] if len(frames) < len(made) else []
    return "; ".join([*said, *([shortened(problems.lines)] if problems.lines else [])])


def _with_kind(scene: WaiScene, entry: Modality) -> Modality:
    """With the format that its files' suffix says, where the meta file says none and the suffix is a known one."""
    paths = (scene.path_of(frame, entry) for frame in scene.meta.frames)
    path = next((one for one in paths if one is not None), None)
    if entry.kind or path is None:
        return entry
    try:
        return replace(entry, kind=format_of_suffix(path))
    except InputError:
        return entry  # left out and named


def _frame(
    scene: WaiScene,
    frame: FrameMeta,
    image: Modality,
    known: Sequence[tuple[str, Modality]],
    maps: dict[tuple[Any, ...], Rectification],
    folder: Path,
    report: Report,
) -> FrameMeta | None:
    """None: its image cannot be read. Another file that cannot be read is left out; both are reported."""
    camera = scene.meta.camera(frame)
    key = (camera.model, camera.width, camera.height, *camera.coefficients.items())
    if camera.model != PINHOLE and key not in maps:
        maps[key] = rectification(camera, f"{scene.meta.where}, frame {frame.name}")
    change = maps.get(key)
    paths: dict[str, str] = {}
    for name, modality in known:
        path = scene.path_of(frame, modality)
        if path is None:
            continue
        try:
            array = load(path, modality.kind)
        except UnreadableFileError as error:
            report(error)
            if modality.key == image.key:
                return None
            continue
        size = array.shape[-2:]
        require(
            change is None or size == (camera.height, camera.width),
            f"{path}: expected {camera.width}x{camera.height} (width x height), got {size[1]}x{size[0]}",
        )
        if modality.kind == "image":
            relative = f"images/{frame.name}.jpg" if modality.key == image.key else f"{name}/{frame.name}.png"
            store(folder / relative, array.transpose(1, 2, 0) if change is None else change.image(array), "image")
        else:
            relative = f"{name}/{frame.name}{'.exr' if modality.kind == 'depth' else '.png'}"
            moved = array if change is None else change.nearest(array.astype(np.float32))
            store(folder / relative, moved, modality.kind)
        paths[modality.key] = relative
    new = camera if change is None else change.camera
    gone = {modality.key for _, modality in known} - paths.keys()
    rest = {one: value for one, value in frame.values.items() if one not in (*CAMERA_KEYS, *gone)}
    if image.key not in paths:
        report(
            LeftOut("frames without an image", f"{scene.meta.where}, frame {frame.name}: expected an image, got none")
        )
        return None
    located = {**paths, "file_path": paths[image.key]}
    return replace(frame, values={**rest, **located, **new.coefficients, "w": new.width, "h": new.height})


def _distortion(camera: WaiCamera) -> Float[np.ndarray, " coefficient"]:
    keys = ("k1", "k2", "k3", "k4") if "FISHEYE" in camera.model else ("k1", "k2", "p1", "p2")
    return np.array([camera.coefficients[key] for key in keys], np.float64)


def _normalized(points: np.ndarray, model: str, matrix: np.ndarray, bend: np.ndarray) -> Float[np.ndarray, "point 2"]:
    undo = cv2.fisheye.undistortPoints if "FISHEYE" in model else cv2.undistortPoints
    return undo(points.reshape(-1, 1, 2), matrix, bend)[:, 0]


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; exit status 0 when every scene is done, 1 when one failed, 2 when nothing could begin."""
    parser = Parser(prog="python -m data.wai.undistort", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("root", type=Path, metavar="SRC", help="a WAI scene, or a folder of them")
    parser.add_argument("out", type=Path, metavar="DST", help="another folder, for the pinhole scenes")
    add_stage_options(parser)
    options = parser.parse_args(arguments)
    found = find_scenes(options.root, options.scenes)
    require_folder(options.out)
    inside = [
        name
        for name, folder in found.items()
        if folder.resolve() in ((options.out / name).resolve(), *(options.out / name).resolve().parents)
    ]
    require(not inside, f"{options.out}: expected another folder than the scenes', got that of {', '.join(inside)}")
    targets = {name: options.out / name for name in found}
    foreign = {
        name
        for name, folder in targets.items()
        if (folder / META_NAME).exists() and not ProcessLog(folder).state(STAGE)
    }
    refused = [
        Outcome(name, FAILED, f"{targets[name]}: expected a new folder, got one that this did not write")
        for name in foreign
    ]
    outcomes = run_stage(
        STAGE,
        {name: folder for name, folder in targets.items() if name not in foreign},
        partial(_named, found),
        workers=options.workers,
        overwrite=options.overwrite,
    )
    finish(STAGE, [*refused, *outcomes])


def _named(sources: dict[str, Path], name: str, folder: Path) -> str:
    return undistort(sources[name], name, folder)


if __name__ == "__main__":
    main()
