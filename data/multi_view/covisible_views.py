"""Views that see the same things: a random walk on the graph of covisibility (docs/wai.md, "Sampling of views")."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

EDGE_THRESHOLD = 0.25
"""Covisibility above which two views count as connected, as the reference for most of its data sets."""
_ATTEMPTS = 4
_TINY = 1e-8


class SampledViews(NamedTuple):
    """A set of views, the first one drawn first."""

    views: tuple[int, ...]
    num_repeated: int
    """How many of them repeat others, because fewer are connected."""


def edges(
    covisibility: Float[np.ndarray, "view view"], threshold: float = EDGE_THRESHOLD, *, averaged: bool = True
) -> Bool[np.ndarray, "view view"]:
    """[i, j]: whether j is a neighbor of i.

    m = (C[i, :] + C[:, i]) / 2, or C[i, :] where not `averaged`; j is one where m_j / (m_i + 1e-8) > threshold. Not
    symmetric. A view whose own entry is 0 (no depth) has no neighbors.
    """
    values = np.asarray(covisibility, np.float32)
    mean = (values + values.T) / 2 if averaged else values
    own = np.diag(mean)
    found = mean / (own[:, None] + np.float32(_TINY)) > threshold
    found[own <= 0] = False
    np.fill_diagonal(found, False)
    return found


def random_walk(
    neighbors: Bool[np.ndarray, "view view"], count: int, generator: np.random.Generator
) -> tuple[int, ...]:
    """Up to `count` connected views: the longest of at most four walks, which start in parts not yet explored.

    A walk steps to an unvisited neighbor drawn uniformly; where there is none, it goes back to the view before.
    """
    best: list[int] = []
    explored = np.zeros(len(neighbors), bool)
    for _ in range(_ATTEMPTS):
        starts = np.flatnonzero(~explored)
        if not len(starts):
            break
        walk = [int(generator.choice(starts))]
        visited = np.zeros(len(neighbors), bool)
        visited[walk] = True
        stack = list(walk)
        while len(walk) < count and stack:
            candidates = np.flatnonzero(neighbors[stack[-1]] & ~visited)
            if not len(candidates):
                stack.pop()
                continue
            view = int(generator.choice(candidates))
            visited[view] = True
            walk.append(view)
            stack.append(view)
        if len(walk) > len(best):
            best = walk
        if len(best) >= count:
            break
        explored |= visited
    return tuple(best)


def sample_views(neighbors: Bool[np.ndarray, "view view"], count: int, generator: np.random.Generator) -> SampledViews:
    """`count` connected views; where fewer are connected all that were found, filled with repeats of them.

    As many as there are: a permutation of all, connected or not. More: all of them, filled alike.
    """
    total = len(neighbors)
    if count >= total:
        found: Sequence[int] = generator.permutation(total).tolist()
    else:
        found = random_walk(neighbors, count, generator)
    missing = count - len(found)
    if missing <= 0:
        return SampledViews(tuple(found), 0)
    return SampledViews((*found, *generator.choice(found, missing).tolist()), missing)
