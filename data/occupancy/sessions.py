"""Sessions on disk: grids, poses and what else was recorded along a drive, one folder each.

    <root>/<name>/session.json                         grid, frame switches, period, world, source (ours; may be absent)
                  occupancy/000000_occupancy.npz       `occupancy` uint8 [x,y,z]; may hold `visible` and `moving`, too
                  poses/000000.json                    position, orientation, velocity; or `pose_13d`, which wins
                  lidar/000000_LIDAR.npy               float32 (N,4): x y z intensity, vehicle frame; optional
                  images/000000_CAM_FRONT.jpg          optional

The name begins with the agent: `drone_` or `rover_`. Velocities are in the world frame, m/s and rad/s (geometry/
body_poses.py). docs/occupancy_data.md describes the entries.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from data.occupancy.types import AERIAL, GROUND
from data.problems import LeftOut, Report, raise_problem
from data.untrusted_files import read_archive
from geometry.body_poses import stored_quaternion
from geometry.errors import InputError, require
from geometry.plain_files import plain_file
from geometry.plain_json import parse_json
from geometry.voxels import EgoGrid

AGENTS = {"drone": AERIAL, "rover": GROUND}
MASKS = ("visible", "moving")
"""Optional arrays beside `occupancy`, of its shape."""
CAMERAS = ("FRONT", "FRONT_LEFT", "FRONT_RIGHT", "BACK", "BACK_LEFT", "BACK_RIGHT")
DEFAULT_PERIOD = 0.5
"""Seconds between frames of sessions that do not say: 2 Hz."""
_FRAME = re.compile(r"(\d{6,})_occupancy\.npz")
_ENTRIES = {"grid", "period", "ground_height", "world", "source", "masks", "version"}


@dataclass(frozen=True)
class SessionInfo:
    """What `session.json` says."""

    space: EgoGrid
    period: float = DEFAULT_PERIOD
    """Seconds from one frame to the next."""
    ground_height: float = math.nan
    """World z below which voxel centers are ground; nan: not known."""
    world: str = ""
    """Sessions of one world are in one split; "": a world of its own."""
    source: str = ""
    """What it was made from, for people."""
    masks: tuple[str, ...] = ()
    """Those of `MASKS` that every frame has."""

    def record(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "version": 1,
            "grid": self.space.record(),
            "period": self.period,
            "ground_height": None if math.isnan(self.ground_height) else self.ground_height,
            "world": self.world,
            "source": self.source,
            "masks": list(self.masks),
        }

    @classmethod
    def read(cls, path: Path) -> "SessionInfo":
        """Inverse of `record`.

        Raises:
            InputError: naming the file, for what cannot be read, unknown entries and impossible values.
        """
        try:
            record = parse_json(plain_file(path).read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read: {error}") from error
        require(isinstance(record, dict) and "grid" in record, f"{path}: expected an object with a grid, got {record}")
        unknown = sorted(set(record) - _ENTRIES)
        require(not unknown, f"{path}: expected the entries {', '.join(sorted(_ENTRIES))}, got {unknown}")
        try:
            space = EgoGrid.from_record(record["grid"])
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        height, period, masks = record.get("ground_height"), record.get("period", DEFAULT_PERIOD), record.get("masks")
        require(
            type(period) in (int, float) and 0 < period < math.inf,
            f"{path}: expected a period above 0 seconds, got {period}",
        )
        require(
            height is None or (type(height) in (int, float) and abs(height) < math.inf),
            f"{path}: expected a ground_height in m, got {height}",
        )
        require(
            masks is None or (isinstance(masks, list) and all(mask in MASKS for mask in masks)),
            f"{path}: expected masks of {', '.join(MASKS)}, got {masks}",
        )
        return cls(
            space=space,
            period=float(period),
            ground_height=math.nan if height is None else float(height),
            world=str(record.get("world", "")),
            source=str(record.get("source", "")),
            masks=tuple(masks or ()),
        )


@dataclass(frozen=True)
class Session:
    """A recorded drive: its frames, by their numbers, and where they were taken."""

    folder: Path
    agent: int
    info: SessionInfo
    numbers: tuple[int, ...]
    """Of the frames that have a grid and a pose, ascending."""
    poses: Float[Tensor, "frame 13"]
    """World, unit quaternions with the sign that the file has; float64."""

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.folder.name

    @property
    def world(self) -> str:
        """What it shares with other sessions of the same place."""
        return self.info.world or self.name

    def row(self, number: int) -> int:
        """Index of a frame in `poses`."""
        return self.numbers.index(number)

    def occupancy(self, number: int) -> UInt8[np.ndarray, "x y z"]:
        """Grid of a frame.

        Raises:
            InputError: naming the file, for what cannot be read and for another shape than the grid's.
        """
        return self.arrays(number, ("occupancy",))["occupancy"]

    def arrays(self, number: int, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Arrays of a frame by name, all of the grid's shape and uint8.

        Raises:
            InputError: as `occupancy`, or where one is missing.
        """
        path = self.folder / "occupancy" / f"{number:06d}_occupancy.npz"
        found = read_grid_file(path, self.info.space, names)
        largest = max((int(array.max()) for array in found.values()), default=0)
        require(largest <= 1, f"{path}: expected 0 and 1, got {largest}")
        return found

    def windows(self, count: int, skip: int, *, needs_motion: bool = False) -> list[tuple[int, ...]]:
        """Frame numbers of all windows of `count` frames, every `skip`-th frame; n frames give n - (count - 1) skip.

        None spans a frame that is missing. `needs_motion`: only those in which the vehicle moves (`is_moving`).
        """
        present = set(self.numbers)
        found = [tuple(first + skip * step for step in range(count)) for first in self.numbers]
        whole = [window for window in found if present.issuperset(window)]
        if not needs_motion:
            return whole
        rows = {number: row for row, number in enumerate(self.numbers)}
        return [window for window in whole if is_moving(self.poses[[rows[number] for number in window], :3])]


def is_moving(positions: Float[Tensor, "frame 3"]) -> bool:
    """Whether the path is at least 0.1 (T - 1) 0.5 m long and a step 0.05 m on average, of T frames."""
    steps = (positions[1:] - positions[:-1]).norm(dim=-1)
    return bool(steps.sum() >= 0.1 * len(steps) * 0.5 - 1e-9) and bool(steps.mean() >= 0.05 - 1e-9)


def read_grid_file(path: Path, space: EgoGrid, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays of a grid file, checked against the grid.

    Raises:
        InputError: naming the file.
    """
    found = read_archive(path, names, most=math.prod(space.grid.size))
    for name in names:
        require(name in found, f"{path}: expected an array {name}, got none")
        array = found[name]
        require(
            array.dtype in (np.uint8, np.bool_) and array.shape == space.grid.size,
            f"{path}: expected {name} as uint8 {list(space.grid.size)}, got {array.dtype} {list(array.shape)}",
        )
    return {name: array.astype(np.uint8, copy=False) for name, array in found.items()}


def parse_pose(record: Any, where: str) -> list[float]:
    """13 numbers of a pose file's content, the quaternion as stored.

    Raises:
        InputError: naming `where`.
    """
    require(isinstance(record, dict), f"{where}: expected a pose, got {str(record)[:80]}")
    if "pose_13d" in record:
        numbers = record["pose_13d"]
        require(isinstance(numbers, list) and len(numbers) == 13, f"{where}: expected 13 numbers in pose_13d")
    else:
        numbers = [_entry(record, where, "position", axis) for axis in "xyz"]
        numbers += [_entry(record, where, "orientation", axis) for axis in "wxyz"]
        velocities = {} if record.get("velocity") is None else record["velocity"]
        require(isinstance(velocities, dict), f"{where}: expected velocity as linear and angular, got {velocities}")
        for kind in ("linear", "angular"):
            velocity = velocities.get(kind)
            numbers += [0.0] * 3 if velocity is None else [_entry(velocity, where, axis) for axis in "xyz"]
    require(
        all(isinstance(number, int | float) and math.isfinite(number) for number in numbers),
        f"{where}: expected finite numbers, got {numbers}",
    )
    return [float(number) for number in numbers]


def _entry(record: Any, where: str, *path: str) -> Any:
    for name in path:
        require(isinstance(record, dict) and name in record, f"{where}: expected an entry {'.'.join(path)}, got none")
        record = record[name]
    return record


def agent_of(name: str) -> int | None:
    """The agent that the name of a session's folder begins with; None: neither."""
    return AGENTS.get(name.split("_")[0])


def session_folders(root: Path) -> list[Path]:
    """Folders below `root` (or `root` itself) that hold grids, by name.

    Raises:
        InputError: for a missing folder.
    """
    require(root.is_dir(), f"--datadir: expected a folder of sessions, got {root}, which does not exist")
    candidates = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    return [path for path in candidates if (path / "occupancy").is_dir()]


def read_session(folder: Path, space: EgoGrid | None = None, report: Report = raise_problem) -> Session:
    """A session's frames; those that lack a grid or a pose, or whose pose is broken, are reported and left out.

    Args:
        folder: The session's.
        space: What the grids must be; needed where the session does not say (no session.json).
        report: Called with each problem of a single frame.

    Raises:
        InputError: for an unknown agent, another grid than `space`, and a session without frames.
    """
    agent = agent_of(folder.name)
    if agent is None:
        raise InputError(f"{folder}: expected a name that begins with {' or '.join(AGENTS)}_, got {folder.name}")
    info = _info_of(folder, space)
    grids = {int(match[1]) for path in (folder / "occupancy").iterdir() if (match := _FRAME.fullmatch(path.name))}
    files = (folder / "poses").glob("*.json") if (folder / "poses").is_dir() else ()
    posed = {int(path.stem) for path in files if path.stem.isdecimal()}
    for kind, missing in (("frames without pose", grids - posed), ("frames without grid", posed - grids)):
        for number in sorted(missing):
            report(LeftOut(kind, f"{folder}: frame {number:06d}: {kind.removeprefix('frames ')}"))
    numbers, poses = [], []
    for number in sorted(grids & posed):
        try:
            poses.append(read_pose(folder / "poses" / f"{number:06d}.json"))
            numbers.append(number)
        except InputError as error:
            report(error)
    require(len(numbers) > 0, f"{folder}: expected frames with occupancy/*_occupancy.npz and poses/*.json, got none")
    stacked = torch.tensor(poses, dtype=torch.float64)
    stacked[:, 3:7] = stored_quaternion(stacked[:, 3:7], str(folder))
    session = Session(folder, agent, info, tuple(numbers), stacked)
    if space is None or not (folder / "session.json").is_file():
        session.occupancy(numbers[0])  # says at once that the grid is another one
    return session


def _info_of(folder: Path, space: EgoGrid | None) -> SessionInfo:
    path = folder / "session.json"
    if path.is_file():
        info = SessionInfo.read(path)
        require(
            space is None or info.space == space,
            f"{path}: expected the grid {space and space.record()}, got {info.space.record()}",
        )
        return info
    if space is None:
        raise InputError(f"{folder}: expected session.json with the grid, or a grid from the options, got neither")
    return SessionInfo(space)


def read_pose(path: Path) -> list[float]:
    """13 numbers of a pose file, the quaternion as stored; raises an `InputError` that names the file."""
    try:
        return parse_pose(parse_json(plain_file(path).read_text()), str(path))
    except (OSError, ValueError) as error:
        raise error if isinstance(error, InputError) else InputError(f"{path} cannot be read: {error}") from error


def read_sessions(
    root: Path,
    space: EgoGrid | None = None,
    *,
    names: Sequence[str] | None = None,
    skips_dummies: bool = False,
    report: Report = raise_problem,
) -> list[Session]:
    """All sessions below a folder, or the named ones; those that cannot be used are reported and left out.

    Args:
        root: Folder of sessions, or one session.
        space: What all grids must be; None: what the first session says.
        names: Only these, in this order.
        skips_dummies: Leave out sessions with `dummy` in the name; reported, one by one.
        report: Called with each problem.

    Raises:
        InputError: for a missing folder, a named session that is not there, no session at all, and, always, for a
            session whose grid differs from the others'.
    """
    folders = {folder.name: folder for folder in session_folders(root)}
    unknown = [name for name in names or () if name not in folders]
    require(not unknown, f"{root}: expected the sessions {', '.join(sorted(folders)) or '(none)'}, got {unknown}")
    found: list[Session] = []
    for name in folders if names is None else names:
        if skips_dummies and "dummy" in name:
            report(LeftOut("sessions named dummy", f"{folders[name]}: named dummy, left out as asked for"))
            continue
        if agent_of(name) is None:
            report(InputError(f"{folders[name]}: expected a name that begins with drone_ or rover_"))
            continue
        found.append(read_session(folders[name], space, report))
        space = found[0].info.space if space is None else space
    require(len(found) > 0, f"{root}: expected folders drone_* or rover_* with occupancy/ and poses/, got none")
    return found


# ---- writing


class SessionWriter:
    """Writes the frames of a session; `finish` writes session.json, so that a folder with it is complete."""

    def __init__(self, root: Path, name: str, info: SessionInfo) -> None:
        """Folders for grids and poses.

        Raises:
            InputError: for a name without agent, and a session that is there already.
        """
        is_name = agent_of(name) is not None and Path(name).name == name
        require(is_name, f"session {name}: expected the name of a folder that begins with drone_ or rover_")
        self.folder = root / name
        self.info = info
        self._kinds: set[str] | None = None
        require(
            not self.folder.exists(),
            f"{self.folder}: expected no such session yet, got one; nothing is replaced",
        )
        try:
            for part in ("occupancy", "poses"):
                (self.folder / part).mkdir(parents=True)
        except OSError as error:
            raise InputError(f"--out {root}: expected a folder that can be written, got {error.strerror}") from None

    def add(
        self,
        number: int,
        pose: Float[Tensor, "13"],
        occupancy: UInt8[np.ndarray, "x y z"],
        masks: Mapping[str, Bool[np.ndarray, "x y z"]] | None = None,
        points: Float[np.ndarray, "point 4"] | None = None,
        write_image: Callable[[Path], None] | None = None,
    ) -> None:
        """One frame. `write_image` gets the folder and prefix of its images: images/000000_CAM."""
        masks = {} if masks is None else masks
        self._kinds = set(masks) if self._kinds is None else self._kinds & set(masks)
        arrays = {"occupancy": occupancy, **{name: mask.astype(np.uint8) for name, mask in masks.items()}}
        np.savez_compressed(self.folder / "occupancy" / f"{number:06d}_occupancy.npz", **arrays)
        (self.folder / "poses" / f"{number:06d}.json").write_text(json.dumps(pose_record(pose), indent=1) + "\n")
        if points is not None:
            (self.folder / "lidar").mkdir(exist_ok=True)
            np.save(self.folder / "lidar" / f"{number:06d}_LIDAR.npy", points.astype(np.float32))
        if write_image is not None:
            (self.folder / "images").mkdir(exist_ok=True)
            write_image(self.folder / "images" / f"{number:06d}_CAM")

    def finish(self) -> Path:
        """Write session.json; the session's folder."""
        info = replace(self.info, masks=tuple(sorted(self._kinds or ())))
        (self.folder / "session.json").write_text(json.dumps(info.record(), indent=1) + "\n")
        return self.folder


def pose_record(pose: Float[Tensor, "13"]) -> dict[str, Any]:
    """Content of a pose file, components by name and as `pose_13d`."""
    x, y, z, qw, qx, qy, qz, vx, vy, vz, wx, wy, wz = pose.tolist()
    return {
        "position": {"x": x, "y": y, "z": z},
        "orientation": {"w": qw, "x": qx, "y": qy, "z": qz},
        "velocity": {"linear": {"x": vx, "y": vy, "z": vz}, "angular": {"x": wx, "y": wy, "z": wz}},
        "pose_13d": pose.tolist(),
    }
