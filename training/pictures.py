"""Pictures of results: bytes for files, depth in color."""

import matplotlib
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def as_bytes(picture: Float[Tensor, "height width 3"]) -> UInt8[np.ndarray, "height width 3"]:
    """[0, 1] -> 0 to 255, rounded, for image files and videos."""
    return (picture.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()


_WIDE = 16.0
"""Far over near from which colors are spread over the inverse depth."""


def colored_depth(depth: Float[Tensor, "height width"], near: float, far: float) -> Float[Tensor, "height width 3"]:
    """Turbo colors, near = red, far = blue; unknown or empty (depth 0) = black.

    By depth or, where far is many times near (open rays), by its inverse: else all but the background would be red.
    """
    closeness = 1 - ((depth - near) / (far - near)).clamp(0, 1)
    if far > _WIDE * near > 0:
        closeness = ((1 / depth.clamp_min(near) - 1 / far) / (1 / near - 1 / far)).clamp(0, 1)
    colors = torch.from_numpy(matplotlib.colormaps["turbo"](closeness.cpu().numpy())[..., :3]).float()
    return colors * (depth.cpu() > 0)[..., None]
