"""Transformer over time and over tracks that proposes track updates (docs/vggt.md, "Track head")."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.vggt.layers import Mlp, normal_parameter

NUM_VIRTUAL_TRACKS = 64
"""Part of the weights (docs/vggt.md, "Track head")."""

Tokens = Float[Tensor, "batch token channel"]


class SelfAttentionBlock(nn.Module):
    """Self-attention and MLP; the first skip starts from the normalized tokens, as in the reference."""

    def __init__(self, dim: int, num_heads: int) -> None:
        """`dim` channels, MLP four times as wide."""
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim, dim)

    def forward(self, tokens: Tokens) -> Tokens:
        """One block."""
        tokens = self.norm1(tokens)
        tokens = tokens + self.attn(tokens, tokens, tokens, need_weights=False)[0]
        return tokens + self.mlp(self.norm2(tokens))


class CrossAttentionBlock(nn.Module):
    """Attention from tokens to a context and MLP; the first skip starts from the normalized tokens."""

    def __init__(self, dim: int, num_heads: int) -> None:
        """`dim` channels, MLP four times as wide."""
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.norm_context = nn.LayerNorm(dim)
        self.cross_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim, dim)

    def forward(self, tokens: Tokens, context: Float[Tensor, "batch context channel"]) -> Tokens:
        """One block; queries from `tokens`, keys and values from `context`."""
        tokens, context = self.norm1(tokens), self.norm_context(context)
        tokens = tokens + self.cross_attn(tokens, context, context, need_weights=False)[0]
        return tokens + self.mlp(self.norm2(tokens))


class UpdateFormer(nn.Module):
    """Blocks over the frames of each track, each followed by an exchange between the tracks of each frame.

    The exchange goes through a few learned virtual tracks, so its cost is linear in the number of tracks.
    """

    def __init__(
        self, dim_in: int, dim: int, dim_out: int, *, depth: int, use_spaceatt: bool, num_heads: int = 8
    ) -> None:
        """`depth` blocks of `dim` channels; `use_spaceatt` turns the exchange between tracks on."""
        super().__init__()
        self.use_spaceatt = use_spaceatt
        self.input_norm = nn.LayerNorm(dim_in)
        self.input_transform = nn.Linear(dim_in, dim)
        self.output_norm = nn.LayerNorm(dim)
        self.flow_head = nn.Linear(dim, dim_out)
        self.time_blocks = nn.ModuleList(SelfAttentionBlock(dim, num_heads) for _ in range(depth))
        if use_spaceatt:
            self.virual_tracks = normal_parameter(1, NUM_VIRTUAL_TRACKS, 1, dim, std=1.0)
            for name, kind in (
                ("space_virtual_blocks", SelfAttentionBlock),
                ("space_point2virtual_blocks", CrossAttentionBlock),
                ("space_virtual2point_blocks", CrossAttentionBlock),
            ):
                self.add_module(name, nn.ModuleList(kind(dim, num_heads) for _ in range(depth)))
        if not self.flow_head.weight.is_meta:
            self._initialize()

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.flow_head.weight, std=0.001)

    def forward(self, inputs: Float[Tensor, "batch track frame dim_in"]) -> Float[Tensor, "batch track frame dim_out"]:
        """Updates of every track in every frame."""
        batch, num_tracks, frames, _ = inputs.shape
        initial = self.input_transform(self.input_norm(inputs))
        tokens = initial
        if self.use_spaceatt:
            virtual = self.virual_tracks.expand(batch, -1, frames, -1).to(tokens.dtype)
            tokens = torch.cat([tokens, virtual], dim=1)
        for index, block in enumerate(self.time_blocks):
            tokens = block(tokens.flatten(0, 1)).unflatten(0, (batch, -1))
            if self.use_spaceatt:
                tokens = self._exchange(tokens, num_tracks, index)
        return self.flow_head(self.output_norm(tokens[:, :num_tracks] + initial))

    def _exchange(
        self, tokens: Float[Tensor, "batch track frame channel"], num_tracks: int, index: int
    ) -> Float[Tensor, "batch track frame channel"]:
        """Real tracks -> virtual tracks -> real tracks, within each frame."""
        by_frame = tokens.transpose(1, 2).flatten(0, 1)  # batch*frame track channel
        points, virtual = by_frame[:, :num_tracks], by_frame[:, num_tracks:]
        virtual = self.space_virtual2point_blocks[index](virtual, points)
        virtual = self.space_virtual_blocks[index](virtual)
        points = self.space_point2virtual_blocks[index](points, virtual)
        by_frame = torch.cat([points, virtual], dim=1)
        return by_frame.unflatten(0, (tokens.shape[0], -1)).transpose(1, 2)
