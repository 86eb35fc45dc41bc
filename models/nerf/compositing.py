"""Volume rendering of intervals (Max 1995; Mildenhall et al. 2020, eq. 3): pure functions, no network, float32."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from geometry import RayBundle, RaySamples, TensorStruct


@dataclass(frozen=True)
class FieldOutput(TensorStruct):
    """What a radiance field says about samples."""

    density: Float[Tensor, "*batch ray sample"]
    """1 / scene unit, >= 0."""
    rgb: Float[Tensor, "*batch ray sample 3"]
    """[0, 1]."""


@dataclass(frozen=True)
class RenderOutput(TensorStruct):
    """Rendered rays."""

    rgb: Float[Tensor, "*batch ray 3"]
    depth: Float[Tensor, "*batch ray"]
    """Expected camera z of the surface the ray hits, scene units; 0 where the ray hits nothing."""
    opacity: Float[Tensor, "*batch ray"]
    """Sum of the weights, at most 1."""
    weights: Float[Tensor, "*batch ray sample"]
    """Transmittance * opacity of each interval."""
    samples: RaySamples
    coarse: "RenderOutput | None" = None
    """The pass that proposed the samples of this one."""

    @property
    def passes(self) -> "list[RenderOutput]":
        """This one, and the coarse one where there is one."""
        return [self] if self.coarse is None else [self, self.coarse]


def weights_from_density(
    density: Float[Tensor, "*batch ray sample"], deltas: Float[Tensor, "*batch ray sample"]
) -> Float[Tensor, "*batch ray sample"]:
    """w_i = T_i (1 - exp(-density_i delta_i)), T_i = exp(-sum_{j<i} density_j delta_j).

    One interval of density 0.5 and length 2: w = 1 - exp(-1) = 0.632, however it is cut into smaller ones.
    """
    optical_length = density * deltas
    transmittance = torch.exp(-(torch.cumsum(optical_length, dim=-1) - optical_length))
    return transmittance * -torch.expm1(-optical_length)


def composite(
    field: FieldOutput,
    samples: RaySamples,
    rays: RayBundle,
    background: float,
    coarse: RenderOutput | None = None,
) -> RenderOutput:
    """Color, depth and opacity of rays. What the ray does not hit has the gray level `background`."""
    weights = weights_from_density(field.density.float(), samples.deltas.float())
    opacity = weights.sum(-1)
    rgb = (weights[..., None] * field.rgb.float()).sum(-2) + (1 - opacity)[..., None] * background
    t = (weights * samples.t).sum(-1) / opacity.clamp_min(1e-6)
    return RenderOutput(rgb, t * rays.cos_optical, opacity, weights, samples, coarse)
