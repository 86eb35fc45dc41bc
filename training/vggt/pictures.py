"""Pictures of VGGT's predictions beside the truth."""

import torch
from jaxtyping import Float
from torch import Tensor

from geometry import Views
from models.vggt import VGGTOutput
from training.pictures import colored_depth
from training.vggt.metrics import depth_scores

_DARKEST, _BRIGHTEST = 0.02, 0.98
"""Quantiles of the values shown; outliers beyond them take the end of the range."""
MAX_ROWS = 6
"""Views of a group that are shown."""


def group_picture(output: VGGTOutput, views: Views) -> Float[Tensor, "panel_height panel_width 3"]:
    """One row per view (at most 6): image, true depth, predicted depth after one scale, confidence (bright = sure).

    The group has a batch axis of length 1. Colors of depth have one range for all; unknown depth is black, as is
    what the network has no head for.
    """
    images = views.images[0].permute(0, 2, 3, 1).cpu()
    blank = torch.zeros_like(images[..., 0])
    truth = blank if views.depth is None else views.depth[0].cpu()
    depth = blank if output.depth is None else output.depth[0, ..., 0].detach().float().cpu()
    confidence = blank if output.depth_conf is None else output.depth_conf[0].detach().float().cpu()
    scale = depth_scores(depth, truth, truth > 0).scale if output.depth is not None else 1.0
    depth = depth * scale if scale == scale else depth  # nan: without known depth there is no scale
    near, far = _range(truth if bool((truth > 0).any()) else depth)
    sure = torch.log(confidence.clamp(min=1e-6))
    low, high = _range(sure)
    rows = [
        torch.cat(
            [
                images[view],
                colored_depth(truth[view], near, far),
                colored_depth(depth[view], near, far),
                ((sure[view] - low) / (high - low)).clamp(0, 1)[..., None].expand(-1, -1, 3),
            ],
            dim=1,
        )
        for view in range(min(MAX_ROWS, len(images)))
    ]
    return torch.cat(rows)


def _range(values: Tensor) -> tuple[float, float]:
    """Low and high value without outliers; unknown (0) left out, never equal."""
    known = values[values != 0]
    if not known.numel():
        return 0.0, 1.0
    ordered = known.flatten().sort().values
    low, high = (ordered[int(share * (len(ordered) - 1))].item() for share in (_DARKEST, _BRIGHTEST))
    return low, max(high, low + 1e-6 * max(1.0, abs(low)))
