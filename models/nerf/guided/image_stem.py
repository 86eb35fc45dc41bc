"""Source images -> the two small feature maps of the guided network: one to sweep with, one to refine and blend with.

VGGT's tokens, where they are read, join at a quarter of the size, from where both maps are made.

Images of more than `--feature_pixels` are halved first, and again, so that the cost does not grow with the image and
the features look the same at every resolution.
"""

import math
from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from geometry import Cameras
from models.memory import in_parts, joined
from models.nerf.renderer import SOURCES_ADVICE
from models.nerf.token_context import TokenContext

SWEEP_CHANNELS = 16
"""Of the map that is swept."""
COARSER = 4
"""Size of the fine map over the size of the sweep's."""
FEATURE_PIXELS = 1 << 17
"""Default of `--feature_pixels`, the most that a fine map has.

320x256 images, which the shipped model learned from, stay as they are, 640x512 ones are halved."""


class StemMaps(NamedTuple):
    """Feature maps of source views; both cover the image edge to edge and have unit variance over channels."""

    coarse: Float[Tensor, "batch view sweep coarse_rows coarse_cols"]
    fine: Float[Tensor, "batch view channel rows cols"]


def halvings(height: int, width: int, max_pixels: int = FEATURE_PIXELS) -> int:
    """How often an image is halved until it has at most so many pixels."""
    count = 0
    while math.prod(halved(height, width, count)) > max_pixels:
        count += 1
    return count


def halved(height: int, width: int, count: int) -> tuple[int, int]:
    """Rows and columns, rounded up."""
    return -(-height // 2**count), -(-width // 2**count)


def working_size(height: int, width: int, max_pixels: int = FEATURE_PIXELS) -> tuple[int, int]:
    """Rows and columns of the fine map of an image."""
    return halved(height, width, halvings(height, width, max_pixels))


def sweep_size(target: Cameras, source: Cameras, max_pixels: int = FEATURE_PIXELS) -> tuple[int, int]:
    """Rows and columns of the sweep of a target view (axis batch): no finer than its sources (batch view) are seen.

    That is where a target is a window of a large image, whose own few pixels would not ask for a halving.
    """
    seen = source.median_focal / 2 ** halvings(source.height, source.width, max_pixels)
    finer = round(math.log2(target.median_focal / seen))
    count = halvings(target.height, target.width, max_pixels)
    return halved(target.height, target.width, max(count, finer))


class ImageStem(nn.Module):
    """Three resolutions of convolutions, merged from coarse to fine (Lin et al. 2017)."""

    def __init__(
        self, channels: int, max_pixels: int = FEATURE_PIXELS, *, token_layers: int = 0, token_channels: int = 0
    ) -> None:
        """`token_layers`: VGGT layers whose tokens, of `token_channels`, are read; 0 = the images alone."""
        super().__init__()
        self.max_pixels = max_pixels
        full, half, quarter = 8, 16, 32
        self.at_full = _block(3, full, 1)
        self.at_half = _block(full, half, 2)
        self.at_quarter = _block(half, quarter, 2)
        self.coarse = nn.Conv2d(quarter, SWEEP_CHANNELS, 3, padding=1)
        self.to_half = nn.Conv2d(quarter, half, 1)
        self.to_full = nn.Conv2d(half, full, 1)
        self.fine = nn.Conv2d(full, channels, 3, padding=1)
        self.context = TokenContext(token_layers, token_channels, quarter) if token_layers else None

    def forward(
        self,
        images: Float[Tensor, "batch view 3 height width"],
        tokens: Float[Tensor, "batch view layer channel token_rows token_cols"] | None = None,
        trust: Float[Tensor, " batch"] | None = None,
    ) -> StemMaps:
        """Maps of images in [0, 1], and of the frozen VGGT's tokens; `trust` in [0, 1] scales what these say, None = 1.

        A stem that was built without tokens does not look at them.
        """
        batch = images.shape[:2]
        flat = images.flatten(0, 1)
        known = None if tokens is None or self.context is None else tokens.flatten(0, 1)
        trust = None if trust is None else trust.repeat_interleave(batch[1])

        def maps_of(first: int, last: int) -> tuple[Tensor, Tensor]:
            own = (None if values is None else values[first:last] for values in (known, trust))
            return self._maps(flat[first:last], *own)

        parts = in_parts(maps_of, len(flat), advice=SOURCES_ADVICE)
        coarse, fine = (joined(list(maps), 0).unflatten(0, batch) for maps in zip(*parts, strict=True))
        return StemMaps(coarse, fine)

    def _maps(
        self,
        images: Float[Tensor, "image 3 height width"],
        tokens: Float[Tensor, "image layer channel token_rows token_cols"] | None,
        trust: Float[Tensor, " image"] | None,
    ) -> tuple[Tensor, Tensor]:
        """Coarse and fine maps; images have no part in each other's, but for what tokens know of the others."""
        images = images * 2 - 1
        size = working_size(*images.shape[-2:], self.max_pixels)
        if size != images.shape[-2:]:
            images = F.interpolate(images, size, mode="area")
        full = self.at_full(images)
        half = self.at_half(full)
        quarter = self.at_quarter(half)
        if self.context is not None and tokens is not None:
            quarter = quarter + self.context(tokens.to(quarter.dtype), quarter.shape[-2:], trust)
        merged = F.relu(half + F.interpolate(self.to_half(quarter), half.shape[-2:], mode="bilinear"))
        merged = F.relu(full + F.interpolate(self.to_full(merged), full.shape[-2:], mode="bilinear"))
        return _normalized(self.coarse(quarter)), _normalized(self.fine(merged))


def _block(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels_out, channels_out, 3, padding=1),
        nn.ReLU(),
    )


def _normalized(maps: Float[Tensor, "image channel rows cols"]) -> Float[Tensor, "image channel rows cols"]:
    return F.layer_norm(maps.movedim(1, -1).float(), maps.shape[1:2]).movedim(-1, 1)
