"""What a procedural scene is made of, and how one is drawn from a seed.

Table frame: millimeters, z up, table top at z = 0, cameras of the DTU rig on the +y side, a backdrop at -y.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from data.procedural.rigs import DTU_FAR, DTU_NEAR, dtu_rig
from data.procedural.shapes import Box, Ellipsoid, Frustum, Shape, Torus
from data.procedural.textures import NoiseTexture, PatternTexture, PhotoTexture, Texture, available_photos

NUM_LIGHTS = 7
"""As DTU has."""
DEPTH_MARGIN = 8.0
"""Millimeters that every solid's bounding sphere keeps from DTU's near and far; chosen by hand."""
# nominal (elevation and azimuth in degrees, strength) of DTU's lights 0..6; 3 is the one over the cameras
LIGHTS = ((50, -70, 0.8), (40, -35, 0.9), (65, 35, 0.85), (58, 15, 1.0), (35, 60, 0.9), (75, -120, 0.75), (28, 5, 1.0))


@dataclass(frozen=True)
class Item:
    """One solid with its material, placed in the table frame."""

    shape: Shape
    texture: Texture
    rotation: Float[np.ndarray, "3 3"]
    """Table frame to local."""
    center: Float[np.ndarray, "3"]
    specular: float
    shininess: float
    casts_shadow: bool

    @property
    def top(self) -> float:
        """Greatest z."""
        return float(self.center[2]) + self.shape.support(self.rotation[:, 2])


@dataclass(frozen=True)
class Light:
    """A distant lamp with a small disc, plus the light that comes from everywhere."""

    direction: Float[np.ndarray, "3"]
    """Unit, toward the lamp."""
    color: Float[np.ndarray, "3"]
    ambient: float


@dataclass(frozen=True)
class Scene:
    """Solids on a table; where a ray meets nothing the image is black and depth 0."""

    items: tuple[Item, ...]
    lights: tuple[Light, ...]
    exposure: float = 1.0
    """Factor on every color before the highlights are bent."""


def make_scene(seed: int | tuple[int, ...], *, has_backdrop: bool = True) -> Scene:
    """Draw a scene: table, perhaps a backdrop, 5 to 20 solids scattered or stacked, 7 lights.

    Without `has_backdrop` nothing stands behind the objects, so cameras may go all the way round. Within 425..905 mm
    camera z for every camera of `dtu_rig` in either case.
    """
    rng = np.random.default_rng(seed)
    furniture = [_table(rng)]
    if has_backdrop and rng.random() < 0.7:
        furniture.append(_backdrop(rng))
    objects: list[Item] = []
    wanted = int(rng.integers(5, 21))
    spread = rng.uniform(55, 95)
    for _ in range(40 * wanted):
        if len(objects) == wanted:
            break
        item = _propose(rng, objects, spread, crowd=wanted)
        if item is not None and _fits(item) and not _collides(item, objects):
            objects.append(item)
    return Scene(items=(*furniture, *objects), lights=random_lights(rng), exposure=float(rng.uniform(1.25, 1.5)))


def enlarged(item: Item, factor: float) -> Item:
    """The item `factor` times as large and as far from the middle of the table; its texture keeps its size."""
    return replace(item, shape=item.shape.enlarged(factor), center=factor * item.center)


def _table(rng: np.random.Generator) -> Item:
    """Round or rectangular; no larger than the depth range of the low cameras allows."""
    thickness = 8.0
    if rng.random() < 0.6:
        radius = rng.uniform(165, 205)
        shape: Shape = Frustum(bottom=radius, top=radius, half_height=thickness)
        back, yaw = rng.uniform(0, 30), 0.0
    else:
        half_x, half_y = rng.uniform(130, 150), rng.uniform(125, 140)
        shape, back, yaw = Box(np.array([half_x, half_y, thickness])), rng.uniform(25, 40), rng.uniform(-0.2, 0.2)
    mapping = "planar" if rng.random() < 0.5 else "box"
    texture = random_texture(rng, size=90.0, mapping=mapping)
    center = np.array([0.0, -back, -thickness])
    return Item(shape, texture, rotation_z(yaw), center, specular=0.0, shininess=1.0, casts_shadow=False)


def _backdrop(rng: np.random.Generator) -> Item:
    half = np.array([rng.uniform(160, 190), 4.0, rng.uniform(70, 130)])
    center = np.array([rng.uniform(-20, 20), -rng.uniform(165, 190), half[2] - 16.0])
    texture = random_texture(rng, size=90.0, mapping="box")
    return Item(Box(half), texture, rotation_z(0.0), center, specular=0.0, shininess=1.0, casts_shadow=False)


def _propose(rng: np.random.Generator, objects: list[Item], spread: float, crowd: int) -> Item | None:
    """A random solid resting on the table or on an upright one that is wide enough."""
    scale = 1.25 if crowd < 10 else 0.95
    shape = _shape(rng, size=scale * rng.uniform(14, 48))
    upright = rng.random() < 0.65
    rotation = rotation_z(rng.uniform(0, 2 * np.pi)) if upright else _random_rotation(rng)
    floor, spot = 0.0, rng.normal(0, spread, 2)
    if objects and rng.random() < 0.35:
        base = objects[int(rng.integers(len(objects)))]
        if not (isinstance(base.shape, Box | Frustum) and base.rotation[2, 2] > 0.999):
            return None
        floor, spot = base.top, base.center[:2] + rng.normal(0, 4, 2)
        if _reach(shape, rotation) > 1.4 * _reach(base.shape, base.rotation):
            return None
    center = np.array([spot[0], spot[1], floor + shape.support(-rotation[:, 2])])
    is_shiny = rng.random() < 0.4
    texture = random_texture(rng, size=shape.bounding_radius, mapping="spherical" if _is_round(shape) else "box")
    specular = float(rng.uniform(0.1, 0.4)) if is_shiny else 0.0
    return Item(shape, texture, rotation, center, specular, float(rng.uniform(8, 60)), casts_shadow=True)


def _is_round(shape: Shape) -> bool:
    return isinstance(shape, Ellipsoid)


def _shape(rng: np.random.Generator, size: float) -> Shape:
    kind = rng.choice(5, p=[0.24, 0.36, 0.18, 0.12, 0.10])
    if kind == 0:
        return Ellipsoid(np.full(3, size) if rng.random() < 0.5 else size * rng.uniform(0.6, 1.2, 3))
    if kind == 1:
        return Box(size * rng.uniform(0.45, 1.35, 3))
    if kind == 2:
        radius = size * rng.uniform(0.5, 0.9)
        return Frustum(bottom=radius, top=radius, half_height=size * rng.uniform(0.5, 1.3))
    if kind == 3:
        return Frustum(
            bottom=size * rng.uniform(0.7, 1.0),
            top=size * rng.uniform(0, 0.4),
            half_height=size * rng.uniform(0.7, 1.3),
        )
    return Torus(major=0.85 * size, minor=size * rng.uniform(0.2, 0.4))


@lru_cache(maxsize=1)
def _optical_axes() -> Float[np.ndarray, "view 4"]:
    """Row z of every world-to-camera matrix of the DTU rig."""
    return dtu_rig(512, 640).w2c[:, 2].numpy()


def _fits(item: Item) -> bool:
    """Over the table and inside the depth range of every camera of the DTU rig."""
    if np.hypot(item.center[0], item.center[1] + 20) > 125:
        return False
    axes = _optical_axes()
    depth = (axes[:, :3] * item.center).sum(1) + axes[:, 3]
    radius = item.shape.bounding_radius
    near, far = DTU_NEAR + DEPTH_MARGIN, DTU_FAR - DEPTH_MARGIN
    return bool((depth - radius).min() > near and (depth + radius).max() < far)


def _collides(item: Item, objects: list[Item]) -> bool:
    """Rough: solids of overlapping height whose footprints overlap by more than a fifth."""
    low = float(item.center[2]) - item.shape.support(-item.rotation[:, 2])
    reach = _reach(item.shape, item.rotation)
    for other in objects:
        other_low = float(other.center[2]) - other.shape.support(-other.rotation[:, 2])
        apart = float(np.linalg.norm(item.center[:2] - other.center[:2]))
        is_level = low < other.top - 1e-6 and other_low < item.top - 1e-6
        if is_level and apart < 0.8 * (reach + _reach(other.shape, other.rotation)):
            return True
    return False


def _reach(shape: Shape, rotation: np.ndarray) -> float:
    """Mean half width seen from above."""
    sides = (rotation[:, 0], rotation[:, 1], -rotation[:, 0], -rotation[:, 1])
    return float(np.mean([shape.support(side) for side in sides]))


def random_texture(rng: np.random.Generator, size: float, mapping: str) -> Texture:
    """Photograph, noise or pattern for a solid about `size` mm across; `mapping` as in `PhotoTexture`."""
    kind, photos = rng.random(), available_photos()
    if kind < 0.55 and photos:
        return PhotoTexture(
            name=photos[int(rng.integers(len(photos)))],
            mapping=mapping,
            width=float(np.clip(size * rng.uniform(1.2, 3.0), 35, 220)),
            angle=float(rng.uniform(0, 2 * np.pi)),
            offset=rng.uniform(0, 200, 2),
            tint=rng.uniform(0.75, 1.2, 3),
            radius=size,
        )
    if kind < 0.85:
        veins = float(rng.uniform(1.5, 4.0)) if rng.random() < 0.4 else 0.0
        return NoiseTexture(
            _palette(rng), cell=float(rng.uniform(0.7, 2.2)), veins=veins, offset=rng.uniform(0, 500, 3)
        )
    axes = _random_rotation(rng)[: int(rng.integers(1, 4))] / rng.uniform(6, 16)
    return PatternTexture(_palette(rng)[[0, 2]], axes=axes, offset=rng.uniform(0, 500, 3))


def _palette(rng: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    """Dark, middle and light color, each with its own hue."""
    levels = np.array([rng.uniform(0.14, 0.34), rng.uniform(0.35, 0.58), rng.uniform(0.55, 0.85)])
    hues = rng.uniform(0.6, 1.25, (3, 3)) + rng.uniform(0.1, 0.8, (3, 1))
    return np.clip(levels[:, None] * hues / hues.mean(1, keepdims=True), 0.03, 1.0)


def random_lights(rng: np.random.Generator) -> tuple[Light, ...]:
    """DTU's seven, each a little off its nominal place."""
    ambient = float(rng.uniform(0.32, 0.45))
    lights = []
    for elevation, azimuth, strength in LIGHTS:
        up, around = np.radians(elevation + rng.uniform(-8, 8)), np.radians(azimuth + rng.uniform(-15, 15))
        direction = np.array([-np.cos(up) * np.sin(around), np.cos(up) * np.cos(around), np.sin(up)])
        color = strength * (1 + rng.uniform(-0.06, 0.06, 3))
        lights.append(Light(direction=direction, color=color, ambient=ambient))
    return tuple(lights)


def rotation_z(angle: float) -> Float[np.ndarray, "3 3"]:
    """Coordinates after the axes have turned by `angle` (radians) about z."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])


def _random_rotation(rng: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    w, x, y, z = (quaternion := rng.standard_normal(4)) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
