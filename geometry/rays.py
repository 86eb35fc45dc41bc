"""Rays and the intervals sampled along them."""

from dataclasses import dataclass

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


@dataclass(frozen=True)
class RaySamples(TensorStruct):
    """Intervals along rays, ordered, in scene units along the ray. Neighbours need not touch."""

    t_starts: Float[Tensor, "*batch ray sample"]
    t_ends: Float[Tensor, "*batch ray sample"]

    @property
    def t_mids(self) -> Float[Tensor, "*batch ray sample"]:
        """Where the field is evaluated."""
        return (self.t_starts + self.t_ends) / 2

    @property
    def deltas(self) -> Float[Tensor, "*batch ray sample"]:
        """Interval lengths."""
        return self.t_ends - self.t_starts

    def points(self, rays: RayBundle) -> Float[Tensor, "*batch ray sample 3"]:
        """World positions of the interval midpoints."""
        return rays.origins[..., None, :] + rays.directions[..., None, :] * self.t_mids[..., None]
