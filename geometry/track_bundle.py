"""Bundle adjustment of few views over points of the first one: many starting points at once, one focal length each.

A point is its pixel in the first view and an inverse depth there (Civera et al. 2008), so a single number: the normal
equations reduce to the cameras (Schur complement) by a division, and points at infinity, of views that only turn, are
nothing special.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geometry.constants import constant
from geometry.tensor_struct import TensorStruct

_LEAST_INVERSE_DEPTH = 1e-4
"""Of the median, which is 1."""
_LEAST_DEPTH = 1e-3
"""Times the median depth: a point that comes nearer to a camera or behind it is not seen there."""
_BEHIND = 1e4
"""Squared pixels that such a point costs."""
_MAX_TURN, _MAX_ZOOM = 0.5, 0.3
"""Radians per axis and log focal length of one step; chosen by hand, as the damping below."""
_DAMPING, _ON_SUCCESS, _ON_FAILURE = 1e-3, 0.2, 8.0
_CONVERGED = 1e-6
"""Relative decrease of the cost in a step at which a solution has arrived."""


@dataclass(frozen=True)
class Tracks(TensorStruct):
    """Points of the first view of a group, found again in the others; float64."""

    pixels: Float[Tensor, "point 2"]
    """In the first view, from the middle of the image."""
    found: Float[Tensor, "other point 2"]
    """In the others, from the middle of these."""
    weight: Float[Tensor, "other point"]
    """How much a match counts, 0 to 1; 0 where there is none."""


@dataclass(frozen=True)
class BundleSolution(TensorStruct):
    """Cameras and depths; the leading axis holds alternatives. The first view is the origin, float64."""

    focal: Float[Tensor, " start"]
    """Pixels, of all views."""
    rotation: Float[Tensor, "start other 3 3"]
    """From the first view's frame."""
    translation: Float[Tensor, "start other 3"]
    """Of that frame's origin, in units of the median depth of the points."""
    inverse_depth: Float[Tensor, "start point"]
    """Of the points in the first view; positive."""

    @classmethod
    def joined(cls, solutions: "list[BundleSolution]") -> "BundleSolution":
        """All alternatives of all of them."""
        names = ("focal", "rotation", "translation", "inverse_depth")
        return cls(**{name: torch.cat([getattr(one, name) for one in solutions]) for name in names})

    def errors(self, tracks: Tracks) -> Float[Tensor, "start other point"]:
        """Reprojection errors in pixels; 100 where a point lies behind a camera."""
        return _Projected.of(self, tracks).squared_error.sqrt()

    def depths(self, tracks: Tracks) -> Float[Tensor, "start other point"]:
        """Camera z of the points in the other views, in units of the median in the first."""
        return _Projected.of(self, tracks).places[..., 2] / self.inverse_depth[:, None]

    def parallax(self, tracks: Tracks) -> Float[Tensor, "start other point"]:
        """Pixels that a point moves by for a change of its depth by a factor e, to first order."""
        by_inverse = _Linearized.of(self, _Projected.of(self, tracks)).inverse_depth
        return by_inverse.norm(dim=-1) * self.inverse_depth[:, None]


class FocalPrior(NamedTuple):
    """A squared deviation of the log of the focal length from what is usual, added to the cost."""

    log_focal: float
    weight: float
    """Squared pixels, for a factor e."""


class Adjusted(NamedTuple):
    """Solutions with their costs."""

    solution: BundleSolution
    cost: Float[Tensor, " start"]


def adjust(
    start: BundleSolution, tracks: Tracks, prior: FocalPrior, *, width: float = 1.0, max_steps: int = 20
) -> Adjusted:
    """Levenberg and Marquardt's steps from every start on its own, down the cost

        sum over matches of weight width^2 ln(1 + |error|^2 / width^2) + the prior's,

    Cauchy's: an error of 1 pixel costs 0.69, one of 10 pixels 4.6. Reweighted least squares in every step.
    """
    state = _rescaled(start)
    cost = _cost(state, tracks, prior, width)
    damping = torch.full_like(cost, _DAMPING)
    for _ in range(max_steps):
        tried = _rescaled(_stepped(state, tracks, prior, width, damping))
        then = _cost(tried, tracks, prior, width)
        better = torch.isfinite(then) & (then < cost)
        has_moved = better & (cost - then > _CONVERGED * cost)
        state = BundleSolution(
            *(
                torch.where(better.reshape(-1, *(1,) * (new.ndim - 1)), new, old)
                for new, old in (
                    (tried.focal, state.focal),
                    (tried.rotation, state.rotation),
                    (tried.translation, state.translation),
                    (tried.inverse_depth, state.inverse_depth),
                )
            )
        )
        cost = torch.where(better, then, cost)
        damping = (damping * torch.where(better, _ON_SUCCESS, _ON_FAILURE)).clamp(1e-9, 1e6)
        if not bool((has_moved | ~better & (damping < 1)).any()):
            break
    return Adjusted(state, cost)


class _Projected(NamedTuple):
    """Points of a solution in the other views."""

    directions: Float[Tensor, "start point 3"]
    """Of the points in the first view, depth 1."""
    turned: Float[Tensor, "start other point 3"]
    """These in the frames of the others."""
    places: Float[Tensor, "start other point 3"]
    """The points there, times their inverse depth in the first view."""
    slopes: Float[Tensor, "start other point 2"]
    """x / z, y / z."""
    error: Float[Tensor, "start other point 2"]
    """Pixels."""
    is_ahead: Bool[Tensor, "start other point"]

    @classmethod
    def of(cls, state: BundleSolution, tracks: Tracks) -> "_Projected":
        slopes = tracks.pixels / state.focal[:, None, None]
        directions = torch.cat([slopes, torch.ones_like(slopes[..., :1])], dim=-1)
        turned = torch.einsum("svij,snj->svni", state.rotation, directions)
        places = turned + state.inverse_depth[:, None, :, None] * state.translation[:, :, None]
        depth = places[..., 2]
        seen = places[..., :2] / depth.clamp_min(_LEAST_DEPTH)[..., None]
        error = state.focal[:, None, None, None] * seen - tracks.found
        return cls(directions, turned, places, seen, error, depth > _LEAST_DEPTH)

    @property
    def squared_error(self) -> Float[Tensor, "start other point"]:
        squared = self.error.square().sum(-1)
        return torch.where(self.is_ahead, squared, torch.full_like(squared, _BEHIND))


def _cost(state: BundleSolution, tracks: Tracks, prior: FocalPrior, width: float) -> Float[Tensor, " start"]:
    squared = _Projected.of(state, tracks).squared_error
    matches = (tracks.weight * width**2 * torch.log1p(squared / width**2)).sum((1, 2))
    return matches + prior.weight * (state.focal.log() - prior.log_focal).square()


def _rescaled(state: BundleSolution) -> BundleSolution:
    """In units of the median depth."""
    unit = state.inverse_depth.median(1).values.clamp_min(_LEAST_INVERSE_DEPTH)
    return replace(
        state,
        translation=state.translation * unit[:, None, None],
        inverse_depth=(state.inverse_depth / unit[:, None]).clamp_min(_LEAST_INVERSE_DEPTH),
    )


class _Linearized(NamedTuple):
    """Derivatives of the pixels (last axis but one) by what may change."""

    camera: Float[Tensor, "start other point 2 7"]
    """Turn (3) and translation (3) of the view, log focal length."""
    inverse_depth: Float[Tensor, "start other point 2"]

    @classmethod
    def of(cls, state: BundleSolution, seen: _Projected) -> "_Linearized":
        focal = state.focal[:, None, None]
        scale = focal / seen.places[..., 2].clamp_min(_LEAST_DEPTH)
        zero = torch.zeros_like(scale)
        by_place = torch.stack(
            [
                torch.stack([scale, zero, -scale * seen.slopes[..., 0]], dim=-1),
                torch.stack([zero, scale, -scale * seen.slopes[..., 1]], dim=-1),
            ],
            dim=-2,
        )
        by_turn = -by_place @ _cross_matrix(seen.turned)
        by_translation = by_place * state.inverse_depth[:, None, :, None, None]
        by_depth = (by_place @ state.translation[:, :, None, :, None])[..., 0]
        sideways = torch.einsum("svij,snj->svni", state.rotation[..., :2], -seen.directions[..., :2])
        by_focal = by_place @ sideways[..., None] + (focal[..., None] * seen.slopes)[..., None]
        return cls(torch.cat([by_turn, by_translation, by_focal], dim=-1), by_depth)


def _stepped(
    state: BundleSolution, tracks: Tracks, prior: FocalPrior, width: float, damping: Float[Tensor, " start"]
) -> BundleSolution:
    """One damped step of every solution."""
    seen = _Projected.of(state, tracks)
    slopes = _Linearized.of(state, seen)
    weight = tracks.weight * seen.is_ahead / (1 + seen.error.square().sum(-1) / width**2)
    weighted = slopes.camera * weight[..., None, None]
    own = torch.einsum("svnia,svnib->svab", weighted, slopes.camera)
    pull = torch.einsum("svnia,svni->sva", weighted, seen.error)
    mixed = torch.einsum("svnia,svni->svna", weighted, slopes.inverse_depth)
    of_depth = (weight * slopes.inverse_depth.square().sum(-1)).sum(1)
    pull_of_depth = (weight * (slopes.inverse_depth * seen.error).sum(-1)).sum(1)

    others = own.shape[1]
    where = _places_of_blocks(others, own)
    normal = torch.einsum("vap,svab,vbq->spq", where, own, where)
    gradient = torch.einsum("vap,sva->sp", where, pull)
    mixed = torch.einsum("vap,svna->snp", where, mixed)
    normal[:, -1, -1] += prior.weight
    gradient[:, -1] += prior.weight * (state.focal.log() - prior.log_focal)
    normal = normal + torch.diag_embed(damping[:, None] * normal.diagonal(dim1=1, dim2=2) + 1e-9)
    of_depth = of_depth * (1 + damping[:, None]) + 1e-9

    reduced = normal - torch.einsum("snp,snq->spq", mixed / of_depth[..., None], mixed)
    target = gradient - torch.einsum("snp,sn->sp", mixed, pull_of_depth / of_depth)
    step = -torch.linalg.solve_ex(reduced, target[..., None])[0][..., 0]
    step_of_depth = -(pull_of_depth + torch.einsum("snp,sp->sn", mixed, step)) / of_depth
    moves = step[:, :-1].unflatten(1, (others, 6))
    turn = torch.linalg.matrix_exp(_cross_matrix(moves[..., :3].nan_to_num().clamp(-_MAX_TURN, _MAX_TURN)))
    return BundleSolution(
        focal=state.focal * step[:, -1].clamp(-_MAX_ZOOM, _MAX_ZOOM).exp(),
        rotation=turn @ state.rotation,
        translation=state.translation + moves[..., 3:],
        inverse_depth=(state.inverse_depth + step_of_depth).clamp_min(_LEAST_INVERSE_DEPTH),
    )


def _places_of_blocks(others: int, like: Tensor) -> Float[Tensor, "other 7 unknown"]:
    """Which of all unknowns the seven of each view are; the last one is shared."""
    where = constant([[[0.0] * (6 * others + 1)] * 7] * others, like).clone()
    for view in range(others):
        where[view, torch.arange(6), 6 * view + torch.arange(6)] = 1
        where[view, 6, -1] = 1
    return where


def _cross_matrix(vectors: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """[v]_x, with which [v]_x u is v x u."""
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
