"""Query points in the first view -> their places in every view (docs/vggt.md, "Track head")."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geometry import require
from models.vggt.config import TrackerConfig, TrackHeadConfig
from models.vggt.heads.correlation import correlate, feature_pyramid, sample_maps
from models.vggt.heads.dpt_head import FRAMES_CHUNK_SIZE, DPTHead
from models.vggt.heads.updateformer import UpdateFormer
from models.vggt.layers import Mlp, normal_parameter
from models.vggt.sincos import sincos_map

FLOW_FREQUENCY_SPAN = 1000.0
"""Radians per cell, just above the highest frequency; upstream's (docs/vggt.md, "Track head")."""


class Tracks(NamedTuple):
    """Result of tracking."""

    coords: list[Float[Tensor, "batch view point 2"]]
    """(x, y) after each iteration, in the pixels of the queries; the last is the prediction."""
    visibility_logits: Float[Tensor, "batch view point"]
    """The sigmoid is the probability of being visible."""
    confidence_logits: Float[Tensor, "batch view point"] | None
    """The sigmoid is the probability of being right; None without a confidence predictor."""


def embed_flow(flow: Float[Tensor, "*batch 2"], channels: int) -> Float[Tensor, "*batch code"]:
    """sin, cos of linearly spaced frequencies, interleaved: `channels` for x, then `channels` for y."""
    frequencies = torch.arange(0, channels, 2, dtype=torch.float32, device=flow.device)
    angles = flow[..., None] * (frequencies * (FLOW_FREQUENCY_SPAN / channels))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-3)


class Tracker(nn.Module):
    """Refine tracks from local correlations with the features of the query."""

    def __init__(self, config: TrackerConfig) -> None:
        """Build the update network and the predictors."""
        super().__init__()
        self.config = config
        latent = config.latent_dim
        self.dim_token = 3 * latent + 4
        num_correlations = config.corr_levels * (2 * config.corr_radius + 1) ** 2
        self.corr_mlp = Mlp(num_correlations, config.hidden_size, latent)
        self.updateformer = UpdateFormer(
            self.dim_token,
            config.hidden_size,
            latent + 2,
            depth=config.depth,
            use_spaceatt=config.use_spaceatt,
        )
        self.query_ref_token = normal_parameter(1, 2, self.dim_token, std=1.0)
        self.fmap_norm = nn.LayerNorm(latent)
        self.ffeat_norm = nn.GroupNorm(1, latent)
        self.ffeat_updater = nn.Sequential(nn.Linear(latent, latent), nn.GELU())
        self.vis_predictor = nn.Sequential(nn.Linear(latent, 1))
        if config.predict_conf:
            self.conf_predictor = nn.Sequential(nn.Linear(latent, 1))

    def forward(
        self,
        query_points: Float[Tensor, "batch point 2"],
        maps: Float[Tensor, "batch view channel rows cols"],
        *,
        num_iterations: int,
    ) -> Tracks:
        """Track (x, y) of the first view, in pixels of `stride` times the maps' resolution."""
        config = self.config
        maps = self.fmap_norm(maps.movedim(2, -1)).movedim(-1, 2)
        views = maps.shape[1]
        start = query_points / config.stride
        query_features = sample_maps(maps[:, 0], start, padding="border")
        features = query_features[:, None].expand(-1, views, -1, -1)  # batch view point channel
        coords = start[:, None].expand(-1, views, -1, -1)
        pyramid = feature_pyramid(maps, config.corr_levels)
        places = self._places(start, *maps.shape[-2:], views)
        all_coords = []
        for _ in range(num_iterations):
            coords = coords.detach()
            tokens = self._tokens(coords, features, pyramid) + places
            update = self.updateformer(tokens.transpose(1, 2)).transpose(1, 2)
            features = features + self._feature_update(update[..., 2:])
            coords = coords + update[..., :2]
            coords = torch.cat([start[:, None], coords[:, 1:]], dim=1)
            all_coords.append(coords * config.stride)
        visibility = self.vis_predictor(features).squeeze(-1)
        confidence = self.conf_predictor(features).squeeze(-1) if config.predict_conf else None
        return Tracks(all_coords, visibility, confidence)

    def _tokens(
        self,
        coords: Float[Tensor, "batch view point 2"],
        features: Float[Tensor, "batch view point channel"],
        pyramid: list[Tensor],
    ) -> Float[Tensor, "batch view point token"]:
        """Motion since the first view, correlation, and features of each track in each view."""
        config = self.config
        flow = coords - coords[:, :1]
        scaled = flow / config.max_scale
        correlations = self.corr_mlp(correlate(pyramid, features, coords, radius=config.corr_radius))
        return torch.cat([embed_flow(flow, config.latent_dim // 2), scaled, scaled, correlations, features], dim=-1)

    def _places(
        self, start: Float[Tensor, "batch point 2"], rows: int, cols: int, views: int
    ) -> Float[Tensor, "batch view point token"]:
        """What does not change over the iterations: the query's place, and whether a view is the first."""
        x, y = (torch.arange(n, dtype=torch.float32, device=start.device) for n in (cols, rows))
        codes = sincos_map(x, y, self.dim_token, base=10000.0)[None].expand(len(start), -1, -1, -1)
        place = sample_maps(codes, start, padding="border")[:, None]
        which = [0] + [1] * (views - 1)
        return place + self.query_ref_token[:, which, None]

    def _feature_update(self, change: Float[Tensor, "batch view point channel"]) -> Tensor:
        shape = change.shape
        return self.ffeat_updater(self.ffeat_norm(change.reshape(-1, shape[-1]))).view(shape)


class TrackHead(nn.Module):
    """Feature maps at half resolution and the tracker on them."""

    def __init__(self, dim: int, config: TrackHeadConfig) -> None:
        """`dim` is the width of an aggregated token."""
        super().__init__()
        self.iters = config.iters
        self.smallest_image = config.smallest_image
        self.feature_extractor = DPTHead(dim, config.feature_extractor)
        self.tracker = Tracker(config.tracker)

    def forward(
        self,
        layers: Mapping[int, Float[Tensor, "batch view token channel"]],
        patch_start: int,
        image_size: tuple[int, int],
        query_points: Float[Tensor, "batch point 2"],
        *,
        num_iterations: int | None = None,
        frames_chunk_size: int | None = FRAMES_CHUNK_SIZE,
    ) -> Tracks:
        """Tracks of query points given as (x, y) pixels of the first view; None uses the configured iterations.

        Raises:
            InputError: for images too small for the tracker's pyramid.
        """
        height, width = image_size
        require(
            min(height, width) >= self.smallest_image,
            f"track head: expected images of at least {self.smallest_image} pixels along each side, got "
            f"{width}x{height} (width x height)",
        )
        maps = self.feature_extractor(layers, patch_start, image_size, frames_chunk_size=frames_chunk_size)
        iterations = self.iters if num_iterations is None else num_iterations
        return self.tracker(query_points, maps, num_iterations=iterations)
