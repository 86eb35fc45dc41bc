"""Photographs -> an occupancy session, through VGGT: `python -m render.occupancy`.

VGGT says where the cameras stand and how far each pixel is. Every pixel that it is sure of occupies a voxel and empties
those on the way to it; what no pixel tells of is not `visible`. Frames are the cameras, x along their optical axis.
With a data set (`--dataset_name`, `--datadir`, `--scan`) in place of `--images`, points are moved to its cameras and
its unit. docs/occupancy_data.md, "From photographs".
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.occupancy.grids import add_grid_options, grid_of_options
from data.occupancy.points import Carving, Sweep
from data.occupancy.recording import summary, write_point_session
from data.occupancy.sessions import AGENTS, SessionInfo
from data.occupancy.trajectories import with_velocities
from data.problems import announce
from data.readers.registry import READERS, read_scenes
from geometry import one_line_errors, require
from geometry.cameras import rigid_inverse
from geometry.pose_metrics import similarity_of_cameras
from render.reconstruct.chunk_alignment import PredictedView
from render.reconstruct.orientation import up_direction
from render.reconstruct.sources import prepare
from render.reconstruct.vggt_prediction import confident_points, predict
from render.video import only_scene
from training.precision import usable_device

BODY_IN_CAMERA = torch.tensor([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
"""Body axes (x forward, y left, z up) as columns in camera axes (x right, y down, z forward)."""


@dataclass(frozen=True)
class Measured:
    """Views with depth, in meters, z up."""

    sweeps: tuple[Sweep, ...]
    poses: Float[Tensor, "frame 13"]


def measured(
    views: Sequence[PredictedView],
    *,
    quantile: float,
    step: int,
    meters: float,
    period: float,
) -> Measured:
    """Points and poses of predicted views in a level world of meters.

    Args:
        views: In one world.
        quantile: Share of each view's pixels that is left out, the least sure ones.
        step: Every `step`-th row and column.
        meters: Of a unit of the views' world.
        period: Seconds from one view to the next, for velocities.
    """
    c2w = torch.stack([rigid_inverse(view.camera.w2c.double()) for view in views])
    upright = level(c2w[:, :3, :3])
    centers = meters * c2w[:, :3, 3] @ upright.T
    rotations = upright @ c2w[:, :3, :3] @ BODY_IN_CAMERA
    sweeps = []
    for view, center in zip(views, centers, strict=True):
        points = confident_points(view, quantile=quantile, step=step).points.double()
        sweeps.append(Sweep(center.numpy(), (meters * points @ upright.T).numpy()))
    return Measured(tuple(sweeps), with_velocities(centers, rotations, period))


def level(c2w: Float[Tensor, "view 3 3"]) -> Float[Tensor, "3 3"]:
    """The rotation that turns what the photographs say is up to z, and the first optical axis to x as far as it may."""
    up = torch.from_numpy(np.ascontiguousarray(up_direction(c2w.numpy())))
    forward = c2w[0, :, 2] - (c2w[0, :, 2] @ up) * up
    if float(forward.norm()) < 1e-6:  # it looks straight up or down
        forward = c2w[0, :, 0] - (c2w[0, :, 0] @ up) * up
    forward = forward / forward.norm()
    return torch.stack([forward, torch.linalg.cross(up, forward), up])


def predicted_views(options: argparse.Namespace, work: Path) -> tuple[tuple[PredictedView, ...], str, tuple[str, ...]]:
    """VGGT's views, moved to the cameras of a data set where there is one; the scene's name, and warnings.

    Raises:
        InputError: for anything the user can correct.
    """
    settings = {"image_size": options.vggt_image_size, "device": usable_device(options.device)}
    if options.images:
        photos = prepare(Path(options.images), work / "images", max_images=options.max_images)
        found = predict(photos, options.vggt_ckpt, chunk_size=options.chunk_size, **settings)
        return found.views, Path(options.images).stem, (*photos.warnings, *found.warnings)
    scans = (options.scan,) if options.scan else None
    scene = only_scene(
        read_scenes(options.dataset_name, options.datadir, split="all", scans=scans, evaluated_only=True)
    )
    frames = list(scene.frames.values())[: options.max_images]
    paths = [frame.image_path for frame in frames]
    found = predict(paths, options.vggt_ckpt, chunk_size=options.chunk_size, **settings)
    similarity = similarity_of_cameras(found.w2c, torch.stack([frame.w2c for frame in frames]))
    return tuple(view.moved(similarity) for view in found.views), scene.name.replace("/", "_"), found.warnings


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Write one session, and say what it holds."""
    options = _options(argv)
    space = grid_of_options(options, "local")
    with TemporaryDirectory() as work:
        views, name, warnings = predicted_views(options, Path(work))
        for warning in warnings:
            announce(f"warning: {warning}")
        found = measured(
            views, quantile=options.quantile, step=options.step, meters=options.meters, period=options.period
        )
    folder = write_point_session(
        found.sweeps,
        found.poses,
        Path(options.out),
        f"{options.agent}_{options.date}_000000",
        SessionInfo(space, options.period, math.nan, name, f"photographs {name}, VGGT"),
        accumulate=len(views) if options.accumulate is None else options.accumulate,
        carving=Carving(options.min_hits, options.min_share),
    )
    announce(f"{summary(folder)}; {space.grid.description()}")


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m render.occupancy", description=__doc__.splitlines()[0])
    parser.add_argument("--images", default="", help="folder of photographs of one scene, or a video")
    parser.add_argument("--dataset_name", choices=sorted(READERS), help="posed photographs in place of --images")
    parser.add_argument("--datadir", default="", help="its root folder")
    parser.add_argument("--scan", default="", help="its scene")
    parser.add_argument("--out", required=True, help="folder of the sessions")
    parser.add_argument("--agent", choices=sorted(AGENTS), default="rover")
    parser.add_argument("--date", default="20260101", help="of the session's name")
    parser.add_argument("--vggt_ckpt", default="", help="VGGT's weights; default: VGGT-nano, which ships")
    parser.add_argument("--vggt_image_size", type=int, default=0, help="long side that VGGT sees; 0: as trained")
    parser.add_argument("--chunk_size", type=int, default=0, help="photographs predicted together; 0: all")
    parser.add_argument("--max_images", type=int, default=60, help="photographs taken, at most")
    parser.add_argument("--meters", type=float, default=1.0, help="meters per unit of the cameras (DTU: 0.001)")
    parser.add_argument("--quantile", type=float, default=0.3, help="share of the least sure pixels that is left out")
    parser.add_argument("--step", type=int, default=2, help="every so manieth pixel row and column of VGGT's depth")
    parser.add_argument("--accumulate", type=int, help="photographs before and after that join a grid; default: all")
    parser.add_argument("--min_hits", type=int, default=2, help="points that make a voxel occupied")
    parser.add_argument("--min_share", type=float, default=0.2, help="share of rays that must end in a voxel")
    parser.add_argument("--period", type=float, default=0.5, help="seconds from one photograph to the next")
    parser.add_argument("--device", default="auto", help="auto, cpu, or any name torch knows")
    add_grid_options(parser)
    options = parser.parse_args(argv)
    has_data = options.dataset_name is not None
    require(bool(options.images) != has_data, "--images, --dataset_name: expected exactly one of them")
    require(has_data or not (options.datadir or options.scan), "--datadir, --scan: expected only with --dataset_name")
    require(0 <= options.quantile < 1, f"--quantile: expected a share from 0 to 1, got {options.quantile}")
    for name in ("meters", "period"):
        require(getattr(options, name) > 0, f"--{name}: expected a number above 0, got {getattr(options, name)}")
    for name in ("step", "max_images"):
        require(getattr(options, name) >= 1, f"--{name}: expected a number from 1 on, got {getattr(options, name)}")
    require(options.accumulate is None or options.accumulate >= 0, "--accumulate: expected 0 or more")
    return options


if __name__ == "__main__":
    main()
