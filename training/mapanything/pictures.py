"""Pictures of a reconstruction beside the truth."""

import torch
from jaxtyping import Float
from torch import Tensor

from models.mapanything.objective.truth import GeometryTruth, mean_distance
from models.mapanything.output import Reconstruction
from training.pictures import colored_depth

MAX_ROWS = 6
"""Views of a set that are shown."""
_DARKEST, _BRIGHTEST = 0.02, 0.98
"""Quantiles of the true distances; what lies beyond takes the end of the range."""


def set_picture(
    prediction: Reconstruction, images: Float[Tensor, "view 3 height width"], truth: GeometryTruth
) -> Float[Tensor, "panel_height panel_width 3"]:
    """One row per view (at most 6): image, true distance, predicted one in units of the points' own mean.

    Both have a batch axis of length 1. Colors have one range for all; unknown distances are black.
    """
    truth = truth.in_frame_of_first()
    own = prediction.without_scale().in_frame_of_first()
    unit = mean_distance(truth.points, truth.valid) / mean_distance(own.points, truth.valid)
    theirs = truth.depth_along_ray[0].detach().float().cpu()
    ours = (own.depth_along_ray * unit[:, None, None, None])[0].detach().float().cpu()
    known = theirs[theirs > 0].sort().values
    if len(known):
        near, far = (known[int(share * (len(known) - 1))].item() for share in (_DARKEST, _BRIGHTEST))
    else:
        near, far = 0.0, 1.0
    far = max(far, near + 1e-6 * max(1.0, near))
    rows = [
        torch.cat(
            [
                images[view].permute(1, 2, 0).float().cpu(),
                colored_depth(theirs[view], near, far),
                colored_depth(ours[view], near, far),
            ],
            dim=1,
        )
        for view in range(min(MAX_ROWS, len(images)))
    ]
    return torch.cat(rows)
