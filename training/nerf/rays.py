"""Random rays of target views, and the streams of random numbers that a step draws from."""

import torch
from jaxtyping import Int
from torch import Tensor

from data.seeds import seeded_generator
from geometry import SceneBatch, Views
from models.nerf.depth_range import DepthRange
from models.nerf.renderer import Jitter, TargetRays
from training.nerf.windows import random_start


def scene_generators(batch: SceneBatch) -> list[torch.Generator]:
    """One random stream per scene."""
    return [seeded_generator(seed) for seed in batch.seeds.tolist()]


def draw_target_rays(
    target: Views, count: int, generators: list[torch.Generator], bounds: DepthRange | None = None
) -> TargetRays:
    """`count` random pixels of every view (one axis, with as many generators); `bounds` None: the data's."""
    height, width = target.images.shape[-2:]
    flat = torch.stack([torch.randint(height * width, (count,), generator=one) for one in generators])
    return _rays_at(target, flat, bounds)


def draw_target_windows(
    target: Views, count: int, side: int, generators: list[torch.Generator], bounds: DepthRange | None = None
) -> TargetRays:
    """`count` random windows of side x side pixels of every view, each row by row; see `draw_target_rays`.

    They lie at the edge of the view more often than elsewhere, see `random_start`.
    """
    height, width = target.images.shape[-2:]
    inside = torch.arange(side)
    offsets = (inside[:, None] * width + inside).flatten()
    starts = [
        [random_start(height, side, one) * width + random_start(width, side, one) for _ in range(count)]
        for one in generators
    ]
    flat = (torch.tensor(starts)[..., None] + offsets).flatten(1)
    return _rays_at(target, flat, bounds)


def _rays_at(target: Views, flat: Int[Tensor, "view ray"], bounds: DepthRange | None) -> TargetRays:
    """Rays through pixels that are counted row by row."""
    width = target.images.shape[-1]
    flat = flat.to(target.images.device, non_blocking=True)
    rgb = target.images.flatten(2).gather(2, flat[:, None].expand(-1, 3, -1)).transpose(1, 2)
    pixels = torch.stack([flat % width, flat // width], dim=-1).to(target.images) + 0.5
    near, far = (target.near, target.far) if bounds is None else (bounds.near, bounds.far)
    return TargetRays(
        view=target,
        pixels=pixels,
        rays=target.cameras.rays(pixels, near, far),
        rgb=rgb,
        depth=None if target.depth is None else target.depth.flatten(1).gather(1, flat),
    )


def jitter_from(generators: list[torch.Generator], num_rays: int, device: torch.device) -> Jitter:
    """Stratification noise from per-scene streams."""
    return lambda count: torch.stack([torch.rand(num_rays, count, generator=one) for one in generators]).to(
        device, non_blocking=True
    )
