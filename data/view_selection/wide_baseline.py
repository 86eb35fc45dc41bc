"""Source views far from a target and on different sides of it: the wide baselines of an evaluation."""

import itertools
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from geometry import rigid_inverse


def surrounding_views(
    w2c_by_view: Mapping[int, Float[Tensor, "4 4"]],
    view_id: int,
    candidates: Sequence[int],
    count: int,
    angle: float,
) -> tuple[int, ...]:
    """`count` candidates that look from about `angle` degrees beside a view, on sides as different as possible.

    A candidate's angle is the one between both optical axes, its side the direction of its center in the image plane
    of the view. Chosen is the set with the least m / angle + (1 - g / e) / 2: m is the mean difference of its angles
    from `angle`, g the smallest gap between its sides, e = 360 / count the gap of evenly spread ones. Of equal sets
    the first in the order of the candidates.
    """
    w2c = w2c_by_view[view_id].double()
    others = torch.stack([w2c_by_view[other].double() for other in candidates])
    angles = torch.rad2deg(torch.acos((others[:, 2, :3] @ w2c[2, :3]).clamp(-1, 1)))
    centers_cam = (w2c @ rigid_inverse(others))[:, :3, 3]
    sides = torch.rad2deg(torch.atan2(centers_cam[:, 1], centers_cam[:, 0])) % 360

    def cost(chosen: tuple[int, ...]) -> float:
        ordered = sides[list(chosen)].sort().values
        gap = torch.diff(torch.cat([ordered, ordered[:1] + 360])).min().item()
        off = (angles[list(chosen)] - angle).abs().mean().item()
        return off / angle + (1 - gap * count / 360) / 2

    best = min(itertools.combinations(range(len(candidates)), count), key=cost)
    return tuple(candidates[position] for position in best)
