"""The textures of `textures` on torch tensors, any device."""

import math
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from data.procedural.textures import (
    CHECKER,
    NOISE_GRID,
    PATTERN_CELL,
    CoordinateTexture,
    NoiseTexture,
    PatternTexture,
    PhotoTexture,
    Texture,
    noise_level,
    noise_volume,
    photo_pyramid,
)

Points = Float[Tensor, "point 3"]


def color(texture: Texture, points: Points, normals: Points, footprint: float) -> Points:
    """Albedo about [0, 1] at local points (mm); `footprint` = mm per pixel."""
    return _COLOR[type(texture)](texture, points, normals, footprint)


@cache
def _noise_volume(level: int, device: torch.device) -> Float[Tensor, "1 3 side side side"]:
    """The noise cube with its first planes repeated behind the last, so that the lookup needs no wrapping."""
    side = NOISE_GRID >> level
    cube = torch.from_numpy(noise_volume(level).reshape(side, side, side, 3)).permute(3, 0, 1, 2)[None]
    return F.pad(cube, (0, 1, 0, 1, 0, 1), mode="circular").to(device)


def fractal_noise(points: Points, cell: float, footprint: float) -> Points:
    """Three channels of noise whose finest detail is `cell` wide, trilinear; see `textures.fractal_noise`."""
    level = noise_level(cell, footprint)
    side, factor = NOISE_GRID >> level, 1 << level
    inside = ((points / cell - (factor - 1) / 2) / factor).remainder(side) * (2 / side) - 1
    grid = inside.flip(-1)[None, None, None]  # grid_sample wants the fastest axis first
    return F.grid_sample(_noise_volume(level, points.device), grid, align_corners=True)[0, :, 0, 0].T


def _noise_color(texture: NoiseTexture, points: Points, normals: Points, footprint: float) -> Points:
    noise = fractal_noise(points + points.new_tensor(texture.offset), texture.cell, footprint)
    level = torch.sin(texture.veins * noise[:, :1]) if texture.veins else noise[:, :1] * 0.7
    mix, palette = level.clamp(-1, 1), points.new_tensor(texture.palette)
    return palette[1] + mix.abs() * (torch.where(mix < 0, palette[0], palette[2]) - palette[1]) + 0.05 * noise


def _pattern_color(texture: PatternTexture, points: Points, normals: Points, footprint: float) -> Points:
    shifted = points + points.new_tensor(texture.offset)
    bands = (shifted @ points.new_tensor(texture.axes).T).floor().sum(-1, keepdim=True)
    colors = points.new_tensor(texture.colors)
    base = torch.where(bands.remainder(2) == 1, colors[0], colors[1])
    return base + 0.07 * fractal_noise(shifted, PATTERN_CELL, footprint)


def _coordinate_color(texture: CoordinateTexture, points: Points, normals: Points, footprint: float) -> Points:
    offset = points - points.new_tensor(texture.low)
    share = (offset / points.new_tensor(texture.high - texture.low)).clamp(0, 1)
    odd = (offset / texture.cell + 0.5).floor().sum(-1, keepdim=True).remainder(2)
    return 0.12 + 0.76 * share + (CHECKER if texture.cell > 2 * footprint else 0.0) * (2 * odd - 1)


@cache
def _photo_level(name: str, level: int, device: torch.device) -> Float[Tensor, "1 3 height width"]:
    return torch.from_numpy(photo_pyramid(name)[level]).permute(2, 0, 1)[None].contiguous().to(device)


def _photo_color(texture: PhotoTexture, points: Points, normals: Points, footprint: float) -> Points:
    u, v = _surface(texture, points, normals)
    cos, sin = math.cos(texture.angle), math.sin(texture.angle)
    u, v = cos * u - sin * v + float(texture.offset[0]), sin * u + cos * v + float(texture.offset[1])
    pyramid = photo_pyramid(texture.name)
    texels_per_pixel = footprint * pyramid[0].shape[1] / texture.width
    level = min(max(round(math.log2(max(texels_per_pixel, 1e-6))), 0), len(pyramid) - 1)
    photo = _photo_level(texture.name, level, points.device)
    height, width = photo.shape[-2:]
    grid = torch.stack([u * (2 / texture.width) - 1, v * (2 * width / height / texture.width) - 1], dim=-1)
    sampled = F.grid_sample(photo, grid[None, None], padding_mode="reflection", align_corners=False)
    return sampled[0, :, 0].T * points.new_tensor(texture.tint)


def _surface(texture: PhotoTexture, points: Points, normals: Points) -> tuple[Tensor, Tensor]:
    x, y, z = points.unbind(-1)
    if texture.mapping == "spherical":
        return texture.radius * torch.atan2(y, x), texture.radius * torch.atan2(z, torch.hypot(x, y))
    if texture.mapping == "planar":
        return x, y
    axis = normals.abs().argmax(-1)
    return torch.where(axis == 0, y, x), torch.where(axis == 2, y, z)


_COLOR = {
    CoordinateTexture: _coordinate_color,
    NoiseTexture: _noise_color,
    PatternTexture: _pattern_color,
    PhotoTexture: _photo_color,
}
