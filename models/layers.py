"""Layers that more than one task or sampler uses."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers of the given widths with ReLU between them (none after the last)."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def masked_mean_and_variance(
    values: Float[Tensor, "batch view point channel"], weights: Float[Tensor, "batch view point 1"]
) -> tuple[Float[Tensor, "batch point channel"], Float[Tensor, "batch point channel"]]:
    """Mean and variance over views. Weights sum to one over the views, or are all zero (then both results are 0)."""
    mean = (values * weights).sum(1)
    centered = values - mean[:, None]
    return mean, (centered * centered * weights).sum(1)


def masked_softmax(logits: Float[Tensor, "batch view point 1"], visible: Tensor) -> Float[Tensor, "batch view point 1"]:
    """Softmax over the visible views; all zero where there is none."""
    weights = torch.softmax(logits.float().masked_fill(~visible, -1e4), dim=1)
    return (weights * visible).to(logits.dtype)


def sinusoidal_encoding(values: Float[Tensor, "*batch"], octaves: int) -> Float[Tensor, "*batch encoding"]:
    """[v, sin(2^k pi v), cos(2^k pi v)] for k < octaves (Mildenhall et al. 2020, eq. 4); 1 + 2 * octaves channels."""
    angles = values[..., None] * torch.pi * 2.0 ** torch.arange(octaves, device=values.device, dtype=values.dtype)
    return torch.cat([values[..., None], angles.sin(), angles.cos()], dim=-1)
