"""Worlds of boxes and ramps on flat ground that a vehicle passes: exact occupancy in a few milliseconds a frame.

During the history the vehicle flies with constant turn and speed; from the first future frame on it follows a commanded
maneuver that the history does not reveal. Everything stands on the ground, so a grid is one height per column.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float

from data.occupancy.types import AERIAL, OccupancyBatch, WindowSource
from data.seeds import derived_seed
from geometry import require
from geometry.body_poses import relative_to
from geometry.voxels import EgoGrid, GridFrame, VoxelGrid

SMALL_SPACE = EgoGrid(VoxelGrid((-16, -16, -2), (16, 16, 14), (1, 1, 1)), GridFrame("yaw", "vehicle"))
"""32 x 32 x 16 voxels of 1 m, level, around the vehicle."""
_HELD_OUT = 47
"""Keeps seeds of held-out worlds apart from those of training; the number itself is arbitrary."""
_CLEARANCE = 1.0
"""Solids keep so far from the vehicle's path, meters in the plane."""
_RAMP_AXIS = 0
"""Ramps rise along their own x."""


@dataclass(frozen=True)
class WorldSpec:
    """What worlds look like; meters and steps of the recording (one frame to the next)."""

    space: EgoGrid = SMALL_SPACE
    history: int = 3
    future: int = 4
    period: float = 0.5
    """Seconds of a step, for velocities."""
    extent: float = 90.0
    """Side of the square in which solids stand."""
    solids: tuple[int, int] = (30, 55)
    """Least and most standing ones."""
    half_sizes: tuple[float, float] = (1.2, 4.0)
    heights: tuple[float, float] = (1.5, 10.0)
    ramps: float = 0.25
    """Share of them."""
    movers: int = 3
    """Moving boxes."""
    mover_speed: float = 1.8
    """At most, per step."""
    speed: tuple[float, float] = (0.8, 2.2)
    """Of the vehicle, per step."""
    history_turn: float = 0.1
    """At most, radians per step, during the history."""
    turn: tuple[float, float] = (0.1, 0.22)
    """Radians per step of a commanded turn."""
    climb: float = 0.7
    """Per step of a commanded climb or descent."""
    altitude: tuple[float, float] = (0.4, 2.4)
    """Of the vehicle during the history."""


class Solids(NamedTuple):
    """Boxes and ramps, one row each. A ramp rises along its own x from 0 to its height."""

    centers: Float[np.ndarray, "solid 2"]
    half_sizes: Float[np.ndarray, "solid 2"]
    yaws: Float[np.ndarray, " solid"]
    heights: Float[np.ndarray, " solid"]
    is_ramp: Bool[np.ndarray, " solid"]
    velocities: Float[np.ndarray, "solid 2"]
    """Meters per step; 0 of what stands."""

    def local(self, points: Float[np.ndarray, "point 2"], step: int) -> Float[np.ndarray, "2 solid point"]:
        """Ground points in the frame of each solid, x first."""
        offset = points - (self.centers + step * self.velocities)[:, None]
        cos, sin = np.cos(self.yaws)[:, None], np.sin(self.yaws)[:, None]
        return np.stack([cos * offset[..., 0] + sin * offset[..., 1], cos * offset[..., 1] - sin * offset[..., 0]])

    def height(self, points: Float[np.ndarray, "point 2"], step: int) -> Float[np.ndarray, " point"]:
        """World z of the highest top above each ground point; 0 where nothing stands."""
        if len(self.yaws) == 0:
            return np.zeros(len(points))
        local = self.local(points, step)
        half = self.half_sizes.T[:, :, None]
        share = np.where(self.is_ramp[:, None], (local[_RAMP_AXIS] / half[_RAMP_AXIS] + 1) / 2, 1.0)
        inside = (np.abs(local) <= half).all(axis=0)
        return np.where(inside, share * self.heights[:, None], 0.0).max(axis=0)

    def near(self, path: Float[np.ndarray, "step 2"], clearance: float) -> Bool[np.ndarray, " solid"]:
        """Which solids come closer than that to the vehicle, whose place at each step is a row of `path`."""
        found = np.zeros(len(self.yaws), dtype=bool)
        for step, place in enumerate(path):
            local = self.local(place[None], step)[..., 0]
            found |= (np.abs(local) <= self.half_sizes.T + clearance).all(axis=0)
        return found

    def kept(self, chosen: Bool[np.ndarray, " solid"]) -> "Solids":
        """Only those."""
        return Solids(*(values[chosen] for values in self))


@dataclass(frozen=True)
class World:
    """Solids, and the vehicle's poses at H + F steps."""

    standing: Solids
    moving: Solids
    poses: torch.Tensor
    """frame 13, float64."""

    def occupancy(self, space: EgoGrid, step: int) -> tuple[Bool[np.ndarray, "x y z"], Bool[np.ndarray, "x y z"]]:
        """Voxels whose center lies in a solid or in the ground (below 0), and those of them in a moving solid.

        Raises:
            InputError: for a grid that tilts: its columns are not the world's.
        """
        orientation = space.frame.orientation
        require(orientation == "yaw", f"--orientation: expected yaw for procedural worlds, got {orientation}")
        centers = space.grid.centers(dtype=torch.float64)
        grid2world = space.frame.grid2world(self.poses[step])
        columns = centers[:, :, 0, :2].flatten(0, 1) @ grid2world[:2, :2].T + grid2world[:2, 3]
        heights = (centers[0, 0, :, 2] + grid2world[2, 3]).numpy()
        shape = space.grid.size[:2]
        moving = self.moving.height(columns.numpy(), step).reshape(shape)[..., None]
        standing = self.standing.height(columns.numpy(), 0).reshape(shape)[..., None]
        in_moving = (heights < moving) & (heights >= 0)
        return (heights < standing) | (heights < 0) | in_moving, in_moving


def make_world(seed: int, spec: WorldSpec, frames: int | None = None) -> World:
    """The world of that seed. `frames`: length of the trajectory; default H + F.

    A longer one follows a new maneuver every F frames.
    """
    random = np.random.default_rng(seed)
    poses = _trajectory(random, spec, spec.history + spec.future if frames is None else frames)
    path = poses[:, :2].numpy()
    standing = _standing(random, spec)
    moving = _moving(random, spec, path)
    return World(standing.kept(~standing.near(path, _CLEARANCE)), moving.kept(~moving.near(path, _CLEARANCE)), poses)


def _trajectory(random: np.random.Generator, spec: WorldSpec, frames: int) -> torch.Tensor:
    """Poses of all frames. Velocities are those of the step that led into a frame, so they do not tell the next."""
    speed = random.uniform(*spec.speed)
    yaw = random.uniform(-math.pi, math.pi)
    place = np.array([*random.uniform(-8, 8, size=2), random.uniform(*spec.altitude)])
    turn, climb = random.uniform(-spec.history_turn, spec.history_turn), 0.0
    poses = []
    for frame in range(frames):
        if frame >= spec.history and (frame - spec.history) % spec.future == 0:
            turn = random.uniform(*spec.turn) * random.integers(-1, 2)
            climb = spec.climb * random.integers(-1, 2)
            climb = abs(climb) if place[2] + spec.future * climb < 0.3 else climb  # not into the ground
        if frame > 0:
            yaw += turn
        step = np.array([speed * math.cos(yaw), speed * math.sin(yaw), climb])
        if frame > 0:
            place = place + step
        quaternion = [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)]
        poses.append([*place, *quaternion, *(step / spec.period), 0.0, 0.0, turn / spec.period])
    return torch.tensor(poses, dtype=torch.float64)


def _standing(random: np.random.Generator, spec: WorldSpec) -> Solids:
    count = int(random.integers(spec.solids[0], spec.solids[1] + 1))
    return Solids(
        centers=random.uniform(-spec.extent / 2, spec.extent / 2, size=(count, 2)),
        half_sizes=random.uniform(*spec.half_sizes, size=(count, 2)),
        yaws=random.uniform(-math.pi, math.pi, size=count),
        heights=random.uniform(*spec.heights, size=count),
        is_ramp=random.random(count) < spec.ramps,
        velocities=np.zeros((count, 2)),
    )


def _moving(random: np.random.Generator, spec: WorldSpec, path: np.ndarray) -> Solids:
    """Boxes that drive straight ahead and pass the middle of the path at up to 12 m."""
    count = spec.movers
    yaws = random.uniform(-math.pi, math.pi, size=count)
    speeds = random.uniform(0.3 * spec.mover_speed, spec.mover_speed, size=count)
    velocities = speeds[:, None] * np.stack([np.cos(yaws), np.sin(yaws)], axis=-1)
    middle = path[len(path) // 2] + random.uniform(-12, 12, size=(count, 2))
    return Solids(
        centers=middle - velocities * (len(path) // 2),
        half_sizes=random.uniform([1.2, 0.8], [2.5, 1.5], size=(count, 2)),
        yaws=yaws,
        heights=random.uniform(1.5, 3.5, size=count),
        is_ramp=np.zeros(count, dtype=bool),
        velocities=velocities,
    )


class ProceduralWorlds(WindowSource):
    """Worlds as a data set: item i is world i, the same on every machine."""

    def __init__(self, spec: WorldSpec, count: int, *, seed: int = 0, is_held_out: bool = False) -> None:
        """`is_held_out`: worlds on which no run trains, whatever its seed; the same for every run with this `seed`."""
        self.spec = spec
        self.space = spec.space
        self.count = count
        self.stream = (_HELD_OUT, seed) if is_held_out else (seed,)

    def __len__(self) -> int:
        return self.count

    def world(self, item: int) -> World:
        """The world behind an item."""
        return make_world(derived_seed(*self.stream, item), self.spec)

    def __getitem__(self, item: int) -> OccupancyBatch:
        if not 0 <= item < self.count:
            raise IndexError(item)
        world, spec = self.world(item), self.spec
        grids = [world.occupancy(spec.space, step) for step in range(spec.history + spec.future)]
        occupied = torch.from_numpy(np.stack([grid for grid, _ in grids]).astype(np.uint8))
        history, future = world.poses[: spec.history], world.poses[spec.history :]
        return OccupancyBatch(
            history=occupied[: spec.history],
            future=occupied[spec.history :],
            history_poses=history,
            future_poses=future,
            agent=torch.tensor(AERIAL),
            ground_height=torch.tensor(0.0),
            frames=torch.arange(spec.history + spec.future),
            seeds=torch.tensor(derived_seed(*self.stream, item)),
            sessions=(f"world_{'_'.join(map(str, self.stream))}_{item:06d}",),
            commands=relative_to(history[-1:], future),
            moving=torch.from_numpy(np.stack([moving for _, moving in grids[spec.history :]])),
        )


def solid_mesh(solids: Solids, step: int) -> tuple[Float[np.ndarray, "vertex 3"], np.ndarray]:
    """Closed triangle meshes of solids at a step: vertices, and faces (N,3) with outward normals.

    A ramp is a prism of six corners; its low edge is doubled, so that all have the box's twelve triangles.
    """
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    cos, sin = np.cos(solids.yaws), np.sin(solids.yaws)
    offset = corners[None] * solids.half_sizes[:, None]  # solid corner 2
    centers = solids.centers + step * solids.velocities
    x = centers[:, None, 0] + cos[:, None] * offset[..., 0] - sin[:, None] * offset[..., 1]
    y = centers[:, None, 1] + sin[:, None] * offset[..., 0] + cos[:, None] * offset[..., 1]
    falls = solids.is_ramp[:, None] & (corners[None, :, _RAMP_AXIS] < 0)
    top = np.where(falls, 0.0, solids.heights[:, None])
    vertices = np.stack([np.stack([x, y, np.zeros_like(x)], -1), np.stack([x, y, top], -1)], axis=1)
    faces = np.array(
        [[0, 2, 1], [0, 3, 2], [4, 5, 6], [4, 6, 7]]
        + [face for a, b in ((0, 1), (1, 2), (2, 3), (3, 0)) for face in ([a, b, b + 4], [a, b + 4, a + 4])]
    )
    count = len(solids.yaws)
    return vertices.reshape(-1, 3), (faces[None] + 8 * np.arange(count)[:, None, None]).reshape(-1, 3)
