"""Errors of poses, of each view by itself and of each pair of views."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geometry.quaternions import relative_pose
from models.mapanything.objective.elementary import masked_mean
from models.mapanything.objective.truth import NormalizedGeometry

Error = Callable[[Tensor, Tensor], Tensor]


class PoseErrors(NamedTuple):
    """Means per view."""

    quaternions: Float[Tensor, " view"]
    translations: Float[Tensor, " view"]


def quaternion_error(
    prediction: Float[Tensor, "*batch 4"], truth: Float[Tensor, "*batch 4"], error: Error
) -> Float[Tensor, "*batch"]:
    """Of the nearer of q and -q, which are one rotation."""
    return torch.minimum(error(prediction, truth), error(prediction, -truth))


def pose_errors(
    prediction: NormalizedGeometry,
    truth: NormalizedGeometry,
    has_points: Bool[Tensor, "batch view"],
    error: Error,
    *,
    is_absolute: bool,
    is_relative: bool,
) -> PoseErrors:
    """Errors of view i: of its own pose, and of the poses of all others in its frame, all in one mean.

    Translations count where the view (of a pair: both) has a valid point, since their unit is that of the points.
    """
    quaternion_errors, translation_errors, counted = [], [], []
    views = truth.quaternions.shape[1]
    if is_absolute:
        quaternion_errors.append(quaternion_error(prediction.quaternions, truth.quaternions, error)[..., None])
        translation_errors.append(error(prediction.translations, truth.translations)[..., None])
        counted.append(has_points[..., None])
    if is_relative and views > 1:
        others = torch.tensor([[j for j in range(views) if j != i] for i in range(views)])  # view other
        ours, theirs = _pairs(prediction, others), _pairs(truth, others)
        quaternion_errors.append(quaternion_error(ours[0], theirs[0], error))
        translation_errors.append(error(ours[1], theirs[1]))
        counted.append(has_points[:, :, None] & has_points[:, others])
    if not counted:
        none = prediction.translations.new_zeros(views)
        return PoseErrors(none, none)
    return PoseErrors(
        torch.cat(quaternion_errors, dim=-1).mean((0, 2)),
        masked_mean(torch.cat(translation_errors, dim=-1), torch.cat(counted, dim=-1), (0, 2)),
    )


def _pairs(geometry: NormalizedGeometry, others: Tensor) -> tuple[Tensor, Tensor]:
    """Poses of the others in the frame of each view: batch view other 4, batch view other 3."""
    quaternions, translations = geometry.quaternions, geometry.translations
    count = others.shape[1]
    return relative_pose(
        quaternions[:, :, None].expand(-1, -1, count, -1),
        translations[:, :, None].expand(-1, -1, count, -1),
        quaternions[:, others],
        translations[:, others],
    )
