"""Commands by name: where the vehicle is told to go, as poses relative to the last one observed."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from data.occupancy.trajectories import read_trajectory, with_velocities
from geometry.body_poses import POSITION, relative_to, rotation_about_z, rotation_of, yaw_of
from geometry.errors import require

RECORDED, PREDICTED = "recorded", "predicted"
"""The poses that were driven, and none: the network has to say where the vehicle goes."""
_TURN, _CLIMB = 0.15, 0.5
"""Radians per frame of a turn, and meters per frame of a climb, where nothing else is said."""
_RATES = {
    "straight": (0.0, 0.0),
    "left": (_TURN, 0.0),
    "right": (-_TURN, 0.0),
    "climb": (0.0, _CLIMB),
    "descend": (0.0, -_CLIMB),
}
STAY = "stay"
MANEUVERS = {"right": 0, "left": 1, "straight": 2}
"""Commands that OccWorld knows, by its numbers."""
NAMES = (RECORDED, PREDICTED, *_RATES, STAY)


@dataclass(frozen=True)
class Command:
    """What the vehicle is told."""

    text: str
    """A name of `NAMES`, with a rate (`left:0.2`, radians per frame; `climb:1`, meters per frame), or a file."""

    def __post_init__(self) -> None:
        """Refuse what is neither a name nor a file."""
        if self.text in NAMES or self._rate is not None:
            return
        require(
            Path(self.text).is_file(),
            f"--command: expected {', '.join(NAMES)}, a rate such as left:0.2, or a file of poses, got {self.text!r}",
        )

    @property
    def folder(self) -> str:
        """Name of a folder for it, with the rate where one was given: left_0.2; of a file its stem."""
        return self.text.replace(":", "_") if self.name in NAMES else self.name

    @property
    def name(self) -> str:
        """The command without its rate; of a file its stem."""
        head = self.text.split(":")[0]
        return head if head in NAMES else Path(self.text).stem

    @property
    def _rate(self) -> float | None:
        name, _, number = self.text.partition(":")
        if name not in _RATES or name == "straight" or not number:
            return None
        try:
            rate = abs(float(number))
        except ValueError:
            rate = math.nan
        require(math.isfinite(rate), f"--command {self.text}: expected a number after {name}:, got {number!r}")
        return rate

    def plan(
        self, history: Float[Tensor, "history 13"], recorded: Float[Tensor, "future 13"], period: float
    ) -> Float[Tensor, "future 13"] | None:
        """Poses relative to the last of `history`; None: the network has to predict them.

        A maneuver goes on with the speed of the last step, level. `recorded`: the relative poses that were driven.

        Raises:
            InputError: for a file with fewer poses than future frames.
        """
        if self.text == PREDICTED:
            return None
        if self.text == RECORDED:
            return recorded
        last, count = history[-1], len(recorded)
        if self.name not in NAMES:
            poses = read_trajectory(Path(self.text), period)
            require(len(poses) >= count, f"--command {self.text}: expected {count} poses, got {len(poses)}")
            return poses[:count]
        turn, climb = (0.0, 0.0) if self.text == STAY else _RATES[self.name]
        if self._rate is not None:
            turn, climb = math.copysign(self._rate, turn) * (turn != 0), math.copysign(self._rate, climb) * (climb != 0)
        speed = 0.0 if self.text == STAY else float((history[-1] - history[-2])[POSITION][:2].norm())
        yaw = yaw_of(rotation_of(last[3:7])) + turn * torch.arange(1, count + 1, dtype=last.dtype)
        step = torch.stack([speed * yaw.cos(), speed * yaw.sin(), torch.full_like(yaw, climb)], dim=-1)
        places = last[POSITION] + step.cumsum(0)
        poses = with_velocities(
            torch.cat([last[None, POSITION], places]),
            torch.cat([rotation_of(last[3:7])[None], rotation_about_z(yaw)]),
            period,
        )
        return relative_to(last[None], poses[1:])
