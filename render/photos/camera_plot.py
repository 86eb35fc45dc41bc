"""Where the cameras stand, from above and from the side, as pictures in a page (SVG)."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from data.point_cloud import ColoredPoints
from geometry import Cameras

_MAX_POINTS = 1500
"""Per picture: 60 bytes each."""
_SHOWN_SHARE = 0.9
"""Of the points, those in the middle: a few stray ones would shrink all others to a dot."""
_SIDE = 420
"""Units of the picture's longer side."""
_MARGIN = 18
_CAMERA_SIZE = 0.035
"""Length of a camera's symbol, as a share of the picture."""


@dataclass(frozen=True)
class PlottedCameras:
    """What is drawn of a scene."""

    cameras: Cameras
    """One leading axis, the world upright: +z is up."""
    is_held_out: Bool[np.ndarray, " view"]
    names: Sequence[str]


def camera_plots(plotted: PlottedCameras, points: ColoredPoints) -> tuple[str, str]:
    """SVG of the cameras and some of the points from above (x to the right, y up) and from the side (z up).

    Seen from the side the horizontal axis is the one along which the cameras spread most.
    """
    above = torch.eye(3, dtype=torch.float64)[:2]
    side = torch.stack([_widest(plotted.cameras.centers.double()), torch.tensor([0.0, 0.0, 1.0]).double()])
    return _plot(plotted, points, above), _plot(plotted, points, side)


def _widest(centers: Float[Tensor, "view 3"]) -> Float[Tensor, " 3"]:
    """The horizontal direction of largest variance."""
    flat = (centers - centers.mean(0))[:, :2]
    axis = torch.linalg.eigh(flat.mT @ flat).eigenvectors[:, 1]
    return torch.cat([axis * (1 if axis.sum() >= 0 else -1), torch.zeros(1).double()])


def _plot(plotted: PlottedCameras, points: ColoredPoints, axes: Float[Tensor, "2 3"]) -> str:
    centers = (plotted.cameras.centers.double() @ axes.T).numpy()
    heading = (plotted.cameras.c2w[:, :3, 2].double() @ axes.T).numpy()
    shown, colors = _some(points)
    shown = shown @ axes.T.numpy()
    if len(shown):
        low, high = np.quantile(shown, [(1 - _SHOWN_SHARE) / 2, (1 + _SHOWN_SHARE) / 2], axis=0)
        inside = ((shown >= low) & (shown <= high)).all(1)
        shown, colors = shown[inside], colors[inside]
    corners = np.concatenate([centers, shown])
    low, extent = corners.min(0), np.ptp(corners, axis=0)
    scale = (_SIDE - 2 * _MARGIN) / max(extent.max(), 1e-9)
    width, height = extent * scale + 2 * _MARGIN

    def placed(position: Float[np.ndarray, "*axes 2"]) -> Float[np.ndarray, "*axes 2"]:
        flat = (position - low) * scale + _MARGIN
        return np.stack([flat[..., 0], height - flat[..., 1]], axis=-1)

    dots = [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.1" fill="#{red:02x}{green:02x}{blue:02x}"/>'
        for (x, y), (red, green, blue) in zip(placed(shown), colors, strict=True)
    ]
    symbols = [
        _symbol(place, direction, name, bool(is_held_out))
        for place, direction, name, is_held_out in zip(
            placed(centers), heading * [1, -1], plotted.names, plotted.is_held_out, strict=True
        )
    ]
    box = f"0 0 {width:.0f} {height:.0f}"
    return f'<svg viewBox="{box}" role="img" class="plot">{"".join(dots)}{"".join(symbols)}</svg>'


def _some(points: ColoredPoints) -> tuple[Float[np.ndarray, "point 3"], UInt8[np.ndarray, "point 3"]]:
    """At most so many, evenly taken."""
    step = max(1, -(-len(points.points_world) // _MAX_POINTS))
    return points.points_world[::step].double().numpy(), points.colors[::step].numpy()


def _symbol(place: Float[np.ndarray, " 2"], direction: Float[np.ndarray, " 2"], name: str, is_held_out: bool) -> str:
    """A triangle that opens in the direction of view; as short as the camera looks towards the reader."""
    size = _CAMERA_SIZE * _SIDE
    across = np.array([-direction[1], direction[0]]) / max(float(np.hypot(*direction)), 1e-9)
    front = place + direction * size
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place, front + across * size / 2, front - across * size / 2))
    kind = "held" if is_held_out else "train"
    return f'<polygon class="{kind}" points="{corners}"><title>{escape(name)}</title></polygon>'
