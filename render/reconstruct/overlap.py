"""How photographs overlap, measured on their matches, and why no cameras are found where they overlap badly."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from data.colmap_library import pycolmap
from render.reconstruct.types import PhotoSet

MIN_INLIERS = 15
"""Verified matches of a pair of photographs; COLMAP's mappers take no pair with less."""
_MIN_FEATURES = 150
"""Median per photograph; sharp ones of 640 pixels have 450 to 4600."""
_MAX_TURNING_RESIDUAL = 0.05
"""About baseline over depth; see `turning_residual`. Real sets that can be reconstructed have 0.23 to 2.8 (8 measured),
a camera that only turns 0.01 (synthetic)."""


@dataclass(frozen=True)
class Overlap:
    """Numbers of a set of photographs."""

    photos: int
    features: float
    """Median per photograph."""
    pairs: int
    """Of photographs that show the same things."""
    linked: int
    """Photographs in the largest group that such pairs connect."""
    turning: float = math.inf
    """`turning_residual` of the pairs."""

    @property
    def only_turned(self) -> bool:
        """All taken from one point."""
        return self.linked >= 3 and self.turning < _MAX_TURNING_RESIDUAL


def measure_overlap(photos: PhotoSet, database: Path) -> Overlap:
    """From a complete database of matches."""
    with pycolmap.Database.open(database) as opened:
        features = [opened.num_keypoints_for_image(image.image_id) for image in opened.read_all_images()]
        numbers, geometries = opened.read_two_view_geometries()
    good = [
        (pycolmap.pair_id_to_image_pair(number), geometry.H)
        for number, geometry in zip(numbers, geometries, strict=True)
        if len(geometry.inlier_matches) >= MIN_INLIERS
    ]
    homographies = [homography for _, homography in good if homography is not None]
    first = photos.photos[0]
    turning = turning_residual(homographies, first.height, first.width) if homographies else math.inf
    linked = len(largest_group(pair for pair, _ in good))
    return Overlap(len(photos.photos), float(np.median(features)), len(good), linked, turning)


def why_nothing_registered(overlap: Overlap) -> str:
    """The likeliest cause, with the numbers that tell it, and what to do."""
    count = overlap.photos
    start = f"no cameras could be found for {count} photographs"
    found = f"{overlap.pairs} of {count * (count - 1) // 2} pairs show the same things"
    if overlap.features < _MIN_FEATURES:
        return (
            f"{start}: they show {overlap.features:.0f} features in the median, expected at least {_MIN_FEATURES}. "
            "Take sharp photographs of textured things"
        )
    if overlap.only_turned:
        return (
            f"{start}: {found}, but all are taken from one point, where the camera only turned. "
            "Walk sideways or around while taking photographs"
        )
    if overlap.linked < count / 2:
        return (
            f"{start}: only {found} and connect at most {overlap.linked} photographs. "
            "Take more photographs, each overlapping the next by two thirds"
        )
    return (
        f"{start}: {found}, but too few from different places, or what they show does not stand still. "
        "Move more between photographs and take more of them"
    )


def largest_group(pairs: Iterable[tuple[int, int]]) -> set[int]:
    """Nodes of the largest connected component of a graph. (1, 2), (2, 5), (3, 4) give 1, 2, 5."""
    group: dict[int, set[int]] = {}
    for first, second in pairs:
        joined = group.get(first, {first}) | group.get(second, {second})
        group.update(dict.fromkeys(joined, joined))
    return max(group.values(), key=len, default=set())


def turning_residual(homographies: list[Float[np.ndarray, "3 3"]], height: int, width: int) -> float:
    """How far homographies are from those of a turning camera, at the focal length that fits best; images of one size.

    A camera that only turns has H = K R K^-1 (Hartley and Zisserman 2004, section 8.4.2), so that all singular values
    of K^-1 H K are equal; of a plane at distance d and a translation t, they spread by about |t| / d. The result is the
    90 % quantile over the pairs of log(largest / smallest).
    """
    best = math.inf
    for focal in max(height, width) * np.geomspace(0.3, 5, 60):
        lens = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        values = np.linalg.svd(np.linalg.inv(lens) @ np.stack(homographies) @ lens, compute_uv=False)
        best = min(best, float(np.quantile(np.log(values[:, 0] / np.maximum(values[:, 2], 1e-12)), 0.9)))
    return best
