"""Ray tracing of a `Scene`: exact camera-z depth at pixel centers, shaded and supersampled color.

Rays carry camera z = 1, so the ray parameter of a hit is its depth. A solid is tested only inside the window of the
image that its bounding sphere covers. Geometry is float64, color float32.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from data.procedural.scene import Item, Light, Scene
from geometry import Cameras

SUPERSAMPLING = 2
"""Rays along each side of a pixel, so 4 in all: fewer leave edges jagged, more take longer."""
SHADOW_OFFSET = 1e-3
"""Millimeters that a shadow ray starts above the surface, so that it does not hit that surface itself."""
LAMP_RADIUS = 0.035
"""Tangent of half the angle under which the lamp is seen (2 degrees): how soft shadows are. Chosen by hand."""
SHOULDER = 0.8
"""Intensity above which `_tone` bends the response; chosen by hand."""


class RenderedView(NamedTuple):
    """One photograph with its depth."""

    rgb: Float[np.ndarray, "height width 3"]
    """[0, 1]."""
    depth: Float[np.ndarray, "height width"]
    """Camera z at the pixel center, scene units, 0 where the ray meets nothing."""


@dataclass(frozen=True)
class _Rays:
    """Rays of one image: camera-frame direction (x[column], y[row], 1)."""

    origin: np.ndarray
    rotation: np.ndarray
    x: np.ndarray
    y: np.ndarray

    @classmethod
    def through(cls, camera: Cameras, offset_x: float, offset_y: float) -> "_Rays":
        """Rays through every pixel's corner plus the offset; (0.5, 0.5) is the center."""
        intrinsics, w2c = camera.intrinsics.double().numpy(), camera.w2c.double().numpy()
        return cls(
            origin=-w2c[:3, :3].T @ w2c[:3, 3],
            rotation=w2c[:3, :3],
            x=(np.arange(camera.width) + offset_x - intrinsics[0, 2]) / intrinsics[0, 0],
            y=(np.arange(camera.height) + offset_y - intrinsics[1, 2]) / intrinsics[1, 1],
        )

    def directions(self, rows: slice, columns: slice, into: np.ndarray) -> Float[np.ndarray, "3 row column"]:
        """Directions of a window, turned by `into` (world to local)."""
        turn = into @ self.rotation.T
        across = turn[:, 0, None, None] * self.x[None, None, columns]
        return across + (turn[:, 1, None, None] * self.y[None, rows, None] + turn[:, 2, None, None])

    def window(self, item: Item) -> tuple[slice, slice] | None:
        """Rows and columns whose rays may meet the item's bounding sphere; None when none can."""
        center = self.rotation @ (item.center - self.origin)
        radius = item.shape.bounding_radius
        if center[2] < -radius:
            return None
        ranges = []
        for along, grid in ((center[1], self.y), (center[0], self.x)):
            low, high = _tangents(float(along), float(center[2]), radius)
            first, last = np.searchsorted(grid, low, side="left"), np.searchsorted(grid, high, side="right")
            if first >= last:
                return None
            ranges.append(slice(int(first), int(last)))
        return ranges[0], ranges[1]


def _tangents(along: float, depth: float, radius: float) -> tuple[float, float]:
    """Least and greatest slope of lines from the origin that touch a disc at (along, depth)."""
    distance = float(np.hypot(along, depth))
    if distance <= radius:
        return -np.inf, np.inf
    middle, half = np.arctan2(along, depth), np.arcsin(radius / distance)
    low = -np.inf if middle - half <= -np.pi / 2 else float(np.tan(middle - half))
    high = np.inf if middle + half >= np.pi / 2 else float(np.tan(middle + half))
    return low, high


class _Hits(NamedTuple):
    t: Float[np.ndarray, "height width"]
    """Infinity where nothing is hit."""
    index: Int[np.ndarray, "height width"]
    """Which item; -1 for none."""


def render_view(scene: Scene, camera: Cameras, light: int = 3) -> RenderedView:
    """Photograph a scene with one camera (no batch axes, table frame, no skew) under one of its lights."""
    return render_lights(scene, camera, (light,))[0]


def render_lights(scene: Scene, camera: Cameras, lights: tuple[int, ...]) -> list[RenderedView]:
    """The same under several lights; every ray is traced once."""
    with np.errstate(all="ignore"):
        centers = _trace(scene, _Rays.through(camera, 0.5, 0.5))
        depth = np.where(np.isfinite(centers.t), centers.t, 0).astype(np.float32)
        total = np.zeros((len(lights), camera.height, camera.width, 3), dtype=np.float32)
        for step in range(SUPERSAMPLING**2):
            row, column = divmod(step, SUPERSAMPLING)
            rays = _Rays.through(camera, (column + 0.5) / SUPERSAMPLING, (row + 0.5) / SUPERSAMPLING)
            hits, pixel = _trace(scene, rays), float(rays.x[1] - rays.x[0])
            total += _shade(scene, rays, hits, [_lamp_point(scene.lights[k], step) for k in lights], pixel)
        rgb = total / np.float32(SUPERSAMPLING**2)
    return [RenderedView(one, depth) for one in rgb]


def _trace(scene: Scene, rays: _Rays) -> _Hits:
    t = np.full((len(rays.y), len(rays.x)), np.inf)
    index = np.full(t.shape, -1, dtype=np.int32)
    for number, item in enumerate(scene.items):
        window = rays.window(item)
        if window is None:
            continue
        origin = (item.rotation @ (rays.origin - item.center))[:, None, None]
        found = item.shape.intersect(origin, rays.directions(*window, into=item.rotation))
        is_closer = found < t[window]
        np.copyto(t[window], found, where=is_closer)
        np.copyto(index[window], number, where=is_closer)
    return _Hits(t, index)


def _lamp_point(light: Light, step: int) -> Light:
    """The light seen from one point of the lamp's disc: every subsample takes another, which softens shadows."""
    helper = np.array([0.0, 0.0, 1.0]) if abs(light.direction[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
    side = np.cross(light.direction, helper)
    side /= np.linalg.norm(side)
    angle = np.pi / 4 + step * np.pi / 2
    direction = light.direction + LAMP_RADIUS * (np.cos(angle) * side + np.sin(angle) * np.cross(light.direction, side))
    return Light(direction / np.linalg.norm(direction), light.color, light.ambient)


def _shade(scene: Scene, rays: _Rays, hits: _Hits, lights: list[Light], pixel: float) -> np.ndarray:
    """Colors (light, height, width, 3); `pixel` is the slope between neighboring rays."""
    flat_index = hits.index.reshape(-1)
    order = np.argsort(flat_index, kind="stable")
    bounds = np.searchsorted(flat_index[order], np.arange(len(scene.items) + 1))
    order, bounds = order[bounds[0] :], bounds - bounds[0]
    rows, columns = np.divmod(order, len(rays.x))
    steps = np.stack([rays.x[columns], rays.y[rows], np.ones(len(order))])
    steps = np.stack([(rays.rotation[:, k, None] * steps).sum(0) for k in range(3)])
    points = rays.origin[:, None] + hits.t.reshape(-1)[order] * steps
    albedo, normals = np.empty(points.shape, np.float32), np.empty(points.shape, np.float32)
    gloss, shininess = np.zeros(len(order), np.float32), np.ones(len(order), np.float32)
    for number, item in enumerate(scene.items):
        part = slice(bounds[number], bounds[number + 1])
        if part.start == part.stop:
            continue
        local = _turn(item.rotation, points[:, part] - item.center[:, None])
        local_normals = item.shape.normal(local)
        footprint = pixel * float(np.linalg.norm(item.center - rays.origin)) / SUPERSAMPLING
        albedo[:, part] = item.texture.color(
            local.astype(np.float32), local_normals.astype(np.float32), footprint=footprint
        )
        normals[:, part] = _turn(item.rotation.T, local_normals)
        gloss[part], shininess[part] = item.specular, item.shininess
    toward_eye = -(steps / np.sqrt((steps * steps).sum(0))).astype(np.float32)
    rgb = np.zeros((len(lights), flat_index.size, 3), dtype=np.float32)
    for number, light in enumerate(lights):
        lit = _lit(scene, points, normals, light.direction)
        color = _phong(albedo, normals, toward_eye, light, lit, gloss, shininess)
        rgb[number, order] = _tone(color * np.float32(scene.exposure)).T
    return rgb.reshape(len(lights), *hits.index.shape, 3)


def _turn(rotation: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """rotation @ vectors without BLAS, whose sums depend on its threads."""
    return np.stack([row[0] * vectors[0] + row[1] * vectors[1] + row[2] * vectors[2] for row in rotation])


def _phong(
    albedo: Float[np.ndarray, "3 point"],
    normals: Float[np.ndarray, "3 point"],
    toward_eye: Float[np.ndarray, "3 point"],
    light: Light,
    lit: Float[np.ndarray, " point"],
    gloss: Float[np.ndarray, " point"],
    shininess: Float[np.ndarray, " point"],
) -> Float[np.ndarray, "3 point"]:
    direction = light.direction.astype(np.float32)[:, None]
    cosine = (normals * direction).sum(0)
    diffuse = lit * np.maximum(cosine, 0)
    mirrored = np.maximum(((2 * cosine * normals - direction) * toward_eye).sum(0), 0)
    highlight = gloss * lit * (cosine > 0) * mirrored**shininess
    ambient = np.float32(light.ambient) * (np.float32(0.75) + np.float32(0.25) * normals[2])
    color = light.color.astype(np.float32)[:, None]
    return albedo * (ambient + np.float32(1 - light.ambient) * diffuse * color) + highlight * color


def _lit(
    scene: Scene, points: Float[np.ndarray, "3 point"], normals: Float[np.ndarray, "3 point"], direction: np.ndarray
) -> Float[np.ndarray, " point"]:
    """1 where the lamp is seen, 0 in shadow. Tests, per solid, only points in the cylinder its sphere shades."""
    lifted = points + SHADOW_OFFSET * normals
    lit = np.ones(points.shape[1], dtype=np.float32)
    helper = np.eye(3)[np.abs(direction).argmin()]
    side = np.cross(direction, helper)
    side /= np.linalg.norm(side)
    axes = np.stack([side, np.cross(direction, side), direction])
    u, v, w = _turn(axes, lifted)
    for item in scene.items:
        if not item.casts_shadow:
            continue
        radius, center = item.shape.bounding_radius, axes @ item.center
        is_near = ((u - center[0]) ** 2 + (v - center[1]) ** 2 < radius * radius) & (w < center[2] + radius)
        near = np.flatnonzero(is_near)
        if near.size:
            start = _turn(item.rotation, lifted[:, near] - item.center[:, None])
            is_blocked = np.isfinite(item.shape.intersect(start, (item.rotation @ direction)[:, None]))
            lit[near[is_blocked]] = 0
    return lit


def _tone(color: Float[np.ndarray, "3 point"]) -> Float[np.ndarray, "3 point"]:
    """Linear up to the shoulder, then bent so that highlights approach 1 without clipping."""
    room = np.float32(1 - SHOULDER)
    bent = 1 - room * np.exp(-(color - np.float32(SHOULDER)) / room)
    return np.clip(np.where(color > SHOULDER, bent, color), 0, 1)
