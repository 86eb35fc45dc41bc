"""An upright world of sensible size for a model whose frame is arbitrary: z up, as in Blender, nerfstudio and viser.

Photographs are mostly taken level, so that the rows of the images are horizontal: up is what they are perpendicular to.
x points right and y forward as the first photograph looks, the origin is in the middle of the points, and the median
distance from a camera to a point that it sees is 1. Nothing else in this code base depends on the frame or the unit.
"""

import numpy as np
from jaxtyping import Float

from data.colmap_library import pycolmap
from data.colmap_model import observations, posed_images

_TOLERANCE = np.sin(np.radians(10.0))
"""Tilt of an image about its axis at which it counts half; hand-held photographs have 2 to 5 degrees."""
_ITERATIONS = 50
_UP_PRIOR = 0.01
"""Weight of the images' mean up, which is within about 30 degrees of up, against one row, within 3 degrees of level:
(sin 3 / sin 30)^2. So it decides only where rows hardly turn."""

_BY_AXIS = 0.3
"""What an image that looks straight down counts for the direction behind it, against one for an image's own up."""
_SIDEWAYS = 0.05
"""Mean square of (12 degrees): photographs within a small angle of each other say nothing about being on their side."""


def orient(model: pycolmap.Reconstruction) -> None:
    """Move `model` into an upright frame; depends on the model's frame and unit no more afterwards."""
    model.transform(upright(model))


def upright(model: pycolmap.Reconstruction) -> pycolmap.Sim3d:
    """The similarity from the model's world to the upright one; at least one image must have a pose."""
    images = posed_images(model)
    c2w = np.stack([image.cam_from_world().inverse().matrix() for image in images])
    rotation = _frame(up_direction(c2w[:, :, :3]), c2w[0, :, :3])
    centers = c2w[:, :, 3]
    points = np.array([point.xyz for point in model.points3D.values()]).reshape(-1, 3)
    middle = np.median((points if len(points) else centers) @ rotation.T, axis=0)
    distance = _median_distance(model, images)
    if distance is None:  # cameras alone, as VGGT gives them without points
        distance = float(np.linalg.norm(centers - centers.mean(0), axis=-1).max())
    scale = 1 / distance if distance > 0 else 1.0
    return pycolmap.Sim3d(scale, pycolmap.Rotation3d(rotation), -scale * middle)


def up_direction(c2w: Float[np.ndarray, "view 3 3"]) -> Float[np.ndarray, "3"]:
    """The direction that the images' rows are most perpendicular to, whatever a few tilted images say.

    Minimizes sum_i rho(row_i . up) with rho(e) = e^2 / (e^2 + sin(10 deg)^2) (Geman and McClure 1987) by reweighting,
    from that of the images' own ups and the least-squares directions on that most images support: with a third
    of a front's photographs on their side, all rows are perpendicular to the direction of view, too. Where rows hardly
    turn, the images' mean up decides, or, where they look straight down, what is behind them. Where the columns say it
    much more clearly than the rows, all photographs were taken on their side: then up is what the columns are
    perpendicular to, with the sign by which the cameras look down.
    """
    rows, ups, axes = c2w[:, :, 0], -c2w[:, :, 1], c2w[:, :, 2]
    if _clearness(ups) > 2 * _clearness(rows) + _SIDEWAYS:
        rows, ups = ups, np.broadcast_to(-axes.mean(0), axes.shape)
    # images that look straight down say up by their axes
    least_squares = np.linalg.eigh(rows.T @ rows)[1][:, 0]
    candidates = np.stack([least_squares, -least_squares, *ups])
    support = np.maximum(np.maximum(ups @ candidates.T, _BY_AXIS * (-axes @ candidates.T)), 0)
    up = candidates[(_weights(rows @ candidates.T) * support).sum(0).argmax()]
    for _ in range(_ITERATIONS):
        weights = _weights(rows @ up)
        weights = weights / weights.sum()
        prior = weights @ (ups - 0.1 * axes)
        prior /= max(np.linalg.norm(prior), 1e-12)
        moment = (rows * weights[:, None]).T @ rows - _UP_PRIOR / len(rows) * np.outer(prior, prior)
        up = np.linalg.eigh(moment)[1][:, 0]
        up = up if up @ prior >= 0 else -up
    return up


def _weights(row_up: np.ndarray) -> np.ndarray:
    """Of the reweighting, from row . up."""
    return 1 / (1 + (row_up / _TOLERANCE) ** 2) ** 2


def _clearness(directions: Float[np.ndarray, "view 3"]) -> float:
    """Of the direction that all these are perpendicular to: by how much their mean square along any other is larger."""
    values = np.linalg.eigvalsh(directions.T @ directions / len(directions))
    return float(values[1] - values[0])


def _frame(up: np.ndarray, first_c2w: np.ndarray) -> Float[np.ndarray, "3 3"]:
    """Rotation whose rows are x, y, z of the new world; y is the most horizontal of the first camera's axes forward."""
    candidates = np.stack([first_c2w[:, 2], -first_c2w[:, 1]])  # looking straight down, its up is forward
    horizontal = candidates - np.outer(candidates @ up, up)
    forward = horizontal[np.linalg.norm(horizontal, axis=-1).argmax()]
    forward /= np.linalg.norm(forward)
    return np.stack([np.cross(forward, up), forward, up])


def _median_distance(model: pycolmap.Reconstruction, images: list[pycolmap.Image]) -> float | None:
    """Scene units, over all observations."""
    distances = []
    for image in images:
        seen = [model.points3D[index].xyz for index in observations(image).point_ids]
        if seen:
            distances.append(np.linalg.norm(np.stack(seen) - image.projection_center(), axis=-1))
    return float(np.median(np.concatenate(distances))) if distances else None
