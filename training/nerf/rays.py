"""Random rays of target views, and the streams of random numbers that a step draws from."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from data.seeds import seeded_generator
from geometry import RayBundle, SceneBatch, TensorStruct, Views
from models.nerf.depth_range import DepthRange
from models.nerf.nerf_config import Jitter


@dataclass(frozen=True)
class TargetRays(TensorStruct):
    """Random rays of target views and what the photographs show there."""

    pixels: Float[Tensor, "batch ray 2"]
    rays: RayBundle
    rgb: Float[Tensor, "batch ray 3"]
    depth: Float[Tensor, "batch ray"] | None
    """Camera z, 0 = unknown."""


def scene_generators(batch: SceneBatch) -> list[torch.Generator]:
    """One random stream per scene."""
    return [seeded_generator(seed) for seed in batch.seeds.tolist()]


def draw_target_rays(
    target: Views, count: int, generators: list[torch.Generator], depth_range: DepthRange | None = None
) -> TargetRays:
    """`count` random pixels of every view (one axis, with as many generators); `depth_range` None: the data's."""
    height, width = target.images.shape[-2:]
    flat = torch.stack([torch.randint(height * width, (count,), generator=one) for one in generators])
    flat = flat.to(target.images.device)
    rgb = target.images.flatten(2).gather(2, flat[:, None].expand(-1, 3, -1)).transpose(1, 2)
    pixels = torch.stack([flat % width, flat // width], dim=-1).to(target.images) + 0.5
    bounds = (target.near, target.far) if depth_range is None else (depth_range.near, depth_range.far)
    return TargetRays(
        pixels=pixels,
        rays=target.cameras.rays(pixels, *bounds),
        rgb=rgb,
        depth=None if target.depth is None else target.depth.flatten(1).gather(1, flat),
    )


def jitter_from(generators: list[torch.Generator], num_rays: int, device: torch.device) -> Jitter:
    """Stratification noise from per-scene streams."""
    return lambda count: torch.stack([torch.rand(num_rays, count, generator=one) for one in generators]).to(device)
