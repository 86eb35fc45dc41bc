"""The data doctor on occupancy: every grid is decoded, and grids and poses must agree.

Of two frames between which the vehicle moved by a voxel or more, the first grid is moved by the recorded motion and
compared with the second. Where another reading of the poses (quaternion x y z w, inverse rotation, the other frame)
fits clearly better, or standing still does, the session is named.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from data.occupancy.occ3d import FREE, MASKS, OCC3D_SPACE, Occ3dScene, read_occ3d
from data.occupancy.points import read_points
from data.occupancy.sessions import Session, read_pose, read_session, session_folders
from data.occupancy.splits import leaks
from data.problems import Report, counted
from geometry import InputError
from geometry.body_poses import relative_to, unit_quaternion
from geometry.voxels import EgoGrid

SESSIONS, OCC3D = "sessions", "occ3d"
DATASETS = (SESSIONS, OCC3D)
_MIN_PAIRS = 3
"""Pairs of frames that a verdict on a session needs; fewer may be chance."""
_MAX_PAIRS = 20
"""Compared per session; more say the same."""
_MAX_CELLS = 200_000
"""Voxels compared of a pair, about."""
_LENGTH_TOLERANCE = 0.01
"""Of a quaternion: three decimals in a file are still a rotation."""
_MARGIN = 0.05
"""By which the IoU of another reading must be larger; chosen by hand."""
RECORDED, STILL = "as recorded", "still"


def _readings(poses: Float[Tensor, "2 13"], space: EgoGrid) -> dict[str, Float[Tensor, "4 4"]]:
    """Motion between two frames, from the later grid to the earlier one, by how poses could be meant."""
    rolled, inverse = poses.clone(), poses.clone()
    rolled[:, 3:7] = unit_quaternion(poses[:, 3:7].roll(1, -1))
    inverse[:, 4:7] *= -1
    frame = space.frame
    other = replace(frame, z_reference="world" if frame.z_reference == "vehicle" else "vehicle")
    turned = replace(frame, orientation="full" if frame.orientation == "yaw" else "yaw")
    return {
        RECORDED: frame.motion(poses[0], poses[1]),
        STILL: torch.eye(4, dtype=poses.dtype),
        "with quaternions in the order x y z w": frame.motion(rolled[0], rolled[1]),
        "with rotations world to body": frame.motion(inverse[0], inverse[1]),
        f"with z_reference {other.z_reference}": other.motion(poses[0], poses[1]),
        f"with orientation {turned.orientation}": turned.motion(poses[0], poses[1]),
    }


def _some_cells(size: tuple[int, int, int]) -> Float[Tensor, "cell 3"]:
    """Voxels that are compared: of a large grid every so manieth along each axis."""
    stride = max(1, round((size[0] * size[1] * size[2] / _MAX_CELLS) ** (1 / 3)))
    axes = [torch.arange(0, count, stride, dtype=torch.float64) for count in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)


@dataclass
class Agreement:
    """Overlap (IoU) of grids with the grid before them, by reading of the motion between."""

    overlaps: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(
        self,
        before: Bool[np.ndarray, "x y z"],
        after: Bool[np.ndarray, "x y z"],
        poses: Float[Tensor, "2 13"],
        space: EgoGrid,
    ) -> None:
        """Compare two frames, where the vehicle moved by a voxel or turned, and there is anything to see."""
        step = relative_to(poses[0], poses[1])
        turned = 2 * float(step[4:7].norm()) * max(space.grid.covered[:2])
        moved = max(float(step[:3].norm()), turned) >= max(space.grid.voxel[:2])
        if not moved or len(self.overlaps[RECORDED]) >= _MAX_PAIRS or not (before.any() and after.any()):
            return
        cells = _some_cells(space.grid.size)
        points = space.grid.metres(cells + 0.5)
        there = torch.from_numpy(after)[tuple(cells.long().T)]
        for name, motion in _readings(poses, space).items():
            index, known = space.grid.indices(points @ motion[:3, :3].T + motion[:3, 3])
            here = torch.from_numpy(before)[tuple(index[known].T)]
            either = int((here | there[known]).sum())
            self.overlaps[name].append(int((here & there[known]).sum()) / either if either else 1.0)

    def extend(self, other: "Agreement") -> None:
        """Add what another one has found."""
        for name, values in other.overlaps.items():
            self.overlaps[name] += values

    def mean(self, name: str) -> float:
        """Of all pairs."""
        return float(np.mean(self.overlaps[name]))

    def judge(self, where: str, report: Report) -> None:
        """Report a session that another reading fits clearly better."""
        if len(self.overlaps[RECORDED]) < _MIN_PAIRS:
            return
        best = max(self.overlaps, key=self.mean)
        if self.mean(best) > self.mean(RECORDED) + _MARGIN:
            how = "unmoved" if best == STILL else best
            report(
                InputError(
                    f"{where}: each grid fits the one before it better {how} (IoU {self.mean(best):.2f}) than moved as "
                    f"recorded ({self.mean(RECORDED):.2f}): poses and grids disagree"
                )
            )


def check_occupancy(
    dataset: str,
    datadir: Path,
    names: Sequence[str] | None,
    report: Report,
    *,
    infos: Path | None = None,
    space: EgoGrid | None = None,
) -> str:
    """Check sessions or Occ3D scenes; one line of what there is.

    `infos`: of Occ3D, see `read_occ3d`. `space`: grid of sessions that do not say theirs.

    Raises:
        InputError: for a missing folder or an unknown name; everything else is reported.
    """
    if dataset == SESSIONS:
        return _check_sessions(datadir, names, report, space)
    return _check_occ3d(datadir, names, infos, report)


def _run(check: Callable[[], np.ndarray], report: Report) -> np.ndarray | None:
    try:
        return check()
    except InputError as error:
        report(error)
        return None


def _check_sessions(datadir: Path, names: Sequence[str] | None, report: Report, space: EgoGrid | None) -> str:
    folders = {folder.name: folder for folder in session_folders(datadir)}
    unknown = [name for name in names or () if name not in folders]
    if unknown or not folders:
        raise InputError(
            f"{datadir}: expected sessions {', '.join(sorted(folders)) or 'drone_* or rover_*'}, got {unknown}"
        )
    sessions: list[Session] = []
    for name in folders if names is None else names:
        try:
            sessions.append(read_session(folders[name], _stated(folders[name], space), report))
        except InputError as error:
            report(error)
    for other in {session.info.space for session in sessions[1:]} - {sessions[0].info.space} if sessions else ():
        others = [session.name for session in sessions if session.info.space == other]
        report(InputError(f"{others[0]}: expected the grid of {sessions[0].name}, got another one; not in one run"))
    overall = Agreement()
    shares = [share for session in tqdm(sessions, unit="session") for share in _check_frames(session, overall, report)]
    for problem in leaks({session.name: [session] for session in sessions}):
        report(InputError(f"{datadir}: {problem}: a copy; it must not be in another split"))
    return _summary("sessions", len(sessions), "session", shares, overall)


def _stated(folder: Path, space: EgoGrid | None) -> EgoGrid | None:
    """None where the session says itself what its grid is."""
    return None if (folder / "session.json").is_file() else space


def _check_quaternion(path: Path, report: Report) -> None:
    """One that is far from unit length is read all the same: by its direction, or as the identity where it has none."""
    length = math.hypot(*read_pose(path)[3:7])
    if abs(length - 1) > _LENGTH_TOLERANCE:
        report(InputError(f"{path}: expected a quaternion of length 1, got {length:.3g}; 0 is read as no rotation"))


def _check_frames(session: Session, overall: Agreement, report: Report) -> list[float]:
    """Decode all frames of a session; share of occupied voxels of each."""
    agreement, shares, before = Agreement(), [], None
    names = ("occupancy", *session.info.masks)

    def grid(number: int) -> np.ndarray:
        return session.arrays(number, names)["occupancy"] > 0

    for row, number in enumerate(session.numbers):
        _check_quaternion(session.folder / "poses" / f"{number:06d}.json", report)
        occupied = _run(lambda number=number: grid(number), report)
        sweep = session.folder / "lidar" / f"{number:06d}_LIDAR.npy"
        if sweep.is_file():
            _run(lambda sweep=sweep: read_points(sweep, report), report)
        if occupied is None:
            before = None
            continue
        shares.append(float(occupied.mean()))
        if before is not None:
            agreement.add(before, occupied, session.poses[row - 1 : row + 1], session.info.space)
        before = occupied
    if shares and max(shares) == 0:
        report(InputError(f"{session.folder}: expected occupied voxels, got none in {len(shares)} frames"))
    agreement.judge(str(session.folder), report)
    overall.extend(agreement)
    return shares


def _check_occ3d(datadir: Path, names: Sequence[str] | None, infos: Path | None, report: Report) -> str:
    scenes = read_occ3d(datadir, infos, scenes=names, report=report)
    overall, shares = Agreement(), []
    for scene in tqdm(scenes, unit="scene"):
        agreement, before = Agreement(), None
        for row in range(len(scene.tokens)):
            labels = _run(partial(_labels, scene, row), report)
            if labels is None:
                before = None
                continue
            occupied = labels != FREE
            shares.append(float(occupied.mean()))
            if before is not None:
                agreement.add(before, occupied, scene.poses[row - 1 : row + 1], OCC3D_SPACE)
            before = occupied
        agreement.judge(scene.name, report)
        overall.extend(agreement)
    return _summary("occ3d", len(scenes), "scene", shares, overall)


def _labels(scene: Occ3dScene, row: int) -> np.ndarray:
    return scene.labels(row, ("semantics", *MASKS))["semantics"]


def _summary(dataset: str, number: int, noun: str, shares: Sequence[float], agreement: Agreement) -> str:
    parts = [counted(number, noun), counted(len(shares), "frame")]
    if shares:
        parts.append(f"{100 * np.mean(shares):.2f} % of the voxels occupied")
    if agreement.overlaps[RECORDED]:
        parts.append(
            f"the grid before, moved as recorded, fits to an IoU of {agreement.mean(RECORDED):.2f} (unmoved "
            f"{agreement.mean(STILL):.2f}) in {counted(len(agreement.overlaps[RECORDED]), 'pair')}"
        )
    return f"checked {dataset}: {', '.join(parts)}"
