"""How good predicted cameras and points are, whatever the frame and unit they are given in.

Camera errors are those of relative poses, so the world frame does not matter; of translations only the direction is
compared, so the unit does not matter. Angles are in degrees.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from geometry.errors import require
from geometry.precision import full_precision

_NO_DIRECTION = 1e-6
"""Of the group's longest relative translation: a shorter one is rounding. Chosen by hand, above float32's 1e-7."""
_MAX_ANGLE = 180.0
"""Degrees: error of a prediction without a direction."""


class PoseErrors(NamedTuple):
    """One entry for every pair of views, in degrees."""

    rotation: Float[Tensor, " pair"]
    """Angle of the rotation between predicted and true relative rotation."""
    translation: Float[Tensor, " pair"]
    """Angle between the directions of predicted and true relative translation; opposite directions are 180 apart."""

    line: Float[Tensor, " pair"]
    """Angle between the lines along the two translations, at most 90: opposite directions are the same line."""

    @property
    def larger(self) -> Float[Tensor, " pair"]:
        """The worse of rotation and translation."""
        return torch.maximum(self.rotation, self.translation)

    @property
    def larger_of_line(self) -> Float[Tensor, " pair"]:
        """The worse of rotation and line, which VGGT's evaluation on Co3D takes."""
        return torch.maximum(self.rotation, self.line)


@full_precision
def relative_pose_errors(predicted_w2c: Float[Tensor, "view 4 4"], true_w2c: Float[Tensor, "view 4 4"]) -> PoseErrors:
    """Errors of all pairs of views (i, j), of the relative poses E_j E_i^-1 (E = w2c).

    rotation = arccos((trace(R R_true^T) - 1) / 2), translation = the angle between t and t_true: (2, 0, 0) against
    (3, 3, 0) is 45 degrees, whatever the lengths.

    Views at the same place have no direction (a relative translation below 1e-6 of the group's largest): where the
    truth has none every prediction is right, where only the prediction has none it is wrong by 180 degrees.
    """
    first, second = torch.triu_indices(len(true_w2c), len(true_w2c), offset=1, device=true_w2c.device)
    predicted, true = (
        poses[second] @ torch.linalg.inv(poses[first]) for poses in (predicted_w2c.double(), true_w2c.double())
    )
    rotation = rotation_angle(predicted[:, :3, :3] @ true[:, :3, :3].mT)
    ours, theirs = predicted[:, :3, 3], true[:, :3, 3]
    angle = torch.atan2(torch.linalg.cross(ours, theirs).norm(dim=-1), (ours * theirs).sum(-1)).rad2deg()
    line = torch.where(_is_nowhere(ours), _MAX_ANGLE / 2, torch.minimum(angle, _MAX_ANGLE - angle))
    angle = torch.where(_is_nowhere(ours), _MAX_ANGLE, angle)
    has_none = _is_nowhere(theirs)
    return PoseErrors(rotation, torch.where(has_none, 0.0, angle), torch.where(has_none, 0.0, line))


def pose_auc(errors: Float[Tensor, " pair"], threshold: float) -> float:
    """Area under the curve of recall over error, from 0 to `threshold` degrees, divided by `threshold`; nan of nothing.

    (1 / threshold) integral of recall(e) de from 0 to `threshold`: one error of 10 degrees has AUC@30 = 20 / 30.

    The recall is a step function of the error, so its integral is exactly the mean of max(0, 1 - error / threshold):
    no histogram of whole degrees as in the reference's evaluation.
    """
    return (1 - errors / threshold).clamp(min=0).mean().item()


def histogram_auc(errors: Float[Tensor, " pair"], threshold: int) -> float:
    """As `pose_auc` from a histogram with bins of one degree: the mean of the recalls at 1, 2, ..., `threshold`.

    This is how published figures of VGGT and VGGSfM are computed. Errors count as rounded down, so it is at most 0.5 /
    threshold above `pose_auc` on average: one error of 10.5 degrees has 20 / 30 instead of 19.5 / 30. An error equal to
    `threshold` is in the last bin, whose upper end is closed.
    """
    share = (threshold - errors.floor()).clamp(min=0) / threshold
    return torch.where(errors == threshold, 1 / threshold, share).mean().item()


class Similarity(NamedTuple):
    """x -> scale * rotation x + translation."""

    scale: Float[Tensor, ""]
    rotation: Float[Tensor, "3 3"]
    translation: Float[Tensor, "3"]

    def __call__(self, points: Float[Tensor, "point 3"]) -> Float[Tensor, "point 3"]:
        """Move points."""
        return self.scale * points @ self.rotation.mT + self.translation

    def moved_pose(self, w2c: Float[Tensor, "4 4"]) -> Float[Tensor, "4 4"]:
        """World to camera, float64, for moved points: x_cam' = s x_cam, so R_cam R^T and s t_cam - R_cam R^T t."""
        moved = w2c.double().clone()
        moved[:3, :3] = moved[:3, :3] @ self.rotation.mT
        moved[:3, 3] = self.scale * moved[:3, 3] - moved[:3, :3] @ self.translation
        return moved


@full_precision
def best_similarity(
    source: Float[Tensor, "point 3"], target: Float[Tensor, "point 3"], weights: Float[Tensor, " point"] | None = None
) -> Similarity:
    """The similarity from `source` to `target` with the least squared error, in float64 (Umeyama 1991, eq. 40-43).

    Errors count as often as `weights` say; None: once each.

    With U D V^T the singular value decomposition of the covariance of target and source, S = diag(1, 1, det U det V):
    R = U S V^T, scale = trace(D S) / variance of the source, t = mean of target - scale R mean of source.

    Raises:
        InputError: for fewer than three points.
    """
    require(len(source) >= 3, f"a similarity needs at least 3 points, got {len(source)}")
    source, target = source.double(), target.double()
    weights = torch.ones_like(source[:, 0]) if weights is None else weights.double()
    share = weights / weights.sum()
    mean_source, mean_target = share @ source, share @ target
    centered = source - mean_source
    covariance = (target - mean_target).mT @ (share[:, None] * centered)
    left, strengths, right = torch.linalg.svd(covariance)
    signs = torch.ones_like(strengths)
    signs[2] = torch.det(left) * torch.det(right)  # a rotation, not a reflection
    rotation = left @ torch.diag(signs) @ right
    variance = share @ centered.square().sum(-1)
    scale = (strengths * signs).sum() / variance.clamp(min=torch.finfo(variance.dtype).tiny)
    return Similarity(scale, rotation, mean_target - scale * rotation @ mean_source)


@full_precision
def similarity_of_cameras(
    source_w2c: Float[Tensor, "view 4 4"],
    target_w2c: Float[Tensor, "view 4 4"],
    scale: Float[Tensor, ""] | None = None,
) -> Similarity:
    """The similarity from the world of `source_w2c` to that of `target_w2c` by which the cameras agree, in float64.

    The rotation is the chordal mean of the views' own (Hartley et al. 2013, section 5.3), so that two views or a row of
    views suffice. The scale, where it is not given, is the median ratio of the distances between centers (1 for one
    view, or for views at one place); the translation is the median.
    """
    source, target = source_w2c.double(), target_w2c.double()
    left, _, right = torch.linalg.svd((target[:, :3, :3].mT @ source[:, :3, :3]).sum(0))
    signs = torch.ones(3, dtype=torch.float64)
    signs[2] = torch.det(left) * torch.det(right)
    rotation = left @ torch.diag(signs) @ right
    ours, theirs = (-(w2c[:, :3, :3].mT @ w2c[:, :3, 3:])[..., 0] for w2c in (source, target))
    if scale is None:
        before, after = torch.pdist(ours), torch.pdist(theirs)
        apart = before > _NO_DIRECTION * ours.norm(dim=-1).amax()
        scale = (after[apart] / before[apart]).median() if apart.any() else torch.ones((), dtype=torch.float64)
    scale = scale.double()
    return Similarity(scale, rotation, (theirs - scale * ours @ rotation.mT).median(0).values)


def rotation_angle(rotation: Float[Tensor, "pair 3 3"]) -> Float[Tensor, " pair"]:
    """Degrees: atan2(|r| / 2, (trace R - 1) / 2), r the vector of R - R^T: small ones keep their digits."""
    skew = rotation - rotation.mT
    sine = torch.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], dim=-1).norm(dim=-1) / 2
    cosine = (rotation.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    return torch.atan2(sine, cosine).rad2deg()


def _is_nowhere(translations: Float[Tensor, "pair 3"]) -> Tensor:
    lengths = translations.norm(dim=-1)
    return lengths <= _NO_DIRECTION * lengths.amax()
