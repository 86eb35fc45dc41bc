"""SIFT features of images, and which of two images' features show the same thing."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8

_NUM_FEATURES = 2000
"""Per image; more match better and take longer."""
_MATCH_RATIO = 0.75
"""Of the distances to the best and second best descriptor; Lowe (2004, section 7.1) takes 0.8."""


@dataclass(frozen=True)
class Features:
    """SIFT features of one image."""

    pixels: Float[np.ndarray, "feature 2"]
    """(x, y), pixel centers at +0.5."""
    descriptors: Float[np.ndarray, "feature 128"]


def detect(image: UInt8[np.ndarray, "height width 3"]) -> Features:
    """The 2000 strongest SIFT features of an RGB image."""
    detector = cv2.SIFT_create(nfeatures=_NUM_FEATURES)
    keypoints, descriptors = detector.detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None)
    pixels = np.array([keypoint.pt for keypoint in keypoints], dtype=np.float64).reshape(-1, 2) + 0.5
    return Features(pixels, np.zeros((0, 128), np.float32) if descriptors is None else descriptors)


def match(first: Features, second: Features) -> tuple[Float[np.ndarray, "match 2"], Float[np.ndarray, "match 2"]]:
    """Pixels of the matches that are each other's best and clearly better than the second best."""
    if min(len(first.pixels), len(second.pixels)) < 2:
        return first.pixels[:0], second.pixels[:0]
    backward = {(best, query) for query, best in _best_matches(second, first)}
    kept = [pair for pair in _best_matches(first, second) if pair in backward]
    chosen = np.array(kept, dtype=np.int64).reshape(-1, 2)
    return first.pixels[chosen[:, 0]], second.pixels[chosen[:, 1]]


def _best_matches(queries: Features, others: Features) -> list[tuple[int, int]]:
    candidates = cv2.BFMatcher().knnMatch(queries.descriptors, others.descriptors, k=2)
    return [
        (best.queryIdx, best.trainIdx)
        for best, runner_up in candidates
        if best.distance < _MATCH_RATIO * runner_up.distance
    ]
