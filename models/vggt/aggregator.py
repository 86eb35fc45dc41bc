"""Images -> tokens by attention in each frame and over all frames in turn (VGGT, Wang et al. 2025, section 3.2)."""

from collections.abc import Collection
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geometry.constants import constant
from geometry.errors import InputError
from models.vggt.attention import patch_positions, rotary_angles
from models.vggt.config import MATCH_STEM, AggregatorConfig
from models.vggt.layers import Block, PatchEmbed, normal_parameter
from models.vggt.match_stem import MatchStem, StemTokens
from models.vggt.vit import VisionTransformer, ViTTokens

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
"""ImageNet's mean and deviation of R, G, B in [0, 1], as upstream (docs/vggt.md, "Input and output")."""

LayerTokens = Float[Tensor, "batch view token channel"]


class AggregatedTokens(NamedTuple):
    """What the heads read."""

    layers: dict[int, LayerTokens]
    """Layer index -> [frame block output, global block output] along the channels, of the layers kept."""
    patch_start: int
    """Index of a view's first patch token; before it come the camera token and the registers."""
    match_logits: Float[Tensor, "batch other cell cell"] | None = None
    """Of a network with a match stem."""


def normalized_images(images: Float[Tensor, "*batch 3 height width"]) -> Float[Tensor, "*batch 3 height width"]:
    """Images in [0, 1] as a patch embedding takes them."""
    mean = constant(IMAGE_MEAN, images)[:, None, None]
    std = constant(IMAGE_STD, images)[:, None, None]
    return (images - mean) / std


class Aggregator(nn.Module):
    """Patch embedding, one camera token and some registers per view, then frame and global blocks in turn."""

    def __init__(self, config: AggregatorConfig) -> None:
        """Build the blocks; the first view of a sequence has special tokens of its own."""
        super().__init__()
        self.config = config
        dim = config.embed_dim
        self.patch_embed = self._patch_embed(config)
        self.sees_views_together = config.patch_embed == MATCH_STEM
        self.camera_token = normal_parameter(1, 2, 1, dim, std=1e-6)
        self.register_token = normal_parameter(1, 2, config.num_register_tokens, dim, std=1e-6)
        self.patch_start = 1 + config.num_register_tokens
        self.frame_blocks = self._blocks()
        self.global_blocks = self._blocks()

    @staticmethod
    def _patch_embed(config: AggregatorConfig) -> nn.Module:
        vit = config.vit_config
        if vit is not None:
            return VisionTransformer(vit)
        if config.patch_embed == MATCH_STEM:
            return MatchStem(config.patch_size, config.embed_dim, config.stem_blocks)
        return PatchEmbed(config.patch_size, config.embed_dim)

    def _blocks(self) -> nn.ModuleList:
        config = self.config
        return nn.ModuleList(
            Block(
                config.embed_dim,
                config.num_heads,
                mlp_ratio=config.mlp_ratio,
                qkv_bias=config.qkv_bias,
                proj_bias=config.proj_bias,
                ffn_bias=config.ffn_bias,
                init_values=config.init_values,
                qk_norm=config.qk_norm,
            )
            for _ in range(config.depth)
        )

    def embed_patches(
        self, images: Float[Tensor, "batch view channel height width"]
    ) -> ViTTokens | StemTokens | Float[Tensor, "batch_view patch dim"]:
        """Normalize images in [0, 1] and embed them; a ViT also gives its other tokens, a match stem its matches."""
        if images.shape[2] != 3:
            raise InputError(f"images must have 3 channels (axis 2), got shape {tuple(images.shape)}")
        normalized = normalized_images(images)
        return self.patch_embed(normalized if self.sees_views_together else normalized.flatten(0, 1))

    def forward(
        self,
        images: Float[Tensor, "batch view channel height width"],
        *,
        keep_layers: Collection[int] | None = None,
    ) -> AggregatedTokens:
        """Tokens of the layers named in `keep_layers` (None: all); blocks after the last of them do not run.

        Images are RGB in [0, 1] with sides divisible by the patch size; other inputs are an `InputError`.
        """
        config = self.config
        wanted = set(range(config.depth) if keep_layers is None else keep_layers)
        if not wanted <= set(range(config.depth)):
            raise InputError(f"layers must lie in 0..{config.depth - 1}, got {sorted(wanted)}")
        batch, views, _, height, width = images.shape
        patches = self.embed_patches(images)
        match_logits = None
        if isinstance(patches, ViTTokens):
            patches = patches.patch_tokens
        elif isinstance(patches, StemTokens):
            patches, match_logits = patches
        tokens = torch.cat([self._special_tokens(batch, views), patches], dim=1)
        frame_angles, global_angles = self._angles(height, width, views, images.device)

        size = config.aa_block_size
        layers: dict[int, Tensor] = {}
        for first in range(0, max(wanted, default=-1) + 1, size):
            kept = {layer for layer in range(first, first + size) if layer in wanted}
            outputs: dict[tuple[str, int], Tensor] = {}
            for kind in config.aa_order:
                blocks = self.frame_blocks if kind == "frame" else self.global_blocks
                angles = frame_angles if kind == "frame" else global_angles
                sequences = batch * views if kind == "frame" else batch
                for layer in range(first, first + size):
                    tokens = blocks[layer](tokens.reshape(sequences, -1, config.embed_dim), angles)
                    if layer in kept:
                        outputs[kind, layer] = tokens.view(batch, views, -1, config.embed_dim)
            for layer in kept:
                layers[layer] = torch.cat([outputs["frame", layer], outputs["global", layer]], dim=-1)
        return AggregatedTokens(layers, self.patch_start, match_logits)

    def _special_tokens(self, batch: int, views: int) -> Float[Tensor, "batch_view special dim"]:
        pair = torch.cat([self.camera_token, self.register_token], dim=2)
        which = [0] + [1] * (views - 1)
        return pair[:, which].expand(batch, -1, -1, -1).flatten(0, 1)

    def _angles(
        self, height: int, width: int, views: int, device: torch.device
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Rotary angles of one view's tokens and of all views' tokens; a view's number is no part of its position."""
        config = self.config
        if config.rope_freq <= 0:
            return None, None
        rows, cols = height // config.patch_size, width // config.patch_size
        positions = patch_positions(rows, cols, self.patch_start, device)
        angles = rotary_angles(positions, config.embed_dim // config.num_heads, base=config.rope_freq)
        return angles, angles.repeat(views, 1)
