"""The two forecasters of the AerialWorld training guide, for comparison: everything through one vector.

A few hundred numbers for up to millions of voxels, and no alignment of the past grids: see docs/occupancy.md for what
that can and cannot do. Logits instead of probabilities; poses are relative to the last observed one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor, nn

from geometry import require
from geometry.body_poses import ORIENTATION, POSITION, VELOCITY, product, unit_quaternion
from geometry.voxels import EgoGrid
from models.layers import mlp
from models.occupancy.inputs import Forecast, ForecastInputs
from models.occupancy.objective.poses import PosePrediction, sigmas

POSE = 13
_GROUP_WIDTH = 8
"""Channels per group of a norm; the number of parameters does not depend on it."""
_PLACE = 256
"""Numbers of a place's embedding."""


@dataclass(frozen=True, kw_only=True)
class BottleneckConfig:
    """Sizes; the defaults are the guide's."""

    history: int = 4
    future: int = 6
    width: int = 64
    """Of the first convolution; the others have twice and four times as many channels."""
    latent: int = 256
    uses_transformer: bool = False
    """Of `SixDofForecaster`: attention instead of an LSTM over the history's poses."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be."""
        for name in ("history", "future", "width", "latent"):
            require(getattr(self, name) >= 1, f"bottleneck {name}: expected at least 1, got {getattr(self, name)}")


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // _GROUP_WIDTH), channels)


def _encoder(inputs: int, widths: Sequence[int], strides: Sequence[int], pooled: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for (before, after), stride in zip(pairwise((inputs, *widths)), strides, strict=True):
        layers += [nn.Conv3d(before, after, 3, stride=stride, padding=1), _norm(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(pooled), nn.Flatten())


def _decoder(widths: Sequence[int], outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.ConvTranspose3d(before, after, 4, stride=2, padding=1), _norm(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv3d(widths[-1], outputs, 3, padding=1))


class PoseRoller(nn.Module):
    """A GRU cell that reads the last pose and a context: positions and velocities grow, rotations multiply."""

    def __init__(self, context: int, width: int) -> None:
        super().__init__()
        self.cell, self.out = nn.GRUCell(POSE + context, width), nn.Linear(width, POSE)

    def forward(
        self, last: Float[Tensor, "batch 13"], context: Float[Tensor, "batch channel"], steps: int
    ) -> tuple[Float[Tensor, "batch step 13"], Float[Tensor, "batch step width"]]:
        """Poses, and the state behind each."""
        state = context.new_zeros(len(context), self.cell.hidden_size)
        poses, states = [], []
        for _ in range(steps):
            state = self.cell(torch.cat([last, context], dim=-1), state)
            change = self.out(state)
            turn = unit_quaternion(change[:, ORIENTATION] + change.new_tensor([1.0, 0.0, 0.0, 0.0]))
            last = torch.cat(
                [
                    last[:, POSITION] + change[:, POSITION],
                    unit_quaternion(product(last[:, ORIENTATION], turn)),
                    last[:, VELOCITY.start :] + change[:, VELOCITY.start :],
                ],
                dim=-1,
            )
            poses.append(last)
            states.append(state)
        return torch.stack(poses, dim=1), torch.stack(states, dim=1)


class _Bottleneck(nn.Module):
    """What both have in common."""

    def __init__(self, config: BottleneckConfig, ego: EgoGrid, strides: Sequence[int], pooled: int) -> None:
        super().__init__()
        self.config, self.ego, self.pooled = config, ego, pooled
        latent = config.latent
        self.widths = [config.width, 2 * config.width, 4 * config.width]
        self.encoder = _encoder(config.history, self.widths, strides, pooled)
        self.to_latent = nn.Linear(self.widths[-1] * pooled**3, latent)
        self.pose_encoder = mlp(POSE, 64, 128, latent)
        self.fusion = mlp(2 * latent, latent, latent)
        self.from_latent = nn.Linear(latent, self.widths[-1] * pooled**3)
        self.poses = PoseRoller(latent, latent)

    def past(self, inputs: ForecastInputs) -> Float[Tensor, "batch history 13"]:
        """Poses of the history in the network's numbers."""
        return inputs.relative_history.to(self.to_latent.weight.dtype)

    def fused(self, inputs: ForecastInputs) -> Float[Tensor, "batch latent"]:
        """Of the grids and the last pose."""
        seen = self.to_latent(self.encoder(inputs.history.to(self.to_latent.weight.dtype)))
        return self.fusion(torch.cat([seen, self.pose_encoder(self.past(inputs)[:, -1])], dim=-1))

    def volume(self, latent: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch channel p p p"]:
        """What the decoder grows."""
        return self.from_latent(latent).unflatten(-1, (self.widths[-1], *[self.pooled] * 3))

    def frames(self, inputs: ForecastInputs, poses: Float[Tensor, "batch step 13"]) -> Float[Tensor, "batch step 13"]:
        """World poses of the grids: nothing ties them to any, so they count as seen from where the vehicle is."""
        return inputs.in_world(poses.detach() if inputs.plan is None else inputs.plan)


def _picked(forecast: Forecast, steps: Sequence[int] | Tensor | None) -> Forecast:
    """Only some of the steps, the same ones or each sample its own."""
    if steps is None:
        return forecast
    batch = torch.arange(len(forecast.logits), device=forecast.logits.device)[:, None]
    index = steps if isinstance(steps, Tensor) else torch.tensor([list(steps)])
    index = index.to(batch.device).expand(len(forecast.logits), -1)
    return Forecast(forecast.logits[batch, index], forecast.frames[batch, index], forecast.poses)


class SimpleForecaster(_Bottleneck):
    """Encoder, one vector, an LSTM that sees a single step, decoder: 13,851,923 parameters for 4 + 6 frames."""

    def __init__(self, config: BottleneckConfig, ego: EgoGrid) -> None:
        super().__init__(config, ego, strides=(1, 2, 2), pooled=4)
        self.temporal = nn.LSTM(config.latent, config.latent, num_layers=2, batch_first=True)
        first, second, third = self.widths
        self.decoder = _decoder((third, second, first), config.future)

    def forward(
        self, inputs: ForecastInputs, steps: Sequence[int] | Integer[Tensor, "batch step"] | None = None
    ) -> Forecast:
        """The plan is not looked at: this model has no use for one."""
        context = self.temporal(self.fused(inputs)[:, None])[0][:, 0]
        poses, _ = self.poses(self.past(inputs)[:, -1], context, self.config.future)
        logits = F.interpolate(self.decoder(self.volume(context)), size=self.ego.grid.size, mode="trilinear")
        return _picked(Forecast(logits, self.frames(inputs, poses), PosePrediction(poses)), steps)


class SixDofForecaster(_Bottleneck):
    """The guide's 6DoF model: 77,300,704 parameters for 4 + 6 frames, 79,407,072 with attention over poses.

    The plan, or the prediction of it, scales and shifts the channels of the decoder's input: alike at every place, so
    that it cannot move anything.
    """

    def __init__(self, config: BottleneckConfig, ego: EgoGrid) -> None:
        super().__init__(config, ego, strides=(2, 2, 2), pooled=8)
        latent = config.latent
        if config.uses_transformer:
            layer = nn.TransformerEncoderLayer(latent, 8, 4 * latent, batch_first=True)
            self.temporal: nn.Module = nn.TransformerEncoder(layer, 4)
        else:
            self.temporal = nn.LSTM(latent, latent, num_layers=2, batch_first=True)
        first, second, third = self.widths
        self.scale, self.shift = (mlp(POSE * config.future, 2 * latent, third) for _ in range(2))
        self.decoder = _decoder((third, third, second, first), config.future)
        self.uncertainty = mlp(latent, latent // 2, 6)
        self.global_pose = mlp(latent, latent // 8, 7)
        self.place = mlp(latent, latent // 4, _PLACE)

    def forward(
        self, inputs: ForecastInputs, steps: Sequence[int] | Integer[Tensor, "batch step"] | None = None
    ) -> Forecast:
        """By the plan, or by the poses that are predicted."""
        context = self.fused(inputs) + self._over_time(self.pose_encoder(self.past(inputs)))
        poses, states = self.poses(self.past(inputs)[:, -1], context, self.config.future)
        plan = (poses if inputs.plan is None else inputs.plan.to(poses.dtype)).flatten(1)
        scale, shift = (part(plan)[..., None, None, None] for part in (self.scale, self.shift))
        grown = self.decoder((1 + scale) * self.volume(context) + shift)
        logits = F.interpolate(grown, size=self.ego.grid.size, mode="trilinear")
        found = PosePrediction(
            poses,
            sigmas(self.uncertainty(states)),
            self.global_pose(context),
            F.normalize(self.place(context), dim=-1),
        )
        return _picked(Forecast(logits, self.frames(inputs, poses), found), steps)

    def _over_time(self, features: Float[Tensor, "batch history latent"]) -> Float[Tensor, "batch latent"]:
        """What is known of the motion at the last step."""
        if isinstance(self.temporal, nn.LSTM):
            return self.temporal(features)[0][:, -1]
        return self.temporal(features + _time_codes(features.shape[1], features))[:, -1]


def _time_codes(steps: int, like: Tensor) -> Float[Tensor, "step channel"]:
    """Sines and cosines of the step (Vaswani et al. 2017, section 3.5)."""
    half = like.shape[-1] // 2
    rates = torch.exp(-math.log(1e4) * torch.arange(half, device=like.device) / half)
    angles = torch.arange(steps, device=like.device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1).to(like.dtype)
