"""Held-out rooms as the network sees them: depth of the first two views, and all points from above."""

from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

from benchmarks.mapanything.scores import HeldOut
from models.mapanything.objective.truth import mean_distance

_SHOWN = ("images", "poses", "everything")
_VIEWS = 2


@torch.no_grad()
def save_picture(network: nn.Module, families: Mapping[str, HeldOut], path: Path, index: int = 0) -> None:
    """Rows: families. Columns: images, true depth and points, then those predicted from more and more inputs."""
    columns = 1 + 2 * (1 + len(_SHOWN))
    figure = Figure(figsize=(2.2 * columns, 3.4 * len(families)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(_VIEWS * len(families), columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for number, (name, held_out) in enumerate(families.items()):
        rows = grid[_VIEWS * number : _VIEWS * (number + 1)]
        truth = held_out.truth[index : index + 1].in_frame_of_first()
        images = held_out.batch.views.images[index]
        colors = images.permute(0, 2, 3, 1)[truth.valid[0]]
        unit = mean_distance(truth.points, truth.valid)
        shown = {"truth": (truth.points_cam / unit, truth.points / unit, truth.translations / unit)}
        for preset in _SHOWN:
            found = network(held_out.inputs(preset)[index : index + 1]).without_scale().in_frame_of_first()
            own = mean_distance(found.points, truth.valid)
            shown[preset] = (found.points_cam / own, found.points / own, found.translations / own)
        for view in range(_VIEWS):
            rows[view][0].imshow(images[view].permute(1, 2, 0), interpolation="nearest")
        rows[0][0].set_title(f"{name}: images", fontsize=8)
        farthest = shown["truth"][0][..., 2].max().item()
        for at, (title, (points_cam, points, centers)) in enumerate(shown.items()):
            for view in range(_VIEWS):
                rows[view][1 + 2 * at].imshow(points_cam[0, view, ..., 2], vmin=0, vmax=farthest, cmap="viridis")
            rows[0][1 + 2 * at].set_title(f"{title}: depth", fontsize=8)
            _from_above(rows[0][2 + 2 * at], points[0][truth.valid[0]], colors, centers[0])
            rows[0][2 + 2 * at].set_title(f"{title}: points from above", fontsize=8)
    figure.savefig(path, dpi=80)


def _from_above(axes: Axes, points: Tensor, colors: Tensor, centers: Tensor) -> None:
    """x to the right, z up, in units of the mean distance."""
    axes.scatter(points[:, 0], points[:, 2], c=colors.clamp(0, 1).numpy(), s=1)
    axes.scatter(centers[:, 0], centers[:, 2], c="red", s=12, marker="^")
    axes.set(xlim=(-2, 2), ylim=(-1, 2.5), aspect="equal")
    axes.axis("on")
    axes.tick_params(labelsize=6)
