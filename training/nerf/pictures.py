"""Panels that show a rendered view beside the truth."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from models.nerf.vggt_nerf import RenderedImage
from training.pictures import colored_depth

_ERROR_GAIN = 5.0
"""Errors are shown this many times as bright as they are."""


def comparison(
    sources: Float[Tensor, "view 3 source_height source_width"],
    truth: Float[Tensor, "3 height width"],
    rendered: RenderedImage,
    near: float,
    far: float,
    true_depth: Float[Tensor, "height width"] | None = None,
) -> Float[Tensor, "panel_height panel_width 3"]:
    """Above: the source views. Below: truth, prediction, absolute error (x5), predicted depth, true depth if known."""
    truth_hwc = truth.cpu().permute(1, 2, 0)
    panels = [truth_hwc, rendered.rgb, ((rendered.rgb - truth_hwc).abs() * _ERROR_GAIN).clamp(0, 1)]
    panels.append(colored_depth(rendered.depth, near, far))
    if true_depth is not None:
        panels.append(colored_depth(true_depth, near, far))
    above = _side_by_side([source.cpu().permute(1, 2, 0) for source in sources])
    below = _side_by_side(panels)
    width = max(above.shape[1], below.shape[1])
    return torch.cat([_padded(above, width), _padded(below, width)], dim=0)


def _side_by_side(panels: list[Tensor]) -> Tensor:
    return torch.cat(panels, dim=1)


def _padded(panel: Tensor, width: int) -> Tensor:
    return F.pad(panel, (0, 0, 0, width - panel.shape[1]), value=1.0)
