"""Attention over all views and within each view in turn (MapAnything, Keetha et al. 2025, sec. 3.1)."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.mapanything.config import MapAnythingConfig
from models.vggt.layers import Block

_NORM_EPS = 1e-6

ViewTokens = Float[Tensor, "batch view token channel"]


class SharedTokens(NamedTuple):
    """After the last norm; only tokens of views in the first three."""

    first_tap: ViewTokens
    second_tap: ViewTokens
    last: ViewTokens
    scale: Float[Tensor, "batch channel"] | None


class InformationSharing(nn.Module):
    """Blocks 0, 2, ... see everything, blocks 1, 3, ... one view each; no positions, view 0 is marked."""

    def __init__(self, config: MapAnythingConfig) -> None:
        super().__init__()
        self.taps = config.taps
        self.is_marked = config.reference_view_marked
        dim = config.sharing_dim
        self.proj_embed = nn.Identity() if dim == config.embed_dim else nn.Linear(config.embed_dim, dim)
        mark = torch.zeros(1, dim)
        mark[:, 1::2] = 1.0  # the sine and cosine of position 0
        self.register_buffer("view_pos_table", mark)
        self.self_attention_blocks = nn.ModuleList(
            Block(
                dim,
                config.heads,
                mlp_ratio=4.0,
                init_values=config.init_values,
                norm_eps=_NORM_EPS,
                ffn_layer=config.mlp,
            )
            for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(dim, eps=_NORM_EPS)

    def forward(
        self,
        tokens: Float[Tensor, "batch view token channel"],
        scale_token: Float[Tensor, " channel"] | None,
    ) -> SharedTokens:
        """Tokens of all views, and one token for the scale that takes part in the blocks over all views."""
        batch, views, count = tokens.shape[:3]
        tokens = self.proj_embed(tokens)
        if self.is_marked:
            mark = self.view_pos_table.to(tokens.dtype)
            tokens = torch.cat([tokens[:, :1] + mark, tokens[:, 1:]], dim=1)
        joined = tokens.flatten(1, 2)
        if scale_token is not None:
            scale = self.proj_embed(scale_token).expand(batch, 1, -1)
            joined = torch.cat([joined, scale.to(joined.dtype)], dim=1)
        kept = {}
        for number, block in enumerate(self.self_attention_blocks):
            if number % 2 == 0:
                joined = block(joined)
            else:
                own = joined[:, : views * count].reshape(batch * views, count, -1)
                joined = torch.cat([block(own).reshape(batch, views * count, -1), joined[:, views * count :]], dim=1)
            if number in self.taps:
                kept[number] = self._of_views(self.norm(joined), views, count)
        joined = self.norm(joined)
        return SharedTokens(
            first_tap=kept[self.taps[0]],
            second_tap=kept[self.taps[1]],
            last=self._of_views(joined, views, count),
            scale=None if scale_token is None else joined[:, -1],
        )

    @staticmethod
    def _of_views(joined: Float[Tensor, "batch all channel"], views: int, count: int) -> ViewTokens:
        return joined[:, : views * count].unflatten(1, (views, count))
