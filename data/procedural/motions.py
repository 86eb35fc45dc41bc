"""Cameras by kind of motion, in the table frame: sideways and forward with parallel axes, turning while moving, orbits.

A network that only sees cameras circling an object learns that every motion of the image is a circling camera. Here
rotation and translation are drawn independently of each other, for lenses from narrow to wide, so that only the
parallax tells them apart. How far cameras move is drawn as a share of what they see, whatever the scale of the scene:
any two frames of a group overlap.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from data.procedural.rigs import AIM_HEIGHT, DTU_RADIUS, look_at, on_sphere
from geometry import Cameras, require

RIG, PARALLEL, PAN, ORBIT = "rig", "parallel", "pan", "orbit"
MOTIONS = (RIG, PARALLEL, PAN, ORBIT)
"""`rig` is DTU's rig and its like (data/multi_view/procedural_stream.py), the others are made here."""
FIELD_OF_VIEW = (22.0, 75.0)
"""Degrees across the longer side, log-uniform: from a short telephoto lens to the main camera of a phone."""
RIG_FIELD_OF_VIEW = 25.0
"""Degrees across DTU's images; from `DTU_RADIUS` they show the whole table."""
FORWARD_SHARE = 0.3
"""Of groups with parallel axes: they move mainly along the axes. Chosen by hand, as all that follows."""
SIDEWAYS, TURNING, FORWARD = (0.12, 0.5), (0.12, 0.45), (0.15, 0.5)
"""Longest move, log-uniform, as a share of the width (forward: of the depth) that a camera sees."""
PAN_SPREAD = (0.15, 0.55)
"""Widest turn as a share of the field of view."""
ORBIT_SPACING = (5.0, 25.0)
"""Degrees between neighbors about the point that the cameras look at, log-uniform."""
LOWEST = 15.0
"""Millimeters above the table that cameras keep."""
ELEVATION = (8.0, 75.0)
"""Degrees at which cameras look down onto a table."""


@dataclass(frozen=True)
class MotionMix:
    """Out of which kinds of motion a stream draws its groups."""

    shares: tuple[tuple[str, float], ...]
    """(kind, share); shares are relative to their sum."""
    rooms: float = 0.5
    """Share of `parallel` and `pan` groups that stand inside a room instead of before a table."""
    rolls: float = 0.1
    """Share of all groups but `rig` whose cameras are rolled about their axes by up to 180 degrees."""
    photos: float = 0.0
    """Share of all groups but `rig` that show a photograph on a wall instead of solids."""

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn.

        Raises:
            InputError: naming the option.
        """
        kinds = [kind for kind, _ in self.shares]
        unknown = [kind for kind in kinds if kind not in MOTIONS]
        require(not unknown, f"--procedural_motions: expected kinds among {', '.join(MOTIONS)}, got {unknown[:1]}")
        require(len(set(kinds)) == len(kinds) > 0, f"--procedural_motions: expected each kind once, got {kinds}")
        for kind, share in self.shares:
            require(0 < share < np.inf, f"--procedural_motions: expected {kind}=SHARE above 0, got {kind}={share}")
        for name in ("rooms", "rolls", "photos"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"--procedural_{name}: expected a share from 0 to 1, got {value}")

    @classmethod
    def parse(cls, texts: tuple[str, ...], rooms: float, rolls: float, photos: float = 0.0) -> "MotionMix":
        """From words `kind=share`.

        Raises:
            InputError: naming the option.
        """
        shares = []
        for text in texts:
            kind, _, number = text.partition("=")
            try:
                shares.append((kind, float(number)))
            except ValueError:
                require(False, f"--procedural_motions: expected words like pan=0.25, got {text!r}")
        return cls(tuple(shares), rooms, rolls, photos)

    def draw(self, rng: np.random.Generator) -> "Recipe":
        """What one group is to show."""
        weights = np.array([share for _, share in self.shares])
        kind = self.shares[int(rng.choice(len(weights), p=weights / weights.sum()))][0]
        in_room, is_rolled = rng.random(2) < (self.rooms, self.rolls)
        # without a share nothing is drawn, so that streams without photographs stay as they were
        is_photo = self.photos > 0 and rng.random() < self.photos and kind != RIG
        is_inside = bool(in_room) and kind in (PARALLEL, PAN) and not is_photo
        return Recipe(kind, is_inside, bool(is_rolled) and kind != RIG, is_photo)


class Recipe(NamedTuple):
    """What one group of frames shows."""

    kind: str
    """One of `MOTIONS`."""
    in_room: bool
    is_rolled: bool
    is_photo: bool = False
    """A photograph on a wall, nothing else."""


class Lens(NamedTuple):
    """What all cameras of a group share."""

    field_of_view: float
    """Degrees across the longer side."""
    height: int
    """Pixels."""
    width: int

    @property
    def half_tangent(self) -> float:
        """Of half the field of view: at depth d the longer side shows 2 d times this."""
        return float(np.tan(np.radians(self.field_of_view / 2)))

    def cameras(self, rng: np.random.Generator, w2c: list[np.ndarray]) -> Cameras:
        """With the principal point about the middle."""
        focal = max(self.height, self.width) / 2 / self.half_tangent
        x, y = (np.array([self.width, self.height]) * (0.5 + rng.normal(0, 0.01, 2))).tolist()
        intrinsics = np.array([[focal, 0, x], [0, focal, y], [0, 0, 1.0]])
        return Cameras(
            w2c=torch.from_numpy(np.stack(w2c)),
            intrinsics=torch.from_numpy(intrinsics).expand(len(w2c), 3, 3).clone(),
            height=self.height,
            width=self.width,
        )


class Stand(NamedTuple):
    """Where the middle of a group of cameras stands and what it looks at, millimeters."""

    center: Float[np.ndarray, "3"]
    aim: Float[np.ndarray, "3"]

    @property
    def depth(self) -> float:
        """From the one to the other."""
        return float(np.linalg.norm(self.aim - self.center))


def random_lens(rng: np.random.Generator, height: int, width: int) -> Lens:
    """Field of view log-uniform in `FIELD_OF_VIEW`."""
    return Lens(_log_uniform(rng, FIELD_OF_VIEW), height, width)


def before_table(rng: np.random.Generator, lens: Lens) -> Stand:
    """As far from the table as the lens needs to show about as much of it as DTU's does."""
    distance = DTU_RADIUS * np.tan(np.radians(RIG_FIELD_OF_VIEW / 2)) / lens.half_tangent * rng.uniform(0.75, 1.3)
    aim = np.array([0.0, 0.0, AIM_HEIGHT * rng.uniform(0.3, 1.2)]) + rng.normal(0, 12, 3)
    return Stand(aim + on_sphere(distance, rng.uniform(*ELEVATION), rng.uniform(-180, 180)), aim)


def moving_cameras(rng: np.random.Generator, recipe: Recipe, stand: Stand, lens: Lens, count: int) -> list[np.ndarray]:
    """World-to-camera matrices (4, 4) of a group that moves as the recipe says about a stand.

    Raises:
        KeyError: for `rig`, which has a place of its own.
    """
    w2c = _MOVE[recipe.kind](rng, stand, lens, count)
    wobble = rng.uniform(0, 4)
    rolls = rng.normal(0, wobble, count)
    if recipe.is_rolled and rng.random() < 0.5:
        rolls = rng.uniform(-180, 180) + rng.normal(0, 10, count)
    elif recipe.is_rolled:
        rolls = rng.uniform(-180, 180, count)
    return [_turned(one, _about_axis(roll)) for one, roll in zip(w2c, rolls, strict=True)]


def raised(w2c: list[np.ndarray], lowest: float = LOWEST) -> list[np.ndarray]:
    """All cameras lifted together so that the lowest center has this height, if it is below."""
    lift = max(0.0, lowest - min(center_of(one)[2] for one in w2c))
    return [_at(one, center_of(one) + np.array([0.0, 0.0, lift])) for one in w2c]


def drawn_together(w2c: list[np.ndarray], low: np.ndarray, high: np.ndarray) -> list[np.ndarray]:
    """All centers brought nearer to their middle by one factor, and shifted, so that they lie in an upright box."""
    centers = np.stack([center_of(one) for one in w2c])
    middle = (centers.min(0) + centers.max(0)) / 2
    extent = np.ptp(centers, axis=0)
    factor = float(min(1.0, ((high - low) / np.maximum(extent, 1e-9)).min()))
    half = factor * extent / 2
    place = np.clip(middle, low + half, high - half)
    return [_at(one, place + factor * (center - middle)) for one, center in zip(w2c, centers, strict=True)]


def center_of(w2c: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "3"]:
    """Where a camera stands."""
    return -w2c[:3, :3].T @ w2c[:3, 3]


def _parallel(rng: np.random.Generator, stand: Stand, lens: Lens, count: int) -> list[np.ndarray]:
    """Axes parallel up to a few degrees, in half of the groups a little toward what they look at."""
    base = look_at(stand.center, stand.aim, 0.0)
    width = 2 * stand.depth * lens.half_tangent
    if rng.random() < FORWARD_SHARE:
        reach = np.array([0.0, 0.0, stand.depth * _log_uniform(rng, FORWARD)])
        reach[:2] = reach[2] * lens.half_tangent * rng.uniform(0, 0.6, 2)
    else:
        longest = width * _log_uniform(rng, SIDEWAYS)
        reach = longest * np.array([1.0, rng.uniform(0.1, 1), 0.3 * rng.random()])
    moves = rng.uniform(-0.5, 0.5, (count, 3)) * reach @ _about_axis(rng.uniform(-180, 180))
    tremble = rng.uniform(0, 3)
    toward = rng.uniform(0, 0.5) if rng.random() < 0.5 else 0.0
    w2c = []
    for move in moves:
        # angle by which the axis is off what the middle looks at, about x and y
        off = np.degrees([move[1], -move[0], 0.0]) / stand.depth * toward
        moved = _at(base, stand.center + base[:3, :3].T @ move)
        w2c.append(_turned(moved, _about(off + rng.normal(0, tremble, 3) * (1, 1, 0))))
    return w2c


def _pan(rng: np.random.Generator, stand: Stand, lens: Lens, count: int) -> list[np.ndarray]:
    """Turns mostly to the sides, and moves in any direction, independently of each other."""
    base = look_at(stand.center, stand.aim, 0.0)
    spread = lens.field_of_view * rng.uniform(*PAN_SPREAD)
    turns = rng.uniform(-0.5, 0.5, (count, 3)) * spread * (rng.uniform(0.1, 0.5), 1, 0)
    turns = turns[:, [1, 0, 2]] if rng.random() < 0.2 else turns
    reach = 2 * stand.depth * lens.half_tangent * _log_uniform(rng, TURNING)
    moves = rng.uniform(-0.5, 0.5, (count, 3)) * reach * rng.uniform(0.4, 1, 3)
    centers = stand.center + moves @ base[:3, :3]
    return [_turned(_at(base, center), _about(turn)) for center, turn in zip(centers, turns, strict=True)]


def _orbit(rng: np.random.Generator, stand: Stand, lens: Lens, count: int) -> list[np.ndarray]:
    """Scattered on a sphere about what they look at."""
    offset = stand.center - stand.aim
    elevation = np.degrees(np.arcsin(offset[2] / stand.depth))
    azimuth = np.degrees(np.arctan2(-offset[0], offset[1]))
    spread = _log_uniform(rng, ORBIT_SPACING) * max(1.0, count**0.5)
    aim_wobble, distance_wobble = rng.uniform(0, 0.06) * stand.depth * lens.half_tangent, rng.uniform(0, 0.08)
    w2c = []
    for _ in range(count):
        up = float(np.clip(elevation + rng.normal(0, 0.6) * spread, 4, 84))
        around = azimuth + rng.normal(0, 0.6) * spread / max(0.3, np.cos(np.radians(up)))
        aim = stand.aim + rng.normal(0, aim_wobble, 3)
        w2c.append(look_at(aim + on_sphere(stand.depth * (1 + rng.normal(0, distance_wobble)), up, around), aim, 0.0))
    return w2c


_MOVE: dict[str, Callable[[np.random.Generator, Stand, Lens, int], list[np.ndarray]]] = {
    PARALLEL: _parallel,
    PAN: _pan,
    ORBIT: _orbit,
}


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(*np.log(bounds))))


def _about_axis(degrees: float) -> Float[np.ndarray, "3 3"]:
    """Rotation about the optical axis."""
    return _about(np.array([0.0, 0.0, degrees]))


def _about(degrees: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """Rotation by the vector's length about its direction (Rodrigues)."""
    vector = np.radians(degrees)
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _turned(w2c: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """The camera turned where it stands."""
    turned = np.eye(4)
    turned[:3] = rotation @ w2c[:3]
    return turned


def _at(w2c: np.ndarray, center: np.ndarray) -> np.ndarray:
    """The camera moved without turning."""
    moved = w2c.copy()
    moved[:3, 3] = -w2c[:3, :3] @ center
    return moved
