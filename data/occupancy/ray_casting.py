"""What a LiDAR and cameras see of a triangle mesh: exact ray casting, and shaded pictures with a depth buffer."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from data.occupancy.voxelize import covered_columns, expanded
from geometry.errors import require

_PAIRS = 1_000_000
"""Rays times triangles that are tested at once; more need memory, not time."""
_EDGE = 1e-9
"""Tolerance of barycentric coordinates, so that no ray slips between two triangles."""
LIGHT = np.array([0.35, 0.25, 0.9]) / np.linalg.norm([0.35, 0.25, 0.9])
"""Where the sun stands in pictures."""
SKY = np.array([0.62, 0.75, 0.9])


@dataclass(frozen=True)
class Lidar:
    """A scanner that turns about the vehicle's z axis."""

    beams: int = 32
    elevation: tuple[float, float] = (-60.0, 15.0)
    """Degrees of the lowest and the highest beam above the horizon; a drone's looks down further than a car's."""
    columns: int = 720
    """Per turn."""
    max_range: float = 120.0
    """Meters."""
    noise: float = 0.0
    """Standard deviation of the range, meters."""

    def __post_init__(self) -> None:
        """Refuse what cannot scan."""
        require(
            self.beams >= 1 and self.columns >= 4 and self.max_range > 0 and 0 <= self.noise < math.inf,
            f"--lidar_*: expected beams, columns and range above 0, got {self}",
        )
        low, high = self.elevation
        require(-90 < low <= high < 90, f"--lidar_elevation: expected degrees from -90 to 90, got {low} {high}")


def scan(
    triangles: Float[np.ndarray, "triangle 3 3"], lidar: Lidar, random: np.random.Generator | None = None
) -> Float[np.ndarray, "point 4"]:
    """x y z and intensity of each return, vehicle frame. Triangles are in the vehicle frame, too.

    Intensity is the cosine between ray and surface, in [0, 1]. Each beam is tested against the triangles over whose
    azimuth it passes (Moller and Trumbore 1997).
    """
    azimuth = 2 * math.pi * (np.arange(lidar.columns) + 0.5) / lidar.columns - math.pi
    elevation = np.radians(np.linspace(*lidar.elevation, lidar.beams))
    nearest = np.full((lidar.columns, lidar.beams), np.inf)
    cosine = np.zeros((lidar.columns, lidar.beams))
    flat = np.stack([np.cos(azimuth), np.sin(azimuth)], axis=-1)
    low, high = triangles.min(axis=1), triangles.max(axis=1)
    gap = np.linalg.norm(np.maximum(np.maximum(low, -high), 0), axis=-1)  # distance to the bounding box
    triangles = triangles[gap <= lidar.max_range]
    first, last = _azimuth_columns(triangles, lidar.columns)
    batch = max(1, _PAIRS // lidar.beams)
    triangle, column = expanded(first, last)
    for start in range(0, len(triangle), batch):
        some, at = triangle[start : start + batch], column[start : start + batch] % lidar.columns
        distance, across = _hits(triangles[some], flat[at], elevation)
        for beam in range(lidar.beams):
            closer = distance[:, beam] < nearest[at, beam]
            rows = np.flatnonzero(closer)
            rows = rows[np.argsort(-distance[rows, beam], kind="stable")]  # the nearest is written last
            nearest[at[rows], beam] = distance[rows, beam]
            cosine[at[rows], beam] = across[rows, beam]
    columns, beams = np.nonzero(nearest <= lidar.max_range)
    ranges = nearest[columns, beams]
    if lidar.noise > 0:
        random = np.random.default_rng(0) if random is None else random
        ranges = ranges + random.normal(0, lidar.noise, len(ranges))
    up, out = np.sin(elevation)[beams], np.cos(elevation)[beams]
    directions = np.concatenate([flat[columns] * out[:, None], up[:, None]], axis=-1)
    return np.concatenate([directions * ranges[:, None], cosine[columns, beams, None]], axis=-1)


def _azimuth_columns(triangles: np.ndarray, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last column whose beam can meet each triangle; numbers may exceed the turn and wrap around."""
    azimuth = np.arctan2(triangles[..., 1], triangles[..., 0])
    steps = (np.roll(azimuth, -1, axis=1) - azimuth + math.pi) % (2 * math.pi) - math.pi
    along = azimuth[:, :1] + np.concatenate([np.zeros((len(azimuth), 1)), np.cumsum(steps[:, :2], axis=1)], axis=1)
    scale = columns / (2 * math.pi)
    first = np.floor((along.min(axis=1) + math.pi) * scale - 0.5 - 1e-6).astype(np.int64)
    last = np.ceil((along.max(axis=1) + math.pi) * scale - 0.5 + 1e-6).astype(np.int64)
    # around the axis, or through it: every column
    around = np.abs(steps.sum(axis=1)) > 1e-6
    around |= (np.abs(steps) > math.pi - 1e-6).any(axis=1) | (last - first >= columns)
    return np.where(around, 0, first), np.where(around, columns - 1, last)


def _hits(
    triangles: Float[np.ndarray, "pair 3 3"], flat: Float[np.ndarray, "pair 2"], elevation: Float[np.ndarray, " beam"]
) -> tuple[Float[np.ndarray, "pair beam"], Float[np.ndarray, "pair beam"]]:
    """Distance along each beam of a column (infinite without a hit), and the cosine to the normal there.

    A ray from the origin meets the plane n.x = d at t = d / (n.r); the sides are tested by the planes through the
    origin and each edge, on one side of all three of which a ray inside lies.
    """
    a, b, c = triangles[:, 0], triangles[:, 1], triangles[:, 2]
    normal = np.cross(b - a, c - a)
    length = np.linalg.norm(normal, axis=-1)
    out, up = np.cos(elevation), np.sin(elevation)

    def along(vectors: np.ndarray) -> np.ndarray:
        """Dot product with all beams of the column."""
        return (vectors[:, :2] * flat).sum(-1)[:, None] * out + vectors[:, 2:] * up

    facing = along(normal)
    volume = (normal * a).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = volume[:, None] / facing
    sides = np.stack([along(np.cross(*pair)) for pair in ((a, b), (b, c), (c, a))])
    size = np.abs(sides).sum(axis=0) * _EDGE
    inside = (sides >= -size).all(axis=0) | (sides <= size).all(axis=0)
    hit = inside & np.isfinite(distance) & (distance > 1e-6)
    shade = np.abs(facing) / np.maximum(length, 1e-30)[:, None]
    return np.where(hit, distance, np.inf), np.where(hit, shade, 0.0)


# ---- pictures


@dataclass(frozen=True)
class PinholeCamera:
    """A level camera on the vehicle: looks along a heading of the body frame."""

    yaw: float
    """Radians from the vehicle's forward axis, counterclockwise."""
    height: int
    width: int
    field_of_view: float = math.radians(70.0)
    """Horizontal."""
    pitch: float = 0.0
    """Radians below the horizon."""

    def rotation(self) -> Float[np.ndarray, "3 3"]:
        """Body frame to camera frame (x right, y down, z forward)."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        down = math.sin(self.pitch)
        forward = np.array([cos * math.cos(self.pitch), sin * math.cos(self.pitch), -down])
        right = np.array([sin, -cos, 0.0])
        return np.stack([right, np.cross(forward, right), forward])


CAMERA_YAWS = {
    "FRONT": 0.0, "FRONT_LEFT": 55.0, "FRONT_RIGHT": -55.0, "BACK": 180.0, "BACK_LEFT": 110.0, "BACK_RIGHT": -110.0
}  # fmt: skip
"""Degrees, as on nuScenes' cars."""


def picture(
    triangles: Float[np.ndarray, "triangle 3 3"],
    colors: Float[np.ndarray, "triangle 3"],
    camera: PinholeCamera,
    *,
    near: float = 0.1,
) -> UInt8[np.ndarray, "height width 3"]:
    """A picture of triangles in the vehicle frame: each in its color, lit by a sun and the sky (Lambert)."""
    rotation = camera.rotation()
    clipped, owner = _clipped(triangles @ rotation.T, near)
    focal = camera.width / 2 / math.tan(camera.field_of_view / 2)
    inverse = 1 / clipped[..., 2]
    screen = np.stack(
        [clipped[..., 1] * inverse * focal + camera.height / 2, clipped[..., 0] * inverse * focal + camera.width / 2,
         inverse], axis=-1
    )  # fmt: skip
    hits = covered_columns(screen, (camera.height, camera.width))  # row, column, 1 / depth: linear on the screen
    place = hits.x * camera.width + hits.y
    order = np.argsort(hits.z, kind="stable")  # nearest last: it is what stays
    seen = np.full(camera.height * camera.width, -1, dtype=np.int64)
    seen[place[order]] = owner[hits.triangle[order]]
    normal = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-30)
    light = 0.45 + 0.55 * np.abs(normal @ LIGHT)
    shaded = np.concatenate([colors * light[:, None], SKY[None]])  # -1: the sky
    return (255 * np.clip(shaded[seen], 0, 1)).astype(np.uint8).reshape(camera.height, camera.width, 3)


def _clipped(
    triangles: Float[np.ndarray, "triangle 3 3"], near: float
) -> tuple[Float[np.ndarray, "piece 3 3"], Int[np.ndarray, " piece"]]:
    """What lies in front of the plane z = near, as triangles, and from which triangle each piece is."""
    inside = triangles[..., 2] > near
    count = inside.sum(axis=1)
    whole = np.flatnonzero(count == 3)
    pieces, owners = [triangles[whole]], [whole]
    for kept in (1, 2):
        cut = np.flatnonzero(count == kept)
        # the corner that differs from the two others comes first
        odd = np.argmax(inside[cut] == (kept == 1), axis=1)
        corners = triangles[cut[:, None], (odd[:, None] + np.arange(3)) % 3]
        share = (near - corners[:, :1, 2]) / (corners[:, 1:, 2] - corners[:, :1, 2])
        edge = corners[:, :1] + share[..., None] * (corners[:, 1:] - corners[:, :1])  # two points in the plane
        if kept == 1:
            pieces.append(np.concatenate([corners[:, :1], edge], axis=1))
            owners.append(cut)
        else:
            pieces.append(np.stack([edge[:, 0], corners[:, 1], corners[:, 2]], axis=1))
            pieces.append(np.stack([edge[:, 0], corners[:, 2], edge[:, 1]], axis=1))
            owners += [cut, cut]
    return np.concatenate(pieces), np.concatenate(owners)
