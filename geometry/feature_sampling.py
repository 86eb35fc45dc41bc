"""Bilinear lookup at projected pixels: one pixel convention for every resolution."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from geometry.constants import constant


def sample_at_pixels(
    maps: Float[Tensor, "*batch channel rows cols"],
    pixels: Float[Tensor, "*batch point 2"],
    height: int,
    width: int,
) -> Float[Tensor, "*batch point channel"]:
    """Values of `maps` at pixel positions of the height x width image that the maps cover edge to edge.

    Pixel centers lie at +0.5 in the image and in the map, whatever the map's resolution. Outside, the border value.
    """
    batch = maps.shape[:-3]
    size = constant([width, height], pixels)
    # far outside and non-finite positions (points in the camera plane) must not reach the integer conversion
    grid = torch.nan_to_num(pixels / size * 2 - 1, nan=2.0).clamp(-2, 2)
    values = F.grid_sample(
        maps.reshape(-1, *maps.shape[-3:]),
        grid.reshape(math.prod(batch), 1, pixels.shape[-2], 2).to(maps.dtype),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return values[:, :, 0].transpose(1, 2).reshape(*batch, pixels.shape[-2], maps.shape[-3])
