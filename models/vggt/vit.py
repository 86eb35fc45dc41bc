"""DINOv2-style ViT with registers: images -> normalized tokens (docs/vggt.md, "Patch embedding")."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from models.vggt.config import ViTConfig
from models.vggt.layers import Block, PatchEmbed, normal_parameter


class ViTTokens(NamedTuple):
    """Tokens after the final normalization."""

    class_token: Float[Tensor, "batch channel"]
    register_tokens: Float[Tensor, "batch register channel"]
    patch_tokens: Float[Tensor, "batch patch channel"]


def resize_position_embedding(
    embedding: Float[Tensor, "1 stored channel"],
    rows: int,
    cols: int,
    *,
    antialias: bool,
    offset: float = 0.0,
) -> Float[Tensor, "1 needed channel"]:
    """Bicubic resize of the patch part to rows x cols, in float32; the first (class) entry is left alone.

    A non-zero `offset` is DINOv2's: the grid is scaled by (rows + offset) / stored instead of to a size.
    """
    class_part, patch_part = embedding[:, :1].float(), embedding[:, 1:].float()
    side = round(patch_part.shape[1] ** 0.5)
    grid = patch_part.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    scale = {"scale_factor": ((rows + offset) / side, (cols + offset) / side)} if offset else {"size": (rows, cols)}
    grid = F.interpolate(grid, mode="bicubic", antialias=antialias, align_corners=False, **scale)
    return torch.cat([class_part, grid.flatten(2).transpose(1, 2)], dim=1).to(embedding.dtype)


class VisionTransformer(nn.Module):
    """Class token, registers and patches through pre-norm blocks; LayerNorm eps 1e-6."""

    def __init__(self, config: ViTConfig) -> None:
        """`mask_token` is there so that checkpoints load; VGGT masks nothing, so it takes no gradient."""
        super().__init__()
        self.config = config
        dim, side = config.embed_dim, config.img_size // config.patch_size
        self.patch_embed = PatchEmbed(config.patch_size, dim)
        self.cls_token = normal_parameter(1, 1, dim, std=1e-6)
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + side**2, dim))
        if config.num_register_tokens:
            self.register_tokens = normal_parameter(1, config.num_register_tokens, dim, std=1e-6)
        else:
            self.register_tokens = None
        self.mask_token = nn.Parameter(torch.zeros(1, dim), requires_grad=False)
        self.blocks = nn.ModuleList(
            Block(
                dim,
                config.num_heads,
                mlp_ratio=config.mlp_ratio,
                qkv_bias=config.qkv_bias,
                proj_bias=config.proj_bias,
                ffn_bias=config.ffn_bias,
                init_values=config.init_values,
                qk_norm=config.qk_norm,
                norm_eps=1e-6,
                ffn_layer=config.ffn_layer,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        if not self.pos_embed.is_meta:
            self._initialize()

    def _initialize(self) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def position_embedding(self, height: int, width: int) -> Float[Tensor, "1 token channel"]:
        """Class and patch positions for an image of height x width pixels."""
        config = self.config
        rows, cols = height // config.patch_size, width // config.patch_size
        if height == width and rows * cols == self.pos_embed.shape[1] - 1:
            return self.pos_embed
        return resize_position_embedding(
            self.pos_embed,
            rows,
            cols,
            antialias=config.interpolate_antialias,
            offset=config.interpolate_offset,
        )

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> ViTTokens:
        """Tokens of images that are already normalized by mean and standard deviation."""
        batch, _, height, width = images.shape
        patches = self.patch_embed(images)
        positions = self.position_embedding(height, width).to(patches.dtype)
        class_token = (self.cls_token + positions[:, :1]).expand(batch, -1, -1)
        parts = [class_token, patches + positions[:, 1:]]
        num_registers = self.config.num_register_tokens
        if self.register_tokens is not None:
            parts.insert(1, self.register_tokens.expand(batch, -1, -1))
        tokens = torch.cat(parts, dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        return ViTTokens(tokens[:, 0], tokens[:, 1 : 1 + num_registers], tokens[:, 1 + num_registers :])
