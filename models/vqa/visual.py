"""Frozen VGGT -> levels of features per cell -> standardized tokens with codes of view and position.

VGGT treats all views behind the first alike and has positions in rotary phases only, so that without codes no question
about "view 2", "left" or "right" could be answered.
"""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from geometry.errors import InputError, require
from models.layers import sinusoidal_encoding
from models.vggt.frozen import FrozenFeatures, FrozenVGGT
from models.vggt.pose_encoding import inverse_se3
from models.vqa.config import VisualConfig

_POSITION_OCTAVES = 5
"""Of the position in the image, [-1, 1]: the finest wave is as long as 1/16 of an image."""
_POINT_OCTAVES = 4
"""Of points in units of the scene's size: the finest wave is 1/4 of it."""
_CODE_STD = 0.5
"""Of the start of codes, beside tokens of standard deviation 1. Chosen by hand."""
_MIN_STD = 1e-5
"""Channels that vary less are not standardized: they are empty."""


def scene_features(
    vggt: FrozenVGGT, config: VisualConfig, images: Float[Tensor, "batch view 3 height width"]
) -> Float[Tensor, "batch view level channel rows cols"]:
    """Everything a network of `config` reads of images, all of whose views VGGT sees together: fit to be cached.

    Levels are VGGT's layers, then the pixels of each cell, then the points of the cells, as configured; the channels
    of the last two are filled up with zeros.

    Raises:
        InputError: for a VGGT with other layers or channels, or without the heads that points need.
    """
    require_fitting_backbone(vggt, config)
    found = vggt(images)
    levels = [found.tokens]
    rows, cols = found.tokens.shape[-2:]
    grid = (rows, cols)
    if config.has_pixels:
        levels.append(_filled(cell_pixels(images, grid, config.channels), config.channels))
    if config.has_points:
        levels.append(_filled(cell_points(found, grid), config.channels))
    return torch.cat([levels[0], *(level[:, :, None].to(levels[0]) for level in levels[1:])], dim=2)


def require_fitting_backbone(vggt: FrozenVGGT, config: VisualConfig) -> None:
    """Refuse a VGGT that is not of the configuration.

    Raises:
        InputError: saying what is expected.
    """
    require(
        vggt.layers == tuple(config.layers) and vggt.channels == config.channels,
        f"VGGT: expected layers {list(config.layers)} of {config.channels} channels, got {list(vggt.layers)} "
        f"of {vggt.channels}",
    )
    require(not config.has_points or vggt.has_depth, "VGGT: expected camera and depth heads for points, got none")


def cell_pixels(
    images: Float[Tensor, "batch view 3 height width"], grid: tuple[int, int], channels: int
) -> Float[Tensor, "batch view pixel rows cols"]:
    """The image at so many pixels per cell as fit into the channels, cell by cell."""
    rows, cols = grid
    side = min(images.shape[-2] // rows, math.isqrt(channels // 3))
    resized = images.flatten(0, 1)
    if resized.shape[-2:] != (rows * side, cols * side):
        resized = F.interpolate(
            resized, (rows * side, cols * side), mode="bilinear", align_corners=False, antialias=True
        )
    return F.pixel_unshuffle(resized, side).unflatten(0, images.shape[:2])


def cell_points(found: FrozenFeatures, grid: tuple[int, int]) -> Float[Tensor, "batch view 3 rows cols"]:
    """Where VGGT's depth and cameras put each cell: in the frame of view 1, divided by the mean distance from it."""
    if found.depth is None or found.w2c is None or found.intrinsics is None:
        raise InputError("VGGT: expected camera and depth heads for points, got none")
    height, width = found.depth.shape[-2:]
    depth = F.adaptive_avg_pool2d(found.depth.float(), grid)
    rows, cols = grid
    x = (torch.arange(cols, device=depth.device) + 0.5) * width / cols
    y = (torch.arange(rows, device=depth.device) + 0.5) * height / rows
    pixels = torch.stack([*torch.meshgrid(x, y, indexing="xy"), torch.ones(rows, cols, device=depth.device)])
    rays = torch.einsum("bvij,jhw->bvihw", torch.linalg.inv(found.intrinsics.float()), pixels)
    c2w = inverse_se3(found.w2c.float())
    to_first = found.w2c[:, :1].float() @ c2w
    points = torch.einsum("bvij,bvjhw->bvihw", to_first[..., :3, :3], rays * depth[:, :, None])
    points = points + to_first[..., :3, 3, None, None]
    scale = points.norm(dim=2).mean(dim=(1, 2, 3))
    return points / scale.clamp(min=1e-8)[:, None, None, None, None]


def _filled(level: Tensor, channels: int) -> Tensor:
    return F.pad(level, (0, 0, 0, 0, 0, channels - level.shape[2]))


class VisualEncoder(nn.Module):
    """Features of all visible views -> context of the Perceiver."""

    mean: Tensor
    """Of each channel of each level over the training views, level channel."""
    std: Tensor

    def __init__(self, config: VisualConfig) -> None:
        super().__init__()
        self.config = config
        levels = len(config.layers) + config.has_pixels
        self.register_buffer("mean", torch.zeros(levels, config.channels))
        self.register_buffer("std", torch.ones(levels, config.channels))
        self.view_code = nn.Parameter(_CODE_STD * torch.randn(config.max_views, config.dim))
        self.position_code = nn.Linear(2 * (1 + 2 * _POSITION_OCTAVES), config.dim, bias=False)
        self.point_code = nn.Linear(3 * (1 + 2 * _POINT_OCTAVES), config.dim, bias=False) if config.has_points else None
        for code in (self.position_code, self.point_code):
            if code is not None:
                nn.init.normal_(code.weight, std=_CODE_STD * math.sqrt(2 / code.in_features))

    def forward(
        self, features: Float[Tensor, "batch view level channel rows cols"], view_mask: Bool[Tensor, "batch view"]
    ) -> tuple[Float[Tensor, "batch token dim"], Float[Tensor, "#batch token dim"], Bool[Tensor, "batch token"]]:
        """Tokens of all views, view by view and row by row; codes to be added to them; which of them may be read.

        Codes stay apart because a linear layer on either is cheaper: no gradient has to reach the frozen tokens.

        Raises:
            InputError: for features of another configuration, more views than there are codes, or a sample without
                any view.
        """
        config = self.config
        views, levels, channels = features.shape[1:4]
        require(
            (levels, channels) == (config.num_levels, config.channels),
            f"features: expected {config.num_levels} levels of {config.channels} channels, got {levels} of {channels}",
        )
        require(views <= config.max_views, f"views: expected at most {config.max_views}, got {views}")
        require(bool(view_mask.any(1).all()), "views: expected at least one that is shown in every sample, got none")
        features = features.float()
        kept = len(config.layers) + config.has_pixels
        tokens = (features[:, :, :kept] - self.mean[..., None, None]) / self.std[..., None, None]
        tokens = _merged(_pooled(tokens.flatten(2, 3), config.pooling), config.merging)
        rows, cols = tokens.shape[-2:]
        tokens = tokens.flatten(3).mT  # batch view cell dim
        codes = (self.view_code[:views, None] + self._positions(rows, cols, tokens.device))[None]
        if self.point_code is not None:
            points = _pooled(features[:, :, -1, :3], config.pooling * config.merging).flatten(3).mT
            codes = codes + self.point_code(sinusoidal_encoding(points, _POINT_OCTAVES).flatten(-2))
        mask = view_mask[..., None].expand(-1, -1, rows * cols)
        return tokens.flatten(1, 2), codes.flatten(1, 2), mask.flatten(1)

    def _positions(self, rows: int, cols: int, device: torch.device) -> Float[Tensor, "cell dim"]:
        """Code of the middle of each cell; the image reaches from -1 to 1 on either side, whatever its size."""
        y = ((torch.arange(rows, device=device) + 0.5) / rows * 2 - 1)[:, None].expand(rows, cols)
        x = ((torch.arange(cols, device=device) + 0.5) / cols * 2 - 1)[None].expand(rows, cols)
        middle = torch.stack([x, y], dim=-1).flatten(0, 1)
        return self.position_code(sinusoidal_encoding(middle, _POSITION_OCTAVES).flatten(-2))

    @torch.no_grad()
    def standardize(self, batches: Iterable[tuple[Tensor, Tensor]]) -> int:
        """Take mean and standard deviation of each channel from features and view masks; returns the views seen.

        Raises:
            InputError: when there is nothing to take them from.
        """
        kept = len(self.config.layers) + self.config.has_pixels
        sums = torch.zeros(2, *self.mean.shape, dtype=torch.float64)
        count = views = 0
        for features, view_mask in batches:
            values = features[view_mask][:, :kept].double()  # view level channel rows cols
            sums += torch.stack([values.sum((0, 3, 4)), values.square().sum((0, 3, 4))]).cpu()
            count += values.shape[0] * values.shape[-2] * values.shape[-1]
            views += values.shape[0]
        require(count > 0, "features: expected some to take means and standard deviations from, got none")
        mean = sums[0] / count
        std = (sums[1] / count - mean.square()).clamp(min=0).sqrt()
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > _MIN_STD, std, 1.0))
        return views


def _pooled(maps: Float[Tensor, "batch view channel rows cols"], pooling: int) -> Tensor:
    """Means over squares of cells; squares at the lower and right edge may be cut."""
    if pooling == 1:
        return maps
    pooled = F.avg_pool2d(maps.flatten(0, 1), pooling, ceil_mode=True, count_include_pad=False)
    return pooled.unflatten(0, maps.shape[:2])


def _merged(maps: Float[Tensor, "batch view channel rows cols"], merging: int) -> Tensor:
    """Squares of cells as channels of one; what is missing at the lower and right edge is zero."""
    if merging == 1:
        return maps
    rows, cols = maps.shape[-2:]
    padded = F.pad(maps, (0, -cols % merging, 0, -rows % merging))
    return F.pixel_unshuffle(padded.flatten(0, 1), merging).unflatten(0, maps.shape[:2])
