"""What is trivial: forecasts that nothing was learned for."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from data.occupancy.types import OccupancyBatch
from geometry.body_poses import continued, relative_to
from geometry.voxels import EgoGrid, warp_nearest
from training.occupancy.learners import Predicted

EMPTY, PERSISTENCE, MEAN_MAP, CONSTANT_VELOCITY, TRUE_MOTION = (
    *("empty", "persistence", "mean map", "constant-velocity warp"),
    "true-motion warp",
)
BASELINES = (EMPTY, PERSISTENCE, MEAN_MAP, CONSTANT_VELOCITY, TRUE_MOTION)
_MEAN_WINDOWS = 1000
"""Training windows that the mean map is of, at most."""


@dataclass(frozen=True)
class Baselines:
    """Of grids of one space."""

    space: EgoGrid
    free_class: int
    mean: Float[Tensor, "x y z"] | None
    """Share of training grids in which a voxel is occupied."""
    threshold: float

    def predicted(self, name: str, batch: OccupancyBatch) -> Predicted:
        """A forecast of one of `BASELINES`."""
        return {
            EMPTY: self._empty,
            PERSISTENCE: self._persistence,
            MEAN_MAP: self._mean_map,
            CONSTANT_VELOCITY: self._constant_velocity,
            TRUE_MOTION: self._true_motion,
        }[name](batch)

    def names(self) -> tuple[str, ...]:
        """Those that can be made."""
        return tuple(name for name in BASELINES if name != MEAN_MAP or self.mean is not None)

    def _sure(self, labels: Tensor, poses: Tensor | None = None) -> Predicted:
        return Predicted(labels, (labels != self.free_class).float(), poses)

    def _empty(self, batch: OccupancyBatch) -> Predicted:
        return self._sure(torch.full_like(batch.future, self.free_class))

    def _persistence(self, batch: OccupancyBatch) -> Predicted:
        """The last grid as it stands, and a vehicle that does."""
        last = batch.history_poses[:, -1:].expand_as(batch.future_poses)
        return self._sure(batch.history[:, -1:].expand_as(batch.future), relative_to(last[:, :1], last))

    def _mean_map(self, batch: OccupancyBatch) -> Predicted:
        """Occupied where training grids are more often than not; of classes the last grid's there, or any."""
        assert self.mean is not None
        share = self.mean.to(batch.future.device).expand(batch.future.shape)
        any_class = 1 if self.free_class == 0 else 0
        last = batch.history[:, -1:].expand_as(batch.future)
        named = torch.where(last == self.free_class, torch.full_like(last, any_class), last)
        labels = torch.where(share > self.threshold, named, torch.full_like(last, self.free_class))
        return Predicted(labels, share)

    def _constant_velocity(self, batch: OccupancyBatch) -> Predicted:
        """The last grid seen from where the last motion leads."""
        poses = continued(batch.history_poses, batch.future.shape[1])
        return self._warped(batch, poses)

    def _true_motion(self, batch: OccupancyBatch) -> Predicted:
        """The last grid seen from where the vehicle is going to be: all that a world at rest and in sight allows."""
        return self._warped(batch, batch.future_poses)

    def _warped(self, batch: OccupancyBatch, poses: Tensor) -> Predicted:
        last = batch.history[:, -1:].expand_as(batch.future)
        motion = self.space.frame.motion(batch.history_poses[:, -1:], poses)
        labels, known = warp_nearest(self.space.grid, last, motion)
        labels = torch.where(known, labels, torch.full_like(labels, self.free_class))
        return self._sure(labels, relative_to(batch.history_poses[:, -1:], poses))


def mean_occupancy(
    windows: Callable[[int], OccupancyBatch], count: int, free_class: int
) -> Float[Tensor, "x y z"] | None:
    """Share of occupied voxels over the future grids of at most 1000 windows, spread over all of them."""
    if not count:
        return None
    number = min(count, _MEAN_WINDOWS)
    total: Tensor | None = None
    for index in range(number):
        found = (windows(index * count // number).future != free_class).float().mean(0)
        total = found if total is None else total + found
    return None if total is None else total / number
