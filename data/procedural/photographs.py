"""A photograph on an endless wall: any two pictures of it differ by a homography, with exact cameras and planar depth.

Rendered scenes have the statistics of their shader. A wall has those of the photographs inside scikit-image.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from data.procedural.motions import Lens, Stand
from data.procedural.scene import Item, Scene, random_lights
from data.procedural.shapes import Box
from data.procedural.textures import PhotoTexture, available_photos, photo_pyramid
from geometry import require

TILT = 35.0
"""Degrees between the normal of the wall and the mean direction to the cameras, at most. Chosen by hand."""
LEAST_HEIGHT = 0.25
"""Share of the distance looked at that every camera keeps from the plane; else the wall is not tilted."""
EXTENT = (0.7, 1.6)
"""Width of one copy of the photograph as a share of what a camera sees, log-uniform; mirrored copies surround it."""
_REACH = 30.0
"""Half side of the wall in distances looked at."""
_THICKNESS = 5.0


def photograph_wall(
    rng: np.random.Generator, stand: Stand, lens: Lens, centers: Float[np.ndarray, "camera 3"]
) -> Scene:
    """A wall through the point looked at that faces the cameras' `centers`, evenly lit (millimeters, table frame).

    Raises:
        InputError: for an installation of scikit-image without photographs.
    """
    photos = available_photos()
    require(len(photos) > 0, "--procedural_photos: expected the photographs inside scikit-image, got none")
    offsets = centers - stand.aim
    facing = _unit((offsets / np.linalg.norm(offsets, axis=1, keepdims=True)).sum(0))
    across = _unit(np.cross(facing, rng.standard_normal(3)))
    tilt = np.radians(rng.uniform(0, TILT))
    normal = np.cos(tilt) * facing + np.sin(tilt) * across
    if (offsets @ normal).min() < LEAST_HEIGHT * stand.depth:
        normal = facing
    first = _unit(np.cross(normal, rng.standard_normal(3)))
    name = photos[int(rng.integers(len(photos)))]
    width = 2 * stand.depth * lens.half_tangent * float(np.exp(rng.uniform(*np.log(EXTENT))))
    rows, columns = photo_pyramid(name)[0].shape[:2]
    middle = np.array([width, width * rows / columns]) / 2
    texture = PhotoTexture(
        name=name,
        mapping="planar",
        width=width,
        angle=float(rng.uniform(0, 2 * np.pi)),
        offset=middle * (1 + rng.uniform(-0.3, 0.3, 2)),
        tint=np.ones(3),
        radius=1.0,
    )
    side = _REACH * stand.depth
    wall = Item(
        shape=Box(np.array([side, side, _THICKNESS])),
        texture=texture,
        rotation=np.stack([first, np.cross(normal, first), normal]),
        center=stand.aim - _THICKNESS * normal,
        specular=0.0,
        shininess=1.0,
        casts_shadow=False,
    )
    lights = tuple(replace(light, ambient=1.0) for light in random_lights(rng))
    return Scene(items=(wall,), lights=lights)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
