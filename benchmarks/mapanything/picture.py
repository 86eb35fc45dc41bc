"""Held-out rooms as the network sees them: depth of every view, and all points from above."""

from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

from benchmarks.mapanything.scores import HeldOut
from models.mapanything.objective.truth import GeometryTruth, mean_distance
from models.mapanything.output import Reconstruction
from training.pictures import colored_depth

_SHOWN = ("images", "poses", "everything")


@torch.no_grad()
def save_picture(network: nn.Module, families: Mapping[str, HeldOut], path: Path, index: int = 0) -> None:
    """Rows: families. Photographs and depth, true and from more and more inputs; then the points of each from above."""
    titles = ("truth", *_SHOWN)
    figure = Figure(figsize=(16, 3.4 * len(families)))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(0.02, 0.04, 0.99, 0.94, wspace=0.12, hspace=0.2)
    grid = figure.subplots(len(families), 1 + len(titles), squeeze=False, width_ratios=[3, 1, 1, 1, 1])
    for row, (name, held_out) in zip(grid, families.items(), strict=True):
        one = slice(index, index + 1)
        truth = held_out.truth[one].in_frame_of_first()
        images = held_out.batch.views.images[index].permute(0, 2, 3, 1)
        found = [network(held_out.inputs(preset)[one]).without_scale().in_frame_of_first() for preset in _SHOWN]
        sides = [_in_own_unit(side, truth) for side in (truth, *found)]
        near, far = (getattr(sides[0][0][truth.valid[0]][:, 2], side)().item() for side in ("min", "max"))
        maps = [
            [colored_depth(points[view, ..., 2], near, far) for points, _, _ in sides] for view in range(len(images))
        ]
        panel = [torch.cat([image, *each], dim=1) for image, each in zip(images, maps, strict=True)]
        row[0].imshow(torch.cat(panel).clamp(0, 1), interpolation="nearest")
        row[0].set_title(f"{name}: photograph, depth: {', '.join(titles)}", fontsize=9)
        row[0].axis("off")
        for axes, title, (_, points, centers) in zip(row[1:], titles, sides, strict=True):
            _from_above(axes, points[truth.valid[0]], images[truth.valid[0]], centers)
            axes.set_title(f"{title}, from above", fontsize=9)
    figure.savefig(path, dpi=70)


def _in_own_unit(side: Reconstruction | GeometryTruth, truth: GeometryTruth) -> tuple[Tensor, Tensor, Tensor]:
    """Camera points, world points, centers; lengths in units of the mean distance."""
    unit = mean_distance(side.points, truth.valid)
    return side.points_cam[0] / unit, side.points[0] / unit, side.translations[0] / unit


def _from_above(axes: Axes, points: Tensor, colors: Tensor, centers: Tensor) -> None:
    """x to the right, z up, in units of the mean distance."""
    axes.scatter(points[:, 0], points[:, 2], c=colors.clamp(0, 1).numpy(), s=1)
    axes.scatter(centers[:, 0], centers[:, 2], c="red", s=12, marker="^")
    axes.set(xlim=(-1.4, 1.4), ylim=(-0.4, 2.2), aspect="equal")
    axes.tick_params(labelsize=6)
