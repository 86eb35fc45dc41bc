"""Scores of forecasts of whole batches: occupancy by stratum, classes, poses, plans, collisions."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from data.occupancy.types import OccupancyBatch
from geometry.body_poses import POSITION, placed_at
from geometry.cameras import rigid_inverse
from geometry.voxels import EgoGrid
from models.occupancy.networks import NetworkPlan
from training.occupancy.inputs import ground_masks, plane_steps, world_steps
from training.occupancy.learners import Predicted
from training.occupancy.metrics import (
    ALL,
    CHANGED,
    MOVING,
    NON_GROUND,
    NON_GROUND_CHANGED,
    OccupancyScores,
    SemanticScores,
    collisions,
    mean,
    planning_l2,
    pose_errors,
    ratio,
    strata_masks,
    temporal_consistency,
)


@dataclass
class Scores:
    """Everything that is measured of one forecaster over a data set."""

    steps: int
    free_class: int
    ground_classes: tuple[int, ...]
    occupancy: OccupancyScores
    semantic: SemanticScores | None
    consistency: list[float] = field(default_factory=list)
    pose: list[Float[Tensor, "batch step 2"]] = field(default_factory=list)
    plan: list[Float[Tensor, "batch step"]] = field(default_factory=list)
    hits: Float[Tensor, "step 3"] = field(init=False)
    """Places, places inside the grid, hits among these."""

    def __post_init__(self) -> None:
        """Nothing counted yet."""
        self.hits = torch.zeros(self.steps, 3, dtype=torch.float64)

    @classmethod
    def of(cls, plan: NetworkPlan, steps: int, ground_classes: tuple[int, ...]) -> "Scores":
        """For data like those of a network."""
        is_semantic = plan.num_classes > 2
        semantic = SemanticScores(steps, plan.num_classes, plan.free_class) if is_semantic else None
        return cls(steps, plan.free_class, ground_classes, OccupancyScores(steps), semantic)

    def add(self, found: Predicted, batch: OccupancyBatch, space: EgoGrid, moving: Tensor | None) -> None:
        """Count a batch. `moving`: see `training.occupancy.inputs.moving_region`."""
        target, last = batch.future != self.free_class, batch.history[:, -1] != self.free_class
        prediction = found.labels != self.free_class
        ground = ground_masks(batch, space, self.ground_classes)(found.labels)
        masks = strata_masks(last, target, ground, moving)
        self.occupancy.add(prediction, target, masks, visible=batch.visible, probability=found.occupied)
        if self.semantic is not None:
            self.semantic.add(found.labels, batch.future, batch.visible)
        consistency = temporal_consistency(prediction.double(), target.double())
        if consistency is not None:
            self.consistency.append(consistency)
        self._add_motion(found, batch, space)

    def _add_motion(self, found: Predicted, batch: OccupancyBatch, space: EgoGrid) -> None:
        if found.poses is not None:
            truth = batch.relative_future
            poses = found.poses.to(truth.dtype)
            self.pose.append(pose_errors(poses, truth).cpu())
            self.plan.append((world_steps(poses) - world_steps(truth)).norm(dim=-1).cpu())
            places = places_in_grids(space, placed_at(batch.history_poses[:, -1:], poses), batch)
            self._add_collisions(space, batch, places)
        elif found.places is not None:
            truth = plane_steps(batch)[:, batch.history.shape[1] :].cumsum(1)
            self.plan.append((found.places - truth).norm(dim=-1).double().cpu())

    def _add_collisions(self, space: EgoGrid, batch: OccupancyBatch, places: Tensor) -> None:
        tested = collisions(space.grid, batch.future != self.free_class, places)
        rows = [torch.ones_like(tested.inside), tested.inside, tested.hit]
        self.hits += torch.stack([row.double().sum(0) for row in rows], dim=-1).cpu()

    def join(self, other: "Scores") -> None:
        """Count what another has counted as well, of other samples (of another process)."""
        self.occupancy.join(other.occupancy)
        if self.semantic is not None and other.semantic is not None:
            self.semantic.join(other.semantic)
        self.consistency += other.consistency
        self.pose += other.pose
        self.plan += other.plan
        self.hits += other.hits

    @property
    def main(self) -> float | None:
        """mIoU of classes, else IoU of what is not ground, where that is known."""
        if self.semantic is not None:
            return mean(self.semantic.named()["miou_per_step"])
        return self.occupancy.iou(NON_GROUND if NON_GROUND in self.occupancy.counts else ALL)

    def summary(self) -> dict[str, float | None]:
        """For the log of a run."""
        found: dict[str, float | None] = {"iou": self.main} if self.semantic is None else {"miou": self.main}
        for stratum in (ALL, NON_GROUND, CHANGED, NON_GROUND_CHANGED, MOVING):
            if stratum in self.occupancy.counts:
                found[f"iou_{stratum}"] = self.occupancy.iou(stratum)
        if self.pose:
            position, angle = torch.cat(self.pose).mean((0, 1)).tolist()
            found |= {"position_m": position, "angle_deg": angle}
        return found

    def named(self) -> dict[str, Any]:
        """All of it, for JSON."""
        found = self.occupancy.named() | {"temporal_consistency": mean(self.consistency)}
        if self.semantic is not None:
            found["semantic"] = self.semantic.named()
        if self.pose:
            errors = torch.cat(self.pose).mean(0)
            found["position_m_per_step"], found["angle_deg_per_step"] = errors.T.tolist()
        if self.plan:
            errors = torch.cat(self.plan)
            both = [planning_l2(errors, step + 1) for step in range(self.steps)]
            found["planning"] = {name: [one[name].mean().item() for one in both] for name in both[0]}
        if self.hits[:, 0].sum() > 0:
            found["collision_rate_inside_per_step"] = [ratio(hit, inside) for _, inside, hit in self.hits.tolist()]
            found["outside_rate_per_step"] = [ratio(all_ - inside, all_) for all_, inside, _ in self.hits.tolist()]
        return found


def places_in_grids(
    space: EgoGrid, poses: Float[Tensor, "batch step 13"], batch: OccupancyBatch
) -> Float[Tensor, "batch step 3"]:
    """Predicted world positions in the frames of the true future grids, which is where they are tested."""
    world2grid = rigid_inverse(space.frame.grid2world(batch.future_poses))
    positions = poses[..., POSITION].to(world2grid.dtype)
    return (world2grid[..., :3, :3] @ positions[..., None])[..., 0] + world2grid[..., :3, 3]
