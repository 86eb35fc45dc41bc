"""Cameras and points where they belong on the page."""

import re

import numpy as np
import torch

from data.point_cloud import ColoredPoints
from geometry import Cameras, rigid_inverse
from render.photos.camera_plot import PlottedCameras, camera_plots


def plotted(positions: list[list[float]], names: list[str]) -> PlottedCameras:
    """Level cameras (z is up) that look along +y."""
    c2w = torch.eye(4).repeat(len(positions), 1, 1)
    c2w[:, :3, :3] = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    c2w[:, :3, 3] = torch.tensor(positions)
    cameras = Cameras(rigid_inverse(c2w), torch.eye(3).expand(len(c2w), 3, 3), 10, 10)
    return PlottedCameras(cameras, np.arange(len(c2w)) == 1, names)


def apexes(svg: str) -> list[tuple[str, float, float]]:
    found = re.findall(r'<polygon class="(\w+)" points="([\d.-]+),([\d.-]+) ', svg)
    return [(kind, float(x), float(y)) for kind, x, y in found]


NONE = ColoredPoints(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.uint8))


def test_from_above_x_is_right_and_y_up_from_the_side_z_is_up() -> None:
    above, side = camera_plots(plotted([[0, 0, 0], [4, 2, 1]], ["a", "b"]), NONE)
    scale = (420 - 2 * 18) / 4
    (kind, x, y), (other, x2, y2) = apexes(above)
    assert (kind, other) == ("train", "held")
    assert (x2 - x, y - y2) == (4 * scale, 2 * scale)
    widest = 4 / 20**0.5 * 4 + 2 / 20**0.5 * 2  # the length of (4, 2)
    (_, x, y), (_, x2, y2) = apexes(side)
    np.testing.assert_allclose((abs(x2 - x), y - y2), (384, 384 / widest), atol=0.11)


def test_a_camera_opens_where_it_looks() -> None:
    above, side = camera_plots(plotted([[0, 0, 0], [4, 0, 0]], ["a", "b"]), NONE)
    corners = re.search(r'points="([^"]+)"', above).group(1).split()
    (x, y), (x1, y1), (x2, y2) = (tuple(map(float, corner.split(","))) for corner in corners)
    assert y1 < y and y2 < y  # noqa: PT018
    assert x1 + x2 == 2 * x
    corners = re.search(r'points="([^"]+)"', side).group(1).split()
    assert len(set(corners)) == 1 or len(corners) == 3  # it looks into the page


def test_few_of_many_points_are_drawn_and_stray_ones_are_not() -> None:
    points = torch.rand(6000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points[::100] = 1e6
    colors = torch.tensor([[255, 0, 16]], dtype=torch.uint8).expand(len(points), 3)
    above, _ = camera_plots(plotted([[0, 0, 0], [1, 1, 0]], ["a", "b"]), ColoredPoints(points, colors))
    assert 1000 < above.count("<circle") <= 1500
    assert "#ff0010" in above
    (_, x, _), (_, x2, _) = apexes(above)
    assert x2 - x > 300


def test_names_are_escaped() -> None:
    above, _ = camera_plots(plotted([[0, 0, 0], [1, 1, 0]], ["<script>.jpg", "b"]), NONE)
    assert "<script>" not in above
    assert "&lt;script&gt;.jpg" in above
