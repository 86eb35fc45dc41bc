"""Feature lookup at sub-pixel places and local correlation over a pyramid (docs/vggt.md, "Track head")."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from geometry.constants import constant

Maps = Float[Tensor, "batch channel height width"]
Points = Float[Tensor, "batch point 2"]


def sample_maps(maps: Maps, points: Points, *, padding: str) -> Float[Tensor, "batch point channel"]:
    """Bilinear values of the maps at (x, y) in cells, integer at cell centers; outside: "border" or "zeros"."""
    height, width = maps.shape[-2:]
    scale = constant([2 / max(width - 1, 1), 2 / max(height - 1, 1)], points)
    grid = (points * scale - 1)[:, :, None]
    sampled = F.grid_sample(maps, grid.to(maps.dtype), mode="bilinear", padding_mode=padding, align_corners=True)
    return sampled.squeeze(-1).transpose(1, 2)


def feature_pyramid(
    maps: Float[Tensor, "batch view channel height width"], num_levels: int
) -> list[Float[Tensor, "batch view channel _ _"]]:
    """The maps and their successive 2x2 averages, `num_levels` in total; odd last rows and columns are dropped."""
    levels = [maps]
    for _ in range(num_levels - 1):
        halved = F.avg_pool2d(levels[-1].flatten(0, 1), 2)
        levels.append(halved.unflatten(0, maps.shape[:2]))
    return levels


def window_offsets(radius: int, like: Tensor) -> Float[Tensor, "offset 2"]:
    """(x, y) offsets of a (2 radius + 1)^2 window, x being the slow index."""
    steps = torch.arange(-radius, radius + 1, dtype=like.dtype, device=like.device)
    return torch.cartesian_prod(steps, steps)


def correlate(
    pyramid: list[Float[Tensor, "batch view channel _ _"]],
    targets: Float[Tensor, "batch view point channel"],
    coords: Float[Tensor, "batch view point 2"],
    *,
    radius: int,
) -> Float[Tensor, "batch view point value"]:
    """<target, map> / sqrt(channels) in a window around coords / 2^level of every level, zero outside the map.

    `coords` are in cells of the first level. Sampling is linear, so the map is sampled first and multiplied after:
    the same as sampling the correlation of a target with the whole map, in far less memory.
    """
    batch, views, points, channels = targets.shape
    offsets = window_offsets(radius, coords)
    values = []
    for level, maps in enumerate(pyramid):
        places = coords[..., None, :] / 2**level + offsets  # batch view point offset 2
        sampled = sample_maps(maps.flatten(0, 1), places.reshape(batch * views, -1, 2), padding="zeros")
        sampled = sampled.view(batch, views, points, -1, channels)
        values.append(torch.einsum("bvpoc,bvpc->bvpo", sampled, targets) / channels**0.5)
    return torch.cat(values, dim=-1)
