"""Do two posed views agree? By depth maps where there are any, else by the epipolar geometry of SIFT matches."""

import cv2
import torch

from data.matching import Features, detect, match
from data.scene import Frame, PosedScene
from geometry import Cameras, pixel_centers
from geometry.epipolar import fundamental_matrix, sampson_distance

_DEPTH_TOLERANCE = 0.01
"""Relative; must exceed the depth's change within a pixel, as depth maps are looked up at the nearest one."""
_MIN_POINTS = 100
"""With fewer points in common two depth maps tell nothing; chosen by hand."""
_DEPTH_SAMPLES = 20_000
"""About so many points of a view are compared, every n-th known pixel; all of them would take longer."""
_MIN_MATCHES = 25
"""A fundamental matrix follows from 8; chosen by hand, so that its median error means something."""
_MIN_INLIERS = 0.6
"""Share of the matches; with fewer they are too often wrong to blame the cameras. Chosen by hand."""
_RANSAC_PIXELS = 2.0
"""Distance of an inlier from its epipolar line; that of `_MAX_SAMPSON` in `data.check`."""


def frame_camera(frame: Frame) -> Cameras:
    """Its camera in double precision."""
    return Cameras(frame.w2c.double(), frame.intrinsics.double(), frame.height, frame.width)


def depth_agreement(scene: PosedScene, first: int, second: int) -> float | None:
    """Fraction of the first view's points that the second view's depth map confirms within 1 percent.

    Counts points that fall on known depth of the second view; occluded ones disagree. None if fewer than 100 do.
    """
    frames = scene.frames[first], scene.frames[second]
    depths = [torch.from_numpy(scene.depth(view)).double() for view in (first, second)]
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
    return detect(scene.image(view))


def epipolar_error(first: Frame, second: Frame, features_first: Features, features_second: Features) -> float | None:
    """Median Sampson distance, in pixels, of SIFT matches under the cameras of the two frames.

    None where the images do not match well enough to judge: fewer than 25 matches, or no epipolar geometry at all,
    whatever the cameras, that 60 percent of them follow.
    """
    matched_first, matched_second = match(features_first, features_second)
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
