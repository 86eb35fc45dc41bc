"""Furnished rooms seen from an arc of cameras, by family: scenes, rigs and units (`--rooms`, docs/mapanything.md).

`free`: walls, furniture, sizes and lens at random. `wide`: the same through lenses from very wide to narrow.
`coordinate`: one room whose walls are colored by position, so that a picture of them determines where its camera is;
furniture at random. The table frame's millimeters are centimeters of a room.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from data.procedural.rigs import look_at
from data.procedural.rooms import AMBIENT, Room, clear_of
from data.procedural.scene import Item, Scene, random_lights
from data.procedural.textures import CoordinateTexture
from geometry import Cameras

METERS = 0.01
"""Of a room for one millimeter of the table frame."""
METRIC_SHARE = 0.7
"""Of the rooms that are in meters; others have a unit of their own."""
UNITS = (0.2, 5.0)
"""Units of those per meter, log-uniform."""
COORDINATE_HALF = (300.0, 250.0)
COORDINATE_HEIGHT = 300.0
"""Millimeters: 6 x 5 x 3 meters."""
CHECKER_CELL = 50.0
HALF_SIDES, HEIGHT = (200.0, 400.0), (240.0, 340.0)
"""Millimeters of a free room, before its size is drawn: half length and half width, height."""
SPACING, JITTER = 0.42, 0.15
"""Neighbors on the arc turn by this share of the field of view; axes are off by up to this angle (radians) or share of
the field of view, whichever is less."""
ROLL = 7.0
"""Degrees, at most."""
_CLEARANCE = 40.0
"""Millimeters between cameras and furniture."""
_STREAM = 20261127  # keeps rooms apart from other scenes of the same seed


@dataclass(frozen=True)
class Family:
    """What the rooms of a family have in common."""

    focal: tuple[float, float]
    """Focal length over the width of the image, log-uniform."""
    sizes: tuple[float, float]
    """Factor of all lengths, log-uniform, which no picture shows."""
    is_colored: bool = False
    """By position."""


FAMILIES = {
    "free": Family((0.8, 1.15), (0.15, 6.0)),
    "wide": Family((0.5, 2.0), (0.15, 6.0)),
    "coordinate": Family((0.8, 1.15), (1.0, 1.0), is_colored=True),
}


class Subject(NamedTuple):
    """What is photographed, and from where."""

    scene: Scene
    rig: Cameras
    """Millimeters of the table frame."""
    unit: float
    """Units of the written scene per millimeter."""
    is_metric: bool
    """These units are meters."""


@lru_cache(maxsize=2)
def room_subject(family: str, seed: int, index: int, num_views: int, size: tuple[int, int]) -> Subject:
    """Room `index`; depends on family, seed and index, the cameras besides on their number and the size of images.

    Consecutive views share it.
    """
    kind = FAMILIES[family]
    number = list(FAMILIES).index(family)
    rng = np.random.default_rng((_STREAM, seed, index, number))
    is_metric, factor = bool(rng.random() < METRIC_SHARE), _log_uniform(rng, UNITS)
    unit = METERS * _log_uniform(rng, kind.sizes) * (1.0 if is_metric else factor)
    room = _room(rng, kind)
    items = [*room.walls(rng), *room.panels(rng)]
    if kind.is_colored:
        items = [_colored(item, room) for item in items[:6]]
    items += room.furniture(rng)
    ambient = 1.0 if kind.is_colored else float(rng.uniform(*AMBIENT))
    lights = tuple(replace(light, ambient=ambient) for light in random_lights(rng))
    rig = _arc(np.random.default_rng((_STREAM, seed, index, number, 1)), room, kind, num_views, size)
    scene = Scene(items=tuple(items), lights=lights, exposure=1.0 if kind.is_colored else 1.3)
    return Subject(clear_of(scene, rig.centers.numpy(), _CLEARANCE), rig, unit, is_metric)


def _room(rng: np.random.Generator, kind: Family) -> Room:
    half, height = rng.uniform(*HALF_SIDES, 2), rng.uniform(*HEIGHT)
    if kind.is_colored:
        half, height = np.array(COORDINATE_HALF), COORDINATE_HEIGHT
    return Room(np.array([*-half, 0.0]), np.array([*half, height]))


def _colored(item: Item, room: Room) -> Item:
    """Texture and corners are local; walls are not turned."""
    return replace(item, texture=CoordinateTexture(room.low - item.center, room.high - item.center, CHECKER_CELL))


def _arc(rng: np.random.Generator, room: Room, kind: Family, num_views: int, size: tuple[int, int]) -> Cameras:
    """Cameras on a part of an ellipse about the middle of the room, which look across it."""
    height, width = size
    focal = width * _log_uniform(rng, kind.focal)
    view_angle = 2 * np.arctan(width / 2 / focal)
    step, jitter = SPACING * view_angle, min(JITTER, JITTER * view_angle)
    middle, half = (room.low + room.high) / 2, (room.high - room.low) / 2
    first, share = rng.uniform(-np.pi, np.pi), rng.uniform(0.45, 0.7)
    w2c = []
    for view in range(num_views):
        around = first + view * step
        center = middle + share * half * (np.cos(around), np.sin(around), 0) + (0, 0, rng.uniform(-0.2, 0.2) * half[2])
        ahead = middle - center
        azimuth = np.arctan2(ahead[1], ahead[0]) + rng.uniform(-jitter, jitter)
        pitch = rng.uniform(-jitter, jitter) - 0.1
        forward = np.array([np.cos(azimuth) * np.cos(pitch), np.sin(azimuth) * np.cos(pitch), np.sin(pitch)])
        w2c.append(look_at(center, center + forward, rng.uniform(-ROLL, ROLL)))
    center_x, center_y = width / 2 + rng.normal(0, 0.01 * width), height / 2 + rng.normal(0, 0.01 * height)
    intrinsics = np.array([[focal, 0.0, center_x], [0.0, focal, center_y], [0.0, 0.0, 1.0]])
    return Cameras(
        w2c=torch.from_numpy(np.stack(w2c)),
        intrinsics=torch.from_numpy(intrinsics).expand(num_views, 3, 3).clone(),
        height=height,
        width=width,
    )


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(*np.log(bounds))))
