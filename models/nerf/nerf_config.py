"""What determines a radiance field network, and how rays are marched through it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

Jitter = Callable[[int], Float[Tensor, "batch ray count"]]
"""Uniform numbers in [0, 1) for `count` samples of every ray."""
NearFar = Literal["data", "auto"]
SamplerName = Literal["hierarchical", "guided"]


@dataclass(frozen=True)
class NerfConfig:
    """Everything that determines the shapes of the weights; stored in every checkpoint."""

    token_layers: int
    """0 = the image stem alone, without a VGGT."""
    token_channels: int
    feature_channels: int = 24
    hidden: int = 32
    fused: int = 64
    heads: int = 2
    residual_channels: int = 0
    """Channels of the per-scene residual; 0 = a general model, which has none."""
    residual_resolution: int = 128
    scene_field: int = 0
    """Cells along each side of the per-scene field that tells the guided sampler where surfaces are; 0 = none."""
    depth_prior: bool = False
    """The field, or the sweep of the guided sampler, is told the depth that VGGT sees in every source view."""
    sampler: SamplerName = "hierarchical"
    """Which network it is: coarse and fine samples for `GeneralizableNeRF`, few guided ones for `GuidedNeRF`."""
    sweep_planes: int = 48
    """Planes of the guided sampler's coarse sweep."""


@dataclass(frozen=True)
class Marching:
    """How rays are marched."""

    coarse: int
    """Samples spread evenly between near and far (`N_samples`)."""
    fine: int
    """Further samples where the coarse pass found something (`N_importance`); 0 = coarse pass only."""
    background: float = 0.0
    """Grey level of what a ray does not hit."""
    near_far: NearFar = "data"
    """Where rays start and end: at the bounds of the data set, or where VGGT's depth says that there is something."""
    guided: int = 8
    """Samples in the interval of a ray (`N_guided`) with the guided sampler, which uses no others."""
