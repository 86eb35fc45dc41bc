"""Whether a model of photographs is to be trusted."""

import math
from collections import Counter
from itertools import combinations
from pathlib import Path

import networkx
import numpy as np
from jaxtyping import Float

from data.colmap_library import pycolmap
from geometry import InputError
from render.reconstruct.overlap import MIN_INLIERS
from render.reconstruct.types import PhotoSet

_MIN_POINTS = 30
"""Below, a model is refused."""
_FEW_POINTS_PER_IMAGE = 15
"""Sets that came out well have 27 to 460 per photograph."""
_MIN_SPREAD = 0.01
"""Root mean square distance of the cameras from their middle, in median depths: below, all stand at one point."""
_MAX_REPROJECTION = 1.5
"""Pixels, mean; good sets have 0.3 to 0.9."""
_MIN_AGREEMENT = 0.9
"""Share of the matches; photographs of a scene that stands still have 0.977 to 1, an object on a turntable before a
background with texture 0.76."""
_MAX_EPIPOLAR = 4.0
"""Pixels, as COLMAP's own limit for a match."""
_MIN_SHARED = 10
"""Points that two images must share to hold together: along the weakest link of sound models 23 to 1800, between two
scenes with nothing in common that were joined by wrong matches 1."""
_MIN_FIELD, _MAX_FIELD = 8.0, 130.0
"""Degrees across the longer side: what lenses of photographs have."""
_PLANAR = 0.01
"""Smallest over second largest standard deviation of the points."""


def check_model(model: pycolmap.Reconstruction, photos: PhotoSet, agreement: float = 1.0) -> list[str]:
    """One sentence per doubt about the model; `agreement` as from `match_agreement`.

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
    doubts = []
    if agreement < _MIN_AGREEMENT:
        doubts.append(
            f"only {agreement:.0%} of the matches agree with the cameras: do not trust them. Something moved, such as "
            "an object on a turntable before a background with texture: walk around it, or take a plain background"
        )
    return [*doubts, *_point_warnings(model, points, len(images)), *_lens_warnings(model)]


def keep_connected(model: pycolmap.Reconstruction) -> None:
    """Take the pose from images outside the largest group that hangs together without any one of its images.

    Images that share 10 points hang together; fewer are wrong matches. Two groups with one image in common, and no
    point that both see without it, have no common scale: that image sees the same however far away one of them is
    moved from its center. So a group is a biconnected component (Hopcroft and Tarjan 1973) of the images.
    """
    shared: Counter[tuple[int, int]] = Counter()
    for point in model.points3D.values():
        shared.update(combinations(sorted({element.image_id for element in point.track.elements}), 2))
    graph = networkx.Graph(pair for pair, count in shared.items() if count >= _MIN_SHARED)
    group = max(networkx.biconnected_components(graph), key=len, default=set[int]())
    for image in list(model.images.values()):
        if group and image.has_pose and image.image_id not in group:
            model.deregister_frame(image.frame_id)


def match_agreement(model: pycolmap.Reconstruction, database: Path) -> float:
    """Share of the verified matches between images with a pose whose epipolar distance is below 4 pixels.

    Sampson's distance (Hartley and Zisserman 2004, section 11.4.3). The mappers drop what does not fit, so that a
    reprojection error is small even where half of the matches contradict the cameras. nan without matches.
    """
    images = {image.image_id: image for image in model.images.values() if image.has_pose}
    rays = {number: _rays(model.cameras[image.camera_id], image) for number, image in images.items()}
    with pycolmap.Database.open(database) as opened:
        numbers, geometries = opened.read_two_view_geometries()
    agreeing = total = 0
    for number, geometry in zip(numbers, geometries, strict=True):
        first, second = pycolmap.pair_id_to_image_pair(number)
        matches = np.asarray(geometry.inlier_matches).reshape(-1, 2)
        if len(matches) < MIN_INLIERS or first not in images or second not in images:
            continue
        second_from_first = images[second].cam_from_world() * images[first].cam_from_world().inverse()
        distance = sampson_distance(rays[first][matches[:, 0]], rays[second][matches[:, 1]], second_from_first.matrix())
        focal = min(model.cameras[images[index].camera_id].mean_focal_length() for index in (first, second))
        agreeing += int((distance * focal < _MAX_EPIPOLAR).sum())
        total += len(matches)
    return agreeing / total if total else math.nan


def _rays(camera: pycolmap.Camera, image: pycolmap.Image) -> Float[np.ndarray, "feature 3"]:
    """At depth 1, in the camera's frame, distortion removed."""
    pixels = np.array([point.xy for point in image.points2D]).reshape(-1, 2)
    plane = np.asarray(camera.cam_from_img(pixels)).reshape(-1, 2)
    return np.concatenate([plane, np.ones_like(plane[:, :1])], axis=-1)


def sampson_distance(
    first: Float[np.ndarray, "match 3"],
    second: Float[np.ndarray, "match 3"],
    second_from_first: Float[np.ndarray, "3 4"],
) -> Float[np.ndarray, " match"]:
    """Of points at depth 1 in two cameras with this relative pose, in units of the focal length."""
    rotation, (x, y, z) = second_from_first[:, :3], second_from_first[:, 3]
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ rotation
    lines, back = first @ essential.T, second @ essential
    slopes = np.sqrt((lines[:, :2] ** 2).sum(-1) + (back[:, :2] ** 2).sum(-1))
    return np.abs((second * lines).sum(-1)) / np.maximum(slopes, 1e-12)


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
