"""Terms that compare neighboring pixels of predicted and true depth or point maps (docs/vggt.md, "Neighbor terms").

Gradients of the error over four scales, or surface normals over three; a scale looks at every 2^s-th pixel. Each may
be weighted by the predicted confidence.
"""

from enum import Enum

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MAX_ERROR = 100.0
"""Normalized units, as upstream: larger errors count as this, without a gradient (docs/vggt.md, "Objective")."""
NUM_GRADIENT_SCALES = 4
"""Every 8th pixel at the coarsest, as in MiDaS (Ranftl et al. 2020) and upstream."""
NUM_NORMAL_SCALES = 3
"""Every 4th pixel at the coarsest, as upstream."""
GRADIENT_ALPHA = 0.2
"""Weight of -ln confidence in the gradient term, as upstream; the normal term takes the regression's."""
MIN_NORMALS = 10
"""With fewer valid triangles a scale counts 0, as upstream."""
MIN_LENGTH = 1e-8
"""Of a normal before it is made a unit vector, in squared normalized units: no division by 0."""

Values = Float[Tensor, "image height width channel"]
Confidence = Float[Tensor, "image height width"]
Mask = Bool[Tensor, "image height width"]
Plane = Float[Tensor, "image _ _"]
Planes = tuple[Plane, Plane, Plane]
"""The x, y and z of vectors at every pixel."""


class SurfaceTerm(Enum):
    """What is compared between neighbors. The reference picks it by substrings of a name."""

    GRADIENT = "grad"
    GRADIENT_CONF = "grad_conf"
    NORMAL = "normal"
    NORMAL_CONF = "normal_conf"

    @property
    def is_weighted(self) -> bool:
        """Whether the confidence enters."""
        return self in (SurfaceTerm.GRADIENT_CONF, SurfaceTerm.NORMAL_CONF)


def surface_loss(
    term: SurfaceTerm,
    predicted: Values,
    true: Values,
    confidence: Confidence,
    mask: Mask,
    *,
    gamma: float,
    alpha: float,
) -> Float[Tensor, ""]:
    """The term's mean over its scales; `gamma` and `alpha` are those of the regression."""
    weights = confidence if term.is_weighted else None
    if term in (SurfaceTerm.NORMAL, SurfaceTerm.NORMAL_CONF):
        steps = [2**scale for scale in range(NUM_NORMAL_SCALES)]
        losses = [
            _normal_loss(*_every(step, predicted, true), *_every(step, mask, weights), gamma=gamma, alpha=alpha)
            for step in steps
        ]
    else:
        steps = [2**scale for scale in range(NUM_GRADIENT_SCALES)]
        error = torch.where(mask[..., None], predicted - true, 0.0)
        losses = [_gradient_loss(*_every(step, error, mask, weights)) for step in steps]
    return torch.stack(losses).mean()


def _every(step: int, *maps: Tensor | None) -> list[Tensor | None]:
    return [None if values is None else values[:, ::step, ::step] for values in maps]


def _gradient_loss(error: Values, mask: Mask, confidence: Confidence | None) -> Float[Tensor, ""]:
    """Sum of |differences of the error| between valid neighbors over the number of valid values.

    sum (|d(x+1, y) - d(x, y)| + |d(x, y+1) - d(x, y)|) / n, d = predicted - true: a constant error costs 0.
    As in the reference, the confidence is that of the right or lower pixel, and its logarithm counts at every pixel,
    also at masked ones: the recorded values contain it.
    """
    total = error.new_zeros(())
    for dim in (1, 2):
        length = error.shape[dim] - 1
        is_valid = mask.narrow(dim, 1, length) & mask.narrow(dim, 0, length)
        change = torch.where(is_valid[..., None], error.diff(dim=dim).abs().clamp(max=MAX_ERROR), 0.0)
        if confidence is not None:
            weight = confidence.narrow(dim, 1, length)[..., None]
            change = change * weight - GRADIENT_ALPHA * weight.log()
        total = total + change.sum()
    count = mask.sum() * error.shape[-1]
    return torch.where(count > 0, total / count.clamp(min=1), 0.0)


def _normal_loss(
    predicted: Values, true: Values, mask: Mask, confidence: Confidence | None, *, gamma: float, alpha: float
) -> Float[Tensor, ""]:
    """1 - cos between normals, mean over all triangles of a pixel, a vertical and a horizontal neighbor, all valid.

    A plane of slope 3/4 against a level one, whose normals have cos 4/5, costs 0.2.
    The reference forms four normals per pixel, from its neighbors up and left, left and down, down and right, right
    and up. These are the four triangles of every 2x2 block of pixels, and which way round a triangle goes does not
    matter as long as it is the same for both surfaces.
    """
    corners = [(row, column) for row in (0, 1) for column in (0, 1)]
    total, count = predicted.new_zeros(()), 0
    for (row, column), normal, true_normal in zip(corners, _normals(predicted), _normals(true), strict=True):
        lengths = (_squared_length(normal) * _squared_length(true_normal)).sqrt()
        loss = 1 - (_dot(normal, true_normal) / lengths).clamp(-1, 1)
        if confidence is not None:
            weight = _corner(confidence, row, column)
            loss = gamma * loss * weight - alpha * weight.log()
        is_valid = _corner(mask, row, column) & _corner(mask, 1 - row, column) & _corner(mask, row, 1 - column)
        total = total + torch.where(is_valid, loss, 0.0).sum()
        count = count + is_valid.sum()
    return torch.where(count >= MIN_NORMALS, total / count.clamp(min=1), 0.0)


def _corner(maps: Tensor, row: int, column: int) -> Tensor:
    """The upper (0) or lower (1), left or right pixel of every 2x2 block."""
    height, width = maps.shape[1:3]
    return maps[:, row : height - 1 + row, column : width - 1 + column]


def _normals(points: Values) -> list[Planes]:
    """Cross products at the upper left, upper right, lower left and lower right corner of every 2x2 block.

    Coordinate by coordinate: `torch.linalg.cross` over a last axis of three takes ten times as long.
    """
    height, width = points.shape[1:3]
    coordinates = points.movedim(-1, 0).contiguous()
    down, right = coordinates.diff(dim=-2), coordinates.diff(dim=-1)
    return [
        _cross(down[..., column : width - 1 + column].unbind(0), right[:, :, row : height - 1 + row].unbind(0))
        for row in (0, 1)
        for column in (0, 1)
    ]


def _cross(a: Planes, b: Planes) -> Planes:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def _dot(a: Planes, b: Planes) -> Plane:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _squared_length(vectors: Planes) -> Plane:
    """Of at least `MIN_LENGTH`, below which there is no gradient."""
    return _dot(vectors, vectors).clamp(min=MIN_LENGTH**2)
