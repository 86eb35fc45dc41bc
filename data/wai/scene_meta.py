"""`scene_meta.json`: a scene's frames, cameras and modalities as typed values; strict reading, atomic writing.

Poses are camera-to-world with OpenCV axes; intrinsics are for integer pixel centers (geometry/conversions.py).
"""

import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Union

import numpy as np
from jaxtyping import Float

from data.image_io import write_bytes
from data.wai.formats import FORMATS
from geometry import InputError, require
from geometry.plain_files import plain_file
from geometry.plain_json import parse_json

META_NAME, DISTORTED_META_NAME = "scene_meta.json", "scene_meta_distorted.json"
VERSION = "0.1"
DATE_FORMAT = "%Y-%m-%d %H:%M:%S"
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
"""Coefficients that a PINHOLE camera must not have."""
PINHOLE = "PINHOLE"
CAMERA_MODELS = {
    PINHOLE: ("fl_x", "fl_y", "cx", "cy"),
    "OPENCV": ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2"),
    "OPENCV_FISHEYE": ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "k3", "k4"),
    **dict.fromkeys(("FULL_OPENCV", "FOV", "THIN_PRISM_FISHEYE", "RAD_TAN_THIN_PRISM_FISHEYE", "EQUIRECTANGULAR"), ()),
}
"""With the coefficients that are loaded; those without are known by name only."""
CAMERA_KEYS = ("fl_x", "fl_y", "cx", "cy", "w", "h", "k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2", "camera_model")
LOCATION_KEYS = ("frame_key", "scene_key", "path")
_PATTERN_CHARACTERS = frozenset(".|*+?()[]{}^$\\")
_ROTATION_TOLERANCE = 1e-3
"""Largest entry of R R^T - I; as geometry.check_camera."""


@dataclass(frozen=True)
class Modality:
    """Where the files of one kind are, and how they are stored."""

    location: str
    """Which of `LOCATION_KEYS` it has."""
    key: str
    """Key of the frames that holds the path (frame_key), or the path below the scene's folder."""
    kind: str | None
    """Name of the format; None: by suffix."""
    extra: Mapping[str, Any] = field(default_factory=dict)

    def entry(self) -> dict[str, Any]:
        """As in the file."""
        return {self.location: self.key, **({"format": self.kind} if self.kind else {}), **self.extra}


ModalityTree = Mapping[str, Union[Modality, "ModalityTree"]]


@dataclass(frozen=True)
class FrameMeta:
    """One frame."""

    name: str
    c2w: Float[np.ndarray, "4 4"]
    values: Mapping[str, Any]
    """All other keys: paths of modalities, camera coefficients that override the scene's."""


@dataclass(frozen=True)
class WaiCamera:
    """What a frame says about its camera, or else the scene."""

    model: str
    width: int
    height: int
    coefficients: Mapping[str, float]

    @property
    def intrinsics(self) -> Float[np.ndarray, "3 3"]:
        """Without skew, integer pixel centers, double precision."""
        one = self.coefficients
        return np.array([[one["fl_x"], 0, one["cx"]], [0, one["fl_y"], one["cy"]], [0, 0, 1]], np.float64)


@dataclass(frozen=True)
class SceneMeta:
    """A whole file."""

    scene_name: str
    dataset_name: str
    frames: tuple[FrameMeta, ...]
    frame_modalities: ModalityTree
    scene_modalities: ModalityTree = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    """All other keys, among them shared camera coefficients, `scale_type` and transforms."""
    version: str = VERSION
    last_modified: str = ""
    where: str = "scene_meta"
    """The file, for messages."""

    @cached_property
    def frame_index(self) -> dict[str, int]:
        """Position of every frame by name: the order of all matrices over frames."""
        return {frame.name: index for index, frame in enumerate(self.frames)}

    @property
    def is_metric(self) -> bool:
        """Whether scene units are meters."""
        return self.values.get("scale_type") == "metric"

    @property
    def applied_transform(self) -> Float[np.ndarray, "4 4"] | None:
        """What was applied to the original world; older files name it `_applied_transformation`."""
        found = self.values.get("_applied_transform", self.values.get("_applied_transformation"))
        return None if found is None else np.array(found, np.float64)

    def camera(self, frame: FrameMeta) -> WaiCamera:
        """The frame's own coefficients, else the scene's.

        Raises:
            InputError: for a missing coefficient or size, an unsupported model, or a pinhole with distortion.
        """
        found = {key: self.values[key] for key in CAMERA_KEYS if self.values.get(key) is not None}
        found |= {key: frame.values[key] for key in CAMERA_KEYS if frame.values.get(key) is not None}
        where, model = f"{self.where}, frame {frame.name}", found.pop("camera_model", PINHOLE)
        require(
            isinstance(model, str) and model in CAMERA_MODELS,
            f"{where}: expected a camera model of {', '.join(CAMERA_MODELS)}, got {model!r}",
        )
        keys = CAMERA_MODELS[model]
        require(bool(keys), f"{where}: expected camera model PINHOLE, OPENCV or OPENCV_FISHEYE, got {model}")
        for key in (*keys, "w", "h"):
            number = found.get(key, 0.0 if key in DISTORTION else None)
            is_number = isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
            require(is_number, f"{where}: expected a number {key}, got {found.get(key)!r}")
            found[key] = number
        width, height = found.pop("w"), found.pop("h")
        require(
            width == int(width) > 0 and height == int(height) > 0,
            f"{where}: expected w and h in whole pixels, got {width} and {height}",
        )
        require(
            found["fl_x"] > 0 and found["fl_y"] > 0,
            f"{where}: expected focal lengths above 0, got {found['fl_x']:g} and {found['fl_y']:g}",
        )
        if model == PINHOLE:
            bent = [key for key in DISTORTION if found.get(key, 0) != 0]
            require(not bent, f"{where}: expected no distortion of a PINHOLE camera, got {', '.join(bent)}")
        coefficients = {key: float(found[key]) for key in found if key in keys}
        return WaiCamera(model, int(width), int(height), coefficients)


def read_scene_meta(path: Path) -> SceneMeta:
    """Parse and check a file.

    Raises:
        InputError: naming what is wrong with it.
    """
    try:
        content = parse_json(plain_file(path).read_text())
    except OSError:
        raise InputError(f"{path}: expected a scene_meta file, got none") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected JSON, got something else ({error})") from None
    return parse_scene_meta(content, str(path))


def parse_scene_meta(content: Any, where: str) -> SceneMeta:
    """As `read_scene_meta`, of the parsed JSON."""
    require(isinstance(content, dict), f"{where}: expected an object, got {type(content).__name__}")
    rest = {key: value for key, value in content.items() if key != "frame_names"}
    texts = {key: _text(rest.pop(key, None), f"{where}: {key}") for key in ("scene_name", "dataset_name")}
    version, modified = str(rest.pop("version", VERSION)), str(rest.pop("last_modified", ""))
    require(version == VERSION, f"{where}: expected version {VERSION}, got {version}")
    require(
        rest.get("camera_convention") == "opencv",
        f"{where}: expected camera_convention opencv, got {rest.get('camera_convention')!r}",
    )
    require(
        isinstance(rest.get("shared_intrinsics"), bool),
        f"{where}: expected shared_intrinsics true or false, got {rest.get('shared_intrinsics')!r}",
    )
    frames = rest.pop("frames", None)
    require(isinstance(frames, list) and len(frames) > 0, f"{where}: expected a list of frames, got {frames!r:.40}")
    trees = {
        key: _tree(rest.pop(key, {}), f"{where}: {key}", location)
        for key, location in (("frame_modalities", ("frame_key",)), ("scene_modalities", ("scene_key", "path")))
    }
    meta = SceneMeta(
        **texts,
        **trees,
        version=version,
        last_modified=modified,
        values=rest,
        where=where,
        frames=tuple(_frame(entry, f"{where}, frame {index}") for index, entry in enumerate(frames)),
    )
    require(len(meta.frame_index) == len(meta.frames), f"{where}: expected different frame names, got some twice")
    for name in ("_applied_transform", "_applied_transformation"):
        if name in rest:
            _matrix(rest[name], f"{where}: {name}")
    for name, kind, expected in (
        ("_applied_transforms", dict, "an object"),
        ("held_out", list, "a list of names"),
    ):
        value = rest.get(name)
        require(value is None or isinstance(value, kind), f"{where}: expected {expected} as {name}, got {value!r:.40}")
    for name, matrix in (rest.get("_applied_transforms") or {}).items():
        _matrix(matrix, f"{where}: _applied_transforms/{name}")
    for frame in meta.frames:
        _check_frame(meta, frame)
    return meta


def scene_meta_content(meta: SceneMeta) -> dict[str, Any]:
    """The JSON of a file."""
    content: dict[str, Any] = {
        "scene_name": meta.scene_name,
        "dataset_name": meta.dataset_name,
        "version": meta.version,
        "last_modified": meta.last_modified,
        **{key: value for key, value in meta.values.items() if not key.startswith("_")},
    }
    content["frames"] = [
        {"frame_name": frame.name, **frame.values, "transform_matrix": frame.c2w.tolist()} for frame in meta.frames
    ]
    content["scene_modalities"] = _entries(meta.scene_modalities)
    content["frame_modalities"] = _entries(meta.frame_modalities)
    content |= {key: value for key, value in meta.values.items() if key.startswith("_")}
    if "_applied_transformation" in content:
        content.setdefault("_applied_transform", content.pop("_applied_transformation"))
    return content


def write_scene_meta(path: Path, meta: SceneMeta) -> SceneMeta:
    """Write a file with the time of now; the one before stays beside it as `_<stem>_backup.json`.

    There is a whole file at every moment.
    """
    written = replace(meta, last_modified=datetime.now().strftime(DATE_FORMAT), where=str(path))
    content = (json.dumps(scene_meta_content(written), indent=2) + "\n").encode()
    parse_scene_meta(json.loads(content), str(path))
    if path.is_file():
        write_bytes(path.with_name(f"_{path.stem}_backup.json"), path.read_bytes())
    write_bytes(path, content)
    return written


def with_modality(tree: ModalityTree, name: str, modality: Modality) -> dict[str, Any]:
    """The tree with one more modality, or another one in its place; `a/b` is `b` in the group `a`."""
    head, _, rest = name.partition("/")
    inner = tree.get(head)
    if not rest:
        return {**tree, head: modality}
    return {**tree, head: with_modality(inner if isinstance(inner, Mapping) else {}, rest, modality)}


def find_modality(tree: ModalityTree, request: str, where: str) -> tuple[str, Modality]:
    """Name and place of a modality: `a/b` walks groups; a request that ends at a group gets its last entry.

    A request with any of `.|*+?()[]{}^$\\` is a regular expression for a whole name of the first level, and the first
    one that matches is taken.

    Raises:
        InputError: for an unknown one, naming those that there are.
    """
    name = request
    if _PATTERN_CHARACTERS & set(request):
        try:
            matching = [key for key in tree if re.fullmatch(request, key)]
        except re.error as error:
            raise InputError(f"{where}: expected a regular expression, got {request!r} ({error})") from None
        require(bool(matching), f"{where}: expected a modality like {request}, got {', '.join(tree) or 'none'}")
        name = matching[0]
        found: Any = tree[name]
    else:
        found = tree
        for part in request.split("/"):
            known = ", ".join(found) if isinstance(found, Mapping) else "no group"
            require(
                isinstance(found, Mapping) and part in found,
                f"{where}: expected a modality {request}, got {known or 'none'} at {part!r}",
            )
            found = found[part]
    while isinstance(found, Mapping):
        require(len(found) > 0, f"{where}: expected modalities in the group {name}, got none")
        if len(found) > 1:
            warnings.warn(f"{where}: of the group {name} the last one is taken: {list(found)[-1]}", stacklevel=2)
        found = list(found.values())[-1]
    return name, found


def modalities(tree: ModalityTree, prefix: str = "") -> Iterator[tuple[str, Modality]]:
    """All of a tree with their whole names."""
    for name, entry in tree.items():
        if isinstance(entry, Modality):
            yield prefix + name, entry
        else:
            yield from modalities(entry, f"{prefix}{name}/")


def path_below(root: Path, relative: Any, where: str) -> Path:
    """A path of the file, which must stay in the scene's folder.

    Raises:
        InputError: for an absolute one, or one that leads out.
    """
    require(isinstance(relative, str) and relative != "", f"{where}: expected a path below the scene, got {relative!r}")
    parts = PurePosixPath(relative)
    require(
        not parts.is_absolute() and ".." not in parts.parts,
        f"{where}: expected a path below the scene's folder, got {relative}",
    )
    return root / parts


def _frame(entry: Any, where: str) -> FrameMeta:
    require(isinstance(entry, dict), f"{where}: expected an object, got {type(entry).__name__}")
    rest = dict(entry)
    name = rest.pop("frame_name", None)
    is_name = isinstance(name, str | float | int) and not isinstance(name, bool) and name != ""
    require(is_name, f"{where}: expected a frame_name, got {name!r}")
    matrix = _matrix(rest.pop("transform_matrix", None), f"{where}: transform_matrix")
    turn = matrix[:3, :3]
    error = float(np.abs(turn @ turn.T - np.eye(3)).max())
    require(
        error < _ROTATION_TOLERANCE and float(np.linalg.det(turn)) > 0,
        f"{where}: expected a rotation in transform_matrix, got one that is off by {error:.2g}",
    )
    return FrameMeta(str(name), matrix, rest)


def _check_frame(meta: SceneMeta, frame: FrameMeta) -> None:
    where = f"{meta.where}, frame {frame.name}"
    model = frame.values.get("camera_model", meta.values.get("camera_model", PINHOLE))
    if not isinstance(model, str) or model not in CAMERA_MODELS or CAMERA_MODELS[model]:
        meta.camera(frame)
    for name in ("near", "far"):
        value = frame.values.get(name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        require(value is None or is_number, f"{where}: expected a number {name}, got {value!r:.40}")
    if "file_path" in frame.values:
        path_below(Path(), frame.values["file_path"], where)
    for name, modality in modalities(meta.frame_modalities):
        if frame.values.get(modality.key) is not None:
            path_below(Path(), frame.values[modality.key], f"{where}, {name}")


def _tree(entry: Any, where: str, locations: tuple[str, ...]) -> dict[str, Any]:
    require(isinstance(entry, dict), f"{where}: expected an object, got {type(entry).__name__}")
    tree: dict[str, Any] = {}
    for name, value in entry.items():
        here = f"{where}/{name}"
        require(isinstance(value, dict), f"{here}: expected an object, got {value!r:.40}")
        given = [key for key in LOCATION_KEYS if isinstance(value.get(key), str)]
        if not given and "format" not in value:
            tree[name] = _tree(value, here, locations)
            continue
        require(
            len(given) == 1 and given[0] in locations,
            f"{here}: expected exactly one of {', '.join(locations)}, got {', '.join(value) or 'nothing'}",
        )
        kind = value.get("format")
        is_known = kind is None or (isinstance(kind, str) and kind in FORMATS)
        require(is_known, f"{here}: expected a format of {', '.join(FORMATS)}, got {kind!r}")
        extra = {key: other for key, other in value.items() if key not in (given[0], "format")}
        tree[name] = Modality(given[0], value[given[0]], kind, extra)
    return tree


def _entries(tree: ModalityTree) -> dict[str, Any]:
    return {name: entry.entry() if isinstance(entry, Modality) else _entries(entry) for name, entry in tree.items()}


def _text(value: Any, where: str) -> str:
    require(isinstance(value, str) and value != "", f"{where}: expected a text, got {value!r}")
    return value


def _matrix(value: Any, where: str) -> Float[np.ndarray, "4 4"]:
    try:
        matrix = np.array(value, np.float64)
    except (TypeError, ValueError):
        matrix = np.zeros(0)
    require(
        matrix.shape == (4, 4) and bool(np.isfinite(matrix).all()) and bool((matrix[3] == [0, 0, 0, 1]).all()),
        f"{where}: expected 4x4 finite numbers with a last row 0 0 0 1, got {value!r:.60}",
    )
    return matrix
