"""Recording sessions: exact grids, sweeps and pictures along a path through meshes, or grids of measured points."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from data.occupancy.mesh_scene import Scene
from data.occupancy.points import Carving, Sweep, occupied_and_seen
from data.occupancy.procedural_world import World, WorldSpec, solid_mesh
from data.occupancy.ray_casting import CAMERA_YAWS, Lidar, PinholeCamera, picture, scan
from data.occupancy.sessions import SessionInfo, SessionWriter
from data.occupancy.voxelize import prepared, voxelized
from data.problems import counted
from geometry.body_poses import body2world
from geometry.errors import require
from geometry.voxels import EgoGrid


@dataclass(frozen=True)
class Sensors:
    """What is recorded beside the grids."""

    lidar: Lidar | None = None
    image_size: tuple[int, int] | None = None
    """Height and width; None: no pictures."""
    camera_pitch: float = 0.0
    """Degrees below the horizon."""


def write_session(
    scene: Scene,
    poses: Float[Tensor, "frame 13"],
    root: Path,
    name: str,
    space: EgoGrid,
    *,
    mode: str = "union",
    period: float = 0.5,
    ground_height: float = math.nan,
    fills_ground: bool = False,
    sensors: Sensors | None = None,
    seed: int = 0,
) -> Path:
    """Grids (and sweeps and pictures) of a path through a scene.

    `ground_height` is recorded; `fills_ground`: voxels with their center below it are occupied. The session's folder.
    """
    require(not fills_ground or not math.isnan(ground_height), "--fill_ground: expected --ground_height, got none")
    info = SessionInfo(space, period=period, ground_height=ground_height, world=scene.name, source=scene.source)
    writer, sensors = SessionWriter(root, name, info), sensors or Sensors()
    for number, pose in enumerate(tqdm(poses, desc=name, unit="frame", leave=False)):
        occupied = voxelized(scene.shells, space, space.frame.grid2world(pose).numpy(), mode)
        if fills_ground:
            occupied |= (space.heights(pose) < ground_height).numpy()
        local = in_vehicle_frame(scene.shells.triangles, pose)
        points = None
        if sensors.lidar is not None:
            points = scan(local, sensors.lidar, np.random.default_rng([seed, number]))
        write_images = None
        if sensors.image_size is not None:
            write_images = partial(_write_pictures, local, scene.colors, sensors)
        writer.add(number, pose, occupied.astype(np.uint8), points=points, write_image=write_images)
    return writer.finish()


def in_vehicle_frame(triangles: Float[np.ndarray, "triangle 3 3"], pose: Float[Tensor, "13"]) -> np.ndarray:
    """Corners as the vehicle's body sees them."""
    matrix = body2world(pose).numpy()
    return (triangles - matrix[:3, 3]) @ matrix[:3, :3]


def _write_pictures(triangles: np.ndarray, colors: np.ndarray, sensors: Sensors, prefix: Path) -> None:
    height, width = sensors.image_size or (0, 0)
    for camera, yaw in CAMERA_YAWS.items():
        view = PinholeCamera(math.radians(yaw), height, width, pitch=math.radians(sensors.camera_pitch))
        imageio.imwrite(prefix.with_name(f"{prefix.name}_{camera}.jpg"), picture(triangles, colors, view), quality=92)


def write_world_session(root: Path, name: str, world: World, spec: WorldSpec, title: str) -> Path:
    """A procedural world by its meshes: every frame is voxelized anew, as its boxes move. The session's folder."""
    info = SessionInfo(spec.space, spec.period, 0.0, title, "procedural world", masks=("moving",))
    writer = SessionWriter(root, name, info)
    standing = prepared(*solid_mesh(world.standing, 0))
    for step, pose in enumerate(world.poses):
        grid2world = spec.space.frame.grid2world(pose).numpy()
        moving = voxelized(prepared(*solid_mesh(world.moving, step)), spec.space, grid2world, "solid")
        ground = (spec.space.heights(pose) < 0).numpy()
        occupied = voxelized(standing, spec.space, grid2world, "solid") | moving | ground
        writer.add(step, pose, occupied.astype(np.uint8), {"moving": moving & ~ground})
    return writer.finish()


def write_point_session(
    sweeps: Sequence[Sweep],
    poses: Float[Tensor, "frame 13"],
    root: Path,
    name: str,
    info: SessionInfo,
    *,
    accumulate: int = 0,
    carving: Carving | None = None,
    raw: Sequence[Float[np.ndarray, "_ 4"]] | None = None,
) -> Path:
    """Grids of measured points; each from the sweeps of its own frame and `accumulate` frames before and after.

    Voxels of which nothing is known are not `visible`. `raw`: sweeps to store as the session's LiDAR, vehicle frame.
    """
    require(len(sweeps) == len(poses), f"{name}: expected a pose per sweep, got {len(poses)} for {len(sweeps)}")
    writer, carving = SessionWriter(root, name, info), carving or Carving()
    for number, pose in enumerate(tqdm(poses, desc=name, unit="frame", leave=False)):
        near = sweeps[max(0, number - accumulate) : number + accumulate + 1]
        occupied, seen = occupied_and_seen(near, info.space, info.space.frame.grid2world(pose).numpy(), carving)
        points = None if raw is None else raw[number]
        writer.add(number, pose, occupied.astype(np.uint8), {"visible": seen}, points=points)
    return writer.finish()


def summary(folder: Path) -> str:
    """Frames and how much of them is occupied."""
    shares: list[float] = []
    for path in sorted((folder / "occupancy").iterdir()):
        with np.load(path) as file:
            shares.append(float(file["occupancy"].mean()))
    occupied: Bool[np.ndarray, " frame"] = np.array(shares) > 0
    return (
        f"{folder}: {counted(len(shares), 'frame')}, {100 * np.mean(shares):.2f} % of the voxels occupied; "
        f"{counted(int((~occupied).sum()), 'frame')} without any"
    )
