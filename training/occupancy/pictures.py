"""Pictures of forecasts beside the truth, seen from above."""

import matplotlib
import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from data.occupancy.types import OccupancyBatch
from training.occupancy.learners import Predicted

_SCALE = 4
"""Pixels per voxel."""
_GAP = 4
"""Pixels between panels."""
_RIGHT, _MISSED, _INVENTED = (0.25, 0.62, 0.35), (0.85, 0.25, 0.2), (0.98, 0.75, 0.2)
"""Colors of columns that are right, missing voxels, and with voxels too many."""


def height_map(labels: Integer[Tensor, "x y z"], free_class: int) -> Float[Tensor, "rows cols 3"]:
    """Highest occupied voxel of each column, brighter the higher; forward is up, left is left."""
    occupied = labels != free_class
    heights = torch.arange(1, occupied.shape[-1] + 1, device=labels.device)
    top = (occupied * heights).amax(-1).float() / occupied.shape[-1]
    return _upright(top[..., None].expand(-1, -1, 3))


def class_colors(classes: Integer[Tensor, " cell"]) -> Float[Tensor, "cell 3"]:
    """Twenty colors in turn."""
    palette = torch.tensor(matplotlib.colormaps["tab20"](range(20))[:, :3], dtype=torch.float32, device=classes.device)
    return palette[classes.long() % len(palette)]


def class_map(labels: Integer[Tensor, "x y z"], free_class: int) -> Float[Tensor, "rows cols 3"]:
    """Class of the highest occupied voxel of each column; columns without any are black."""
    occupied = labels != free_class
    top = (occupied * torch.arange(1, occupied.shape[-1] + 1, device=labels.device)).amax(-1)
    classes = labels.gather(-1, (top - 1).clamp(min=0)[..., None])[..., 0]
    return _upright(class_colors(classes.flatten()).unflatten(0, classes.shape) * (top > 0)[..., None])


def error_map(
    prediction: Integer[Tensor, "x y z"], target: Integer[Tensor, "x y z"], free_class: int
) -> Float[Tensor, "rows cols 3"]:
    """Columns by what is wrong in them, brighter the more of their voxels."""
    ours, theirs = prediction != free_class, target != free_class
    right, missed, invented = ((one).sum(-1).float() for one in (ours & theirs, theirs & ~ours, ours & ~theirs))
    colors = torch.tensor([_RIGHT, _MISSED, _INVENTED], device=prediction.device)
    counts = torch.stack([right, missed, invented], dim=-1)
    counts = counts * counts.new_tensor([0.35, 1.0, 1.0])  # what is wrong is to be seen beside what is right
    share = counts / counts.sum(-1, keepdim=True).clamp(min=1)
    strength = (counts.sum(-1, keepdim=True) / 3).clamp(max=1)
    return _upright(share @ colors * strength)


def _upright(plane: Float[Tensor, "x y 3"]) -> Float[Tensor, "rows cols 3"]:
    """x up, y to the left; enlarged."""
    image = plane.flip(0, 1).movedim(-1, 0)[None]
    return F.interpolate(image, scale_factor=_SCALE, mode="nearest")[0].movedim(0, -1)


def forecast_picture(batch: OccupancyBatch, found: Predicted, free_class: int) -> Float[Tensor, "height width 3"]:
    """Of the first window: truth above, forecast below it, errors at the bottom; one column per future frame.

    The last observed grid stands at the left.
    """
    last = height_map(batch.history[0, -1], free_class)
    columns = [_column([last, torch.zeros_like(last), torch.zeros_like(last)])]
    for target, labels in zip(batch.future[0], found.labels[0], strict=True):
        panels = [height_map(target, free_class), height_map(labels, free_class), error_map(labels, target, free_class)]
        columns.append(_column(panels))
    return _joined(columns, axis=1).cpu()


def _column(panels: list[Tensor]) -> Tensor:
    return _joined(panels, axis=0)


def _joined(panels: list[Tensor], axis: int) -> Tensor:
    """With white lines between them."""
    size = list(panels[0].shape)
    size[axis] = _GAP
    line = panels[0].new_ones(size)
    parts = [panels[0]]
    for panel in panels[1:]:
        parts += [line, panel]
    return torch.cat(parts, dim=axis)
