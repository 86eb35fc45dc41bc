"""Windows of past and future grids as data sets: of sessions, of Occ3D scenes, of procedural worlds."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from data.occupancy.occ3d import FREE, GROUND_CLASSES, MOVING_CLASSES, OCC3D_SPACE, Occ3dScene
from data.occupancy.sessions import Session
from data.occupancy.types import GROUND, OccupancyBatch, WindowSource
from data.seeds import derived_seed
from geometry.body_poses import relative_to
from geometry.errors import require

_WINDOW_STREAM = 51
"""Keeps the seeds of windows apart from others; the number itself is arbitrary."""
CAMERA_VISIBLE, LIDAR_VISIBLE, EVERYTHING = "camera", "lidar", "all"


def _stacked(arrays: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))


class SessionWindows(WindowSource):
    """Windows of recorded sessions. Planned poses are those that were driven."""

    def __init__(
        self,
        sessions: Sequence[Session],
        history: int,
        future: int,
        *,
        skip: int = 1,
        needs_motion: bool = False,
    ) -> None:
        """Every `skip`-th frame; `needs_motion`: only windows in which the vehicle moves.

        Raises:
            InputError: for sessions of different grids, and impossible lengths.
        """
        require(
            history >= 1 and future >= 1 and skip >= 1,
            f"windows: expected at least 1 past and 1 future frame and a stride from 1 on, got {history}, {future} and "
            f"{skip}",
        )
        spaces = {session.info.space for session in sessions}
        require(len(spaces) == 1, f"sessions: expected one grid for all, got {[space.record() for space in spaces]}")
        self.space = next(iter(spaces))
        self.sessions = tuple(sessions)
        self.history, self.future = history, future
        self.windows = [
            (number, window)
            for number, session in enumerate(self.sessions)
            for window in session.windows(history + future, skip, needs_motion=needs_motion)
        ]
        kinds = [set(session.info.masks) for session in self.sessions]
        self.masks = tuple(sorted(set.intersection(*kinds)))
        """Optional arrays that all sessions have."""

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, item: int) -> OccupancyBatch:
        number, window = self.windows[item]
        session = self.sessions[number]
        past, coming = window[: self.history], window[self.history :]
        poses = session.poses[[session.row(frame) for frame in window]]
        later = [session.arrays(frame, ("occupancy", *self.masks)) for frame in coming]
        masks = {name: _stacked([arrays[name] for arrays in later]).bool() for name in self.masks}
        return OccupancyBatch(
            history=_stacked([session.occupancy(frame) for frame in past]),
            future=_stacked([arrays["occupancy"] for arrays in later]),
            history_poses=poses[: self.history],
            future_poses=poses[self.history :],
            agent=torch.tensor(session.agent),
            ground_height=torch.tensor(session.info.ground_height),
            frames=torch.tensor(window),
            seeds=torch.tensor(derived_seed(_WINDOW_STREAM, item)),
            sessions=(session.name,),
            commands=relative_to(poses[self.history - 1 : self.history], poses[self.history :]),
            visible=masks.get("visible"),
            moving=masks.get("moving"),
        )


class Occ3dWindows(WindowSource):
    """Windows of nuScenes scenes with classes 0 to 17. Planned poses are those that were driven."""

    num_classes = FREE + 1
    empty_class = FREE
    ground_classes = GROUND_CLASSES

    def __init__(
        self, scenes: Sequence[Occ3dScene], history: int, future: int, *, skip: int = 1, visible: str = EVERYTHING
    ) -> None:
        """`visible`: which voxels count, `all`, or those a `camera` or the `lidar` has seen.

        Raises:
            InputError: for impossible lengths and an unknown `visible`.
        """
        require(
            history >= 1 and future >= 1 and skip >= 1,
            f"windows: expected at least 1 past and 1 future frame and a stride from 1 on, got {history}, {future} and "
            f"{skip}",
        )
        names = (EVERYTHING, CAMERA_VISIBLE, LIDAR_VISIBLE)
        require(visible in names, f"--visible: expected {', '.join(names)}, got {visible!r}")
        self.space = OCC3D_SPACE
        self.scenes = tuple(scenes)
        self.history, self.future, self.skip = history, future, skip
        self.mask = None if visible == EVERYTHING else f"mask_{visible}"
        span = (history + future - 1) * skip
        self.windows = [
            (number, tuple(range(first, first + span + 1, skip)))
            for number, scene in enumerate(self.scenes)
            for first in range(len(scene.tokens) - span)
        ]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, item: int) -> OccupancyBatch:
        number, window = self.windows[item]
        scene, rows = self.scenes[number], list(window)
        names = ("semantics",) if self.mask is None else ("semantics", self.mask)
        later = [scene.labels(row, names) for row in rows[self.history :]]
        future = _stacked([arrays["semantics"] for arrays in later])
        poses = scene.poses[rows]
        return OccupancyBatch(
            history=_stacked([scene.labels(row)["semantics"] for row in rows[: self.history]]),
            future=future,
            history_poses=poses[: self.history],
            future_poses=poses[self.history :],
            agent=torch.tensor(GROUND),
            ground_height=torch.tensor(math.nan),
            frames=torch.tensor(rows),
            seeds=torch.tensor(derived_seed(_WINDOW_STREAM, item)),
            sessions=(scene.name,),
            commands=relative_to(poses[self.history - 1 : self.history], poses[self.history :]),
            visible=None if self.mask is None else _stacked([arrays[self.mask] for arrays in later]).bool(),
            moving=torch.isin(future, torch.tensor(MOVING_CLASSES, dtype=torch.uint8)),
            steps=scene.steps_into(self.skip)[rows],
            maneuvers=torch.tensor(scene.maneuvers)[rows],
        )
