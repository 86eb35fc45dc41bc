"""Predicted depth brought to the depth of triangulated points: a smooth factor, known where there are points."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from geometry import TensorStruct, sample_at_pixels

_CELL = 4
"""Pixels along a side of the cells at whose middles the factor is computed."""
_NEAR, _FAR = 5.0, 20.0
"""Pixels, deviations of the kernels: the far one counts where the near one finds no points."""
_FAR_WEIGHT, _MEDIAN_WEIGHT = 0.1, 1e-6
"""Of the far kernel's mean and of the median of all points, against weights of points of up to 1."""
_MAX_FACTOR = 1.0
"""Of the logs of factors about their median; farther ones are false matches or edges. All chosen on dev groups."""
_MIN_POINTS = 10
"""Of a view, for anything to change."""


@dataclass(frozen=True)
class PointDepths(TensorStruct):
    """Points whose depth in the views is known from elsewhere; the axis of views comes first."""

    pixels: Float[Tensor, "view point 2"]
    depth: Float[Tensor, "view point"]
    """Camera z, in units of the predicted depth."""
    weight: Float[Tensor, "view point"]
    """0 to 1; 0 where a view does not see the point."""


def corrected_depth(
    depth: Float[Tensor, "view height width"], known: PointDepths
) -> Float[Tensor, "view height width"]:
    """`depth` times exp f, f a mean of ln(known / predicted) over points by Gaussians of 5 and, where these are few,
    of 20 pixels (Nadaraya and Watson's regression).

    Views with fewer than 10 points are returned as they are.
    """
    return torch.stack([_corrected(*view) for view in zip(depth, known.pixels, known.depth, known.weight, strict=True)])


def _corrected(depth: Tensor, pixels: Tensor, known: Tensor, weight: Tensor) -> Float[Tensor, "height width"]:
    height, width = depth.shape
    usable = (weight > 0) & (known > 0)
    if int(usable.sum()) < _MIN_POINTS:
        return depth
    pixels, weight = pixels[usable].float(), weight[usable].float()
    predicted = sample_at_pixels(depth[None, None], pixels[None], height, width)[0, :, 0]
    factors = (known[usable].float() / predicted.clamp_min(1e-6)).log()
    median = factors.median()
    factors = factors.clamp(median - _MAX_FACTOR, median + _MAX_FACTOR)
    rows, cols = -(-height // _CELL), -(-width // _CELL)
    y, x = ((torch.arange(count) + 0.5) * length / count for count, length in ((rows, height), (cols, width)))
    cells = torch.stack([x.expand(rows, -1), y[:, None].expand(-1, cols)], dim=-1).flatten(0, 1)
    squared = torch.cdist(cells.to(pixels), pixels).square()
    far = _mean(squared, _FAR, factors, weight, median.expand(len(cells)), _MEDIAN_WEIGHT)
    near = _mean(squared, _NEAR, factors, weight, far, _FAR_WEIGHT)
    smooth = F.interpolate(near.reshape(1, 1, rows, cols), (height, width), mode="bilinear", align_corners=False)
    return depth * smooth[0, 0].exp()


def _mean(
    squared: Tensor, deviation: float, values: Tensor, weight: Tensor, otherwise: Tensor, count: float
) -> Float[Tensor, " cell"]:
    """Weighted by a Gaussian, with `count` points more that have the value `otherwise`."""
    kernel = torch.exp(-0.5 * squared / deviation**2) * weight
    return (kernel @ values + count * otherwise) / (kernel.sum(-1) + count)
