"""Terms that compare neighboring pixels: normals of point maps, gradients of logarithmic depth.

They are for synthetic data, whose depth has no noise (MoGe-2, Wang et al. 2025; MiDaS, Ranftl et al. 2020).
Values are per view, over all samples together.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MIN_ANGLE, MAX_ANGLE = math.radians(1), math.radians(90)
"""Between normals; outside there is no gradient, as upstream. A perfect prediction still costs what 1 degree does."""
HUBER_ANGLE = math.radians(3)
"""Up to here the angle counts squared."""
_MIN_SINE = 1e-12
NUM_SCALES = 4
"""Every 8th pixel at the coarsest."""
MAX_GRADIENT = 100.0
"""Per difference, as upstream."""

Points = Float[Tensor, "batch view height width 3"]
Maps = Float[Tensor, "batch view height width"]
Masks = Bool[Tensor, "batch view height width"]


def normal_error(prediction: Points, truth: Points, mask: Masks) -> Float[Tensor, " view"]:
    """Angles between the normals of the four triangles of every 2x2 block, as a Huber loss.

    Sum over triangles of three valid pixels / (blocks with any such triangle * 4 max(height, width)); the angle, in
    radians and from 1 to 90 degrees, costs a^2 / (2 b) below b = 3 degrees and a - b / 2 above. 0 without such a block.
    """
    height, width = mask.shape[-2:]
    corners = [mask[..., rows : height - 1 + rows, cols : width - 1 + cols] for rows in (0, 1) for cols in (0, 1)]
    upper_left, upper_right, lower_left, lower_right = corners
    valid = torch.stack(
        [
            upper_left & upper_right & lower_left,
            upper_left & upper_right & lower_right,
            upper_left & lower_left & lower_right,
            upper_right & lower_left & lower_right,
        ]
    )
    angle = _angle(_corner_normals(prediction), _corner_normals(truth)).clamp(MIN_ANGLE, MAX_ANGLE)
    cost = torch.where(angle < HUBER_ANGLE, angle.square() / (2 * HUBER_ANGLE), angle - HUBER_ANGLE / 2)
    total = torch.where(valid, cost, 0.0).sum((0, 1, 3, 4))
    blocks = valid.any(0).sum((0, 2, 3)).clamp(min=1)
    return total / (blocks * 4 * max(height, width))


def _corner_normals(points: Points) -> Float[Tensor, "3 4 batch view rows cols"]:
    """Normals of the triangles at the upper left, upper right, lower left and lower right corner of every block.

    Coordinate by coordinate, which is faster than a cross product over a last axis of three.
    """
    height, width = points.shape[2:4]
    coordinates = points.movedim(-1, 0)
    down, right = coordinates.diff(dim=-2), coordinates.diff(dim=-1)
    edges = [
        (down[..., cols : width - 1 + cols], right[..., rows : height - 1 + rows, :])
        for rows in (0, 1)
        for cols in (0, 1)
    ]
    return torch.stack([_cross(*pair) for pair in edges], dim=1)


def _cross(first: Tensor, second: Tensor) -> Tensor:
    """Over the first axis."""
    a, b = first, second
    return torch.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def _angle(first: Tensor, second: Tensor) -> Tensor:
    """Radians between vectors along the first axis."""
    return torch.atan2(_cross(first, second).norm(dim=0) + _MIN_SINE, (first * second).sum(0))


def gradient_error(prediction: Maps, truth: Maps, mask: Masks) -> Float[Tensor, " view"]:
    """Differences of the error between neighbors, on every 1st, 2nd, 4th and 8th pixel.

    Each scale: sum of |d(x+1, y) - d(x, y)| + |d(x, y+1) - d(x, y)| between valid pixels, d = prediction - truth, over
    the number of valid pixels. A constant error costs 0.
    """
    total = prediction.new_zeros(prediction.shape[1])
    for scale in range(NUM_SCALES):
        step = 2**scale
        valid = mask[..., ::step, ::step]
        error = torch.where(valid, (prediction - truth)[..., ::step, ::step], 0.0)
        change = prediction.new_zeros(prediction.shape[1])
        for dim in (-1, -2):
            length = error.shape[dim] - 1
            both = valid.narrow(dim, 1, length) & valid.narrow(dim, 0, length)
            change = change + torch.where(both, error.diff(dim=dim).abs().clamp(max=MAX_GRADIENT), 0.0).sum((0, 2, 3))
        total = total + change / valid.sum((0, 2, 3)).clamp(min=1)
    return total
