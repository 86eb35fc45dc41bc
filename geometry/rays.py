"""Rays and the intervals sampled along them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from geometry.tensor_struct import TensorStruct


@dataclass(frozen=True)
class RayBundle(TensorStruct):
    """Rays in the world frame. t is the distance along the ray; depth = t * cos_optical is camera z."""

    origins: Float[Tensor, "*batch ray 3"]
    directions: Float[Tensor, "*batch ray 3"]
    """Unit length."""
    t_near: Float[Tensor, "*batch ray"]
    t_far: Float[Tensor, "*batch ray"]
    cos_optical: Float[Tensor, "*batch ray"]
    """Cosine between the ray and its camera's optical axis."""

    def at(self, t: Float[Tensor, "*batch ray sample"]) -> Float[Tensor, "*batch ray sample 3"]:
        """World positions at distances along the rays: o + t d."""
        return self.origins[..., None, :] + self.directions[..., None, :] * t[..., None]


@dataclass(frozen=True)
class RaySamples(TensorStruct):
    """Sample positions in ascending order and the interval each one stands for, as distances along the ray."""

    t: Float[Tensor, "*batch ray sample"]
    """Where the field is evaluated; inside the interval."""
    t_starts: Float[Tensor, "*batch ray sample"]
    t_ends: Float[Tensor, "*batch ray sample"]

    @classmethod
    def from_positions(
        cls,
        t: Float[Tensor, "*batch ray sample"],
        t_near: Float[Tensor, "*batch ray"],
        t_far: Float[Tensor, "*batch ray"],
    ) -> "RaySamples":
        """Intervals that meet halfway between ascending positions and together cover [t_near, t_far] exactly.

        Positions 2.1, 2.2, 3.0, 3.9 in [2, 4] stand for lengths 0.15, 0.45, 0.85, 0.55. Quadrature with these lengths
        is Mildenhall et al. 2020, eq. 3, whose own delta_i = t_(i+1) - t_i leaves the last one open.
        """
        between = (t[..., 1:] + t[..., :-1]) / 2
        edges = torch.cat([t_near[..., None], between, t_far[..., None]], dim=-1)
        return cls(t, edges[..., :-1], edges[..., 1:])

    @property
    def deltas(self) -> Float[Tensor, "*batch ray sample"]:
        """Interval lengths in scene units."""
        return self.t_ends - self.t_starts
