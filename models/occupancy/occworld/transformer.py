"""OccWorld's U-shaped autoregressive transformer over planes of codes and poses.

Two streams share their spatial weights: tokens (frames 0 to F - 1, which are looked at) and queries (what frames 1 to F
will be, which look). Everything is normalized after the residual.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.occupancy.occworld.config import TransformerConfig
from models.occupancy.occworld.layers import (
    FeedForward,
    UnetBlock,
    attend,
    attention,
    conv3,
    future_mask,
    resized,
)

Planes = Float[Tensor, "batch step _ _ _"]
PoseTokens = Float[Tensor, "batch step _"]


@dataclass(frozen=True)
class Streams:
    """Planes and poses of both streams."""

    tokens: Planes
    queries: Planes
    pose_tokens: PoseTokens
    pose_queries: PoseTokens


def pose_layer(channels: int, heads: int) -> nn.ModuleList:
    """Attention in time, to the plane of the own frame, feed-forward; each with its norm."""
    parts = (attention(channels, heads), attention(channels, heads), FeedForward(channels))
    return nn.ModuleList(module for part in parts for module in (part, nn.LayerNorm(channels)))


def temporal_layer(channels: int, heads: int) -> nn.ModuleList:
    """Attention in time of each cell, feed-forward; each with its norm."""
    parts = (attention(channels, heads), FeedForward(channels))
    return nn.ModuleList(module for part in parts for module in (part, nn.LayerNorm(channels)))


def two_linear(before: int, after: int) -> nn.Sequential:
    """Linear, ReLU, twice."""
    return nn.Sequential(nn.Linear(before, after), nn.ReLU(), nn.Linear(after, after), nn.ReLU())


def over_frames(module: nn.Module, planes: Planes) -> Planes:
    """A module of single planes on all frames."""
    return module(planes.flatten(0, 1)).unflatten(0, planes.shape[:2])


def attend_poses(layers: nn.Module, streams: Streams) -> Streams:
    """Pose queries look at pose tokens up to their own, then at the queries of their own frame."""
    steps = streams.pose_tokens.shape[1]
    mask = future_mask(steps, streams.pose_tokens.device)
    cells = streams.queries.flatten(3).mT.flatten(0, 1)  # (batch step) cell channel
    poses = streams.pose_queries
    for layer in layers.children():
        in_time, norm1, to_plane, norm2, feed_forward, norm3 = layer.children()
        poses = norm1(poses + attend(in_time, poses, streams.pose_tokens, mask))
        looked = attend(to_plane, poses.flatten(0, 1)[:, None], cells)[:, 0]
        poses = norm2(poses + looked.unflatten(0, poses.shape[:2]))
        poses = norm3(poses + feed_forward(poses))
    return Streams(streams.tokens, streams.queries, streams.pose_tokens, poses)


def attend_in_time(layers: nn.Module, streams: Streams) -> Streams:
    """Queries of a cell look at tokens of the same cell up to their own frame."""
    batch, steps, _, height, width = streams.tokens.shape
    mask = future_mask(steps, streams.tokens.device)
    tokens, queries = (
        one.permute(0, 3, 4, 1, 2).flatten(0, 2) for one in (streams.tokens, streams.queries)
    )  # (batch x y) step channel
    for layer in layers.children():
        in_time, norm1, feed_forward, norm2 = layer.children()
        queries = norm1(queries + attend(in_time, queries, tokens, mask))
        queries = norm2(queries + feed_forward(queries))
    queries = queries.unflatten(0, (batch, height, width)).permute(0, 3, 4, 1, 2)
    return Streams(streams.tokens, queries, streams.pose_tokens, streams.pose_queries)


class OccWorldTransformer(nn.Module):
    """Logits of the codes and features of the poses of the next frames."""

    def __init__(self, config: TransformerConfig, num_codes: int, side: int) -> None:
        """`side`: of the plane of codes."""
        super().__init__()
        self.config = config
        first, *_ = channels = config.channels
        sides = [side]
        for _ in channels[1:]:
            sides.append(sides[-1] // 2)
        self.temporal_embeddings = nn.Embedding(config.frames + 1, first)
        self.pose_temporal_embeddings = nn.Embedding(config.frames + 1, first)
        if config.learnable_queries:
            self.queries = nn.Parameter(torch.randn(1, config.frames, first, side, side))
            self.pose_queries = nn.Parameter(torch.randn(1, config.frames, first))
        self._build_encoder([first, *channels[:-1]], sides)
        self.mid = self._pair((channels[-1], sides[-1], sides[-1]), channels[-2], channels[-1], is_middle=True)
        self.pose_mid = two_linear(channels[-2], channels[-1])
        self._build_decoder(list(reversed(channels)), list(reversed(sides)))
        self.conv_out = conv3(first, num_codes)
        self.pose_out = nn.Linear(first, first)

    def _build_encoder(self, widths: list[int], sides: list[int]) -> None:
        config, levels = self.config, range(len(widths) - 1)
        self.pose_attn_en = nn.ModuleList(self._poses(widths[level]) for level in levels)
        self.pose_en = nn.ModuleList(two_linear(widths[level], widths[level + 1]) for level in levels)
        self.temporal_attentions_en = nn.ModuleList(
            nn.ModuleList(temporal_layer(widths[level], config.heads) for _ in range(config.temporal_layers))
            for level in levels
        )
        self.encoders = nn.ModuleList(
            self._pair((sides[level], sides[level]), widths[level], widths[level + 1]) for level in levels
        )
        self.downsamples = nn.ModuleList(
            nn.Conv2d(widths[level + 1], widths[level + 1], 2, stride=2) for level in levels
        )

    def _build_decoder(self, widths: list[int], sides: list[int]) -> None:
        """`widths` and `sides` from the coarsest level on."""
        config, levels = self.config, range(len(widths) - 1)
        after = widths[1:]
        self.upsamples = nn.ModuleList(nn.ConvTranspose2d(widths[level], after[level], 2, stride=2) for level in levels)
        self.temporal_attentions_de = nn.ModuleList(
            nn.ModuleList(temporal_layer(2 * width, config.heads) for _ in range(config.temporal_layers))
            for width in after
        )
        self.pose_up = nn.ModuleList(nn.Linear(widths[level], after[level]) for level in levels)
        self.pose_attn_de = nn.ModuleList(self._poses(2 * width) for width in after)
        self.pose_de = nn.ModuleList(two_linear(2 * width, width) for width in after)
        self.decoders = nn.ModuleList(
            self._pair((2 * width, sides[level + 1], sides[level + 1]), 2 * width, width)
            for level, width in enumerate(after)
        )

    def _poses(self, channels: int) -> nn.ModuleList:
        return nn.ModuleList(pose_layer(channels, self.config.heads) for _ in range(self.config.pose_layers))

    @staticmethod
    def _pair(normalized: tuple[int, ...], before: int, after: int, *, is_middle: bool = False) -> nn.Sequential:
        """Two UnetBlocks; where the LayerNorm covers channels, each has its own."""
        has_channels = len(normalized) == 3
        plane = normalized[-2:]
        first, second = ((width, *plane) if has_channels else plane for width in (before, after))
        return nn.Sequential(UnetBlock(first, before, after), UnetBlock(second, after, after))

    def forward(self, tokens: Planes, pose_tokens: PoseTokens) -> tuple[Planes, PoseTokens]:
        """Position i: logits of the codes of frame i + 1, features of its pose; it sees frames 0 to i."""
        streams = self._with_time(tokens, pose_tokens)
        skips = []
        for level in range(len(self.encoders)):
            streams, skip = self._down(level, streams)
            skips.append(skip)
        streams = self._on_both(self.mid, self.pose_mid, streams)
        for level, skip in enumerate(reversed(skips)):
            streams = self._up(level, streams, skip)
        return over_frames(self.conv_out, streams.queries), self.pose_out(streams.pose_queries)

    def _with_time(self, tokens: Planes, pose_tokens: PoseTokens) -> Streams:
        steps = tokens.shape[1]
        queries, pose_queries = tokens, pose_tokens
        if self.config.learnable_queries:
            queries = self.queries[:, :steps].expand_as(tokens)
            pose_queries = self.pose_queries[:, :steps].expand_as(pose_tokens)
        time, pose_time = self.temporal_embeddings.weight[..., None, None], self.pose_temporal_embeddings.weight
        return Streams(
            tokens + time[:steps],
            queries + time[1 : steps + 1],
            pose_tokens + pose_time[:steps],
            pose_queries + pose_time[1 : steps + 1],
        )

    @staticmethod
    def _on_both(planes: nn.Module, poses: nn.Module, streams: Streams) -> Streams:
        return Streams(
            over_frames(planes, streams.tokens),
            over_frames(planes, streams.queries),
            poses(streams.pose_tokens),
            poses(streams.pose_queries),
        )

    def _down(self, level: int, streams: Streams) -> tuple[Streams, Streams]:
        streams = attend_poses(self.pose_attn_en[level], streams)
        poses = self.pose_en[level](streams.pose_tokens), self.pose_en[level](streams.pose_queries)
        streams = attend_in_time(self.temporal_attentions_en[level], streams)
        blocks = self.encoders[level]
        skip = Streams(over_frames(blocks, streams.tokens), over_frames(blocks, streams.queries), *poses)
        down = self.downsamples[level]
        return Streams(over_frames(down, skip.tokens), over_frames(down, skip.queries), *poses), skip

    def _up(self, level: int, streams: Streams, skip: Streams) -> Streams:
        size = (skip.tokens.shape[-2], skip.tokens.shape[-1])

        def joined(planes: Planes, skipped: Planes) -> Planes:
            doubled = self.upsamples[level](planes.flatten(0, 1))
            return torch.cat([resized(doubled, size).unflatten(0, planes.shape[:2]), skipped], dim=2)

        streams = Streams(
            joined(streams.tokens, skip.tokens),
            joined(streams.queries, skip.queries),
            torch.cat([self.pose_up[level](streams.pose_tokens), skip.pose_tokens], dim=-1),
            torch.cat([self.pose_up[level](streams.pose_queries), skip.pose_queries], dim=-1),
        )
        streams = attend_in_time(self.temporal_attentions_de[level], streams)
        streams = attend_poses(self.pose_attn_de[level], streams)
        return self._on_both(self.decoders[level], self.pose_de[level], streams)
