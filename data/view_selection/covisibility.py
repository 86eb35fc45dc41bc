"""Which views see the same points from well different places: the pair score of MVSNet."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from torch import Tensor

from data.scene import ScenePoints

_BEST_ANGLE = 5.0
"""Degrees, theta_0 of Yao et al. 2018 (MVSNet, section 4.1)."""
_NARROW, _WIDE = 1.0, 10.0
"""Degrees, their sigma_1 below and sigma_2 above that angle."""


def angle_score(angle: Float[np.ndarray, "*point"]) -> Float[np.ndarray, "*point"]:
    """G(theta) = exp(-(theta - 5)^2 / (2 sigma^2)), degrees; sigma is 1 below 5 and 10 above.

    6 degrees count 0.995, 4 degrees 0.607.
    """
    sigma = np.where(angle <= _BEST_ANGLE, _NARROW, _WIDE)
    return np.exp(-np.square(angle - _BEST_ANGLE) / (2 * np.square(sigma)))


def covisible_views(centers: Mapping[int, Float[Tensor, "3"]], points: ScenePoints) -> dict[int, tuple[int, ...]]:
    """For every view that observes points the others that observe some of the same ones, best first.

    The score of two views is the sum of `angle_score` over their common points, theta the angle between the rays from
    a point to both cameras. Views without a common point are not listed.
    """
    views = [view for view in centers if len(points.rows.get(view, ()))]
    if not views:
        return {}
    all_rows = np.concatenate([points.rows[view] for view in views])
    owners = np.repeat(np.arange(len(views)), [len(points.rows[view]) for view in views])
    places = np.stack([centers[view].double().numpy() for view in views])
    rays = places[owners] - points.points_world[all_rows]
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True).clip(np.finfo(np.float64).tiny)
    own_rays = np.zeros_like(points.points_world)
    is_own = np.zeros(len(own_rays), bool)
    found = {}
    for index, view in enumerate(views):
        own = owners == index
        is_own[all_rows[own]], own_rays[all_rows[own]] = True, rays[own]
        shared = is_own[all_rows] & ~own
        cosine = (rays[shared] * own_rays[all_rows[shared]]).sum(-1).clip(-1, 1)
        weights = angle_score(np.degrees(np.arccos(cosine)))
        scores = np.bincount(owners[shared], weights, minlength=len(views))
        common = np.bincount(owners[shared], minlength=len(views))
        order = np.lexsort((-common, -scores))
        found[view] = tuple(views[other] for other in order if common[other])
        is_own[all_rows[own]] = False
    return found
