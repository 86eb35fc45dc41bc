"""Tokens of four layers -> dense maps: depth, points, or features for tracking (DPT, Ranftl et al. 2021, section 3)."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.vggt.config import DPTConfig
from models.vggt.heads.activations import CONFIDENCE_ACTIVATIONS, VALUE_ACTIVATIONS
from models.vggt.heads.dpt_blocks import Maps, Scratch, resize_maps
from models.vggt.sincos import image_plane_grid, sincos_map

FRAMES_CHUNK_SIZE = 8
"""Views a head works on at a time, to bound memory; the result is the same up to rounding."""
RECOMPUTED_IMAGES = 2
"""Images, of all groups together, whose activations exist at a time where training computes them again backwards.

One of 518x518 needs about 0.8 GB of them with a head of VGGT-1B, see `python -m benchmarks.vggt_memory`."""

LayerTokens = Float[Tensor, "batch view token channel"]


class DensePrediction(NamedTuple):
    """One value vector and one confidence per pixel."""

    values: Float[Tensor, "batch view height width channel"]
    confidence: Float[Tensor, "batch view height width"]


def add_position_map(maps: Maps, aspect: float) -> Maps:
    """Add 0.1 x the sine-cosine code of each cell's place on an image plane of aspect width / height."""
    channels, height, width = maps.shape[1:]
    u, v = image_plane_grid(height, width, aspect, maps.device)
    return maps + 0.1 * sincos_map(u, v, channels, base=100.0).to(maps.dtype)


class DPTHead(nn.Module):
    """Project tokens to four resolutions, fuse them, resize to the image, predict."""

    def __init__(self, dim: int, config: DPTConfig, *, rectifies_skip: bool = True) -> None:
        """`dim` is the width of an aggregated token; see `ResidualConvUnit` for `rectifies_skip`."""
        super().__init__()
        self.config = config
        self.recompute_in_training = True
        features = config.features
        self.norm = nn.LayerNorm(dim)
        self.projects = nn.ModuleList(nn.Conv2d(dim, channels, 1) for channels in config.out_channels)
        first, second, _, last = config.out_channels
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(first, first, 4, stride=4),
                nn.ConvTranspose2d(second, second, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(last, last, 3, stride=2, padding=1),
            ]
        )
        self.scratch = Scratch(config.out_channels, features, rectifies_skip=rectifies_skip)
        if config.feature_only:
            self.scratch.output_conv1 = nn.Conv2d(features, features, 3, padding=1)
        else:
            self.scratch.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
            self.scratch.output_conv2 = nn.Sequential(
                nn.Conv2d(features // 2, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, config.output_dim, 1)
            )

    def forward(
        self,
        layers: Mapping[int, LayerTokens],
        patch_start: int,
        image_size: tuple[int, int],
        *,
        frames_chunk_size: int | None = FRAMES_CHUNK_SIZE,
    ) -> DensePrediction | Float[Tensor, "batch view feature rows cols"]:
        """Predict at `image_size` (height, width) / down_ratio; a feature-only head returns its map instead.

        `layers` must hold the layers of `intermediate_layer_idx`. None works on all views at once. With
        `recompute_in_training` smaller chunks keep nothing for the backward pass, which computes each of them again.
        """
        levels = [layers[index] for index in self.config.intermediate_layer_idx]
        batch, views = levels[0].shape[:2]
        step = views if frames_chunk_size is None else min(frames_chunk_size, views)
        recomputes = self.training and self.recompute_in_training and torch.is_grad_enabled()
        step = min(step, max(1, RECOMPUTED_IMAGES // batch)) if recomputes else step
        chunks = []
        for first in range(0, views, step):
            part = [level[:, first : first + step, patch_start:] for level in levels]
            if recomputes:  # nothing in it is random
                maps = checkpoint(self._maps, part, image_size, use_reentrant=False, preserve_rng_state=False)
            else:
                maps = self._maps(part, image_size)
            chunks.append(maps.unflatten(0, (-1, part[0].shape[1])))
        maps = chunks[0] if len(chunks) == 1 else torch.cat(chunks, dim=1)
        return maps if self.config.feature_only else self._activate(maps)

    def _maps(self, levels: list[LayerTokens], image_size: tuple[int, int]) -> Float[Tensor, "batch_view _ rows cols"]:
        """What some views' maps hold before the activation, or their features; (batch view) as one axis."""
        maps = self._features(levels, image_size)
        return maps if self.config.feature_only else self.scratch.output_conv2(maps)

    def _features(
        self, levels: list[LayerTokens], image_size: tuple[int, int]
    ) -> Float[Tensor, "batch_view feature rows cols"]:
        """Fused feature map of some views, (batch view) as one axis."""
        config = self.config
        rows, cols = (side // config.patch_size for side in image_size)
        aspect = image_size[1] / image_size[0]
        pyramid = []
        for tokens, project, resize in zip(levels, self.projects, self.resize_layers, strict=True):
            tokens = self.norm(tokens.flatten(0, 1).to(self.norm.weight.dtype))
            maps = project(tokens.transpose(1, 2).unflatten(2, (rows, cols)))
            pyramid.append(resize(add_position_map(maps, aspect) if config.pos_embed else maps))
        maps = self.scratch.output_conv1(self.scratch.fuse(pyramid))
        height, width = (int(cells * config.patch_size / config.down_ratio) for cells in (rows, cols))
        maps = resize_maps(maps, height, width)
        return add_position_map(maps, aspect) if config.pos_embed else maps

    def _activate(self, maps: Float[Tensor, "batch view channel height width"]) -> DensePrediction:
        channels_last = maps.movedim(2, -1)
        return DensePrediction(
            VALUE_ACTIVATIONS[self.config.activation](channels_last[..., :-1]),
            CONFIDENCE_ACTIVATIONS[self.config.conf_activation](channels_last[..., -1]),
        )
