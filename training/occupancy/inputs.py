"""Batches of occupancy -> what the networks read."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data.occupancy.types import OccupancyBatch
from data.seeds import derived_seed, seeded_generator
from geometry.body_poses import ORIENTATION, POSITION, relative_to, rotation_of, yaw_of
from geometry.voxels import EgoGrid, warp_nearest
from models.occupancy.inputs import ForecastInputs

_STEP_STREAM = 61
"""Keeps the choice of future frames apart from other random numbers; the number itself is arbitrary."""
RIGHT, LEFT, STRAIGHT = 0, 1, 2
"""Maneuvers, in OccWorld's order."""
MANEUVERS = 3
_TURNING = 0.05
"""Radians per frame beyond which a motion counts as a turn; chosen by hand."""


def forecast_inputs(batch: OccupancyBatch, *, has_plan: bool) -> ForecastInputs:
    """With the plan: the commands where they were recorded, else the poses that were driven."""
    plan = batch.relative_future if batch.commands is None else batch.commands
    return ForecastInputs(batch.history, batch.history_poses, batch.agent, plan if has_plan else None)


def chosen_steps(seeds: Int[Tensor, " batch"], future: int, count: int) -> Int[Tensor, "batch step"]:
    """`count` different future frames per window, in order; the same for the same seeds. 0: all of them."""
    if count in (0, future):
        return torch.arange(future).expand(len(seeds), -1)
    rows = []
    for seed in seeds.tolist():
        generator = seeded_generator(derived_seed(seed, _STEP_STREAM))
        rows.append(torch.randperm(future, generator=generator)[:count].sort().values)
    return torch.stack(rows)


def picked(values: Tensor, steps: Int[Tensor, "batch step"]) -> Tensor:
    """Those steps of values whose second axis is the future."""
    rows = torch.arange(len(values), device=values.device)[:, None]
    return values[rows, steps.to(values.device)]


def plane_steps(batch: OccupancyBatch) -> Float[Tensor, "batch frame 2"]:
    """Motion that led into each of the H + F frames: x right, y forward, meters; recorded or from the poses.

    The first frame has none before it: its motion counts as that of the second.
    """
    if batch.steps is not None:
        return batch.steps.float()
    moved = _moved(batch)[..., POSITION]
    steps = torch.stack([-moved[..., 1], moved[..., 0]], dim=-1).float()
    return torch.cat([steps[:, :1], steps], dim=1)


def maneuvers(batch: OccupancyBatch) -> Int[Tensor, "batch frame"]:
    """Of the motion that led into each frame: recorded, or turns of more than 0.05 radians per frame."""
    if batch.maneuvers is not None:
        return batch.maneuvers
    yaw = yaw_of(rotation_of(_moved(batch)[..., ORIENTATION]))
    found = torch.where(yaw > _TURNING, LEFT, torch.where(yaw < -_TURNING, RIGHT, STRAIGHT))
    return torch.cat([found[:, :1], found], dim=1)


def _moved(batch: OccupancyBatch) -> Float[Tensor, "batch step 13"]:
    poses = torch.cat([batch.history_poses, batch.future_poses], dim=1)
    return relative_to(poses[:, :-1], poses[:, 1:])


def world_steps(poses: Float[Tensor, "batch step 13"]) -> Float[Tensor, "batch step 2"]:
    """Places in the plane of relative poses, x right and y forward, as OccWorld's planning compares them."""
    return torch.stack([-poses[..., 1], poses[..., 0]], dim=-1)


def ground_masks(
    batch: OccupancyBatch, space: EgoGrid, ground_classes: tuple[int, ...]
) -> Callable[[Tensor], Bool[Tensor, "batch step x y z"] | None]:
    """Which voxels are ground, given predicted labels: true or predicted ground classes, else all below its height."""
    if ground_classes:
        classes = torch.tensor(ground_classes, device=batch.future.device)
        true = torch.isin(batch.future, classes)
        return lambda labels: true | torch.isin(labels.to(classes.dtype), classes)
    height = batch.ground_height[:, None, None, None, None].to(batch.future_poses.dtype)
    if not bool(torch.isfinite(height).all()):
        return lambda labels: None
    below = space.heights(batch.future_poses) < height
    return lambda labels: below


def moving_region(batch: OccupancyBatch, space: EgoGrid) -> Bool[Tensor, "batch step x y z"] | None:
    """Voxels of moving bodies in any future frame, as each frame sees them: where they are, come from and go to."""
    if batch.moving is None:
        return None
    count = batch.future.shape[1]
    sources = batch.future_poses[:, None].expand(-1, count, -1, -1)
    motion = space.frame.motion(sources, batch.future_poses[:, :, None])
    volumes = batch.moving.to(torch.uint8)[:, None].expand(-1, count, -1, -1, -1, -1)
    swept, _ = warp_nearest(space.grid, volumes, motion)
    return swept.bool().any(2)
