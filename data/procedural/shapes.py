"""Closed solids in their own frame (millimeters): first hit of a ray, outward normal, support function.

Points and directions come as arrays (3, ...); origins and directions broadcast against each other, so the same code
serves camera rays (one origin) and shadow rays (one direction). Everything here is float64: depth is exact.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

TINY = 1e-200  # stands for 0 where 0 * infinity would be NaN
TORUS_STEPS = 80
"""Most steps of sphere tracing; a grazing ray needs many. A ray that has not converged misses."""
TORUS_MARCH_TOLERANCE = 1e-4
"""Millimeters from the surface at which sphere tracing stops; Newton's three steps do the rest."""
TORUS_TOLERANCE = 2e-6
"""Millimeters from the surface at which a ray counts as a hit."""


@runtime_checkable
class Shape(Protocol):
    """What the tracer needs of a solid."""

    def intersect(
        self, origin: Float[np.ndarray, "3 *#ray"], direction: Float[np.ndarray, "3 *#ray"]
    ) -> Float[np.ndarray, "*ray"]:
        """Ray parameter of the first hit for rays that start outside, infinity for a miss."""

    def normal(self, point: Float[np.ndarray, "3 point"]) -> Float[np.ndarray, "3 point"]:
        """Outward unit normal at surface points."""

    def support(self, direction: Float[np.ndarray, "3"]) -> float:
        """How far the solid reaches along a unit direction."""

    def enlarged(self, factor: float) -> "Shape":
        """The same solid `factor` times as large."""

    @property
    def bounding_radius(self) -> float:
        """Radius of a sphere about the local origin that holds the solid."""


def _dot(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return first[0] * second[0] + first[1] * second[1] + first[2] * second[2]


def _column(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    return values.reshape((3,) + (1,) * (like.ndim - 1))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.sqrt(_dot(vectors, vectors))


@dataclass(frozen=True)
class Ellipsoid:
    """x^2 / a^2 + y^2 / b^2 + z^2 / c^2 = 1; a sphere when the radii are equal."""

    radii: Float[np.ndarray, "3"]

    def intersect(
        self, origin: Float[np.ndarray, "3 *#ray"], direction: Float[np.ndarray, "3 *#ray"]
    ) -> Float[np.ndarray, "*ray"]:
        start, step = origin / _column(self.radii, origin), direction / _column(self.radii, direction)
        a, b, c = _dot(step, step), _dot(start, step), _dot(start, start) - 1
        discriminant = b * b - a * c
        t = (-b - np.sqrt(np.maximum(discriminant, 0))) / a
        return np.where((discriminant > 0) & (t > 0), t, np.inf)

    def normal(self, point: Float[np.ndarray, "3 point"]) -> Float[np.ndarray, "3 point"]:
        return _unit(point / _column(self.radii**2, point))

    def support(self, direction: Float[np.ndarray, "3"]) -> float:
        return float(np.linalg.norm(self.radii * direction))

    def enlarged(self, factor: float) -> "Ellipsoid":
        return Ellipsoid(factor * self.radii)

    @property
    def bounding_radius(self) -> float:
        return float(self.radii.max())


@dataclass(frozen=True)
class Box:
    """|x| <= a, |y| <= b, |z| <= c."""

    half: Float[np.ndarray, "3"]

    def intersect(
        self, origin: Float[np.ndarray, "3 *#ray"], direction: Float[np.ndarray, "3 *#ray"]
    ) -> Float[np.ndarray, "*ray"]:
        enter, leave = -np.inf, np.inf
        for axis in range(3):
            inverse = 1 / np.where(direction[axis] == 0, TINY, direction[axis])
            middle, reach = -origin[axis] * inverse, np.abs(inverse) * self.half[axis]
            enter, leave = np.maximum(enter, middle - reach), np.minimum(leave, middle + reach)
        return np.where((enter < leave) & (enter > 0), enter, np.inf)

    def normal(self, point: Float[np.ndarray, "3 point"]) -> Float[np.ndarray, "3 point"]:
        axis = np.abs(point / _column(self.half, point)).argmax(axis=0)[None]
        normal = np.zeros_like(point)
        np.put_along_axis(normal, axis, np.sign(np.take_along_axis(point, axis, axis=0)), axis=0)
        return normal

    def support(self, direction: Float[np.ndarray, "3"]) -> float:
        return float(self.half @ np.abs(direction))

    def enlarged(self, factor: float) -> "Box":
        return Box(factor * self.half)

    @property
    def bounding_radius(self) -> float:
        return float(np.linalg.norm(self.half))


@dataclass(frozen=True)
class Frustum:
    """Round solid about z from z = -half_height to half_height: cylinder (equal radii), cone (top 0) or between."""

    bottom: float
    top: float
    half_height: float

    @property
    def _middle_and_slope(self) -> tuple[float, float]:
        return (self.bottom + self.top) / 2, (self.top - self.bottom) / (2 * self.half_height)

    def intersect(
        self, origin: Float[np.ndarray, "3 *#ray"], direction: Float[np.ndarray, "3 *#ray"]
    ) -> Float[np.ndarray, "*ray"]:
        middle, slope = self._middle_and_slope
        (x, y, z), (u, v, w) = origin, direction
        radius = middle + slope * z
        a = u * u + v * v - slope * slope * w * w
        b = x * u + y * v - slope * w * radius
        c = x * x + y * y - radius * radius
        discriminant = b * b - a * c
        root = np.sqrt(np.where(discriminant > 0, discriminant, np.nan))
        best = np.inf
        for t in ((-b - root) / a, (-b + root) / a):
            best = np.minimum(best, np.where((t > 0) & (np.abs(z + t * w) <= self.half_height), t, np.inf))
        for height, cap in ((-self.half_height, self.bottom), (self.half_height, self.top)):
            t = (height - z) / w
            inside = (x + t * u) ** 2 + (y + t * v) ** 2 <= cap * cap
            best = np.minimum(best, np.where((t > 0) & inside, t, np.inf))
        return best

    def normal(self, point: Float[np.ndarray, "3 point"]) -> Float[np.ndarray, "3 point"]:
        middle, slope = self._middle_and_slope
        x, y, z = point
        side = np.stack([x, y, -slope * (middle + slope * z)])
        caps = np.stack([np.zeros_like(z), np.zeros_like(z), np.sign(z)])
        return _unit(np.where(np.abs(np.abs(z) - self.half_height) < 1e-7, caps, side))

    def support(self, direction: Float[np.ndarray, "3"]) -> float:
        flat, upright = float(np.hypot(direction[0], direction[1])), float(direction[2]) * self.half_height
        return max(self.bottom * flat - upright, self.top * flat + upright)

    def enlarged(self, factor: float) -> "Frustum":
        return Frustum(factor * self.bottom, factor * self.top, factor * self.half_height)

    @property
    def bounding_radius(self) -> float:
        return float(np.hypot(max(self.bottom, self.top), self.half_height))


@dataclass(frozen=True)
class Torus:
    """Ring about z; sphere tracing followed by Newton steps on the distance along the ray."""

    major: float
    minor: float

    def _distance(self, point: np.ndarray) -> np.ndarray:
        x, y, z = point
        across = np.sqrt(x * x + y * y) - self.major  # np.hypot takes five times as long
        return np.sqrt(across * across + z * z) - self.minor

    def intersect(
        self, origin: Float[np.ndarray, "3 *#ray"], direction: Float[np.ndarray, "3 *#ray"]
    ) -> Float[np.ndarray, "*ray"]:
        origin, direction = np.broadcast_arrays(origin, direction)
        shape = origin.shape[1:]
        origin, direction = origin.reshape(3, -1), direction.reshape(3, -1)
        a, b = _dot(direction, direction), _dot(origin, direction)
        discriminant = b * b - a * (_dot(origin, origin) - self.bounding_radius**2)
        root = np.sqrt(np.maximum(discriminant, 0))
        inverse = 1 / np.where(direction[2] == 0, TINY, direction[2])
        middle, reach = -origin[2] * inverse, np.abs(inverse) * self.minor
        t = np.maximum(np.maximum((-b - root) / a, middle - reach), 0)
        leave = np.minimum((-b + root) / a, middle + reach)
        candidates = np.flatnonzero((discriminant > 0) & (leave > t))
        live = candidates
        for _ in range(TORUS_STEPS):
            if live.size == 0:
                break
            distance = self._distance(origin[:, live] + t[live] * direction[:, live])
            t[live] += distance / np.sqrt(a[live])
            live = live[(distance > TORUS_MARCH_TOLERANCE) & (t[live] < leave[live])]
        start, step, t = origin[:, candidates], direction[:, candidates], t[candidates]
        for _ in range(3):
            point = start + t * step
            rate = _dot(self.normal(point), step)
            is_steep = rate < -1e-3 * np.sqrt(a[candidates])
            t = t - np.where(is_steep & (self._distance(point) < 1e-2), self._distance(point) / rate, 0)
        is_hit = (np.abs(self._distance(start + t * step)) < TORUS_TOLERANCE) & (t > 0)
        result = np.full(a.shape, np.inf)
        result[candidates[is_hit]] = t[is_hit]
        return result.reshape(shape)

    def normal(self, point: Float[np.ndarray, "3 point"]) -> Float[np.ndarray, "3 point"]:
        shrink = 1 - self.major / np.hypot(point[0], point[1])
        return _unit(np.stack([point[0] * shrink, point[1] * shrink, point[2]]))

    def support(self, direction: Float[np.ndarray, "3"]) -> float:
        return self.major * float(np.hypot(direction[0], direction[1])) + self.minor

    def enlarged(self, factor: float) -> "Torus":
        return Torus(factor * self.major, factor * self.minor)

    @property
    def bounding_radius(self) -> float:
        return self.major + self.minor
