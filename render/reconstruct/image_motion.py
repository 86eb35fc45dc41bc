"""How far the picture has moved along a sequence of images, from tracked corners."""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

Gray = UInt8[np.ndarray, "height width"]

_CORNERS = 300
_MIN_CORNERS = 12
"""Fewer say nothing about motion: a black or blank picture."""
_STEP = 0.02
"""Share of the long side after which motion is measured from a new image on. Trembling below it does not add up."""
_MIN_KEPT = 0.5
"""Share of the corners that must still be tracked; below it, motion is measured from a new image on."""
_LOST = 0.1
"""Motion, as a share of the long side, that stands for a step in which nearly all tracks were lost: a cut, a swing."""
_ROUND_TRIP = 1.0
"""Pixels; a corner tracked there and back must return this close (Kalal et al. 2010, forward-backward error)."""


class ContentPath:
    """Length of the way that the picture has gone, as a share of the long side: 0 at first, never falling.

    Corners (Shi and Tomasi 1994) of an anchor image are followed by pyramidal Lucas-Kanade tracking; their median
    distance from where they were is the way since the anchor. What stands still or trembles adds nothing, whatever
    its length in time.
    """

    def __init__(self) -> None:
        self.length = 0.0
        self._before: Gray | None = None
        self._anchor = np.zeros((0, 1, 2), np.float32)
        self._tracked = self._anchor
        self._corners = 0
        self._reached = 0.0

    def add(self, gray: Gray) -> float:
        """Length with this image, all of which have one size."""
        if self._before is None or self._corners < _MIN_CORNERS:
            self._set_anchor(gray)
            return self.length
        there, kept = _follow(self._before, gray, self._tracked)
        share = int(kept.sum()) / self._corners
        self._anchor, self._tracked = self._anchor[kept], there[kept]
        self._before = gray
        if len(self._tracked) < _MIN_CORNERS or share < 0.3 * _MIN_KEPT:
            self.length += max(_LOST, self._reached) - self._reached
            self._set_anchor(gray)
            return self.length
        distance = median_distance(self._anchor, self._tracked) / max(gray.shape)
        if distance > self._reached:
            self.length += distance - self._reached
            self._reached = distance
        if distance > _STEP or share < _MIN_KEPT:
            self._set_anchor(gray)
        return self.length

    def _set_anchor(self, gray: Gray) -> None:
        self._before = gray
        self._anchor = self._tracked = corners(gray)
        self._corners = len(self._anchor)
        self._reached = 0.0


def moved(first: Gray, second: Gray) -> float | None:
    """Median motion of corners between two images of one size, as a share of the long side; None: not to be followed.

    The 90th percentile counts where it is larger than three medians: of a scene with depth, some parts move less.
    """
    points = corners(first)
    if len(points) < _MIN_CORNERS:
        return None
    there, kept = _follow(first, second, points)
    if kept.mean() < _MIN_KEPT:
        return None
    distances = np.linalg.norm(there[kept] - points[kept], axis=-1)
    median, high = np.percentile(distances, (50, 90))
    return float(max(median, high / 3)) / max(first.shape)


def corners(gray: Gray) -> Float32[np.ndarray, "corners 1 2"]:
    """The strongest corners, pixels (x, y); none in a blank picture."""
    found = cv2.goodFeaturesToTrack(gray, _CORNERS, qualityLevel=0.01, minDistance=5)
    strong = np.zeros((0, 1, 2), np.float32) if found is None or gray.std() < 1 else found
    return np.asarray(strong, np.float32)


def median_distance(first: Float32[np.ndarray, "points 1 2"], second: Float32[np.ndarray, "points 1 2"]) -> float:
    """Pixels."""
    return float(np.median(np.linalg.norm(second - first, axis=-1)))


def _follow(first: Gray, second: Gray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the points are in the second image, and which of them came back when tracked in reverse."""
    window = {"winSize": (15, 15), "maxLevel": 4}
    there, found, _ = cv2.calcOpticalFlowPyrLK(first, second, points, None, **window)
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(second, first, there, None, **window)
    close = np.linalg.norm(back - points, axis=-1)[:, 0] < _ROUND_TRIP
    return there, (found[:, 0] == 1) & (found_back[:, 0] == 1) & close
