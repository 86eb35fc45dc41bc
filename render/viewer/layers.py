"""What of a rendered picture is shown."""

from typing import Literal, get_args

import matplotlib
import torch
from jaxtyping import Float
from torch import Tensor

from render.viewer.scene_renderer import Frame
from training.pictures import colored_depth

Layer = Literal["RGB", "depth", "opacity", "uncertainty", "error"]
LAYERS: tuple[Layer, ...] = get_args(Layer)
MAX_SPREAD = 0.1
"""Relative standard deviation of depth at the bright end of the colors: 10 % of the depth."""
MAX_ERROR = 0.25
"""Mean absolute difference of color ([0, 1]) at the bright end of the colors."""


def picture(
    frame: Frame, layer: Layer, truth: Float[Tensor, "height width 3"] | None = None
) -> Float[Tensor, "height width 3"]:
    """Colors in [0, 1]. `truth`: the photograph from the same camera, for the layer `error`.

    Depth: near red, far blue. Opacity: black 0, white 1. Uncertainty and error: dark 0, bright `MAX_*` and more.
    """
    if layer == "depth":
        return colored_depth(frame.depth, frame.near, frame.far)
    if layer == "opacity":
        return frame.opacity[..., None].expand(-1, -1, 3).clamp(0, 1)
    if layer == "uncertainty":
        return _colored(frame.spread / MAX_SPREAD)
    if layer == "error" and truth is not None:
        return _colored((frame.rgb - truth).abs().mean(-1) / MAX_ERROR)
    return frame.rgb


def fitted(image: Float[Tensor, "height width 3"], rows: int, columns: int) -> Float[Tensor, "rows columns 3"]:
    """The image in the middle of a gray canvas of the proportions rows : columns, as large as possible."""
    height, width = image.shape[:2]
    full = (max(height, round(width * rows / columns)), max(width, round(height * columns / rows)))
    canvas = torch.full((*full, 3), 0.2)
    top, left = (full[0] - height) // 2, (full[1] - width) // 2
    canvas[top : top + height, left : left + width] = image
    return canvas


def _colored(values: Float[Tensor, "height width"]) -> Float[Tensor, "height width 3"]:
    return torch.from_numpy(matplotlib.colormaps["inferno"](values.clamp(0, 1).numpy())[..., :3]).float()
