"""Whether a model of photographs is to be trusted, and why there is none: numbers first, then what to do."""

import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pycolmap
from jaxtyping import Float

from geometry import InputError
from render.reconstruct.types import PhotoSet

_MIN_POINTS = 30
"""Below, a model is refused."""
_FEW_POINTS_PER_IMAGE = 40
_MIN_FEATURES = 150
"""Median per photograph; sharp ones of 640 pixels have 800 to 6000."""
_MIN_SPREAD = 0.01
"""Root mean square distance of the cameras from their middle, in median depths: below, all stand at one point."""
_MAX_REPROJECTION = 1.5
"""Pixels, mean; good sets have 0.3 to 0.9."""
_MIN_FIELD, _MAX_FIELD = 8.0, 130.0
"""Degrees across the longer side: what lenses of photographs have."""
_PLANAR = 0.01
"""Smallest over second largest standard deviation of the points."""
_ROTATION_ONLY = 0.04
"""Baseline over depth, about, of the pairs of photographs; see `rotation_residual`."""


def check_model(model: pycolmap.Reconstruction, photos: PhotoSet) -> list[str]:
    """One sentence per doubt about the model.

    Raises:
        InputError: when it is degenerate.
    """
    images = [image for image in model.images.values() if image.has_pose]
    if model.num_points3D() < _MIN_POINTS:
        raise InputError(
            f"only {model.num_points3D()} points and {len(images)} of {len(photos.photos)} cameras were found: "
            f"expected at least {_MIN_POINTS} points. Take sharper photographs with more overlap"
        )
    centers = np.stack([image.projection_center() for image in images])
    points = np.stack([point.xyz for point in model.points3D.values()])
    spread = relative_spread(centers, points)
    if spread < _MIN_SPREAD:
        raise InputError(
            f"all {len(images)} cameras stand at one point (they spread by {spread:.1g} of the distance to the scene): "
            "nothing can be measured from turning alone. Walk sideways or around while taking photographs"
        )
    return [*_point_warnings(model, points, len(images)), *_lens_warnings(model)]


def relative_spread(centers: Float[np.ndarray, "view 3"], points: Float[np.ndarray, "point 3"]) -> float:
    """Root mean square distance of the centers from their mean over the median distance from that to the points."""
    middle = centers.mean(0)
    extent = math.sqrt(((centers - middle) ** 2).sum(-1).mean())
    return extent / float(np.median(np.linalg.norm(points - middle, axis=-1)))


def _point_warnings(model: pycolmap.Reconstruction, points: np.ndarray, images: int) -> list[str]:
    sentences = []
    if len(points) < _FEW_POINTS_PER_IMAGE * images:
        sentences.append(f"only {len(points)} points for {images} cameras: expect coarse depth ranges")
    error = model.compute_mean_reprojection_error()
    if error > _MAX_REPROJECTION:
        sentences.append(f"points miss their features by {error:.2f} pixels in the mean: something may have moved")
    deviations = np.sqrt(np.maximum(np.linalg.eigvalsh(np.cov(_without_far(points).T)), 0))
    if deviations[0] < _PLANAR * deviations[1]:
        sentences.append("all points lie on one plane: focal length and distances are badly determined")
    return sentences


def _without_far(points: np.ndarray) -> np.ndarray:
    distance = np.linalg.norm(points - np.median(points, axis=0), axis=-1)
    return points[distance <= np.quantile(distance, 0.9)]


def _lens_warnings(model: pycolmap.Reconstruction) -> list[str]:
    sentences = []
    for camera in model.cameras.values():
        field = math.degrees(2 * math.atan(max(camera.width, camera.height) / 2 / camera.mean_focal_length()))
        if not _MIN_FIELD <= field <= _MAX_FIELD:
            sentences.append(
                f"the lens of {camera.width}x{camera.height} photographs came out with a field of view of {field:.0f} "
                "degrees, which no usual lens has: do not trust depths"
            )
    return sentences


def why_nothing_registered(photos: PhotoSet, database: Path) -> str:
    """The likeliest cause, with the numbers that tell it, and what to do."""
    count = len(photos.photos)
    pairs = count * (count - 1) // 2
    with pycolmap.Database.open(database) as opened:
        images = opened.read_all_images()
        features = float(np.median([opened.num_keypoints_for_image(image.image_id) for image in images]))
        geometries = [
            geometry
            for first, second in combinations(sorted(image.image_id for image in images), 2)
            if opened.exists_two_view_geometry(first, second)
            and len((geometry := opened.read_two_view_geometry(first, second)).inlier_matches)
            >= 15  # COLMAP's own limit
        ]
    start = f"no cameras could be found for {count} photographs"
    if features < _MIN_FEATURES:
        return f"{start}: they show {features:.0f} features in the median. Take sharper photographs of textured things"
    if len(geometries) < count - 1:
        return (
            f"{start}: only {len(geometries)} of {pairs} pairs show the same things. "
            "Take more photographs, each overlapping the next by two thirds"
        )
    homographies = [geometry.H for geometry in geometries if geometry.H is not None]
    longest = max(max(photo.height, photo.width) for photo in photos.photos)
    if (
        homographies
        and rotation_residual(homographies, photos.photos[0].height, photos.photos[0].width, longest) < _ROTATION_ONLY
    ):
        return (
            f"{start}: {len(geometries)} pairs match, but all seem taken from one point (the camera only turned). "
            "Walk sideways or around while taking photographs"
        )
    return (
        f"{start}: {len(geometries)} of {pairs} pairs show the same things, but not from different enough places "
        "or not of a rigid scene. Move more between photographs and take more of them"
    )


def rotation_residual(homographies: list[np.ndarray], height: int, width: int, longest: int) -> float:
    """How far the homographies are from those of a turning camera, for the focal length that fits best.

    A camera that only turns has H = K R K^-1 (Hartley and Zisserman 2004, section 8.4.2), so that all singular values
    of K^-1 H K are equal; of a plane at distance d and a translation t, they spread by about |t| / d. The result is the
    90 % quantile over the pairs of log(largest / smallest).
    """
    best = math.inf
    for focal in longest * np.geomspace(0.3, 5, 60):
        lens = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        values = np.linalg.svd(np.linalg.inv(lens) @ np.stack(homographies) @ lens, compute_uv=False)
        best = min(best, float(np.quantile(np.log(values[:, 0] / values[:, 2]), 0.9)))
    return best
