"""What each kind of network learns from a batch, and what it forecasts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor, nn

from data.occupancy.types import OccupancyBatch
from geometry import TensorStruct
from models.occupancy.inputs import Forecast
from models.occupancy.networks import OCCWORLD, NetworkPlan
from models.occupancy.objective.occupancy import class_loss, lovasz_softmax_loss, occupancy_losses
from models.occupancy.objective.poses import planning_loss, pose_losses
from models.occupancy.occworld import OccWorld
from models.occupancy.occworld.network import code_loss
from models.occupancy.occworld.tokenizer import Reconstruction, code_use
from training.occupancy.inputs import MANEUVERS, chosen_steps, forecast_inputs, maneuvers, picked, plane_steps
from training.occupancy.options import COMMANDED, TOKENIZER, OccupancyOptions


@dataclass(frozen=True)
class Predicted(TensorStruct):
    """A forecast as it is measured."""

    labels: Integer[Tensor, "batch step x y z"]
    """0 / 1 or classes."""
    occupied: Float[Tensor, "batch step x y z"]
    """Probability of anything but free."""
    poses: Float[Tensor, "batch step 13"] | None = None
    """Relative to the last observed one."""
    places: Float[Tensor, "batch step 2"] | None = None
    """In the plane (x right, y forward, meters), of a model that predicts no poses."""


@runtime_checkable
class Learner(Protocol):
    """A network in the hands of a run."""

    def losses(self, batch: OccupancyBatch) -> Mapping[str, Tensor]:
        """By name, each times its weight: their sum is the objective."""
        ...

    def predicted(self, batch: OccupancyBatch, *, has_plan: bool) -> Predicted:
        """All future frames, with or without being told where the vehicle goes."""
        ...

    def scalars(self) -> Mapping[str, float]:
        """Of the last batch, for the log."""
        ...


def label_losses(
    logits: Tensor, labels: Tensor, options: OccupancyOptions, visible: Tensor | None
) -> dict[str, Tensor]:
    """Of binary or class logits. Voxels that do not count are taken out of both."""
    if logits.ndim == labels.ndim:
        target = labels.to(logits.dtype)
        if visible is not None:  # a voxel that is rightly and surely empty has next to no part in any of the losses
            target = torch.where(visible, target, 0.0)
            logits = torch.where(visible, logits, -_SURE)
        return occupancy_losses(logits, target, options.occupancy_weights)
    if visible is not None:
        logits, labels = logits[visible], labels[visible]
    losses = {
        "classes": (options.class_weight, class_loss),
        "class_lovasz": (options.class_lovasz_weight, lovasz_softmax_loss),
    }
    return {name: weight * loss(logits, labels) for name, (weight, loss) in losses.items() if weight}


_SURE = 20.0
"""Logit of a voxel that is certainly empty."""


class ForecastLearner:
    """Networks that forecast grids from grids."""

    def __init__(self, network: nn.Module, plan: NetworkPlan, options: OccupancyOptions) -> None:
        self.network, self.plan, self.options = network, plan, options

    def losses(self, batch: OccupancyBatch) -> Mapping[str, Tensor]:
        """Of the chosen future frames, and of the poses of all."""
        options = self.options
        inputs = forecast_inputs(batch, has_plan=options.motion == COMMANDED)
        steps = chosen_steps(batch.seeds, options.future, options.steps_per_window)
        forecast: Forecast = self.network(inputs, steps)
        visible = None if batch.visible is None else picked(batch.visible, steps)
        losses = label_losses(forecast.logits, picked(batch.future, steps), options, visible)
        poses = forecast.poses
        target = batch.relative_future.to(poses.poses.dtype)
        world = batch.history_poses[:, -1, :7].to(poses.poses.dtype)
        return losses | dict(pose_losses(poses, target, world, options.pose_weights))

    def predicted(self, batch: OccupancyBatch, *, has_plan: bool) -> Predicted:
        """See `Learner`."""
        forecast: Forecast = self.network(forecast_inputs(batch, has_plan=has_plan))
        labels, occupied = labels_of(forecast.logits, self.plan.free_class, self.options.occ_threshold)
        return Predicted(labels, occupied, forecast.poses.poses)

    def scalars(self) -> Mapping[str, float]:
        """Nothing more."""
        return {}


def labels_of(logits: Tensor, free_class: int, threshold: float) -> tuple[Tensor, Tensor]:
    """Labels and probabilities of occupied, of binary logits or of logits of classes.

    A voxel of classes is free unless it is occupied with the threshold's probability; then it has its likeliest class.
    """
    if logits.ndim == _BINARY_AXES:
        occupied = logits.float().sigmoid()
        return (occupied > threshold).to(torch.uint8), occupied
    chances = logits.float().softmax(-1)
    occupied = 1 - chances[..., free_class]
    others = chances.clone()
    others[..., free_class] = -1.0
    labels = torch.where(occupied > threshold, others.argmax(-1), free_class)
    return labels.to(torch.uint8), occupied


_BINARY_AXES = 5
"""batch step x y z."""


class OccWorldLearner:
    """OccWorld: its tokenizer first, then its transformer on codes that do not change any more."""

    def __init__(self, network: OccWorld, plan: NetworkPlan, options: OccupancyOptions) -> None:
        self.network, self.plan, self.options = network, plan, options
        self.last: Reconstruction | None = None
        """Of the tokenizer's last training batch."""

    @property
    def is_tokenizer(self) -> bool:
        """The first stage."""
        return self.options.stage == TOKENIZER

    def losses(self, batch: OccupancyBatch) -> Mapping[str, Tensor]:
        """Of the stage."""
        labels = torch.cat([batch.history, batch.future], dim=1)
        return self._tokenizer_losses(labels) if self.is_tokenizer else self._transformer_losses(batch, labels)

    def _tokenizer_losses(self, labels: Tensor) -> Mapping[str, Tensor]:
        options = self.options
        found = self.network.vae(labels)
        self.last = found
        losses = label_losses(found.logits, labels, options, None)
        if options.quantizer_weight:
            losses["quantizer"] = options.quantizer_weight * found.quantizer_loss
        return losses

    def _transformer_losses(self, batch: OccupancyBatch, labels: Tensor) -> Mapping[str, Tensor]:
        options = self.options
        steps, command = plane_steps(batch), one_hot_maneuvers(batch)
        found = self.network(labels, steps, command)
        losses = {}
        if options.code_weight:
            losses["codes"] = options.code_weight * code_loss(found)
        if options.planning_weight:
            losses["planning"] = options.planning_weight * planning_loss(found.modes, steps[:, 1:], command[:, 1:])
        return losses

    def predicted(self, batch: OccupancyBatch, *, has_plan: bool) -> Predicted:
        """The tokenizer alone: future frames by way of their own codes. Else a roll-out.

        With a plan each predicted frame is read with its own maneuver, without one all with the last observed one.
        """
        threshold, free = self.options.occ_threshold, self.plan.free_class
        if self.is_tokenizer:
            labels, occupied = labels_of(self.network.vae(batch.future).logits, free, threshold)
            return Predicted(labels, occupied)
        command, observed = one_hot_maneuvers(batch), batch.history.shape[1]
        if not has_plan:
            last = command[:, observed - 1 : observed]
            command = torch.cat([command[:, :observed], last.expand(-1, batch.future.shape[1], -1)], dim=1)
        steps = plane_steps(batch)[:, :observed]
        rolled = self.network.roll_out(batch.history, steps, command, batch.future.shape[1])
        labels, occupied = labels_of(rolled.logits, free, threshold)
        return Predicted(labels, occupied, places=rolled.steps.cumsum(1))

    def scalars(self) -> Mapping[str, float]:
        """How evenly codes are used."""
        if self.last is None:
            return {}
        use = code_use(self.last.codes, self.network.config.tokenizer.num_codes)
        return {"code_use": use.share, "perplexity": use.perplexity}


def one_hot_maneuvers(batch: OccupancyBatch) -> Float[Tensor, "batch frame mode"]:
    """Of all frames."""
    return F.one_hot(maneuvers(batch), MANEUVERS).float()


def learner_of(network: nn.Module, plan: NetworkPlan, options: OccupancyOptions) -> ForecastLearner | OccWorldLearner:
    """By the kind of network."""
    if plan.model == OCCWORLD:
        assert isinstance(network, OccWorld)
        return OccWorldLearner(network, plan, options)
    return ForecastLearner(network, plan, options)
