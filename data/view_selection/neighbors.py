"""Which views to look at for a target: pair files, camera distance, and the choice among the best."""

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from data.problems import Report, raise_problem
from geometry import InputError, rigid_inverse
from geometry.plain_files import plain_file

_LONGEST_COUNT = 18
"""Digits that are looked at; Python converts no more than 4300."""


def read_pairs(path: Path, report: Report = raise_problem) -> dict[int, tuple[int, ...]]:
    """MVSNet pair file -> for every view its neighbors, best first. Lines that start with # are comments.

    The file holds the number of views, then per view a line with its id and a line `count id score id score ...`.
    A view listed as its own neighbor, as some writers do, is dropped. Of a file with lines missing, the views whose two
    lines stand together are read, once that is reported.

    Raises:
        InputError: (unless `report` collects) for a missing file, or the first line that does not fit.
    """
    try:
        text = plain_file(path).read_text()
    except (OSError, UnicodeDecodeError):
        report(InputError(f"{path}: expected a pair file (MVSNet format), got none"))
        return {}
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    try:
        return _read_whole(path, lines)
    except InputError as error:
        report(error)
    return _read_parts(path, lines)


def _read_whole(path: Path, lines: Sequence[Sequence[str]]) -> dict[int, tuple[int, ...]]:
    try:
        count = int(lines[0][0])
        blocks = [_parse_block(path, lines[i : i + 2]) for i in range(1, len(lines), 2)]
    except InputError:
        raise
    except (ValueError, IndexError):
        raise InputError(f"{path}: expected a count, then view ids and lines `count id score ...`, got other") from None
    pairs = dict(blocks)
    if len(pairs) != count or len(blocks) != count:
        raise InputError(f"{path}: expected {count} views as its first line says, got {len(pairs)}")
    return pairs


def _read_parts(path: Path, lines: Sequence[Sequence[str]]) -> dict[int, tuple[int, ...]]:
    """Of every line with one number and the line of neighbors behind it.

    The first line is the number of views, not one of them, if it is at least the number of lines with one number.
    """
    pairs = {}
    single = [line[0] for line in lines if len(line) == 1]
    has_count = bool(single) and single[0].isdecimal() and int(single[0][:_LONGEST_COUNT]) >= len(single)
    for head, neighbors in itertools.pairwise(lines[1:] if has_count else lines):
        if len(head) == 1 and len(neighbors) > 1:
            with contextlib.suppress(InputError, ValueError):
                view, others = _parse_block(path, (head, neighbors))
                pairs[view] = others
    return pairs


def write_pairs(path: Path, neighbors: Mapping[int, Sequence[int]]) -> None:
    """Write a pair file that `read_pairs` reads back; the scores only give the neighbors' order."""
    lines = [str(len(neighbors))]
    for view, others in neighbors.items():
        scored = (f"{other} {len(others) - rank}.0" for rank, other in enumerate(others))
        lines += [str(view), " ".join([str(len(others)), *scored])]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def nearest_by_center(
    centers: Mapping[int, Float[Tensor, "3"]], view_id: int, candidates: Sequence[int], norm: int = 1
) -> list[int]:
    """The candidates from nearest to farthest camera center as seen from `view_id`; ties keep their order.

    MVSNeRF orders views by the L1 distance of camera centers (norm = 1).
    """
    if not candidates:
        return []
    offsets = torch.stack([centers[candidate] for candidate in candidates]) - centers[view_id]
    order = torch.linalg.vector_norm(offsets, ord=norm, dim=-1).argsort(stable=True)
    return [candidates[position] for position in order.tolist()]


def complete_neighbors(
    centers: Mapping[int, Float[Tensor, "3"]], pairs: Mapping[int, Sequence[int]] | None = None
) -> dict[int, tuple[int, ...]]:
    """For every view in `centers` all the others: first those of its pair list, then the rest by L1 distance."""
    neighbors = {}
    for view in centers:
        others = [other for other in centers if other != view]
        listed = [other for other in (pairs or {}).get(view, ()) if other in centers]
        neighbors[view] = tuple(dict.fromkeys([*listed, *nearest_by_center(centers, view, others)]))
    return neighbors


class NeighborsByCenter(Mapping[int, tuple[int, ...]]):
    """`complete_neighbors` without pair lists, of a view when it is asked for: a video has thousands."""

    def __init__(self, centers: Mapping[int, Float[Tensor, "3"]]) -> None:
        self._centers = dict(centers)
        self._found: dict[int, tuple[int, ...]] = {}

    def __getitem__(self, view: int) -> tuple[int, ...]:
        if view not in self._found:
            others = [other for other in self._centers if other != view]
            self._found[view] = tuple(nearest_by_center(self._centers, view, others))
        return self._found[view]

    def __iter__(self) -> Iterator[int]:
        return iter(self._centers)

    def __len__(self) -> int:
        return len(self._centers)


def most_similar(w2c: Float[Tensor, "view 4 4"], view: int) -> list[int]:
    """The other rows of `w2c`, most similar view first: for images that come in no order and without a pair list.

    Dissimilarity: the angle between the optical axes in radians plus the distance of the centers in units of the rig's
    radius (their root mean square distance from the middle), so that both count alike for cameras around an object.
    """
    order = dissimilarity(w2c, w2c[view]).argsort(stable=True).tolist()
    return [other for other in order if other != view]


def dissimilarity(w2c: Float[Tensor, "view 4 4"], target: Float[Tensor, "4 4"]) -> Float[Tensor, " view"]:
    """How little the views see of what a camera anywhere sees, see `most_similar`; double precision."""
    axes, centers = w2c[:, 2, :3].double(), rigid_inverse(w2c)[:, :3, 3].double()
    axis, center = target[2, :3].double(), rigid_inverse(target)[:3, 3].double()
    angles = torch.atan2(torch.linalg.cross(axes, axis.expand_as(axes)).norm(dim=-1), axes @ axis)
    radius = (centers - centers.mean(0)).square().sum(-1).mean().sqrt()
    return angles + (centers - center).norm(dim=-1) / radius.clamp_min(torch.finfo(radius.dtype).tiny)


def select_sources(
    ordered_candidates: Sequence[int], num_views: int, *, extra: int = 2, generator: torch.Generator | None = None
) -> tuple[int, ...]:
    """Source views among candidates that are ordered best first.

    With a generator (training): `num_views` of the `num_views + extra` best in random order. Without one: the best.

    Raises:
        InputError: when there are fewer candidates than views wanted.
    """
    if len(ordered_candidates) < num_views:
        raise InputError(f"expected at least {num_views} candidate source views, got {len(ordered_candidates)}")
    if generator is None:
        return tuple(ordered_candidates[:num_views])
    pool = ordered_candidates[: num_views + extra]
    chosen = torch.randperm(len(pool), generator=generator)[:num_views]
    return tuple(pool[position] for position in chosen.tolist())


def with_far_sources(chosen: Sequence[int], others: Sequence[int], generator: torch.Generator) -> tuple[int, ...]:
    """Some of the chosen views, at least one and never all, replaced by as many of the others, drawn from all of them.

    As few as there are others; without any, or with a single view, the chosen ones as they are.
    """
    most = min(len(chosen) - 1, len(others))
    if most < 1:
        return tuple(chosen)
    count = int(torch.randint(1, most + 1, (), generator=generator))
    drawn = torch.randperm(len(others), generator=generator)[:count]
    return (*chosen[: len(chosen) - count], *(others[position] for position in drawn.tolist()))


def _parse_block(path: Path, block: Sequence[Sequence[str]]) -> tuple[int, tuple[int, ...]]:
    (view,), (count, *rest) = block
    neighbors = tuple(int(entry) for entry in rest[::2])
    if len(rest) != 2 * int(count) or len(set(neighbors)) != len(neighbors):
        raise InputError(
            f"{path}: expected {count} different neighbors with scores for view {view}, got {' '.join(rest)!r}"
        )
    return int(view), tuple(other for other in neighbors if other != int(view))
