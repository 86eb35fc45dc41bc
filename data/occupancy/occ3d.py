"""Occ3D-nuScenes labels (Tian et al. 2023) without mmdet3d.

    <root>/gts/<scene>/<token>/labels.npz     semantics uint8 (200,200,16), mask_lidar, mask_camera
    infos: a pickle {infos: {scene: [frame, ...]}} in time order (OccWorld, Zheng et al. 2023), or
           Occ3D's annotations.json with scene_infos, train_split, val_split (README of the repository
           CVPR2023-3D-Occupancy-Prediction, "Hierarchy")

Grids stand in the vehicle's frame at the key frame (x forward, y left, z up), 2 Hz. A pickle can run any code when it
is read: only numpy's arrays and plain containers are admitted.
"""

import builtins
import collections
import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.occupancy.sessions import read_grid_file
from data.problems import LeftOut, Report, raise_problem
from geometry.body_poses import body2world, stored_quaternion
from geometry.errors import InputError, require
from geometry.plain_files import plain_file
from geometry.plain_json import parse_json
from geometry.voxels import EgoGrid, GridFrame, VoxelGrid

OCC3D_SPACE = EgoGrid(VoxelGrid((-40, -40, -1), (40, 40, 5.4), (0.4, 0.4, 0.4)), GridFrame("full", "vehicle"))
CLASSES = (
    "others", "barrier", "bicycle", "bus", "car", "construction_vehicle", "motorcycle", "pedestrian", "traffic_cone",
    "trailer", "truck", "driveable_surface", "other_flat", "sidewalk", "terrain", "manmade", "vegetation", "free",
)  # fmt: skip
FREE = 17
GROUND_CLASSES = (11, 12, 13, 14)
MOVING_CLASSES = (2, 3, 4, 5, 6, 7, 9, 10)
PERIOD = 0.5
"""Seconds between key frames."""
MASKS = ("mask_camera", "mask_lidar")
STRAIGHT = 2
"""Maneuver of frames whose infos name none; 0 right, 1 left."""

_ADMITTED = {
    ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"), ("collections", "OrderedDict"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}  # fmt: skip
_PLAIN = {"list", "dict", "set", "frozenset", "tuple", "int", "float", "complex", "str", "bytes", "bytearray", "bool"}


class _ArraysOnly(pickle._Unpickler):
    """Builds numpy arrays and plain containers; anything else in the file stops it.

    It is Python's own unpickler, 4 times slower than the one in C, which takes memory for all places of its memo up to
    the highest that ten bytes may name, 2^32, and for all bytes that a string is said to have (CPython issue 115952).
    """

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle may name."""
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding="latin1": text.encode("latin1")  # numpy's bytes in pickles of protocol 2
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("numpy", "ndarray"):
            return "ndarray"  # the first argument of the next one
        if name == "_reconstruct" and (module, name) in _ADMITTED:
            return lambda *_: np.ndarray.__new__(np.ndarray, (0,), "b")  # as numpy writes it; its state brings the rest
        if module in ("builtins", "__builtin__") and name in ("bytes", "bytearray"):
            return lambda content=b"", *coding: getattr(builtins, name)(_no_number(content), *coding)
        if module in ("builtins", "__builtin__") and name in _PLAIN:
            return getattr(builtins, name)
        if (module, name) in _ADMITTED:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"it wants {module}.{name}, which is no array and no plain container")


def _no_number(content: Any) -> Any:
    """bytes(10**10) are ten billion zeros."""
    if isinstance(content, int):
        raise pickle.UnpicklingError("it wants bytes by their number")
    return content


def read_plain_pickle(path: Path) -> Any:
    """Content of a pickle of arrays and containers.

    Raises:
        InputError: naming the file, also where it asks for any other class or function; nothing of it is run.
    """
    try:
        return _ArraysOnly(io.BytesIO(plain_file(path).read_bytes())).load()
    except Exception as error:  # a broken pickle raises whatever the part of it does
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


@dataclass(frozen=True)
class Occ3dScene:
    """Key frames of a scene in time order."""

    root: Path
    name: str
    tokens: tuple[str, ...]
    poses: Float[Tensor, "frame 13"]
    """World, float64; velocities are those of the step into a frame."""
    steps: Float[Tensor, "frame 2"]
    """Motion from a frame to the next: x right, y forward, meters; `gt_ego_fut_trajs[0]` of the infos, else from the
    poses (the last one 0 then)."""
    maneuvers: tuple[int, ...]
    """0 right, 1 left, 2 straight (`pose_mode`; the order is VAD's). They look ahead: of a frame to forecast, its
    maneuver is not known before it is driven."""

    def label_file(self, row: int) -> Path:
        """Of a frame."""
        return self.root / "gts" / self.name / self.tokens[row] / "labels.npz"

    def labels(self, row: int, names: Sequence[str] = ("semantics",)) -> dict[str, np.ndarray]:
        """Arrays of a frame.

        Raises:
            InputError: naming the file; also for a class above 17.
        """
        arrays = read_grid_file(self.label_file(row), OCC3D_SPACE, names)
        if "semantics" in arrays:
            largest = int(arrays["semantics"].max())
            require(largest <= FREE, f"{self.label_file(row)}: expected classes 0 to {FREE}, got {largest}")
        return arrays

    def steps_into(self, skip: int = 1) -> Float[Tensor, "frame 2"]:
        """Motion that led into each frame from the one `skip` frames before; 0 for the first ones.

        That is the step of the frame before; over several frames, from the poses.
        """
        nothing = self.steps.new_zeros(min(skip, len(self.steps)), 2)
        steps = self.steps[:-1] if skip == 1 else _steps_of_poses(self.poses, skip)[:-skip]
        return torch.cat([nothing, steps])


def read_occ3d(
    root: Path, infos: Path | None = None, *, scenes: Sequence[str] | None = None, report: Report = raise_problem
) -> list[Occ3dScene]:
    """Scenes of the infos whose labels are there; frames without labels are reported and cut the scene.

    Args:
        root: Folder with gts/.
        infos: Pickle or annotations.json; None: `root/annotations.json`.
        scenes: Only these.
        report: Called with each problem of a single scene or frame.

    Raises:
        InputError: for a missing folder, infos that cannot be read, an unknown scene, and no usable scene.
    """
    require((root / "gts").is_dir(), f"--datadir: expected a folder with gts/, got {root}")
    path = root / "annotations.json" if infos is None else infos
    require(path.is_file(), f"--infos: expected a pickle of frame infos or annotations.json, got no file {path}")
    frames = _frames_of_json(path) if path.suffix == ".json" else _frames_of_pickle(path)
    unknown = [name for name in scenes or () if name not in frames]
    require(not unknown, f"--infos {path}: expected the scenes {', '.join(sorted(frames)[:5])} ..., got {unknown}")
    found = []
    for name in frames if scenes is None else scenes:
        try:
            found += _parts(root, name, frames[name], report)
        except (LookupError, TypeError, ValueError, RuntimeError) as error:  # RuntimeError: torch's, of shapes
            if isinstance(error, InputError):
                report(error)
            else:
                report(InputError(f"{path}: scene {name}: {type(error).__name__} {error} in the infos of its frames"))
    require(len(found) > 0, f"{root}: expected gts/<scene>/<token>/labels.npz of the scenes of {path}, got none")
    return found


def _frames_of_pickle(path: Path) -> dict[str, list[dict[str, Any]]]:
    content = read_plain_pickle(path)
    infos = content.get("infos") if isinstance(content, dict) else None
    require(
        isinstance(infos, dict) and all(isinstance(frames, list) for frames in infos.values()),
        f"{path}: expected {{infos: {{scene: [frames]}}}}, got {type(content).__name__}",
    )
    return dict(infos or {})


def _frames_of_json(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Occ3D's own record; frames are put in the order of their time stamps where these are numbers."""
    try:
        scenes = parse_json(plain_file(path).read_text())["scene_infos"]
        return {
            name: [
                {"token": token} | {f"ego2global_{key}": value for key, value in (frame.get("ego_pose") or {}).items()}
                for token, frame in sorted(frames.items(), key=lambda entry: _time(entry[1].get("timestamp")))
            ]
            for name, frames in scenes.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: expected scene_infos with timestamp and ego_pose of each frame: {error}") from error


def _time(stamp: object) -> float:
    """A token in the place of a number says nothing; frames stand in order of time as it is."""
    is_number = isinstance(stamp, int | float) or (isinstance(stamp, str) and stamp.isdecimal())
    return float(stamp) if is_number else 0.0  # type: ignore[arg-type]


def official_splits(root: Path, infos: Path | None = None) -> dict[str, tuple[str, ...]]:
    """Scenes to train and to validate with as annotations.json names them; empty where there is no such record."""
    path = root / "annotations.json" if infos is None else infos
    if path.suffix != ".json":
        return {}
    content = parse_json(plain_file(path).read_text())
    names = {split: content.get(f"{split}_split") for split in ("train", "val")}
    return {split: tuple(map(str, found)) for split, found in names.items() if isinstance(found, list)}


def _parts(root: Path, name: str, frames: list[dict[str, Any]], report: Report) -> list[Occ3dScene]:
    """A scene, or the pieces between its frames without labels."""
    whole = _scene(root, name, frames)
    present = [whole.label_file(row).is_file() for row in range(len(frames))]
    for row in (row for row, is_present in enumerate(present) if not is_present):
        report(LeftOut("frames without labels", f"{whole.label_file(row)}: expected labels, got no file"))
    parts, first = [], 0
    for row in range(len(frames) + 1):
        if row == len(frames) or not present[row]:
            if row > first:
                rows = slice(first, row)
                parts.append(
                    Occ3dScene(
                        root, name, whole.tokens[rows], whole.poses[rows], whole.steps[rows], whole.maneuvers[rows]
                    )
                )
            first = row + 1
    return parts


def _scene(root: Path, name: str, frames: list[dict[str, Any]]) -> Occ3dScene:
    numbers = [[*frame["ego2global_translation"], *frame["ego2global_rotation"], *[0.0] * 6] for frame in frames]
    poses = torch.tensor(np.array(numbers, dtype=np.float64))
    require(
        poses.shape == (len(frames), 13) and bool(poses.isfinite().all()), f"scene {name}: expected 7 numbers per pose"
    )
    poses[:, 3:7] = stored_quaternion(poses[:, 3:7], f"scene {name}")
    if len(poses) > 1:
        poses[1:, 7:10] = (poses[1:, :3] - poses[:-1, :3]) / PERIOD
        poses[0, 7:10] = poses[1, 7:10]
    steps = _steps_of_poses(poses)
    for row, frame in enumerate(frames):
        if "gt_ego_fut_trajs" in frame:
            steps[row] = torch.tensor(np.asarray(frame["gt_ego_fut_trajs"], dtype=np.float64)[0])
    maneuvers = tuple(int(np.argmax(frame["pose_mode"])) if "pose_mode" in frame else STRAIGHT for frame in frames)
    return Occ3dScene(root, name, tuple(str(frame["token"]) for frame in frames), poses, steps, maneuvers)


def _steps_of_poses(poses: Float[Tensor, "frame 13"], skip: int = 1) -> Float[Tensor, "frame 2"]:
    """From each frame to the one `skip` later, right and forward; 0 for the last ones."""
    rotation = body2world(poses)[:-skip, :3, :3]
    forward_left = (rotation.transpose(-1, -2) @ (poses[skip:, :3] - poses[:-skip, :3])[..., None])[..., :2, 0]
    steps = torch.stack([-forward_left[:, 1], forward_left[:, 0]], dim=-1)
    return torch.cat([steps, steps.new_zeros(min(skip, len(poses)), 2)])
