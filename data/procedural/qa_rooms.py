"""Rooms with a few plain objects around a rig of cameras that look outward: what questions can be asked about.

World frame: origin on the floor below the rig, x along the horizontal direction of view 1, z up, meters. Every object
lies wholly inside one view, on the floor, and none hides another. Shape, color, size, distance and place are drawn
independently of each other, which the balance of the questions rests on (data/procedural/qa_questions.py). Rays are
cast for all pixels at once; rays carry camera z = 1, so the ray parameter is depth.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from jaxtyping import Float, UInt8

from data.seeds import derived_seed

COLORS = {
    "red": (0.86, 0.10, 0.10),
    "green": (0.10, 0.62, 0.15),
    "blue": (0.12, 0.22, 0.88),
    "yellow": (0.95, 0.85, 0.10),
    "purple": (0.62, 0.15, 0.75),
    "cyan": (0.15, 0.80, 0.85),
}
"""No two objects of a room share a color."""
SHAPES = ("ball", "box", "cone")
DISTANCES = (2.0, 2.5, 3.0, 3.5)
"""Meters from a camera to the middle of an object, up to `DISTANCE_SPREAD`; equally likely."""
DISTANCE_SPREAD = 0.15
"""Meters; less than half a step, so that the nearest of `DISTANCES` is never in doubt."""
MAX_PER_VIEW = 2
FIELD_OF_VIEW = 75.0
"""Degrees, of square images."""
CAMERA_HEIGHT, PITCH, YAW_JITTER = 1.2, 18.0, 4.0
"""Meters; degrees downward; degrees that a view's direction is off an even distribution."""
RADII = (0.36, 0.7)
"""Meters, half the width of an object; at most `RADIUS_SHARE` of its distance."""
RADIUS_SHARE = 0.23
BOX_SIDE, CORNER = 0.8, 1.14
"""Half side of a box and half its diagonal, over the radius of the object: about as much volume as a ball."""
SAMPLES = 2
"""Rays along each side of a pixel."""
_EDGE = 1.0
"""Degrees that objects keep from the edges of their view or of their half of it."""
_FAR = np.float32(1e9)


@dataclass(frozen=True)
class RoomObject:
    """A plain solid on the floor."""

    shape: str
    color: str
    radius: float
    """Half its width, meters: of the ball, of the cone's base; boxes have half sides of 0.8 of it."""
    spot: Float[np.ndarray, "2"]
    """Where it stands."""
    yaw: float
    view: int
    """The one that shows it, from 0."""
    distance: float
    """From the camera of that view to its middle, meters."""
    is_left: bool
    """Of two in a view, the left one."""

    @property
    def name(self) -> str:
        """Color and shape, unique in a room."""
        return f"{self.color} {self.shape}"

    @property
    def half_height(self) -> float:
        """Meters."""
        return self.radius * BOX_SIDE if self.shape == "box" else self.radius

    @property
    def middle(self) -> Float[np.ndarray, "3"]:
        """World frame."""
        return np.array([*self.spot, self.half_height])


@dataclass(frozen=True)
class QARoom:
    """A room, its objects, and the cameras in its middle."""

    objects: tuple[RoomObject, ...]
    c2w: Float[np.ndarray, "view 4 4"]
    """OpenCV axes."""
    half_sides: Float[np.ndarray, "2"]
    height: float
    yaw: float
    """Of the walls against the world frame."""
    tones: Float[np.ndarray, "3 2 3"]
    """Two grays each of the floor, the walls, the ceiling: their checkers."""
    cell: float
    """Side of a checker, meters."""
    light: Float[np.ndarray, "3"]
    """Unit vector toward the lamp."""

    def in_view(self, view: int) -> list[RoomObject]:
        """Objects of a view, from left to right."""
        return sorted((one for one in self.objects if one.view == view), key=lambda one: not one.is_left)

    @property
    def num_views(self) -> int:
        """Cameras of the rig."""
        return len(self.c2w)


@lru_cache(maxsize=8)
def occupancies(num_views: int) -> dict[int, list[tuple[int, ...]]]:
    """For each number of objects that a room may have, how many each view may show; all equally likely."""
    most = min(len(COLORS), MAX_PER_VIEW * num_views)
    found: dict[int, list[tuple[int, ...]]] = {number: [] for number in range(1, most + 1)}
    for counts in product(range(MAX_PER_VIEW + 1), repeat=num_views):
        if sum(counts) in found:
            found[sum(counts)].append(counts)
    return found


def draw_room(seed: int, index: int, num_views: int = 3) -> QARoom:
    """Room `index`; it depends on these numbers only."""
    rng = np.random.default_rng(derived_seed(seed, index, num_views))
    choices = occupancies(num_views)
    counts = choices[int(rng.integers(1, len(choices) + 1))]
    counts = counts[int(rng.integers(len(counts)))]
    yaws = -np.arange(num_views) * 2 * np.pi / num_views  # view 2 is to the right of view 1
    yaws[1:] += np.radians(rng.uniform(-YAW_JITTER, YAW_JITTER, num_views - 1))
    c2w = np.stack([_outward(yaw, np.radians(PITCH + rng.uniform(-1, 1)), rng) for yaw in yaws])
    colors = rng.permutation(list(COLORS))
    objects: list[RoomObject] = []
    for view, count in enumerate(counts):
        for slot in range(count):
            objects.append(_draw_object(rng, c2w[view], yaws[view], view, (slot, count), str(colors[len(objects)])))
    base = rng.uniform(0.3, 0.75, (3, 1, 1))
    tones = np.clip(base + rng.uniform(-0.06, 0.06, (3, 2, 3)) + np.array([[[-0.09], [0.09]]]), 0.05, 0.95)
    azimuth, slant = rng.uniform(-np.pi, np.pi), rng.uniform(0.3, 0.9)
    light = np.array([np.cos(azimuth) * slant, np.sin(azimuth) * slant, 1.0])
    return QARoom(
        objects=tuple(objects),
        c2w=c2w,
        half_sides=rng.uniform(4.6, 6.0, 2),
        height=float(rng.uniform(2.6, 3.4)),
        yaw=float(rng.uniform(-np.pi, np.pi)),
        tones=tones,
        cell=float(rng.uniform(0.4, 0.9)),
        light=light / np.linalg.norm(light),
    )


def intrinsics(size: int) -> Float[np.ndarray, "3 3"]:
    """Of every view, for images of size x size; pixel centers at +0.5."""
    focal = size / 2 / np.tan(np.radians(FIELD_OF_VIEW / 2))
    return np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]])


def render_room(room: QARoom, size: int, views: Sequence[int] | None = None) -> UInt8[np.ndarray, "view size size 3"]:
    """Photographs of some views; None: of all."""
    chosen = range(room.num_views) if views is None else views
    origins, directions = _rays(room, size * SAMPLES)
    colors = np.stack([_shaded(room, view, origins[view], directions[view]) for view in chosen])
    grid = colors.reshape(len(chosen), size, SAMPLES, size, SAMPLES, 3)
    return np.rint(grid.mean((2, 4)) * 255).astype(np.uint8)


def room_depth(room: QARoom, size: int) -> Float[np.ndarray, "view size size"]:
    """Camera z at pixel centers, meters."""
    origins, directions = _rays(room, size)
    depth = []
    for view in range(room.num_views):
        nearest = _walls(room, origins[view], directions[view])[0]
        for one in room.in_view(view):
            nearest = np.minimum(nearest, _hit(one, origins[view], directions[view]))
        depth.append(nearest.reshape(size, size))
    return np.stack(depth)


def _outward(yaw: float, pitch: float, rng: np.random.Generator) -> Float[np.ndarray, "4 4"]:
    """Camera to world: a step away from the rig's middle in the direction that it looks."""
    ahead = np.array([np.cos(yaw), np.sin(yaw), 0.0])
    forward = ahead * np.cos(pitch) - np.array([0, 0, np.sin(pitch)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    c2w = np.eye(4)
    c2w[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    c2w[:3, 3] = ahead * rng.uniform(0.05, 0.2) + np.array([0, 0, CAMERA_HEIGHT + rng.uniform(-0.05, 0.05)])
    return c2w


def _draw_object(
    rng: np.random.Generator, c2w: np.ndarray, yaw: float, view: int, place: tuple[int, int], color: str
) -> RoomObject:
    """Anywhere in its part of the view: all of it, or the left or right half where there are two."""
    slot, count = place
    distance = float(rng.choice(DISTANCES) + rng.uniform(-DISTANCE_SPREAD, DISTANCE_SPREAD))
    radius = float(rng.uniform(RADII[0], min(RADII[1], RADIUS_SHARE * distance)))
    shape = str(rng.choice(SHAPES))
    drop = c2w[2, 3] - radius * (BOX_SIDE if shape == "box" else 1.0)
    along = np.sqrt(distance**2 - drop**2)
    half_part = FIELD_OF_VIEW / 2 / count
    room_left = np.radians(half_part - _EDGE) - np.arcsin(CORNER * radius / along)
    middle = np.radians(half_part) * (0 if count == 1 else 1 - 2 * slot)  # positive: to the left
    angle = yaw + middle + rng.uniform(-1, 1) * room_left
    spot = c2w[:2, 3] + along * np.array([np.cos(angle), np.sin(angle)])
    turn = float(rng.uniform(-np.pi, np.pi))
    return RoomObject(shape, color, radius, spot, turn, view, distance, is_left=slot == 0)


@lru_cache(maxsize=4)
def _camera_rays(side: int) -> Float[np.ndarray, "3 ray"]:
    steps = (np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1
    slope = np.float32(np.tan(np.radians(FIELD_OF_VIEW / 2)))
    x, y = np.meshgrid(steps * slope, steps * slope)
    return np.stack([x.ravel(), y.ravel(), np.ones(side * side, np.float32)])


def _rays(room: QARoom, side: int) -> tuple[Float[np.ndarray, "view 3"], Float[np.ndarray, "view 3 ray"]]:
    """World frame, float32; axes first, so that each is contiguous."""
    return room.c2w[:, :3, 3].astype(np.float32), room.c2w[:, :3, :3].astype(np.float32) @ _camera_rays(side)


def _walls(room: QARoom, origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth at floor, walls and ceiling from inside, which axis is hit, and the directions in the walls' frame."""
    turn = _turned(room.yaw)
    start, local = turn @ origin, turn @ directions
    low = np.array([-room.half_sides[0], -room.half_sides[1], 0.0], np.float32) - start
    high = np.array([room.half_sides[0], room.half_sides[1], room.height], np.float32) - start
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = np.where(local > 0, high[:, None], low[:, None]) / local
    axis = reach.argmin(0)
    return np.take_along_axis(reach, axis[None], 0)[0], axis, local


def _turned(angle: float) -> Float[np.ndarray, "3 3"]:
    """World frame -> a frame that is turned by the angle about z."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]], np.float32)


def _shaded(room: QARoom, view: int, origin: np.ndarray, directions: np.ndarray) -> Float[np.ndarray, "ray 3"]:
    depth, axis, local = _walls(room, origin, directions)
    points = (_turned(room.yaw) @ origin)[:, None] + depth * local
    across = np.where(axis == 0, points[1], points[0])
    along = np.where(axis == 2, points[1], points[2])
    checker = (np.floor(across / room.cell) + np.floor(along / room.cell)).astype(np.int64) & 1
    kind = np.where(axis < 2, 1, np.where(local[2] < 0, 0, 2))
    brightness = np.array([0.78, 0.88, 1.0], np.float32)[axis]
    objects = room.in_view(view)
    for one in objects:
        floor = origin[:2, None] + depth * directions[:2]
        off = ((floor - one.spot.astype(np.float32)[:, None]) ** 2).sum(0) / np.float32(one.radius) ** 2
        brightness *= np.where(kind == 0, 1 - 0.55 * np.exp(-((off / 1.6) ** 2)), 1).astype(np.float32)
    colors = room.tones.astype(np.float32)[kind, checker] * brightness[:, None]
    for one in objects:
        hit = _hit(one, origin, directions)
        seen = np.flatnonzero(hit < depth)
        points = origin[:, None] + hit[seen] * directions[:, seen]
        lit = np.maximum(room.light.astype(np.float32) @ _normals(one, points), 0)
        colors[seen] = np.array(COLORS[one.color], np.float32) * (0.5 + 0.5 * lit)[:, None]
        depth[seen] = hit[seen]
    return colors


def _hit(one: RoomObject, origin: np.ndarray, directions: np.ndarray) -> Float[np.ndarray, " ray"]:
    """Depth of the first hit in front of the camera; a huge number for a miss."""
    return _HITS[one.shape](one, origin, directions)


def _ball(one: RoomObject, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
    offset = origin - one.middle.astype(np.float32)
    a, b = (directions**2).sum(0), offset @ directions
    inside = b * b - a * np.float32(offset @ offset - one.radius**2)
    t = (-b - np.sqrt(np.maximum(inside, 0))) / a
    return np.where((inside > 0) & (t > 0), t, _FAR)


def _box(one: RoomObject, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
    turn = _turned(one.yaw)
    start, local = turn @ (origin - one.middle.astype(np.float32)), turn @ directions
    inverse = 1 / np.where(local == 0, np.float32(1e-12), local)
    middle, reach = -start[:, None] * inverse, np.abs(inverse) * np.float32(one.half_height)
    enter, leave = (middle - reach).max(0), (middle + reach).min(0)
    return np.where((enter < leave) & (enter > 0), enter, _FAR)


def _cone(one: RoomObject, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Apex above the spot; radius and height grow downward from it as 1 to 2."""
    top = np.array([*one.spot, 2 * one.radius], np.float32)
    offset = origin - top
    weights = np.array([1, 1, -0.25], np.float32)
    a = weights @ directions**2
    b = (weights * offset) @ directions
    inside = b * b - a * np.float32(weights @ offset**2)
    root = np.sqrt(np.maximum(inside, 0))
    best = np.full(directions.shape[1], _FAR)
    with np.errstate(divide="ignore", invalid="ignore"):
        for t in ((-b - root) / a, (-b + root) / a):
            below = offset[2] + t * directions[2]
            is_hit = (inside > 0) & (t > 0) & (below <= 0) & (below >= -2 * one.radius)
            best = np.where(is_hit & (t < best), t, best)
    return best


_HITS = {"ball": _ball, "box": _box, "cone": _cone}


def _normals(one: RoomObject, points: Float[np.ndarray, "3 point"]) -> Float[np.ndarray, "3 point"]:
    local = points - one.middle.astype(np.float32)[:, None]
    if one.shape == "ball":
        return local / np.float32(one.radius)
    if one.shape == "box":
        turn = _turned(one.yaw)
        local = turn @ local
        is_face = np.abs(local) == np.abs(local).max(0)
        return turn.T @ (np.sign(local) * is_face)
    across = local[:2] / np.maximum(np.linalg.norm(local[:2], axis=0), 1e-6)
    return np.concatenate([across * 2, np.ones_like(across[:1])]) / np.float32(np.sqrt(5))
