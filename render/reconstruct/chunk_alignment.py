"""Predictions of overlapping chunks of a long sequence in one frame, as VGGT-Long joins them (Deng et al. 2025).

Each chunk has a frame and a unit of length of its own. The views that two neighbors share have a point for every pixel
in both; the similarity between these, weighted by the confidence of both predictions and found by iteratively
reweighted least squares, takes the later chunk into the frame of the earlier one. Loops are not closed: errors add up
from joint to joint, and every joint says by how much its points disagree.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from geometry import Cameras
from geometry.pose_metrics import Similarity, best_similarity, similarity_of_cameras
from models.vggt.alignment import weighted_quantile

_POINTS_PER_VIEW = 2000
"""Of each shared view, spread evenly: 20 views then give 40 000 points, far more than seven numbers need."""
_MIN_CONFIDENCE = 0.1
"""Of the median confidence: pixels below it in either chunk are not used, as in VGGT-Long."""
_ITERATIONS = 20
_INLIER = 0.1
"""Disagreement, relative to the distance from the camera, up to which a point counts as agreeing; chosen by hand."""


@dataclass(frozen=True)
class PredictedView:
    """What VGGT says about one photograph, in the frame and unit of its prediction."""

    name: str
    """Of the file."""
    camera: Cameras
    """`w2c`, and intrinsics in pixels of the file, whose size it has. No batch axis."""
    image: Float[Tensor, "3 rows cols"]
    """RGB in [0, 1] as the network saw it, without padding: pixels are larger than the file's, in the same place."""
    depth: Float[Tensor, "rows cols"]
    """Camera z."""
    confidence: Float[Tensor, "rows cols"]
    """Above 1 for VGGT-1B; higher is surer."""

    @property
    def map_camera(self) -> Cameras:
        """The camera in pixels of `depth`."""
        return self.camera.resized(*self.depth.shape)

    def points_at(self, pixels: Float[Tensor, "point 2"]) -> Float[Tensor, "point 3"]:
        """World points of pixels (x, y) of the file, at the depth of the cell of `depth` that they are in."""
        rows, cols = self.depth.shape
        column = (pixels[:, 0] * cols / self.camera.width).long().clamp(0, cols - 1)
        row = (pixels[:, 1] * rows / self.camera.height).long().clamp(0, rows - 1)
        return self.camera.unproject(pixels, self.depth[row, column].to(pixels))

    def moved(self, similarity: Similarity) -> "PredictedView":
        """In the frame and unit that `similarity` leads to: X' = s R X + t, so x_cam' = s x_cam."""
        camera = replace(self.camera, w2c=similarity.moved_pose(self.camera.w2c).to(self.camera.w2c))
        return replace(self, camera=camera, depth=self.depth * similarity.scale.to(self.depth))


class Joint(NamedTuple):
    """How well two chunks agree on the views they share."""

    name: str
    """The first view of the later chunk."""
    views: int
    """Shared."""
    scale: float
    """Unit of the later chunk over that of the earlier one."""
    residual: float
    """Weighted median distance of a point from itself in the other chunk, over its distance from the camera."""
    inliers: float
    """Share of the points within 10 % of the distance."""


def join_chunks(
    earlier: Sequence[PredictedView], later: Sequence[PredictedView], shared: int
) -> tuple[list[PredictedView], Joint]:
    """All views of two chunks in the frame of the earlier one, whose last `shared` views are the later one's first.

    A shared view is the earlier chunk's in the first half of the overlap and the later one's in the second: either
    knows the views on its side of it.
    """
    similarity, joint = align_chunks(earlier[-shared:], later[:shared])
    kept = (shared + 1) // 2
    moved = [view.moved(similarity) for view in later[kept:]]
    return [*earlier[: len(earlier) - shared + kept], *moved], joint


def align_chunks(earlier: Sequence[PredictedView], later: Sequence[PredictedView]) -> tuple[Similarity, Joint]:
    """The similarity from the frame of `later` to that of `earlier`, which are predictions of the same views."""
    parts = [_shared_points(one, other) for one, other in zip(earlier, later, strict=True)]
    target, source, weights, distance = (torch.cat(column) for column in zip(*parts, strict=True))
    similarity, error = robust_similarity(source, target, weights, distance, _similarity_of_cameras(later, earlier))
    residual = weighted_quantile(error[None], weights[None], 0.5).item()
    inliers = (weights @ (error < _INLIER).double() / weights.sum()).item()
    return similarity, Joint(later[0].name, len(later), similarity.scale.item(), residual, inliers)


def robust_similarity(
    source: Float[Tensor, "point 3"],
    target: Float[Tensor, "point 3"],
    weights: Float[Tensor, " point"],
    distance: Float[Tensor, " point"],
    start: Similarity,
) -> tuple[Similarity, Float[Tensor, " point"]]:
    """The similarity from `source` to `target` and the error that it leaves at each point, relative to `distance`.

    Minimizes sum w rho(e / sigma) with e = |s R x + t - y| / d and rho(u) = u^2 / (1 + u^2) (Geman and McClure 1987) by
    iteratively reweighted least squares, weights w / (d^2 (1 + (e / sigma)^2)^2). sigma is twice the weighted median
    error before, first that of `start`: with least squares instead, a few points at many times their depth make the
    scale nearly 0, which no reweighting mends.
    """
    base = weights / distance.square()
    similarity = start
    error = (similarity(source) - target).norm(dim=-1) / distance
    for _ in range(_ITERATIONS):
        sigma = 2 * weighted_quantile(error[None], weights[None], 0.5).clamp(min=1e-9)
        factor = (1 + (error / sigma).square()).square().reciprocal()
        similarity = best_similarity(source, target, base * factor)
        error = (similarity(source) - target).norm(dim=-1) / distance
    return similarity, error


def _similarity_of_cameras(source: Sequence[PredictedView], target: Sequence[PredictedView]) -> Similarity:
    """From the cameras and the median ratio of depth of the same views: rough, but no wild point can lead it astray."""
    ratio = torch.stack([(one.depth / other.depth).median() for one, other in zip(target, source, strict=True)])
    scale = ratio.median().double()
    source_w2c, target_w2c = (torch.stack([view.camera.w2c for view in views]) for views in (source, target))
    return similarity_of_cameras(source_w2c, target_w2c, scale)


def _shared_points(one: PredictedView, other: PredictedView) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points of one view in both chunks, the weight of each, and its distance from the first one's camera; float64."""
    rows, cols = one.depth.shape
    step = max(1, round((rows * cols / _POINTS_PER_VIEW) ** 0.5))
    row, col = torch.meshgrid(torch.arange(step // 2, rows, step), torch.arange(step // 2, cols, step), indexing="ij")
    row, col = row.flatten(), col.flatten()
    confidence = [view.confidence[row, col].double() for view in (one, other)]
    usable = one.depth[row, col] > 0
    for values in confidence:
        usable &= values >= _MIN_CONFIDENCE * values.median()
    pixels = torch.stack([(col + 0.5) * (one.camera.width / cols), (row + 0.5) * (one.camera.height / rows)], dim=-1)
    pixels = pixels[usable].to(one.depth)
    target, source = (view.points_at(pixels).double() for view in (one, other))
    distance = (target - one.camera.centers.double()).norm(dim=-1)
    return target, source, (confidence[0] * confidence[1]).sqrt()[usable], distance
