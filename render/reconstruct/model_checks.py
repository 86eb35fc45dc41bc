"""Whether a model of photographs is to be trusted."""

import math

import numpy as np
from jaxtyping import Float

from data.colmap_library import pycolmap
from geometry import InputError
from render.reconstruct.types import PhotoSet

_MIN_POINTS = 30
"""Below, a model is refused."""
_FEW_POINTS_PER_IMAGE = 15
"""Sets that came out well have 27 to 460 per photograph."""
_MIN_SPREAD = 0.01
"""Root mean square distance of the cameras from their middle, in median depths: below, all stand at one point."""
_MAX_REPROJECTION = 1.5
"""Pixels, mean; good sets have 0.3 to 0.9."""
_MIN_FIELD, _MAX_FIELD = 8.0, 130.0
"""Degrees across the longer side: what lenses of photographs have."""
_PLANAR = 0.01
"""Smallest over second largest standard deviation of the points."""


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
