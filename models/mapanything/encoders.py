"""Encoders of images, of maps of rays and depth, and of single vectors (MapAnything, Keetha et al. 2025, sec. 3.1)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from geometry.constants import constant
from models.mapanything.config import VIT_ENCODER, MapAnythingConfig
from models.vggt.aggregator import IMAGE_MEAN, IMAGE_STD
from models.vggt.layers import normal_parameter, require_whole_patches
from models.vggt.vit import VisionTransformer, resize_position_embedding

_NORM_EPS = 1e-6
_DINO_OFFSET = 0.1
"""Cells, of the resize of stored positions, as in DINOv2."""

Images = Float[Tensor, "batch 3 height width"]


class ImageTokens(NamedTuple):
    """Of images."""

    patches: Float[Tensor, "batch patch channel"]
    extra: Float[Tensor, "batch extra channel"]
    """Class token and registers, as far as they are passed on."""


class PatchEncoder(nn.Module):
    """One convolution, a table of positions, a LayerNorm."""

    def __init__(self, config: MapAnythingConfig) -> None:
        super().__init__()
        self.patch_size, self.grid = config.patch_size, config.pos_embed_grid
        self.proj = nn.Conv2d(3, config.embed_dim, config.patch_size, stride=config.patch_size)
        self.pos_embed = normal_parameter(1, config.pos_embed_grid**2, config.embed_dim, std=0.02)
        self.post_pe_norm = nn.LayerNorm(config.embed_dim, eps=_NORM_EPS)

    def forward(self, images: Images) -> ImageTokens:
        """Images as they are."""
        require_whole_patches(images, self.patch_size)
        patches = self.proj(images)
        rows, cols = patches.shape[-2:]
        positions = self.pos_embed
        if (rows, cols) != (self.grid, self.grid):
            unused = positions[:, :1]
            table = torch.cat([unused, positions], dim=1)
            positions = resize_position_embedding(table, rows, cols, antialias=False, offset=_DINO_OFFSET)[:, 1:]
        tokens = self.post_pe_norm(patches.flatten(2).transpose(1, 2) + positions)
        return ImageTokens(tokens, tokens[:, :0])


class ViTEncoder(nn.Module):
    """A DINOv2-style ViT without its last norm, on images normalized as ImageNet's."""

    def __init__(self, config: MapAnythingConfig) -> None:
        super().__init__()
        self.passes_class_token = config.passes_class_token
        self.model = VisionTransformer(config.vit_config)
        self.model.norm = nn.Identity()
        del self.model.mask_token  # nothing is masked, and it would never get a gradient

    def forward(self, images: Images) -> ImageTokens:
        """Images in [0, 1]."""
        mean, std = constant(IMAGE_MEAN, images)[:, None, None], constant(IMAGE_STD, images)[:, None, None]
        tokens = self.model((images - mean) / std)
        extra = torch.cat([tokens.class_token[:, None], tokens.register_tokens], dim=1)
        return ImageTokens(tokens.patch_tokens, extra if self.passes_class_token else extra[:, :0])


def image_encoder(config: MapAnythingConfig) -> ViTEncoder | PatchEncoder:
    """The one that the sizes name."""
    return ViTEncoder(config) if config.image_encoder == VIT_ENCODER else PatchEncoder(config)


class _ResidualBlock(nn.Module):
    """gelu(conv(gelu(conv(x))) + shortcut(x))."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim_in, dim_out, 3, padding=1)
        self.conv2 = nn.Conv2d(dim_out, dim_out, 3, padding=1)
        self.shortcut = nn.Identity() if dim_in == dim_out else nn.Conv2d(dim_in, dim_out, 1)

    def forward(self, maps: Float[Tensor, "batch dim_in rows cols"]) -> Float[Tensor, "batch dim_out rows cols"]:
        return F.gelu(self.conv2(F.gelu(self.conv1(maps))) + self.shortcut(maps))


class DenseEncoder(nn.Module):
    """A map with a value per pixel -> a vector per patch: pixels of a patch to channels, convolutions, LayerNorm."""

    def __init__(self, channels: int, config: MapAnythingConfig) -> None:
        """`channels` of the map."""
        super().__init__()
        self.patch_size = config.patch_size
        dims = config.dense_encoder_dims
        self.conv_in = nn.Conv2d(channels * config.patch_size**2, dims[0], 3, padding=1)
        blocks = [_ResidualBlock(before, after) for before, after in pairwise(dims)]
        self.encoder = nn.Sequential(*blocks, nn.Conv2d(dims[-1], config.embed_dim, 1))
        self.norm_layer = nn.LayerNorm(config.embed_dim, eps=_NORM_EPS)

    def forward(self, maps: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch patch dim"]:
        """One vector per patch, row-major."""
        cells = self.encoder(self.conv_in(F.pixel_unshuffle(maps, self.patch_size)))
        return self.norm_layer(cells.flatten(2).transpose(1, 2))


class GlobalEncoder(nn.Module):
    """A vector per view -> a vector of the tokens' width: linear layers with GELU, LayerNorm."""

    def __init__(self, channels: int, config: MapAnythingConfig) -> None:
        super().__init__()
        self.encoder = _nested(channels, config.global_encoder_dims, config.embed_dim)
        self.norm_layer = nn.LayerNorm(config.embed_dim, eps=_NORM_EPS)

    def forward(self, values: Float[Tensor, "batch channel"]) -> Float[Tensor, "batch dim"]:
        """One vector for each."""
        return self.norm_layer(self.encoder(values))


def _nested(channels: int, dims: Sequence[int], dim_out: int) -> nn.Sequential:
    """Linear and GELU for each width, then Linear; each stage holds the one before, as the released keys have it."""
    stage = nn.Sequential(nn.Linear(channels, dims[0]), nn.GELU())
    for before, after in pairwise(dims):
        stage = nn.Sequential(stage, nn.Linear(before, after), nn.GELU())
    return nn.Sequential(stage, nn.Linear(dims[-1], dim_out))
