"""Source images + VGGT patch tokens -> feature maps at half resolution.

VGGT supplies what a 14-pixel patch means in the context of all views; a shallow convolutional stem supplies where
exactly edges are. A feature pyramid (Lin et al. 2017) merges them from coarse to fine. Without a VGGT the stem stands
alone.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from geometry import Views
from models.memory import in_parts, joined
from models.nerf.depth_prior import DEPTH_CHANNELS
from models.nerf.renderer import SOURCES_ADVICE, SourceMaps
from models.nerf.token_context import projected_tokens, trusted


@dataclass(frozen=True)
class FeatureMaps(SourceMaps):
    """What the field looks up in the source views."""

    features: Float[Tensor, "batch view channel rows cols"]
    """Covers the image edge to edge; float32. With `has_depth` the last two channels are `DepthPrior.lookup`."""
    has_depth: bool = False

    def with_depth(self) -> "FeatureMaps":
        """The prior among the channels, so that one lookup finds both; an unknown prior is all zero."""
        batch, view, _, rows, cols = self.features.shape
        unknown = self.features.new_zeros(batch, view, DEPTH_CHANNELS, rows, cols)
        lookup = unknown if self.prior is None else self.prior.lookup
        return replace(self, features=torch.cat([self.features, lookup], dim=2), has_depth=True)


class _ConvBlock(nn.Sequential):
    """Two 3x3 convolutions; the first may halve the resolution."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, 3, stride, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels_out, channels_out, 3, padding=1),
            nn.ReLU(),
        )


class FeatureExtractor(nn.Module):
    """Image stem (1/2, 1/4, 1/8) merged with several VGGT layers (or none), down to one map at half resolution."""

    def __init__(self, token_layers: int, token_channels: int, channels: int) -> None:
        super().__init__()
        half, quarter, eighth = 16, 32, 48
        self.stem = nn.ModuleList(
            [_ConvBlock(3, half, 2), _ConvBlock(half, quarter, 2), _ConvBlock(quarter, eighth, 2)]
        )
        self.token_norms = nn.ModuleList(nn.LayerNorm(token_channels) for _ in range(token_layers))
        self.token_projections = nn.ModuleList(nn.Linear(token_channels, eighth) for _ in range(token_layers))
        self.merge = nn.Conv2d(2 * eighth if token_layers else eighth, eighth, 3, padding=1)
        self.to_quarter = nn.Conv2d(eighth, quarter, 1)
        self.to_half = nn.Conv2d(quarter, half, 1)
        self.out = nn.Conv2d(half, channels, 3, padding=1)

    def forward(
        self,
        source: Views,
        tokens: Float[Tensor, "batch view layer channel token_rows token_cols"] | None,
        trust: Float[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch view feature rows cols"]:
        """Feature maps, float32, of the source views' images and the tokens of the frozen VGGT where there is one.

        `trust` [0, 1] scales what the tokens say; None = 1.
        """
        batch, view = source.images.shape[:2]
        images = source.images.flatten(0, 1)
        tokens = None if tokens is None else tokens.flatten(0, 1)
        trust = None if trust is None else trust.repeat_interleave(view)

        def maps_of(first: int, last: int) -> Tensor:
            own, known = (None if values is None else values[first:last] for values in (tokens, trust))
            return self._maps(images[first:last], own, known)

        maps = joined(in_parts(maps_of, len(images), advice=SOURCES_ADVICE), 0)
        return maps.unflatten(0, (batch, view)).float()

    def _maps(
        self,
        images: Float[Tensor, "image 3 height width"],
        tokens: Float[Tensor, "image layer channel token_rows token_cols"] | None,
        trust: Float[Tensor, " image"] | None,
    ) -> Float[Tensor, "image feature rows cols"]:
        """Images have no part in each other's maps."""
        half, quarter, eighth = self._stem_levels(images * 2 - 1)
        if tokens is not None:
            context = projected_tokens(tokens.to(eighth.dtype), self.token_norms, self.token_projections)
            eighth = torch.cat([eighth, trusted(context, eighth.shape[-2:], trust)], dim=1)
        merged = F.relu(self.merge(eighth))
        merged = F.relu(self._up(self.to_quarter(merged), quarter))
        merged = F.relu(self._up(self.to_half(merged), half))
        # unit variance over channels: whether two views agree is then on the same scale from the first step on
        return F.layer_norm(self.out(merged).movedim(1, -1), (self.out.out_channels,)).movedim(-1, 1)

    def _stem_levels(self, images: Tensor) -> list[Tensor]:
        levels = []
        for block in self.stem:
            images = block(images)
            levels.append(images)
        return levels

    @staticmethod
    def _up(coarse: Tensor, fine: Tensor) -> Tensor:
        return F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False) + fine
