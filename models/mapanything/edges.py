"""Where a predicted surface jumps: pixels that hang in the air between near and far."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

DEPTH_STEP = 0.03
"""Of the depth: largest difference between the 9 pixels around one that is no edge, as upstream."""
NORMAL_STEP = math.radians(5)
"""Largest angle between the normals around a pixel that is no edge, as upstream."""

Maps = Float[Tensor, "view height width"]
Masks = Bool[Tensor, "view height width"]


def depth_edges(depth: Maps) -> Masks:
    """(max - min) / depth over 3x3 pixels above 3 %."""
    highest = F.max_pool2d(depth[:, None], 3, stride=1, padding=1)[:, 0]
    lowest = -F.max_pool2d(-depth[:, None], 3, stride=1, padding=1)[:, 0]
    return (highest - lowest) > DEPTH_STEP * depth


def normal_edges(points: Float[Tensor, "view height width 3"]) -> Masks:
    """The largest angle between a pixel's normal and those of its 8 neighbors above 5 degrees.

    Normals are cross products of central differences; at the border one-sided ones.
    """
    down, right = (torch.gradient(points, dim=dim)[0] for dim in (1, 2))
    normals = F.normalize(torch.linalg.cross(down, right), dim=-1)
    padded = F.pad(normals.movedim(-1, 1), (1, 1, 1, 1), mode="replicate")
    height, width = points.shape[1:3]
    neighbors = [
        padded[:, :, row : row + height, col : col + width]
        for row in range(3)
        for col in range(3)
        if (row, col) != (1, 1)
    ]
    least = torch.stack([(normals.movedim(-1, 1) * one).sum(1) for one in neighbors]).amin(0)
    return least < math.cos(NORMAL_STEP)


def surface_edges(depth: Maps, points: Float[Tensor, "view height width 3"]) -> Masks:
    """Jumps of depth that are jumps of the normal as well: a slanted plane is none."""
    return depth_edges(depth) & normal_edges(points)
