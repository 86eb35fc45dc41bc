"""Meshes or LiDAR sequences -> sessions: `python -m data.occupancy.convert --mesh city.gml --out DIR`.

A mesh (OBJ, glTF, GLB, PLY, STL, OFF, or a CityGML tile; several are put together) and a path through it give exact
grids, and, where asked for, LiDAR sweeps and pictures. Or a folder of LiDAR sweeps and their poses (`--points`,
`--poses`), as UAVScenes has them, give grids of what was measured. docs/occupancy_data.md describes all of it.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.occupancy.citygml import Origin
from data.occupancy.grids import add_grid_options, grid_of_options
from data.occupancy.mesh_scene import Scene, count_inside, free_space, read_scene
from data.occupancy.meshes import CITY_SUFFIXES
from data.occupancy.points import SUFFIXES as POINT_SUFFIXES
from data.occupancy.points import Carving, Sweep, read_points
from data.occupancy.procedural_world import WorldSpec, make_world
from data.occupancy.ray_casting import Lidar
from data.occupancy.recording import Sensors, summary, write_point_session, write_session, write_world_session
from data.occupancy.sessions import AGENTS, SessionInfo
from data.occupancy.trajectories import PATTERNS, orbit, random_drive, read_trajectory, survey
from data.occupancy.voxelize import MODES
from data.problems import Problems, announce
from data.seeds import derived_seed
from geometry import one_line_errors, require
from geometry.body_poses import body2world
from geometry.errors import InputError
from geometry.voxels import EgoGrid

ALTITUDE = {"drone": 30.0, "rover": 1.5}
"""Meters above the ground."""
SPEED = {"drone": 5.0, "rover": 2.0}
"""Meters per second."""
_NEEDS: tuple[tuple[str, Callable[[argparse.Namespace], bool], str], ...] = (
    ("--points", lambda one: bool(one.points), "poses every accumulate min_hits min_share"),
    ("--mesh", lambda one: bool(one.mesh), "lidar images fill_ground trajectory mode y_up scale"),
    ("a city model", lambda one: any(path.suffix.lower() in CITY_SUFFIXES for path in one.mesh), "max_lod origin"),
    ("--mesh or --points", lambda one: bool(one.mesh or one.points), "ground_height"),
    ("--mesh and a path that is no file", lambda one: _makes_path(one), "speed altitude margin"),
    ("--trajectory survey", lambda one: _makes_path(one) and one.trajectory == "survey", "spacing"),
    ("--trajectory random or --lidar", lambda one: one.lidar or one.trajectory == "random", "seed"),
    ("--lidar", lambda one: one.lidar, "lidar_beams lidar_columns lidar_elevation lidar_range lidar_noise"),
    ("--images", lambda one: one.images is not None, "camera_pitch"),
)
"""What options act with, when, and the options."""
_WORLD_FRAMES = 11
"""Of a procedural world: 3 past frames, then two maneuvers of 4."""
_START_DISTANCE = 20.0
"""Meters: random drives start so near to something."""


def path_of(scene: Scene, pattern: str, frames: int, *, agent: str, number: int, options: argparse.Namespace) -> Tensor:
    """Poses of session `number` by pattern or file; how many stand inside something is announced."""
    period = options.period
    if pattern not in PATTERNS:
        return read_trajectory(Path(pattern), period)[:frames] if frames else read_trajectory(Path(pattern), period)
    frames = frames or 100
    low, high = scene.bounds[:, :2]
    margin = options.margin
    bounds = np.stack([low - margin, high + margin])
    require(bool((bounds[0] <= bounds[1]).all()), f"--margin {margin:g}: expected something left of the mesh")
    z = scene.ground + (ALTITUDE[agent] if options.altitude is None else options.altitude)
    speed = SPEED[agent] if options.speed is None else options.speed
    step = speed * period
    if pattern == "survey":
        spacing = options.spacing
        poses = survey(bounds, frames * (number + 1), step=step, spacing=spacing, z=z, period=period)
        return poses[frames * number :]
    if pattern == "orbit":
        poses = orbit(bounds, frames * (number + 1), step=step, z=z, period=period, faces_center=agent == "drone")
        return poses[frames * number :]
    seed = 1000 * options.seed + number
    random = np.random.default_rng(seed)
    centers = scene.shells.triangles.mean(axis=1)[random.integers(len(scene.shells), size=200), :2]
    starts = np.clip(centers + random.uniform(-_START_DISTANCE, _START_DISTANCE, (200, 2)), bounds[0], bounds[1])
    return random_drive(bounds, starts, frames, free_space(scene, z), step=step, z=z, period=period, seed=seed)


def convert_points(options: argparse.Namespace, space: EgoGrid) -> Path:
    """The session of a folder of sweeps; sweeps and poses that have no partner are counted.

    Raises:
        InputError: naming the option.
    """
    folder = Path(options.points)
    require(folder.is_dir(), f"--points: expected a folder of {', '.join(POINT_SUFFIXES)}, got {folder}")
    files = sorted(path for path in folder.iterdir() if path.suffix in POINT_SUFFIXES)
    require(len(files) > 0, f"--points {folder}: expected files {', '.join(POINT_SUFFIXES)}, got none")
    require(bool(options.poses), "--poses: expected a file of poses for --points, got none")
    poses = read_trajectory(Path(options.poses), options.period)
    require(
        len(poses) == len(files),
        f"--poses {options.poses}: expected one pose per sweep in the order of their names ({len(files)}), got "
        f"{len(poses)}",
    )
    chosen = range(0, len(files), options.every)
    chosen = chosen[: options.frames] if options.frames else chosen
    problems, raw, kept = Problems(), [], []
    for number in tqdm(chosen, desc="sweeps", unit="sweep", leave=False):
        try:
            raw.append(read_points(files[number], problems.add))
            kept.append(number)
        except InputError as error:
            problems.add(error)
    problems.announce(f"sweeps in {folder}")
    require(len(kept) > 0, f"--points {folder}: expected at least one sweep that can be read, got none")
    poses = poses[kept]
    matrices = body2world(poses).numpy()
    sweeps = [
        Sweep(matrix[:3, 3], points[:, :3] @ matrix[:3, :3].T + matrix[:3, 3])
        for matrix, points in zip(matrices, raw, strict=True)
    ]
    height = math.nan if options.ground_height is None else options.ground_height
    info = SessionInfo(space, options.period * options.every, height, folder.name, f"LiDAR {folder.name}")
    return write_point_session(
        sweeps,
        poses,
        Path(options.out),
        session_name(options, 0),
        info,
        accumulate=options.accumulate,
        carving=Carving(options.min_hits, options.min_share),
        raw=raw,
    )


def convert_worlds(options: argparse.Namespace, space: EgoGrid) -> None:
    """Sessions of procedural worlds, one each.

    Raises:
        InputError: for a grid that tilts.
    """
    require(space.frame.orientation == "yaw", "--orientation: expected yaw with --procedural")
    spec = WorldSpec(space=space, period=options.period)
    for number in range(options.sessions):
        seed = derived_seed(options.procedural, number)
        world = make_world(seed, spec, options.frames or _WORLD_FRAMES)
        title = f"procedural_{options.procedural}_{number}"
        announce(summary(write_world_session(Path(options.out), session_name(options, number), world, spec, title)))


def session_name(options: argparse.Namespace, number: int) -> str:
    """`drone_20260101_000000`, the seconds counting sessions."""
    hour, rest = divmod(number, 3600)
    return f"{options.agent}_{options.date}_{hour:02d}{rest // 60:02d}{rest % 60:02d}"


def _makes_path(options: argparse.Namespace) -> bool:
    return bool(options.mesh) and options.trajectory in PATTERNS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data.occupancy.convert", description=__doc__.splitlines()[0])
    parser.add_argument("--mesh", type=Path, nargs="+", default=[], help="files of one world")
    parser.add_argument("--procedural", type=int, metavar="SEED", help="worlds of moving and still boxes, not a mesh")
    parser.add_argument("--points", help="folder of LiDAR sweeps, vehicle frame, in place of a mesh")
    parser.add_argument("--poses", help="poses of the sweeps: JSON or a line of numbers each")
    parser.add_argument("--out", required=True, help="folder of the sessions")
    parser.add_argument("--agent", choices=sorted(AGENTS), default="drone")
    parser.add_argument("--date", default="20260101", help="of the sessions' names")
    parser.add_argument("--sessions", type=int, default=1)
    parser.add_argument("--frames", type=int, default=0, help="of a session; 0: all of a file's, else 100")
    parser.add_argument("--period", type=float, default=0.5, help="seconds between frames")
    parser.add_argument("--trajectory", default="survey", help=f"{', '.join(PATTERNS)}, or a file of poses")
    parser.add_argument("--speed", type=float, help="meters per second; default 5 of a drone, 2 of a rover")
    parser.add_argument("--altitude", type=float, help="meters above the ground; default 30 of a drone, 1.5 of a rover")
    parser.add_argument("--spacing", type=float, default=40.0, help="meters between survey lines")
    parser.add_argument("--margin", type=float, default=0.0, help="meters that the path may leave the mesh's bounds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mode", choices=MODES, default="union", help="what of a mesh occupies voxels")
    parser.add_argument("--max_lod", type=int, choices=(1, 2, 3), default=2, help="best level of detail of cities")
    parser.add_argument(
        "--origin", type=float, nargs=2, metavar="DEG", help="latitude, longitude of the world's origin"
    )
    parser.add_argument("--y_up", action="store_true", help="y is up in the mesh file")
    parser.add_argument("--scale", type=float, default=1.0, help="meters per unit of the mesh file")
    parser.add_argument("--ground_height", type=float, help="world z of flat ground, recorded; altitudes count from it")
    parser.add_argument("--fill_ground", action="store_true", help="voxels below it are occupied")
    parser.add_argument("--lidar", action="store_true", help="simulate a LiDAR by ray casting")
    parser.add_argument("--lidar_beams", type=int, default=32)
    parser.add_argument("--lidar_columns", type=int, default=720)
    parser.add_argument("--lidar_elevation", type=float, nargs=2, default=(-60.0, 15.0), metavar="DEG")
    parser.add_argument("--lidar_range", type=float, default=120.0, help="meters")
    parser.add_argument("--lidar_noise", type=float, default=0.0, help="standard deviation of the range, meters")
    parser.add_argument("--images", type=int, nargs=2, metavar=("H", "W"), help="render six cameras of this size")
    parser.add_argument("--camera_pitch", type=float, default=0.0, help="degrees below the horizon")
    parser.add_argument("--every", type=int, default=1, help="--points: every so manieth sweep")
    parser.add_argument("--accumulate", type=int, default=0, help="--points: sweeps before and after that join a grid")
    parser.add_argument("--min_hits", type=int, default=1, help="--points: points that make a voxel occupied")
    parser.add_argument("--min_share", type=float, default=0.1, help="--points: share of rays that must end in it")
    add_grid_options(parser)
    return parser


def _check(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    sources = [bool(options.mesh), bool(options.points), options.procedural is not None]
    require(sum(sources) == 1, "--mesh, --points, --procedural: expected exactly one of them")
    for name in ("sessions", "every"):
        require(getattr(options, name) >= 1, f"--{name}: expected a number from 1 on, got {getattr(options, name)}")
    for name in ("frames", "accumulate"):
        require(getattr(options, name) >= 0, f"--{name}: expected a number from 0 on, got {getattr(options, name)}")
    for name in ("period", "spacing", "scale", "speed"):
        value = getattr(options, name)
        require(value is None or 0 < value < math.inf, f"--{name}: expected a number above 0, got {value}")
    for name in ("altitude", "margin", "ground_height", "camera_pitch"):
        value = getattr(options, name)
        require(value is None or math.isfinite(value), f"--{name}: expected a finite number, got {value}")
    latitude, longitude = options.origin or (0.0, 0.0)
    require(
        abs(latitude) <= 90 and abs(longitude) <= 180,
        f"--origin: expected latitude and longitude in degrees, got {latitude} {longitude}",
    )
    is_file = options.trajectory not in PATTERNS
    require(not is_file or options.sessions == 1, "--sessions: expected 1 with a trajectory from a file")
    require(
        options.images is None or min(options.images) >= 8,
        f"--images: expected at least 8 pixels, got {options.images}",
    )
    for needed, is_there, names in _NEEDS:
        for name in names.split() if not is_there(options) else ():
            require(getattr(options, name) == parser.get_default(name), f"--{name}: expected only with {needed}")
    require(not options.points or options.sessions == 1, "--sessions: expected 1 with --points")


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> None:
    """Write sessions, and say what they hold."""
    parser = _parser()
    options = parser.parse_args(arguments)
    _check(options, parser)
    torch.set_num_threads(1)
    space = grid_of_options(options, "tokyo" if options.procedural is None else "small")
    announce(f"grid: {space.grid.description()}; {space.frame.orientation} frame, z from the {space.frame.z_reference}")
    if options.points:
        announce(summary(convert_points(options, space)))
        return
    if options.procedural is not None:
        convert_worlds(options, space)
        return
    scene = read_scene(
        options.mesh,
        y_up=options.y_up,
        scale=options.scale,
        origin=Origin(*options.origin) if options.origin else None,
        ground=options.ground_height,
        max_level=options.max_lod,
    )
    lidar = Lidar(
        options.lidar_beams,
        tuple(options.lidar_elevation),
        options.lidar_columns,
        options.lidar_range,
        options.lidar_noise,
    )
    sensors = Sensors(
        lidar if options.lidar else None, tuple(options.images) if options.images else None, options.camera_pitch
    )
    for number in range(options.sessions):
        poses = path_of(scene, options.trajectory, options.frames, agent=options.agent, number=number, options=options)
        inside = count_inside(scene, poses)
        if inside:
            announce(
                f"session {number}: {inside} of {len(poses)} poses stand inside a solid (--altitude, --trajectory)"
            )
        folder = write_session(
            scene,
            poses,
            Path(options.out),
            session_name(options, number),
            space,
            mode=options.mode,
            period=options.period,
            ground_height=math.nan if options.ground_height is None else options.ground_height,
            fills_ground=options.fill_ground,
            sensors=sensors,
            seed=options.seed + number,
        )
        announce(summary(folder))


if __name__ == "__main__":
    main()
