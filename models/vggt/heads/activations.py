"""Output activations of dense heads and camera head by name (docs/vggt.md, "Dense heads" and "Camera head")."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Values = Float[Tensor, "*batch channel"]


def inv_log(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """sign(y) (exp|y| - 1): odd, and exponential far from zero."""
    return torch.sign(values) * torch.expm1(values.abs())


def norm_exp(values: Values) -> Values:
    """The vector's direction with length expm1(length)."""
    length = values.norm(dim=-1, keepdim=True).clamp(min=1e-8)
    return values / length * torch.expm1(length)


def unit_length(values: Values) -> Values:
    """y / |y|."""
    return values / values.norm(dim=-1, keepdim=True)


def xy_inv_log(values: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """A ray (x, y) and an inv-log depth z': (x z', y z', z')."""
    depth = inv_log(values[..., 2:])
    return torch.cat([values[..., :2] * depth, depth], dim=-1)


def linear(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The value itself."""
    return values


def one_plus_exp(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """1 + exp(c): a confidence never below one."""
    return 1 + values.exp()


VALUE_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "inv_log": inv_log,
    "norm_exp": norm_exp,
    "norm": unit_length,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "linear": linear,
    "xy_inv_log": xy_inv_log,
}
CONFIDENCE_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "expp1": one_plus_exp,
    "expp0": torch.exp,
    "sigmoid": torch.sigmoid,
}
POSE_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": linear,
    "inv_log": inv_log,
    "exp": torch.exp,
    "relu": torch.relu,
}
