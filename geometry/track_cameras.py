"""Cameras from points of the first view that were found again in the others, nothing else known.

Starts come from the essential matrix of each of a few views, with the further views placed by the points it gives, and
from given depth, each for a few focal lengths (OpenCV's estimators: USAC with MAGSAC++'s score, SQPnP in RANSAC). All
of them are adjusted (`track_bundle`); the one with the least cost is taken.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geometry.tensor_struct import TensorStruct
from geometry.track_bundle import BundleSolution, FocalPrior, Tracks, adjust

FIELDS_OF_VIEW = (25.0, 40.0, 60.0)
"""Degrees across the longer side that starts are made for; the adjustment goes on from there."""
_USUAL_FIELD, _FIELD_WEIGHT = 40.0, 10.0
"""Degrees, and what a factor e of the focal length costs, as 14 matches that are off by a pixel. Chosen by hand."""
_KNOWN_WEIGHT = 1e6
"""What a factor e costs where the focal length is known: it stays."""
_LEADING = 3
"""Views with the most matches whose essential matrices are tried."""
_GOOD = 0.5
"""Weight above which a match takes part in starts."""
_LEAST_MATCHES = 12
"""Of an essential matrix; five are needed."""
_LEAST_POINTS = 6
"""To place a view by points; three are needed."""
_EPIPOLAR_ERROR, _POINT_ERROR, _GIVEN_ERROR = 1.0, 3.0, 6.0
"""Pixels: inliers of the essential matrix, of points it gave, of points of given depth."""
_ROUGH_STEPS, _FINE_STEPS = 8, 25
_KEPT = 3
"""Solutions that are adjusted to the end, of those that were adjusted roughly."""
FITS = 2.0
"""Pixels of reprojection error up to which a match supports a camera."""
_LEAST_SUPPORT, _LEAST_SHARE = 20.0, 0.3
"""Weight of the matches that must support a camera, also as a share of all matches of the view."""


@dataclass(frozen=True)
class TrackCameras(TensorStruct):
    """The best cameras, float64; the unit is the median depth of the points in the first view."""

    focal: Float[Tensor, ""]
    """Pixels, of all views."""
    w2c: Float[Tensor, "other 4 4"]
    """Camera from the first view's camera."""
    depth: Float[Tensor, "view point"]
    """Of the points in all views, the first one included."""
    parallax: Float[Tensor, " point"]
    """Pixels that the depth of a point is known by, see `BundleSolution.parallax`: the norm over matches that fit."""
    support: Float[Tensor, " other"]
    """Weight of the matches that fit."""
    is_supported: Bool[Tensor, " other"]
    """Whether enough of them do; a camera that is not may be anything."""
    fits: Bool[Tensor, "other point"]
    """Matches that have a weight and fit, of supported cameras."""


def cameras_from_tracks(
    tracks: Tracks,
    longer_side: int,
    inverse_depth: Float[Tensor, " point"] | None = None,
    focal: Float[Tensor, ""] | None = None,
) -> TrackCameras | None:
    """Cameras of views with one lens and square pixels, its principal point in the middle; None below 12 points.

    `inverse_depth`: of the points in the first view, in any unit, where something is known about it. `longer_side` of
    the images in pixels; `focal` length in pixels where it is known. Neither the order of the views nor their
    handedness matters.
    """
    if len(tracks.pixels) < _LEAST_MATCHES:
        return None
    focals = [_focal(field, longer_side) for field in FIELDS_OF_VIEW] if focal is None else [float(focal)]
    starts = list(_starts(tracks, focals, inverse_depth))
    if not starts:
        return None
    prior = FocalPrior(math.log(_focal(_USUAL_FIELD, longer_side)), _FIELD_WEIGHT)
    if focal is not None:
        prior = FocalPrior(math.log(float(focal)), _KNOWN_WEIGHT)
    rough, cost = adjust(BundleSolution.joined(starts), tracks, prior, max_steps=_ROUGH_STEPS)
    kept = rough[cost.argsort(stable=True)[:_KEPT]]
    fine, cost = adjust(kept, tracks, prior, max_steps=_FINE_STEPS)
    best = fine[cost.argmin()[None]]
    fits = (best.errors(tracks)[0] < FITS) & (tracks.weight > 0)
    support = (tracks.weight * fits).sum(-1)
    is_supported = (support >= _LEAST_SUPPORT) & (support >= _LEAST_SHARE * tracks.weight.sum(-1))
    w2c = torch.eye(4).to(best.rotation).repeat(len(support), 1, 1)
    w2c[:, :3, :3], w2c[:, :3, 3] = best.rotation[0], best.translation[0]
    fits = fits & is_supported[:, None]
    return TrackCameras(
        focal=best.focal[0],
        w2c=w2c,
        depth=torch.cat([1 / best.inverse_depth, best.depths(tracks)[0]]),
        parallax=(best.parallax(tracks)[0].square() * tracks.weight * fits).sum(0).sqrt(),
        support=support,
        is_supported=is_supported,
        fits=fits,
    )


def _focal(field_of_view: float, longer_side: int) -> float:
    return longer_side / 2 / math.tan(math.radians(field_of_view) / 2)


def _starts(tracks: Tracks, focals: list[float], inverse_depth: Tensor | None) -> Iterator[BundleSolution]:
    estimator = _Estimator(tracks)
    leading = tracks.weight.sum(-1).argsort(descending=True, stable=True)[:_LEADING].tolist()
    for focal in focals:
        for view in leading:
            start = estimator.from_essential(focal, view)
            if start is not None:
                yield start
        if inverse_depth is not None:
            yield estimator.from_depth(focal, inverse_depth.double().numpy())


class _Estimator:
    """OpenCV's estimators on the good matches of a group."""

    def __init__(self, tracks: Tracks) -> None:
        self.pixels, self.found = tracks.pixels.numpy(), tracks.found.numpy()
        self.is_good = (tracks.weight > _GOOD).numpy()

    def from_essential(self, focal: float, view: int) -> BundleSolution | None:
        """The first view and `view` by their essential matrix, the further ones by the points of these two."""
        index = np.flatnonzero(self.is_good[view])
        if len(index) < _LEAST_MATCHES:
            return None
        first, second = self.pixels[index], self.found[view, index]
        lens = _lens(focal)
        essential, inliers = cv2.findEssentialMat(
            first, second, lens, method=cv2.USAC_MAGSAC, prob=0.999, threshold=_EPIPOLAR_ERROR, maxIters=500
        )
        if essential is None or essential.shape != (3, 3):
            return None
        _, rotation, translation, _ = cv2.recoverPose(essential, first, second, lens, mask=inliers.copy())
        inverse = _inverse_depth(first / focal, second / focal, rotation, translation[:, 0])
        usable = (inliers[:, 0] > 0) & (inverse > 0)
        if usable.sum() < _LEAST_POINTS:
            return None
        whole = np.full(len(self.pixels), np.median(inverse[usable]))
        whole[index[usable]] = inverse[usable]
        is_known = np.zeros(len(whole), dtype=bool)
        is_known[index[usable]] = True
        poses = self._placed(focal, whole, is_known, _POINT_ERROR)
        poses[view] = (rotation, translation[:, 0])
        return _solution(focal, poses, whole)

    def from_depth(self, focal: float, inverse: Float[np.ndarray, " point"]) -> BundleSolution:
        """All views by the points that given depth makes of the pixels."""
        poses = self._placed(focal, inverse, inverse > 0, _GIVEN_ERROR)
        return _solution(focal, poses, np.maximum(inverse, 1e-3 * np.median(inverse)))

    def _placed(
        self, focal: float, inverse: np.ndarray, is_known: np.ndarray, error: float
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Pose of every view by points whose inverse depth in the first one is known; the identity without enough."""
        poses = []
        for found, is_good in zip(self.found, self.is_good, strict=True):
            index = np.flatnonzero(is_good & is_known)
            poses.append((np.eye(3), np.zeros(3)))
            if len(index) < _LEAST_POINTS:
                continue
            slopes = np.pad(self.pixels[index] / focal, ((0, 0), (0, 1)), constant_values=1.0)
            points = slopes / inverse[index, None]
            has_pose, turn, translation, _ = cv2.solvePnPRansac(
                points,
                found[index],
                _lens(focal),
                None,
                reprojectionError=error,
                iterationsCount=100,
                flags=cv2.SOLVEPNP_SQPNP,
            )
            if has_pose and np.isfinite(turn).all() and np.isfinite(translation).all():
                poses[-1] = (cv2.Rodrigues(turn)[0], translation[:, 0])
        return poses


def _inverse_depth(
    first: Float[np.ndarray, "point 2"],
    second: Float[np.ndarray, "point 2"],
    rotation: Float[np.ndarray, "3 3"],
    translation: Float[np.ndarray, "3"],
) -> Float[np.ndarray, " point"]:
    """r in the first view that makes second x (R first + r t) least; slopes x / z, y / z."""
    first, second = (np.pad(slopes, ((0, 0), (0, 1)), constant_values=1.0) for slopes in (first, second))
    moved, still = np.cross(second, translation), np.cross(second, first @ rotation.T)
    return -(moved * still).sum(-1) / np.maximum(np.square(moved).sum(-1), 1e-12)


def _lens(focal: float) -> Float[np.ndarray, "3 3"]:
    return np.diag([focal, focal, 1.0])


def _solution(focal: float, poses: list[tuple[np.ndarray, np.ndarray]], inverse: np.ndarray) -> BundleSolution:
    rotations, translations = (np.stack(column) for column in zip(*poses, strict=True))
    return BundleSolution(
        torch.tensor([focal], dtype=torch.float64),
        *(torch.from_numpy(part.astype(np.float64))[None] for part in (rotations, translations, inverse)),
    )
