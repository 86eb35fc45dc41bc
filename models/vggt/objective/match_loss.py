"""Loss of the match stem of VGGT-nano: which cells show the same point, known from depth and cameras.

Cross-entropy of the matching probabilities in both directions (after Sun et al., LoFTR, 2021, section 3.6).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from geometry import Views, full_precision

NO_MATCH = -1
"""Target of a cell without a counterpart; cross-entropy ignores it."""
_DEPTH_TOLERANCE = 0.05
"""A point is visible where the depth found there differs by less, relatively (docs/vggt.md, "Tracks from depth")."""


@full_precision
def match_loss(logits: Float[Tensor, "batch other cell cell"], views: Views) -> Float[Tensor, ""]:
    """Mean cross-entropy over cells whose point the other view sees, nats; 0 where there is none.

    Mean of -ln softmax_m(logits[n, m]) at the true m, plus the same with n and m exchanged. A uniform guess among 32
    cells costs 2 ln 32 = 6.93.

    `logits[b, i]` compares the first view (rows) with view i + 1 (columns) of group b.
    """
    others = logits.shape[1]
    first, rest = views[:, :1], views[:, 1:]
    forth = match_targets(_repeated(first, others), rest, logits.shape[-1])
    back = match_targets(rest, _repeated(first, others), logits.shape[-1])
    return _cross_entropy(logits, forth) + _cross_entropy(logits.transpose(2, 3), back)


def match_targets(views: Views, others: Views, num_cells: int) -> Int[Tensor, "batch view cell"]:
    """Which cell of the other view shows what the middle of each cell of a view shows; `NO_MATCH` where none does."""
    height, width = views.images.shape[-2:]
    side = round((height * width / num_cells) ** 0.5)
    ys, xs = (torch.arange(side // 2, length, side, device=views.images.device) for length in (height, width))
    pixels = torch.cartesian_prod(ys, xs).flip(-1)
    depth = views.depth[..., ys[:, None], xs].flatten(2)
    points = views.cameras.unproject((pixels + 0.5).to(depth).expand(*depth.shape, 2), depth)
    seen = others.cameras.project(points)
    column, row = seen.pixels.nan_to_num(-1.0).clamp(-1, 2 * max(height, width)).floor().long().unbind(-1)
    is_inside = (depth > 0) & (seen.depth > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    flat_index = torch.where(is_inside, row * width + column, 0)
    found = others.depth.flatten(2).gather(2, flat_index)
    is_visible = is_inside & ((found - seen.depth).abs() < _DEPTH_TOLERANCE * found)
    return torch.where(is_visible, (row // side) * (width // side) + column // side, NO_MATCH)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    total = F.cross_entropy(logits.flatten(0, 2), targets.flatten(), ignore_index=NO_MATCH, reduction="sum")
    return total / (targets != NO_MATCH).sum().clamp_min(1)


def _repeated(views: Views, count: int) -> Views:
    return views.map(lambda tensor: tensor.expand(-1, count, *tensor.shape[2:]))
