"""Patch embedding of VGGT-nano: a convolutional stem that also says where each patch is found in the first view.

VGGT finds correspondences by attention alone. A small network on a small budget gets them from a soft global match
instead (after Xu et al., GMFlow, 2022: softmax of feature correlations, expected position), from every view to the
first and from the first to all others; the rest of VGGT is unchanged, and so is its symmetry: the views behind the
first may be permuted.
"""

import itertools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from models.vggt.layers import require_whole_patches

CELLS = 2
"""Match cells along each side of a patch."""
_MATCH_CHANNELS = 48
"""Of the features that are correlated; chosen by hand, the correlation's cost grows in proportion."""
_CUES = 7
"""Per cell: own position (2), displacement (2), spread (2), certainty (1)."""
_DISPLACEMENT_GAIN = 4.0
"""Displacements are a fraction of the half image width; this brings them near 1. Chosen by hand."""
_SHARPNESS = 16.0
"""Initial factor on the correlation of unit vectors, the inverse of a softmax temperature; learned from there."""
_REACH = 0.4
"""Half image widths: initial displacement that costs a match 1 in its logit; learned from there."""


class StemTokens(NamedTuple):
    """Patch tokens and the matches that went into them."""

    tokens: Float[Tensor, "batch_view token channel"]
    """Row-major, views flattened into the batch axis."""
    match_logits: Float[Tensor, "batch other first_cell cell"]
    """How well each cell of the first view fits each cell of the other views; cells row-major."""


class MatchStem(nn.Module):
    """Strided 3x3 convolutions, one per halving (Xiao et al. 2021), plus the cues of the soft match."""

    def __init__(self, patch_size: int, dim: int, num_blocks: int = 0) -> None:
        """`patch_size` is a power of two, at least 4; channels double up to `dim`.

        `num_blocks` residual blocks follow every halving but the first, whose maps are large.
        """
        super().__init__()
        self.patch_size = patch_size
        halvings = patch_size.bit_length() - 1
        widths = [3, *(max(8, dim >> (halvings - 1 - step)) for step in range(halvings))]
        self.levels = nn.ModuleList(
            nn.Sequential(
                *(nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(1, after), nn.GELU()),
                *(_Residual(after, 1 + number % 2) for number in range(num_blocks if step else 0)),
            )
            for step, (before, after) in enumerate(itertools.pairwise(widths))
        )
        self.proj = nn.Conv2d(dim, dim, kernel_size=1)
        self.fine_match = nn.Conv2d(widths[-2], _MATCH_CHANNELS, 3, padding=1)
        self.coarse_match = nn.Conv2d(dim, _MATCH_CHANNELS, 3, padding=1)
        self.sharpness = nn.Parameter(torch.tensor(math.log(_SHARPNESS)))
        self.reach = nn.Parameter(torch.tensor(math.log(_REACH)))
        self.cues = nn.Sequential(nn.Linear(_CUES * CELLS**2, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, images: Float[Tensor, "batch view 3 height width"]) -> StemTokens:
        """Sides that are no multiples of the patch are an `InputError`."""
        batch, views = images.shape[:2]
        maps, match = self._features(images.flatten(0, 1))
        rows, cols = match.shape[-2:]
        own = cell_positions(rows, cols, match)
        features = match.flatten(2).unflatten(0, (batch, views))
        logits = self._match_logits(features[:, 0], features[:, 1:], own, own)
        cues = _cues(logits, own).flatten(0, 1).transpose(1, 2).unflatten(2, (rows, cols))
        cues = self.cues(F.pixel_unshuffle(cues, CELLS).flatten(2).transpose(1, 2))
        return StemTokens(self.proj(maps).flatten(2).transpose(1, 2) + cues, logits)

    def match_features(
        self, images: Float[Tensor, "image 3 height width"]
    ) -> Float[Tensor, "image channel match_rows match_cols"]:
        """Unit vectors of the cells, to be compared by `compare`; images as `forward` takes them."""
        return self._features(images)[1]

    def compare(
        self,
        first: Float[Tensor, "channel rows cols"],
        others: Float[Tensor, "other channel other_rows other_cols"],
    ) -> Float[Tensor, "other first_cell cell"]:
        """Match logits of images by their `match_features`; displacements count from the middles of both images."""
        here = cell_positions(*first.shape[-2:], first)
        # in half widths of the first image, whatever the shape of the others
        there = cell_positions(*others.shape[-2:], others) * (others.shape[-1] / first.shape[-1])
        return self._match_logits(first.flatten(1)[None], others.flatten(2)[None], here, there)[0]

    def _features(self, maps: Float[Tensor, "image 3 height width"]) -> tuple[Tensor, Tensor]:
        """Maps of the last level, and unit vectors of the match cells."""
        require_whole_patches(maps, self.patch_size)
        finer = maps
        for level in self.levels:
            finer, maps = maps, level(maps)
        match = self.fine_match(finer) + F.interpolate(self.coarse_match(maps), scale_factor=CELLS)
        # the mean over the cells does not tell them apart
        return maps, F.normalize(match - match.mean((2, 3), keepdim=True), dim=1)

    def _match_logits(
        self,
        first: Float[Tensor, "batch channel first_cell"],
        others: Float[Tensor, "batch other channel cell"],
        here: Float[Tensor, "first_cell 2"],
        there: Float[Tensor, "cell 2"],
    ) -> Float[Tensor, "batch other first_cell cell"]:
        """Correlation times `sharpness`, minus (displacement / `reach`)^2, which favors short displacements."""
        correlation = torch.einsum("bcn,bvcm->bvnm", first * self.sharpness.exp(), others)
        return correlation - torch.cdist(here, there).square() * torch.exp(-2 * self.reach)


class _Residual(nn.Module):
    """x + conv(gelu(conv(gelu(norm(x))))); the first convolution may be dilated."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, maps: Float[Tensor, "batch_view channel rows cols"]) -> Tensor:
        return maps + self.conv2(F.gelu(self.conv1(F.gelu(self.norm(maps)))))


def _cues(
    logits: Float[Tensor, "batch other cell cell"], own: Float[Tensor, "cell 2"]
) -> Float[Tensor, "batch view cell cue"]:
    """Cues of every cell: in the first view the mean over its matches in all others, in these from the first."""
    matched = _expected(logits.transpose(2, 3), own)
    first = own.new_zeros(len(logits), 1, len(own), _CUES - 2)
    if logits.shape[1]:
        first = _expected(logits, own).mean(1, keepdim=True)
    matched = torch.cat([first, matched], dim=1)
    return torch.cat([own.expand(*matched.shape[:2], -1, -1), matched], dim=-1)


def cell_positions(rows: int, cols: int, like: Tensor) -> Float[Tensor, "cell 2"]:
    """(x, y) of cell centers from the middle of the image, in half image widths."""
    x = (torch.arange(cols, device=like.device, dtype=like.dtype) + 0.5) * (2 / cols) - 1
    y = ((torch.arange(rows, device=like.device, dtype=like.dtype) + 0.5) * 2 - rows) / cols
    return torch.stack([x.expand(rows, -1), y[:, None].expand(-1, cols)], dim=-1).flatten(0, 1)


def _expected(
    logits: Float[Tensor, "batch view cell other"], positions: Float[Tensor, "other 2"]
) -> Float[Tensor, "batch view cell 5"]:
    """Displacement to the expected position of the match, its spread, and the certainty (sum of squares)."""
    weights = logits.softmax(dim=-1)
    moments = weights @ torch.cat([positions, positions.square()], dim=-1)
    mean, square = moments.split(2, dim=-1)
    spread = (square - mean.square()).clamp_min(1e-6).sqrt()
    certainty = weights.square().sum(-1, keepdim=True)
    return torch.cat([_DISPLACEMENT_GAIN * (mean - positions), spread, certainty], dim=-1)
