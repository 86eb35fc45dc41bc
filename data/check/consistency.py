"""Do two posed views agree? By depth maps where there are any, else by the epipolar geometry of SIFT matches."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float

from data.image_io import read_image
from data.scene import Frame, PosedScene
from geometry import Cameras, pixel_centers
from geometry.epipolar import fundamental_matrix, sampson_distance

_DEPTH_TOLERANCE = 0.01
"""Relative; must exceed the depth's change within a pixel, as depth maps are looked up at the nearest one."""
_MIN_POINTS = 100
"""With fewer points in common two depth maps tell nothing; chosen by hand."""
_DEPTH_SAMPLES = 20_000
"""About so many points of a view are compared, every n-th known pixel; all of them would take longer."""
_NUM_FEATURES = 2000
"""Per image; more match better and take longer."""
_MATCH_RATIO = 0.75
"""Of the distances to the best and second best descriptor; Lowe (2004, section 7.1) takes 0.8."""
_MIN_MATCHES = 25
"""A fundamental matrix follows from 8; chosen by hand, so that its median error means something."""
_MIN_INLIERS = 0.6
"""Share of the matches; with fewer they are too often wrong to blame the cameras. Chosen by hand."""
_RANSAC_PIXELS = 2.0
"""Distance of an inlier from its epipolar line; that of `_MAX_SAMPSON` in `data.check`."""


@dataclass(frozen=True)
class Features:
    """SIFT features of one image."""

    pixels: Float[np.ndarray, "feature 2"]
    """(x, y), pixel centers at +0.5."""
    descriptors: Float[np.ndarray, "feature 128"]


def frame_camera(frame: Frame) -> Cameras:
    """Its camera in double precision."""
    return Cameras(frame.w2c.double(), frame.intrinsics.double(), frame.height, frame.width)


def depth_agreement(scene: PosedScene, first: int, second: int) -> float | None:
    """Fraction of the first view's points that the second view's depth map confirms within 1 percent.

    Counts points that fall on known depth of the second view; occluded ones disagree. None if fewer than 100 do.
    """
    frames = scene.frames[first], scene.frames[second]
    depths = [torch.from_numpy(scene.read_depth(frame)).double() for frame in frames]
    cameras = [frame_camera(frame) for frame in frames]
    known = depths[0].flatten().nonzero()[:, 0]
    known = known[:: max(1, len(known) // _DEPTH_SAMPLES)]
    pixels = pixel_centers(frames[0].height, frames[0].width, depths[0])[known]
    projection = cameras[1].project(cameras[0].unproject(pixels, depths[0].flatten()[known]))
    columns, rows = projection.pixels[projection.visible].long().unbind(-1)
    found = depths[1][rows.clamp(max=frames[1].height - 1), columns.clamp(max=frames[1].width - 1)]
    expected = projection.depth[projection.visible][found > 0]
    found = found[found > 0]
    if len(found) < _MIN_POINTS:
        return None
    return ((expected - found).abs() < _DEPTH_TOLERANCE * found).double().mean().item()


def detect_features(scene: PosedScene, view: int) -> Features:
    """The 2000 strongest SIFT features of a view."""
    image = read_image(scene.frames[view].image_path, background=255 if scene.white_background else 0)
    detector = cv2.SIFT_create(nfeatures=_NUM_FEATURES)
    keypoints, descriptors = detector.detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None)
    pixels = np.array([keypoint.pt for keypoint in keypoints], dtype=np.float64).reshape(-1, 2) + 0.5
    return Features(pixels, np.zeros((0, 128), np.float32) if descriptors is None else descriptors)


def epipolar_error(first: Frame, second: Frame, features_first: Features, features_second: Features) -> float | None:
    """Median Sampson distance, in pixels, of SIFT matches under the cameras of the two frames.

    None where the images do not match well enough to judge: fewer than 25 matches, or no epipolar geometry at all,
    whatever the cameras, that 60 percent of them follow.
    """
    matched_first, matched_second = _match(features_first, features_second)
    if len(matched_first) < _MIN_MATCHES:
        return None
    cv2.setRNGSeed(0)
    _, inliers = cv2.findFundamentalMat(matched_first, matched_second, cv2.FM_RANSAC, _RANSAC_PIXELS, 0.999)
    if inliers is None or inliers.mean() < _MIN_INLIERS:
        return None
    distances = sampson_distance(
        fundamental_matrix(frame_camera(first), frame_camera(second)),
        torch.from_numpy(matched_first),
        torch.from_numpy(matched_second),
    )
    return distances.median().item()


def _match(first: Features, second: Features) -> tuple[Float[np.ndarray, "match 2"], Float[np.ndarray, "match 2"]]:
    """Pixels of the matches that are each other's best and clearly better than the second best."""
    if min(len(first.pixels), len(second.pixels)) < 2:
        return first.pixels[:0], second.pixels[:0]
    backward = {(best, query) for query, best in _best_matches(second, first)}
    kept = [match for match in _best_matches(first, second) if match in backward]
    chosen = np.array(kept, dtype=np.int64).reshape(-1, 2)
    return first.pixels[chosen[:, 0]], second.pixels[chosen[:, 1]]


def _best_matches(queries: Features, others: Features) -> list[tuple[int, int]]:
    candidates = cv2.BFMatcher().knnMatch(queries.descriptors, others.descriptors, k=2)
    return [
        (best.queryIdx, best.trainIdx)
        for best, runner_up in candidates
        if best.distance < _MATCH_RATIO * runner_up.distance
    ]
