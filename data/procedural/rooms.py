"""Rooms seen from inside: textured walls, things on the floor, panels on the walls (table frame, millimeters).

The tracer knows solids, so a room is made of thick slabs whose inner faces enclose it. Lengths are those of a
scale model, as everything here; textures are as large as the walls.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from data.procedural.motions import Lens, Stand
from data.procedural.scene import Item, Scene, enlarged, random_texture, rotation_z
from data.procedural.shapes import Box
from data.procedural.textures import NoiseTexture, PatternTexture, PhotoTexture, Texture

THICKNESS = 10.0
"""Half thickness of walls in millimeters; chosen by hand, as all that follows."""
HALF_SIDES, HEIGHT = (220.0, 700.0), (180.0, 500.0)
"""Millimeters of a room to stand in: half length and half width, height."""
PANELS, FURNITURE = (2, 8), (1, 6)
"""Pictures and shelves on the walls, cupboards and tables on the floor: fewest and most."""
MARGIN = 30.0
"""Millimeters that cameras keep from the walls."""
AMBIENT = (0.45, 0.8)
"""Share of light from everywhere: the lamps of a scene are outside."""


@dataclass(frozen=True)
class Room:
    """The inside of an upright box."""

    low: Float[np.ndarray, "3"]
    high: Float[np.ndarray, "3"]

    def walls(self, rng: np.random.Generator, *, has_ceiling: bool = True) -> list[Item]:
        """Floor, four walls and the ceiling, each with a texture of its own or all walls with one."""
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        shared = _large_texture(rng, float(half[:2].mean())) if rng.random() < 0.3 else None
        items = []
        for axis in (2, 0, 1):
            for side in (-1.0, 1.0):
                if axis == 2 and side > 0 and not has_ceiling:
                    continue
                center, size = middle.copy(), half + 2 * THICKNESS
                center[axis] += side * (half[axis] + THICKNESS)
                size[axis] = THICKNESS
                texture = shared if shared is not None and axis != 2 else _large_texture(rng, float(half.max()))
                items.append(_plain(Box(size), texture, center))
        return items

    def panels(self, rng: np.random.Generator) -> list[Item]:
        """Boxes against the walls."""
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        items = []
        for _ in range(int(rng.integers(PANELS[0], PANELS[1] + 1))):
            axis, side = int(rng.integers(2)), rng.choice([-1.0, 1.0])
            size = np.array([0.0, 0.0, half[2] * rng.uniform(0.12, 0.5)])
            size[1 - axis] = half[1 - axis] * rng.uniform(0.08, 0.35)
            size[axis] = rng.uniform(1, 6) if rng.random() < 0.5 else rng.uniform(0.03, 0.15) * half[axis]
            center = middle + rng.uniform(-0.8, 0.8, 3) * (half - size)
            center[axis] = middle[axis] + side * (half[axis] - size[axis])
            panel = _plain(Box(size), _large_texture(rng, float(size.max())), center)
            items.append(replace(panel, casts_shadow=True))
        return items

    def furniture(self, rng: np.random.Generator) -> list[Item]:
        """Upright boxes on the floor, turned any way."""
        half = (self.high - self.low) / 2
        items = []
        for _ in range(int(rng.integers(FURNITURE[0], FURNITURE[1] + 1))):
            size = half * rng.uniform(0.06, (0.25, 0.25, 0.7))
            spot = (self.low + half)[:2] + rng.uniform(-0.85, 0.85, 2) * half[:2]
            box = _plain(Box(size), _large_texture(rng, float(size.max())), np.array([*spot, self.low[2] + size[2]]))
            items.append(replace(box, rotation=rotation_z(rng.uniform(0, np.pi)), casts_shadow=True))
        return items

    def stand(self, rng: np.random.Generator, lens: Lens) -> Stand:
        """Somewhere in it, looking at a wall that is not too near."""
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        azimuth, pitch = rng.uniform(-np.pi, np.pi), np.radians(rng.normal(-6, 12))
        forward = np.array([np.cos(azimuth) * np.cos(pitch), np.sin(azimuth) * np.cos(pitch), np.sin(pitch)])
        center = middle + rng.uniform(-0.6, 0.6, 3) * half - 0.3 * half * np.sign(forward) * (1, 1, 0)
        ahead = np.where(forward > 0, self.high - center, center - self.low) / np.maximum(np.abs(forward), 1e-6)
        return Stand(center, center + forward * ahead.min() * rng.uniform(0.6, 1.0))


def random_room(rng: np.random.Generator) -> Room:
    """A room to stand in, its floor at z = 0."""
    half_x, half_y = rng.uniform(*HALF_SIDES, 2)
    return Room(np.array([-half_x, -half_y, 0.0]), np.array([half_x, half_y, rng.uniform(*HEIGHT)]))


def room_around(rng: np.random.Generator, centers: Float[np.ndarray, "camera 3"]) -> Room:
    """A room that holds a table with all its cameras; its floor is below the table."""
    reach = np.maximum(np.abs(centers).max(0), 200.0) * rng.uniform(1.15, 2.0, 3)
    return Room(np.array([-reach[0], -reach[1], -rng.uniform(17, 150)]), reach)


def furnished(rng: np.random.Generator, scene: Scene, room: Room) -> Scene:
    """The room with the solids of a scene scattered over its floor, under light that comes mostly from everywhere.

    What is too high for the room ends in its ceiling.
    """
    objects = []
    for item in scene.items[1:]:
        grown = enlarged(item, rng.uniform(0.8, 2.6))
        reach = np.maximum((room.high - room.low)[:2] / 2 - grown.shape.bounding_radius, 0.0)
        spot = rng.uniform(-1, 1, 2) * reach
        texture = magnified(grown.texture, rng.uniform(1.0, 2.5))
        objects.append(replace(grown, center=np.array([*spot, grown.center[2]]), texture=texture))
    lights = tuple(replace(light, ambient=float(rng.uniform(*AMBIENT))) for light in scene.lights)
    return replace(scene, items=(*room.walls(rng), *room.panels(rng), *room.furniture(rng), *objects), lights=lights)


def magnified(texture: Texture, factor: float) -> Texture:
    """The same texture `factor` times as large."""
    if isinstance(texture, PhotoTexture):
        return replace(texture, width=texture.width * factor)
    if isinstance(texture, NoiseTexture):
        return replace(texture, cell=texture.cell * factor)
    if isinstance(texture, PatternTexture):
        return replace(texture, axes=texture.axes / factor)
    raise TypeError(f"expected a texture of data/procedural/textures.py, got {type(texture).__name__}")


def clear_of(scene: Scene, centers: Float[np.ndarray, "camera 3"], distance: float) -> Scene:
    """Without the solids that cast shadows (not walls and tables) that are nearer to a camera than this, mm."""
    kept = [
        item
        for item in scene.items
        if not item.casts_shadow or min(_clearance(item, center) for center in centers) >= distance
    ]
    return replace(scene, items=tuple(kept))


def _clearance(item: Item, point: np.ndarray) -> float:
    """Distance to a box, to the bounding sphere of any other solid; 0 or less inside."""
    local = item.rotation @ (point - item.center)
    if isinstance(item.shape, Box):
        return float(np.linalg.norm(np.maximum(np.abs(local) - item.shape.half, 0.0)))
    return float(np.linalg.norm(local)) - item.shape.bounding_radius


def _large_texture(rng: np.random.Generator, half_side: float) -> Texture:
    """For a wall: detail about as large in the picture as that of solids on a table."""
    texture = random_texture(rng, size=90.0, mapping="box")
    return magnified(texture, max(0.5, half_side / 150) * rng.uniform(0.6, 1.6))


def _plain(shape: Box, texture: Texture, center: np.ndarray) -> Item:
    return Item(shape, texture, rotation_z(0.0), center, specular=0.0, shininess=1.0, casts_shadow=False)
