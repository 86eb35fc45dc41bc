"""How good a reconstruction of many views is: the dense benchmark of MapAnything (Keetha et al. 2025, section 4).

Both sides are in the frame of their own view 0 and in the unit of their own points. Where the published metric is blind
to an error, the metric that sees it stands beside it (docs/mapanything.md, "Metrics").
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geometry import InputError
from geometry.pose_metrics import histogram_auc
from geometry.precision import full_precision
from geometry.quaternions import relative_pose
from models.mapanything.objective.truth import GeometryTruth, in_unit, mean_distance
from models.mapanything.output import Reconstruction

INLIER_RATIO = 1.03
AUC_THRESHOLDS = (5, 30)
"""Degrees; 5 is published."""
METRICS = (
    *("pointmaps_abs_rel", "pointmaps_inlier_thres_103", "pointmaps_true_inlier_103"),
    *("z_depth_abs_rel", "z_depth_inlier_thres_103", "ray_dirs_err_deg"),
    *("pose_ate_mean", "pose_ate_rmse", "pose_rotation_deg"),
    *(f"pose_auc_{threshold}" for threshold in AUC_THRESHOLDS),
    *(f"pose_true_auc_{threshold}" for threshold in AUC_THRESHOLDS),
    "metric_scale_abs_rel",
)
"""`true`: distance of the points, angle with its direction. Shares are fractions, areas under curves percent."""

Values = Float[Tensor, "*shape channel"]


def absolute_relative(prediction: Values, truth: Values, mask: Bool[Tensor, "*shape"]) -> float:
    """Mean of |x - x_true| / |x_true| over valid values that are not 0; nan where there is none."""
    ours, theirs = _valid(prediction, truth, mask)
    return ((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).mean().item()


def norm_inliers(prediction: Values, truth: Values, mask: Bool[Tensor, "*shape"]) -> float:
    """Share of values whose length is within a factor of 1.03 of the true one, whatever their direction."""
    ours, theirs = (one.norm(dim=-1) for one in _valid(prediction, truth, mask))
    ratio = torch.maximum(ours / theirs, theirs / ours)  # infinite for a prediction of 0
    return (ratio < INLIER_RATIO).double().mean().item()


def true_inliers(prediction: Values, truth: Values, mask: Bool[Tensor, "*shape"]) -> float:
    """Share of values at most 3 % of the true length away from the truth."""
    ours, theirs = _valid(prediction, truth, mask)
    error = (ours - theirs).norm(dim=-1)
    return (error <= (INLIER_RATIO - 1) * theirs.norm(dim=-1)).double().mean().item()


def ray_angles(prediction: Float[Tensor, "*shape 3"], truth: Float[Tensor, "*shape 3"]) -> Float[Tensor, "*shape"]:
    """Degrees between unit directions: 2 asin(|r - r_true| / 2)."""
    return chord_angle((prediction - truth).norm(dim=-1))


def chord_angle(chord: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Degrees between unit vectors that are so far apart: 1 -> 60."""
    return (2 * torch.asin((chord / 2).clamp(max=1))).rad2deg()


class PairErrors:
    """Errors in degrees of the relative poses of all pairs of views, in the order (0, 1), (0, 2), ..."""

    def __init__(
        self,
        quaternions: Float[Tensor, "view 4"],
        translations: Float[Tensor, "view 3"],
        true_quaternions: Float[Tensor, "view 4"],
        true_translations: Float[Tensor, "view 3"],
    ) -> None:
        """Of camera-to-world poses, in float64."""
        first, second = torch.triu_indices(len(quaternions), len(quaternions), offset=1)
        pairs = []
        for turned, moved in ((quaternions, translations), (true_quaternions, true_translations)):
            turned, moved = turned.double(), moved.double()
            turned = turned / turned.norm(dim=-1, keepdim=True)
            pairs.append(relative_pose(turned[first], moved[first], turned[second], moved[second]))
        (ours, ours_moved), (theirs, theirs_moved) = pairs
        dot = (ours * theirs).sum(-1).abs()
        sine = torch.minimum((ours - theirs).norm(dim=-1), (ours + theirs).norm(dim=-1)) / 2
        self.rotation = (4 * torch.asin(sine.clamp(max=1))).rad2deg() if len(dot) else dot
        cross = torch.linalg.cross(ours_moved, theirs_moved).norm(dim=-1)
        self.translation = torch.atan2(cross, (ours_moved * theirs_moved).sum(-1)).rad2deg()
        """Opposite motions are 180 degrees apart."""
        self.line = torch.minimum(self.translation, 180 - self.translation)
        """Opposite motions are the same."""

    def auc(self, threshold: int, *, is_true: bool) -> float:
        """Percent under the curve of recall up to so many whole degrees; `is_true`: with the direction of motion."""
        translation = self.translation if is_true else self.line
        return 100 * histogram_auc(torch.maximum(self.rotation, translation), threshold)


def trajectory_errors(prediction: Float[Tensor, "view 3"], truth: Float[Tensor, "view 3"]) -> Float[Tensor, " view"]:
    """Distances of camera centers after the best rotation and shift of the true ones, without a change of scale.

    Least squares (Kabsch; Horn 1987 with quaternions is the same).
    """
    ours, theirs = prediction.double(), truth.double()
    centered, target = theirs - theirs.mean(0), ours - ours.mean(0)
    left, _, right = torch.linalg.svd(target.mT @ centered)
    signs = torch.ones(3, dtype=torch.float64)
    signs[2] = torch.det(left) * torch.det(right)
    return (centered @ (left @ torch.diag(signs) @ right).mT - target).norm(dim=-1)


@full_precision
def set_metrics(prediction: Reconstruction, truth: GeometryTruth) -> dict[str, float]:
    """All `METRICS` of one set of views (batch axis of length 1), averaged over its views; nan where unknown.

    Views without a valid pixel are left out of the means. The scale is compared of metric sets and networks that have
    one.

    Raises:
        InputError: for predictions that are not finite.
    """
    for name in ("points", "quaternions", "translations"):
        if not bool(torch.isfinite(getattr(prediction, name)).all()):
            raise InputError(f"evaluation: expected finite predicted {name}, got others")
    truth = truth.in_frame_of_first()
    own = prediction.without_scale().in_frame_of_first()
    own_unit, true_unit = mean_distance(own.points, truth.valid), mean_distance(truth.points, truth.valid)
    ours, theirs = in_unit(own, own_unit)[0], in_unit(truth, true_unit)[0]
    z, true_z = ours.points_cam[..., 2:], theirs.points_cam[..., 2:]
    per_view = []
    for view, mask in enumerate(truth.valid[0]):
        points = (ours.points[view], theirs.points[view], mask)
        depth = (z[view], true_z[view], mask)
        per_view.append(
            {
                "pointmaps_abs_rel": absolute_relative(*points),
                "pointmaps_inlier_thres_103": norm_inliers(*points),
                "pointmaps_true_inlier_103": true_inliers(*points),
                "z_depth_abs_rel": absolute_relative(*depth),
                "z_depth_inlier_thres_103": norm_inliers(*depth),
                "ray_dirs_err_deg": ray_angles(ours.rays[view], theirs.rays[view]).mean().item(),
            }
        )
    values = {name: known_mean([one[name] for one in per_view]) for name in per_view[0]}
    values |= _pose_metrics(ours.quaternions, ours.translations, theirs.quaternions, theirs.translations)
    if not bool(truth.valid.any()):  # there is no unit to measure lengths in
        values |= {"pose_ate_mean": math.nan, "pose_ate_rmse": math.nan}
    scale = math.nan
    if prediction.scale is not None and bool(truth.is_metric[0]) and bool(truth.valid.any()):
        predicted = (own_unit * prediction.scale[:, 0]).item()
        scale = abs(predicted - true_unit.item()) / true_unit.item()
    return values | {"metric_scale_abs_rel": scale}


def _pose_metrics(
    quaternions: Tensor, translations: Tensor, true_quaternions: Tensor, true_translations: Tensor
) -> dict[str, float]:
    if len(quaternions) < 2:
        return {name: math.nan for name in METRICS if name.startswith("pose_")}
    residuals = trajectory_errors(translations, true_translations)
    pairs = PairErrors(quaternions, translations, true_quaternions, true_translations)
    values = {
        "pose_ate_mean": residuals.mean().item(),
        "pose_ate_rmse": residuals.square().mean().sqrt().item(),
        "pose_rotation_deg": pairs.rotation.mean().item(),
    }
    values |= {f"pose_auc_{threshold}": pairs.auc(threshold, is_true=False) for threshold in AUC_THRESHOLDS}
    return values | {f"pose_true_auc_{threshold}": pairs.auc(threshold, is_true=True) for threshold in AUC_THRESHOLDS}


def known_mean(values: list[float]) -> float:
    """Mean of what is not nan; nan of nothing."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _valid(prediction: Values, truth: Values, mask: Bool[Tensor, "*shape"]) -> tuple[Tensor, Tensor]:
    chosen = mask & (truth.norm(dim=-1) > 0)
    return prediction[chosen].double(), truth[chosen].double()
