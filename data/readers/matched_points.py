"""Points of a scene that came without any: SIFT matches of neighboring views, triangulated with the given cameras."""

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8

from data.cache import cached
from data.matching import Features, detect, match
from data.scene import ScenePoints
from data.view_selection.neighbors import most_similar
from geometry import Cameras
from geometry.epipolar import fundamental_matrix, sampson_distance

_MOST_VIEWS = 24
"""Spread evenly over the scene; more take longer (0.1 s each at 640 pixels) and hardly change quantiles of depth."""
_PARTNERS = 2
"""Most similar views that each is matched with."""
_LONGEST_SIDE = 640
"""Pixels at which features are looked for; chosen by hand for time."""
_MAX_ERROR = 2.0
"""Pixels of the resized images: of the Sampson distance, and of the reprojection of a triangulated point."""
_MIN_ANGLE = 1.0
"""Degrees between the rays of a point: below, its depth is uncertain. Chosen by hand."""


def matched_points(
    cameras: Mapping[int, Cameras],
    read_image: Callable[[int], UInt8[np.ndarray, "height width 3"]],
    identity: str,
) -> ScenePoints:
    """Points that two views each observe, in the pixels of their cameras; none where nothing matches.

    `identity`: changes with the images; the points are kept for the next start (data/cache.py).
    """
    if len(cameras) < 2:
        return _from_arrays(np.zeros((0, 3)), np.zeros((0, 2), np.int64), np.zeros((0, 2, 2)))
    poses = "|".join(str(camera.w2c.tolist()) + str(camera.intrinsics.tolist()) for camera in cameras.values())
    name = f"matched_points/{hashlib.sha256(f'{identity}|{poses}'.encode()).hexdigest()}.npz"

    def read(content: bytes) -> ScenePoints:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return _from_arrays(arrays["points"], arrays["views"], arrays["pixels"])

    def make() -> tuple[ScenePoints, bytes]:
        arrays, content = _triangulated(cameras, read_image), io.BytesIO()
        np.savez(content, points=arrays[0], views=arrays[1], pixels=arrays[2])
        return _from_arrays(*arrays), content.getvalue()

    return cached(name, read, make)


def _from_arrays(
    points: Float[np.ndarray, "point 3"], views: np.ndarray, pixels: Float[np.ndarray, "point 2 2"]
) -> ScenePoints:
    """`views` and `pixels`: the two that observe a point, and where."""
    rows, places = {}, {}
    for view in np.unique(views).tolist():
        row, side = np.nonzero(views == view)
        rows[view], places[view] = row, pixels[row, side]
    return ScenePoints(points, np.full(len(points), 2), rows, places)


def _triangulated(
    cameras: Mapping[int, Cameras], read_image: Callable[[int], UInt8[np.ndarray, "height width 3"]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    views = list(cameras)
    w2c = torch.stack([camera.w2c for camera in cameras.values()])
    count = min(_MOST_VIEWS, len(views))
    chosen = [index * len(views) // count for index in range(count)]
    pairs = {tuple(sorted((index, other))) for index in chosen for other in most_similar(w2c, index)[:_PARTNERS]}
    features: dict[int, Features] = {}
    points, owners, pixels = [np.zeros((0, 3))], [np.zeros((0, 2), np.int64)], [np.zeros((0, 2, 2))]
    for pair in sorted(pairs):
        for index in pair:
            if index not in features:
                features[index] = _features(cameras[views[index]], read_image(views[index]))
        two = [cameras[views[index]] for index in pair]
        matched = match(*(features[index] for index in pair))
        found, kept = _of_pair(two, matched)
        points.append(found)
        owners.append(np.tile([views[index] for index in pair], (len(found), 1)))
        pixels.append(np.stack([one[kept] for one in matched], axis=1))
    return np.concatenate(points), np.concatenate(owners), np.concatenate(pixels)


def _features(camera: Cameras, image: UInt8[np.ndarray, "height width 3"]) -> Features:
    """In pixels of the camera."""
    scale = min(1.0, _LONGEST_SIDE / max(image.shape[:2]))
    width, height = round(camera.width * scale), round(camera.height * scale)
    found = detect(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) if scale < 1 else image)
    return Features(found.pixels * (camera.width / width, camera.height / height), found.descriptors)


def _of_pair(
    cameras: Sequence[Cameras], matched: tuple[Float[np.ndarray, "match 2"], Float[np.ndarray, "match 2"]]
) -> tuple[Float[np.ndarray, "point 3"], np.ndarray]:
    """Points of the matches that fit the cameras, and which matches these are."""
    if not len(matched[0]):
        return np.zeros((0, 3)), np.zeros(0, bool)
    first, second = (torch.from_numpy(pixels) for pixels in matched)
    tolerance = _MAX_ERROR * max(1.0, max(cameras[0].height, cameras[0].width) / _LONGEST_SIDE)
    fits = sampson_distance(fundamental_matrix(*cameras), first, second) < tolerance
    projections = [(camera.intrinsics @ camera.w2c[:3]).numpy() for camera in cameras]
    homogeneous = cv2.triangulatePoints(*projections, matched[0].T, matched[1].T).T
    points = torch.from_numpy(homogeneous[:, :3] / np.where(homogeneous[:, 3:] == 0, np.nan, homogeneous[:, 3:]))
    rays = []
    for camera, pixels in zip(cameras, (first, second), strict=True):
        projected = camera.project(points)
        fits &= projected.visible & ((projected.pixels - pixels).norm(dim=-1) < tolerance)  # false for NaN
        rays.append(torch.nn.functional.normalize(points - camera.centers, dim=-1))
    angle = torch.rad2deg(torch.arccos((rays[0] * rays[1]).sum(-1).clamp(-1, 1)))
    kept = (fits & (angle > _MIN_ANGLE)).numpy()
    return points.numpy()[kept], kept
