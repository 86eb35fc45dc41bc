"""Random changes of a window that act on its grids and on its poses alike.

A mirror reflects the world: grids are flipped, positions, rotations and velocities reflected. A turn is one of the
vehicle under its motion: every grid is turned, and so is the heading in every pose. A scale makes the world and the
motion larger. Dropped and flipped voxels are noise of the history that the network sees; targets stay.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from data.occupancy.types import OccupancyBatch
from geometry.body_poses import (
    ORIENTATION,
    POSITION,
    VELOCITY,
    placed_at,
    product,
    quaternion_of,
    relative_to,
    rigid,
    rotation_about_z,
)
from geometry.errors import require
from geometry.voxels import EgoGrid, warp_nearest


@dataclass(frozen=True)
class GridAugmentation:
    """How often and how far; the defaults change nothing."""

    flip: float = 0.0
    """Probability of a mirror left to right, and, independently, front to back."""
    rotation: float = 0.0
    """Degrees: turns are uniform in plus and minus this."""
    rotation_share: float = 0.8
    """Probability of a turn."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Least and greatest; uniform."""
    voxel_dropout: float = 0.0
    """Share of the occupied voxels of the history that become empty."""
    voxel_dropout_share: float = 0.3
    """Probability of it."""
    voxel_flip: float = 0.0
    """Share of all voxels of the history that change between empty and occupied."""
    voxel_flip_share: float = 0.3
    """Probability of it."""
    point_noise: float = 0.0
    """Meters. Of points, which a data set of grids does not have: refused. The converter has it (--lidar_noise)."""

    def __post_init__(self) -> None:
        """Refuse what cannot act, by name."""
        for name in (
            "flip",
            "rotation_share",
            "voxel_dropout",
            "voxel_dropout_share",
            "voxel_flip",
            "voxel_flip_share",
        ):
            value = getattr(self, name)
            require(0 <= value <= 1, f"--aug_{name}: expected a share from 0 to 1, got {value}")
        require(0 <= self.rotation <= 180, f"--aug_rotation: expected degrees from 0 to 180, got {self.rotation}")
        require(
            len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1],
            f"--aug_scale: expected least and greatest above 0, got {self.scale}",
        )
        require(
            self.point_noise == 0,
            f"--aug_point_noise {self.point_noise}: expected 0, because it acts on points and a session's grids are "
            "made of none any more; data.occupancy.convert --lidar_noise has it",
        )

    @property
    def resamples(self) -> bool:
        """Whether grids can be seen in part only afterwards, so that windows get a mask."""
        return self.rotation > 0 or self.scale != (1.0, 1.0)

    def require_fitting(self, space: EgoGrid, num_classes: int) -> None:
        """Refuse what this data set cannot be changed by.

        Raises:
            InputError: naming the option.
        """
        lopsided = [axis for axis in (0, 1) if abs(space.grid.minimum[axis] + space.grid.covered[axis]) > 1e-6]
        require(
            self.flip == 0 or not lopsided,
            f"--aug_flip: expected a grid that reaches as far ahead as back and left as right, got {space.grid}",
        )
        require(
            self.voxel_flip == 0 or num_classes == 2,
            f"--aug_voxel_flip: expected grids of empty and occupied, got {num_classes} classes",
        )

    def applied(self, sample: OccupancyBatch, space: EgoGrid, empty: int, seed: int) -> OccupancyBatch:
        """The window (without batch axis) after random changes that follow from `seed`."""
        random = torch.Generator().manual_seed(seed)
        draw = torch.rand(10, generator=random, dtype=torch.float64)
        for axis, number in ((1, draw[0]), (0, draw[1])):
            if number < self.flip:
                sample = mirrored(sample, axis)
        turn = math.radians(self.rotation) * float(2 * draw[3] - 1) if draw[2] < self.rotation_share else 0.0
        scale = self.scale[0] + float(draw[4]) * (self.scale[1] - self.scale[0])
        if self.resamples:
            sample = turned_and_scaled(sample, space, turn, scale, empty)
        history = sample.history
        if self.voxel_dropout > 0 and draw[5] < self.voxel_dropout_share:
            chosen = torch.rand(history.shape, generator=random) < self.voxel_dropout
            history = torch.where(chosen, torch.full_like(history, empty), history)
        if self.voxel_flip > 0 and draw[6] < self.voxel_flip_share:
            chosen = torch.rand(history.shape, generator=random) < self.voxel_flip
            history = torch.where(chosen, 1 - history, history)
        return dataclasses.replace(sample, history=history)


def mirrored(sample: OccupancyBatch, axis: int) -> OccupancyBatch:
    """The world reflected, x to -x (axis 0) or y to -y (axis 1): positions S p, rotations S R S, axial vectors -S w."""
    polar = torch.ones(3, dtype=torch.float64)
    polar[axis] = -1
    # S R S turns about -S n by the same angle
    signs = torch.cat([polar, polar.new_ones(1), -polar, polar, -polar])
    sample = _changed(sample, lambda values: values.flip(1 + axis), lambda poses: poses * signs)
    if sample.steps is not None:
        right_forward = sample.steps.new_tensor([-1.0, 1.0] if axis == 1 else [1.0, -1.0])
        sample = dataclasses.replace(sample, steps=sample.steps * right_forward)
    if sample.maneuvers is not None and axis == 1:
        swapped = torch.where(sample.maneuvers < 2, 1 - sample.maneuvers, sample.maneuvers)  # right and left
        sample = dataclasses.replace(sample, maneuvers=swapped)
    return sample


def turned_and_scaled(sample: OccupancyBatch, space: EgoGrid, turn: float, scale: float, empty: int) -> OccupancyBatch:
    """Headings turned by `turn` radians, so that grids turn the other way; world and motion enlarged by `scale`.

    Nearest voxels; what comes from outside a grid is empty and not `visible`.
    """
    grid_turn = rotation_about_z(torch.tensor(turn, dtype=torch.float64))
    motion = rigid(grid_turn / scale, grid_turn.new_zeros(3))  # from the new grid to the old one
    quaternion = quaternion_of(grid_turn)
    is_level = space.frame.orientation == "yaw"

    def pose(poses: Float[Tensor, "frame 13"]) -> Float[Tensor, "frame 13"]:
        old = poses[..., ORIENTATION]
        new = product(quaternion, old) if is_level else product(old, quaternion)
        changed = poses.clone()
        changed[..., ORIENTATION] = new
        changed[..., POSITION] *= scale
        changed[..., VELOCITY] *= scale
        return changed

    def grid(values: Tensor) -> Tensor:
        warped, known = warp_nearest(space.grid, values, motion.expand(len(values), 4, 4))
        fill = torch.zeros_like(warped) if values.dtype == torch.bool else torch.full_like(warped, empty)
        return torch.where(known, warped, fill)

    visible = torch.ones_like(sample.future, dtype=torch.bool) if sample.visible is None else sample.visible
    sample = _changed(dataclasses.replace(sample, visible=visible), grid, pose)
    if sample.steps is not None:
        cos, sin = math.cos(turn), math.sin(turn)
        right, forward = sample.steps.unbind(-1)
        turned = torch.stack([cos * right + sin * forward, cos * forward - sin * right], dim=-1)
        sample = dataclasses.replace(sample, steps=turned * scale)
    return dataclasses.replace(sample, ground_height=sample.ground_height * scale)


def _changed(
    sample: OccupancyBatch, grid: Callable[[Tensor], Tensor], pose: Callable[[Tensor], Tensor]
) -> OccupancyBatch:
    """A window whose grids and world poses are changed; a plan is changed as the world poses it leads to."""
    history_poses = pose(sample.history_poses)
    plan = sample.commands
    if plan is not None:
        planned = pose(placed_at(sample.history_poses[-1:], plan.double()))
        plan = relative_to(history_poses[-1:], planned).to(plan.dtype)
    return dataclasses.replace(
        sample,
        history=grid(sample.history),
        future=grid(sample.future),
        history_poses=history_poses,
        future_poses=pose(sample.future_poses),
        commands=plan,
        visible=None if sample.visible is None else grid(sample.visible),
        moving=None if sample.moving is None else grid(sample.moving),
    )
