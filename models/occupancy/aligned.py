"""The default forecaster: past grids where the vehicle is going to be, and a U-net that corrects the last of them.

A grid that is known in the frame it is predicted for needs no memory of where things are: what is left to learn is what
comes into sight, what moves, and what was hidden. The commanded motion acts as geometry, not as numbers that a network
would have to turn into a shift of millions of voxels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from geometry import require
from geometry.voxels import EgoGrid, warp_nearest
from models.config_checks import require_layers
from models.occupancy.alignment import aligned
from models.occupancy.inputs import Forecast, ForecastInputs
from models.occupancy.motion import MotionHead
from models.occupancy.unet import PlaneUnet

_CERTAINTY = 2.0
"""Logit of a voxel that the aligned last grid has occupied, and minus that of one it has not; chosen by hand."""
AGENTS = 2


@dataclass(frozen=True, kw_only=True)
class AlignedConfig:
    """Sizes of the aligned forecaster."""

    history: int
    """Observed grids."""
    future: int
    """Predicted grids."""
    num_classes: int = 1
    """1: occupied or not."""
    free_class: int = 0
    """Of a semantic grid: the class of empty voxels."""
    width: int = 32
    levels: int = 1
    """Times the plane is halved."""
    class_channels: int = 4
    """Of a semantic voxel's embedding."""
    motion_width: int = 64

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be."""
        require(self.history >= 2, f"--history: expected 2 or more grids to see motion in, got {self.history}")
        for name in ("future", "num_classes", "width", "class_channels", "motion_width"):
            require(getattr(self, name) >= 1, f"aligned {name}: expected at least 1, got {getattr(self, name)}")
        require_layers(self, "levels")
        require(self.levels >= 0, f"aligned levels: expected 0 or more, got {self.levels}")
        require(
            0 <= self.free_class < max(2, self.num_classes),
            f"free_class: expected a class below {self.num_classes}, got {self.free_class}",
        )


@dataclass(frozen=True)
class AlignedGrids:
    """Of one future frame."""

    features: Float[Tensor, "batch channel x y"]
    """For the U-net."""
    base: Float[Tensor, "batch x y z"] | Float[Tensor, "batch x y z cls"]
    """Logits of the aligned last grid."""


class BinaryVoxels(nn.Module):
    """Occupancy between voxels and how much of it is known, of every past grid."""

    def __init__(self, config: AlignedConfig, ego: EgoGrid) -> None:
        super().__init__()
        self.ego = ego
        heights = ego.grid.size[2]
        self.inputs, self.outputs = 2 * config.history * heights, heights

    def grids(self, inputs: ForecastInputs, target: Float[Tensor, "batch 13"], dtype: torch.dtype) -> AlignedGrids:
        """Seen from `target`. What lies outside the last grid counts as empty until the network knows better."""
        warped, known = aligned(self.ego, inputs.history.to(dtype), inputs.history_poses, target)
        base = _CERTAINTY * (2 * warped[:, -1].movedim(1, -1) - 1)
        return AlignedGrids(torch.cat([warped, known], dim=1).flatten(1, 2), base)

    def logits(self, correction: Float[Tensor, "batch z x y"], base: Tensor) -> Float[Tensor, "batch x y z"]:
        """Of occupied voxels."""
        return base + correction.movedim(1, -1)


class SemanticVoxels(nn.Module):
    """Classes of the voxels in which the centers lie, embedded; outside a grid is a class of its own."""

    def __init__(self, config: AlignedConfig, ego: EgoGrid) -> None:
        super().__init__()
        self.ego, self.num_classes, self.free_class = ego, config.num_classes, config.free_class
        self.heights, self.channels = ego.grid.size[2], config.class_channels
        self.embed = nn.Embedding(config.num_classes + 1, config.class_channels)
        self.classify = nn.Linear(config.class_channels, config.num_classes)
        self.inputs = config.history * self.heights * config.class_channels
        self.outputs = self.heights * config.class_channels

    def grids(self, inputs: ForecastInputs, target: Float[Tensor, "batch 13"], dtype: torch.dtype) -> AlignedGrids:
        """Seen from `target`. What lies outside the last grid counts as free until the network knows better."""
        motion = self.ego.frame.motion(inputs.history_poses, target[:, None]).to(dtype)
        labels, known = warp_nearest(self.ego.grid, inputs.history, motion)
        embedded = self.embed(torch.where(known, labels.long(), self.num_classes))
        last = torch.where(known[:, -1], labels[:, -1].long(), self.free_class)
        base = _CERTAINTY * (2 * nn.functional.one_hot(last, self.num_classes).to(dtype) - 1)
        return AlignedGrids(embedded.permute(0, 1, 4, 5, 2, 3).flatten(1, 3), base)

    def logits(self, correction: Float[Tensor, "batch channel x y"], base: Tensor) -> Float[Tensor, "batch x y z cls"]:
        """Of classes."""
        features = correction.movedim(1, -1).unflatten(-1, (self.heights, self.channels))
        return base + self.classify(features)


class AlignedForecaster(nn.Module):
    """See the head of this file."""

    def __init__(self, config: AlignedConfig, ego: EgoGrid) -> None:
        super().__init__()
        side = min(ego.grid.size[:2])
        require(2**config.levels <= side, f"--levels {config.levels}: expected a plane of {side} voxels to be halved")
        self.config, self.ego = config, ego
        self.voxels = BinaryVoxels(config, ego) if config.num_classes == 1 else SemanticVoxels(config, ego)
        self.unet = PlaneUnet(
            self.voxels.inputs, self.voxels.outputs, config.width, config.levels, config.future * AGENTS
        )
        self.motion = MotionHead(config.history, config.future, config.motion_width)

    def forward(
        self, inputs: ForecastInputs, steps: Sequence[int] | Integer[Tensor, "batch step"] | None = None
    ) -> Forecast:
        """Grids of the given future steps, from 0 on, the same ones or each sample its own; None: all.

        With a plan they are predicted where it leads, without one where the motion head says.
        """
        require(
            inputs.history.shape[1] == self.config.history and tuple(inputs.history.shape[2:]) == self.ego.grid.size,
            f"forecast: expected {self.config.history} grids of {self.ego.grid.size}, "
            f"got {inputs.history.shape[1]} of {tuple(inputs.history.shape[2:])}",
        )
        poses = self.motion(inputs)
        chosen = self._chosen(steps, inputs.agent)
        relative = poses.poses.detach() if inputs.plan is None else inputs.plan
        index = chosen[..., None].expand(-1, -1, 13)
        frames = inputs.in_world(relative.gather(1, index.to(relative.device)))
        logits = [self.predict(inputs, frames[:, i], chosen[:, i]) for i in range(chosen.shape[1])]
        return Forecast(torch.stack(logits, dim=1), frames, poses)

    def predict(
        self, inputs: ForecastInputs, target: Float[Tensor, "batch 13"], step: Integer[Tensor, " batch"]
    ) -> Float[Tensor, "batch ..."]:
        """Logits of one future frame seen from the world poses `target`, `step` frames (from 0) after the first."""
        grids = self.voxels.grids(inputs, target, next(self.parameters()).dtype)
        correction = self.unet(grids.features, step * AGENTS + inputs.agent)
        return self.voxels.logits(correction.to(grids.base.dtype), grids.base)

    def _chosen(self, steps: Sequence[int] | Tensor | None, agent: Tensor) -> Integer[Tensor, "batch step"]:
        if isinstance(steps, Tensor):
            return steps.to(agent.device)
        numbers = torch.arange(self.config.future) if steps is None else torch.tensor(list(steps))
        return numbers.to(agent.device).expand(len(agent), -1)


class ForecastStream:
    """One vehicle's grids as they arrive; each call predicts from the last few of them."""

    def __init__(self, model: AlignedForecaster, agent: int) -> None:
        self.model, self.agent = model, agent
        self._grids: list[Tensor] = []
        self._poses: list[Tensor] = []

    def observe(self, grid: Integer[Tensor, "x y z"], pose: Float[Tensor, "13"]) -> None:
        """The next grid and the world pose it was seen from, float64."""
        count = self.model.config.history
        self._grids = [*self._grids[1 - count :], grid]
        self._poses = [*self._poses[1 - count :], pose]

    @property
    def is_ready(self) -> bool:
        """Whether enough grids have been seen."""
        return len(self._grids) == self.model.config.history

    @torch.no_grad()
    def forecast(self, plan: Float[Tensor, "future 13"] | None = None, steps: Sequence[int] = (0,)) -> Forecast:
        """Of the given steps, by a plan relative to the last pose, or where the motion head says.

        Raises:
            InputError: before enough grids have been seen.
        """
        require(
            self.is_ready,
            f"stream: expected {self.model.config.history} grids before a forecast, got {len(self._grids)}",
        )
        history = torch.stack(self._grids)[None]
        agent = torch.full((1,), self.agent, device=history.device)
        given = None if plan is None else plan[None]
        return self.model(ForecastInputs(history, torch.stack(self._poses)[None], agent, given), steps)
