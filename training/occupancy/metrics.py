"""Metrics of occupancy forecasts by future step and stratum; counts are summed over the data set, then divided.

A quotient whose denominator is 0 is None, not 0 or 1: nothing can be said.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from geometry.body_poses import ORIENTATION, POSITION, angle_between
from geometry.voxels import VoxelGrid

ALL, GROUND, NON_GROUND, CHANGED, NON_GROUND_CHANGED, MOVING = (
    *("all", "ground", "non_ground", "changed"),
    *("non_ground_changed", "moving"),
)
STRATA = (ALL, GROUND, NON_GROUND, CHANGED, NON_GROUND_CHANGED, MOVING)
"""Voxels that are counted apart. Changed: the truth differs from the last observed grid, as it stands."""
THRESHOLD = 0.5
"""Of the probability of occupied, in training, validation and test alike."""
NEIGHBORHOOD = 1
"""Voxels in each direction that count as hit."""

Grids = Bool[Tensor, "*batch step x y z"]


def ratio(numerator: float | int, denominator: float | int) -> float | None:
    """None for a denominator of 0."""
    return numerator / denominator if denominator else None


def mean(values: Iterable[float | int | None]) -> float | None:
    """Of those that are known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class Counts:
    """Of voxels: rightly, wrongly and not found to be occupied."""

    tp: int
    fp: int
    fn: int

    def named(self) -> dict[str, float | int | None]:
        """Counts and what follows from them."""
        both = self.tp + self.fp + self.fn
        return {
            "tp": self.tp,
            "fp": self.fp,
            "fn": self.fn,
            "iou": ratio(self.tp, both),
            "precision": ratio(self.tp, self.tp + self.fp),
            "recall": ratio(self.tp, self.tp + self.fn),
            "f1": ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn),
        }


def strata_masks(
    last: Bool[Tensor, "*batch x y z"],
    target: Grids,
    ground: Grids | None = None,
    moving: Grids | None = None,
) -> dict[str, Grids]:
    """Which voxels belong to each stratum; those of what is not known are absent.

    `ground`: voxels below the ground's height. XX
    path, see `moving_region`.
    """
    everything = torch.ones_like(target)
    changed = target != last.unsqueeze(-4)
    masks = {ALL: everything, CHANGED: changed}
    if ground is not None:
        masks |= {GROUND: ground, NON_GROUND: ~ground, NON_GROUND_CHANGED: ~ground & changed}
    if moving is not None:
        masks[MOVING] = moving
    return {name: masks[name] for name in STRATA if name in masks}


@dataclass
class OccupancyScores:
    """Counts by stratum and step, predicted and true shares; of any number of batches."""

    steps: int
    counts: dict[str, Int[Tensor, "step 3"]] = field(default_factory=dict)
    occupied: Float[Tensor, "step 3"] = field(init=False)
    """Predicted occupied, sum of probabilities, truly occupied: voxels."""

    def __post_init__(self) -> None:
        """Nothing counted yet."""
        self.occupied = torch.zeros(self.steps, 3, dtype=torch.float64)

    def add(
        self,
        prediction: Bool[Tensor, "batch step x y z"],
        target: Bool[Tensor, "batch step x y z"],
        masks: Mapping[str, Tensor],
        *,
        visible: Tensor | None = None,
        probability: Tensor | None = None,
    ) -> None:
        """Count a batch; only `visible` voxels, where given."""
        axes = (0, 2, 3, 4)
        if visible is not None:
            prediction, target = prediction & visible, target & visible
        cases = (prediction & target, prediction & ~target, ~prediction & target)
        for name, mask in masks.items():
            found = torch.stack([(case & mask).sum(axes) for case in cases], dim=-1).cpu()
            self.counts[name] = self.counts.get(name, torch.zeros_like(found)) + found
        sure = prediction.double() if probability is None else probability.double()
        sure = sure if visible is None else sure * visible
        shares = [one.double().sum(axes) for one in (prediction, sure, target)]
        self.occupied += torch.stack(shares, dim=-1).cpu()

    def join(self, other: "OccupancyScores") -> None:
        """Count what another has counted as well."""
        for name, counts in other.counts.items():
            self.counts[name] = self.counts[name] + counts if name in self.counts else counts
        self.occupied += other.occupied

    def of(self, stratum: str, step: int | None = None) -> Counts:
        """Of one step, or of all together."""
        rows = self.counts[stratum]
        return Counts(*(rows.sum(0) if step is None else rows[step]).tolist())

    def iou(self, stratum: str, step: int | None = None) -> float | None:
        """Of one step, or of all together; None as well for a stratum that is not known."""
        return self.of(stratum, step).named()["iou"] if stratum in self.counts else None

    def calibration(self) -> list[float | None]:
        """Voxels predicted to be occupied over those that are, by step."""
        return [ratio(predicted, true) for predicted, _, true in self.occupied.tolist()]

    def named(self) -> dict[str, object]:
        """All of it, for JSON."""
        return {
            "strata": {name: self.of(name).named() for name in self.counts},
            "iou_per_step": {name: [self.iou(name, step) for step in range(self.steps)] for name in self.counts},
            "predicted_over_true_per_step": self.calibration(),
            "probability_over_true_per_step": [ratio(sure, true) for _, sure, true in self.occupied.tolist()],
        }


def class_ious(
    prediction: Integer[Tensor, "*grid"],
    target: Integer[Tensor, "*grid"],
    classes: Iterable[int],
    visible: Bool[Tensor, "*grid"] | None = None,
) -> list[float | None]:
    """IoU of each class; None where it occurs in neither, 0 where it is predicted only."""
    counts = ClassCounts.of(prediction, target, classes, visible)
    return [ratio(same, either) for same, either in zip(counts.same, counts.either, strict=True)]


@dataclass(frozen=True)
class ClassCounts:
    """Voxels by class."""

    same: list[int]
    """Predicted and true."""
    either: list[int]
    true: list[int]

    @classmethod
    def of(
        cls,
        prediction: Integer[Tensor, "*grid"],
        target: Integer[Tensor, "*grid"],
        classes: Iterable[int],
        visible: Bool[Tensor, "*grid"] | None = None,
    ) -> "ClassCounts":
        """Count; only `visible` voxels, where given."""
        if visible is not None:
            prediction, target = prediction[visible], target[visible]
        rows = []
        for index in classes:
            ours, theirs = prediction == index, target == index
            rows.append([int((ours & theirs).sum()), int((ours | theirs).sum()), int(theirs.sum())])
        return cls(*(list(column) for column in zip(*rows, strict=True)))

    def __add__(self, other: "ClassCounts") -> "ClassCounts":
        """Of both together."""
        sums = ([a + b for a, b in zip(mine, theirs, strict=True)] for mine, theirs in zip(
            (self.same, self.either, self.true), (other.same, other.either, other.true), strict=True
        ))  # fmt: skip
        return ClassCounts(*sums)

    def mean_iou(self) -> float | None:
        """Over classes that occur; one that is predicted only counts 0."""
        return mean(ratio(same, either) for same, either in zip(self.same, self.either, strict=True))

    def reference_mean_iou(self) -> float:
        """OccWorld's rule: a class that the truth lacks counts as 1, also where it is predicted."""
        values = [
            same / either if true else 1.0 for same, either, true in zip(self.same, self.either, self.true, strict=True)
        ]
        return sum(values) / len(values)


def _sum(one: ClassCounts | None, other: ClassCounts | None) -> ClassCounts | None:
    """None: nothing counted yet."""
    return other if one is None else one if other is None else one + other


@dataclass
class SemanticScores:
    """IoU of classes and of occupied against free, by step."""

    steps: int
    num_classes: int
    free_class: int
    counts: list[ClassCounts | None] = field(init=False)
    occupied: list[ClassCounts | None] = field(init=False)

    def __post_init__(self) -> None:
        """Nothing counted yet."""
        self.counts, self.occupied = [None] * self.steps, [None] * self.steps

    @property
    def classes(self) -> list[int]:
        """That are averaged: all but free."""
        return [index for index in range(self.num_classes) if index != self.free_class]

    def add(
        self,
        prediction: Integer[Tensor, "batch step x y z"],
        target: Integer[Tensor, "batch step x y z"],
        visible: Bool[Tensor, "batch step x y z"] | None = None,
    ) -> None:
        """Count a batch."""
        for step in range(self.steps):
            ours, theirs = prediction[:, step], target[:, step]
            seen = None if visible is None else visible[:, step]
            for store, one, other, classes in (
                (self.counts, ours, theirs, self.classes),
                (self.occupied, (ours != self.free_class).int(), (theirs != self.free_class).int(), [1]),
            ):
                store[step] = _sum(store[step], ClassCounts.of(one, other, classes, seen))

    def join(self, other: "SemanticScores") -> None:
        """Count what another has counted as well."""
        self.counts = [_sum(*pair) for pair in zip(self.counts, other.counts, strict=True)]
        self.occupied = [_sum(*pair) for pair in zip(self.occupied, other.occupied, strict=True)]

    def named(self) -> dict[str, list[float | None]]:
        """By step, with mIoU of both rules."""
        counts = [one for one in self.counts if one is not None]
        occupied = [one for one in self.occupied if one is not None]
        return {
            "miou_per_step": [one.mean_iou() for one in counts],
            "miou_reference_rule_per_step": [one.reference_mean_iou() for one in counts],
            "iou_per_step": [one.mean_iou() for one in occupied],
        }


def temporal_consistency(
    prediction: Float[Tensor, "batch step x y z"], target: Float[Tensor, "batch step x y z"]
) -> float | None:
    """Mean cosine between predicted and true changes from step to step, where the truth changes at all."""
    ours, theirs = (one.double().diff(dim=1).flatten(2) for one in (prediction, target))
    cosine = torch.nn.functional.cosine_similarity(ours, theirs, dim=-1)
    changes = theirs.abs().sum(-1) > 0
    return cosine[changes].mean().item() if bool(changes.any()) else None


@dataclass(frozen=True)
class Collision:
    """Of places a vehicle is going to be."""

    hit: Bool[Tensor, "*batch"]
    """Something is occupied there or in a neighboring voxel."""
    inside: Bool[Tensor, "*batch"]
    """The place lies in the grid; elsewhere nothing is known."""

    def rates(self) -> dict[str, float | None]:
        """Hits among places inside, and places outside among all."""
        inside = int(self.inside.sum())
        return {
            "collision_rate_inside": ratio(int((self.hit & self.inside).sum()), inside),
            "outside_rate": ratio(self.inside.numel() - inside, self.inside.numel()),
        }


def collisions(grid: VoxelGrid, occupied: Bool[Tensor, "*batch x y z"], places: Float[Tensor, "*batch 3"]) -> Collision:
    """`places` in meters of the frame of the grid each is tested against; 3 x 3 x 3 voxels count."""
    index, inside = grid.indices(places)
    reach = torch.arange(-NEIGHBORHOOD, NEIGHBORHOOD + 1, device=places.device)
    offsets = torch.cartesian_prod(reach, reach, reach)
    around = index[..., None, :] + offsets
    size = torch.tensor(grid.size, device=places.device)
    exists = ((around >= 0) & (around < size)).all(-1)
    x, y, z = around.clamp(torch.zeros_like(size), size - 1).unbind(-1)
    flat = (x * grid.size[1] + y) * grid.size[2] + z
    found = occupied.flatten(-3).gather(-1, flat) & exists
    return Collision(found.any(-1) & inside, inside)


def planning_errors(
    modes: Float[Tensor, "batch step mode 2"],
    steps: Float[Tensor, "batch step 2"],
    command: Float[Tensor, "batch step mode"],
) -> Float[Tensor, "batch step"]:
    """Distance (m) of the path of the commanded modes from the true one, after each step."""
    chosen = (modes * command[..., None]).sum(2)
    return (chosen.cumsum(1) - steps.cumsum(1)).norm(dim=-1)


def planning_l2(errors: Float[Tensor, "batch step"], steps: int) -> dict[str, Float[Tensor, " batch"]]:
    """Both conventions in use: the mean over steps up to the horizon (ST-P3), and the error at it."""
    return {"l2_prefix_mean": errors[:, :steps].mean(1), "l2_at": errors[:, steps - 1]}


def pose_errors(
    prediction: Float[Tensor, "batch step 13"], target: Float[Tensor, "batch step 13"]
) -> Float[Tensor, "batch step 2"]:
    """Distance (m) and angle (degrees)."""
    prediction = prediction.to(target.dtype)
    apart = (prediction[..., POSITION] - target[..., POSITION]).norm(dim=-1)
    angles = angle_between(prediction[..., ORIENTATION], target[..., ORIENTATION])
    return torch.stack([apart, angles * (180 / math.pi)], dim=-1)
