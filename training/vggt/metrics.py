"""How good VGGT's cameras, depth and points are on groups of views, beside baselines that need no network."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geometry import Cameras, InputError, Views, pixel_centers
from geometry.pose_metrics import best_similarity, histogram_auc, pose_auc, relative_pose_errors
from models.vggt import VGGTOutput
from models.vggt.objective.ground_truth import ground_truth
from models.vggt.pose_encoding import decode_pose, homogeneous
from training.scores import MeanScores

__all__ = ["METRICS", "MeanScores", "depth_scores", "group_scores", "histogram_scores", "point_error"]

AUC_THRESHOLDS = (5, 15, 30)
"""Degrees; the paper reports 30 (VGGT, Wang et al. 2025, section 4.1), the others show finer differences."""
CAMERA_METRICS = (
    *(f"auc{threshold}" for threshold in AUC_THRESHOLDS),
    *("rotation_error", "translation_error", "identity_auc30"),
)
DEPTH_METRICS = ("depth_absrel", "depth_delta125", "mean_depth_absrel", "point_error")
METRICS = (*CAMERA_METRICS, *DEPTH_METRICS)
HISTOGRAM_METRICS = tuple(f"histogram_auc{threshold}" for threshold in AUC_THRESHOLDS)
"""As VGGT's evaluation on Co3D computes them: bins of one degree, opposite translations are the same."""
_MIN_PIXELS = 100
"""A group with fewer known pixels has no depth or point score, as it takes no part in the losses."""
_MIN_FIELD_OF_VIEW = 1e-3
"""Radians. Untrained networks predict fields of view of 0, that is infinite focal lengths."""


@dataclass(frozen=True)
class DepthScores:
    """Over the pixels of a group with known depth, after one scale for the whole group."""

    absrel: float
    """Mean of |prediction - truth| / truth."""
    delta125: float
    """Share of pixels where the larger of prediction / truth and its inverse is below 1.25."""
    scale: float
    """Scene units per predicted unit: the median of truth / prediction."""


def depth_scores(
    prediction: Float[Tensor, "*shape"], truth: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]
) -> DepthScores:
    """Compare camera-z depth of all views of a group; nan when fewer than 100 pixels are known."""
    if mask.sum() < _MIN_PIXELS:
        return DepthScores(math.nan, math.nan, math.nan)
    ours, theirs = prediction[mask].double(), truth[mask].double()
    scale = (theirs / ours).median()
    ratio = scale * ours / theirs
    share = (torch.maximum(ratio, 1 / ratio) < 1.25).double().mean()
    return DepthScores((ratio - 1).abs().mean().item(), share.item(), scale.item())


def point_error(
    prediction: Float[Tensor, "*shape 3"], truth: Float[Tensor, "*shape 3"], mask: Bool[Tensor, "*shape"]
) -> float:
    """Mean distance of points from their truth after the best similarity, in the unit of the truth; nan of nothing."""
    if mask.sum() < _MIN_PIXELS:
        return math.nan
    ours, theirs = prediction[mask].double(), truth[mask].double()
    return (best_similarity(ours, theirs)(ours) - theirs).norm(dim=-1).mean().item()


def group_scores(output: VGGTOutput, views: Views) -> dict[str, float]:
    """All `METRICS` of one group (batch axis of length 1); nan where a head or the depth is missing.

    Depth is compared after one scale, points (the point head's, or depth and cameras unprojected) after one
    similarity. `point_error` is in units of the mean distance of the true points from the first camera. The baselines
    take a constant for the depth, which the scale makes the median, and the identity for all cameras.

    Raises:
        InputError: for predictions that are not finite, which must not be left out of a mean.
    """
    scores = dict.fromkeys(METRICS, math.nan)
    if output.pose_enc is not None:
        scores |= _camera_scores(predicted_cameras(output, views).w2c[0], views.cameras.w2c[0])
    if views.depth is None:
        return scores
    truth = ground_truth(views)
    depth = None if output.depth is None else output.depth[..., 0].float()
    if depth is not None:
        _require_finite(depth[truth.mask], "depth")
        compared = depth_scores(depth, truth.depth, truth.mask)
        scores |= {"depth_absrel": compared.absrel, "depth_delta125": compared.delta125}
    scores["mean_depth_absrel"] = depth_scores(torch.ones_like(truth.depth), truth.depth, truth.mask).absrel
    points = predicted_points(output, views)
    if points is not None:
        _require_finite(points[truth.mask], "points")
        scores["point_error"] = point_error(points, truth.points, truth.mask)
    return scores


def histogram_scores(output: VGGTOutput, views: Views) -> dict[str, float]:
    """`HISTOGRAM_METRICS` of one group (batch axis of length 1); nan without a camera head.

    Raises:
        InputError: for predictions that are not finite.
    """
    if output.pose_enc is None:
        return dict.fromkeys(HISTOGRAM_METRICS, math.nan)
    predicted = predicted_cameras(output, views).w2c[0]
    _require_finite(predicted, "cameras")
    errors = relative_pose_errors(predicted, views.cameras.w2c[0]).larger_of_line
    values = (histogram_auc(errors, threshold) for threshold in AUC_THRESHOLDS)
    return dict(zip(HISTOGRAM_METRICS, values, strict=True))


def predicted_cameras(output: VGGTOutput, views: Views) -> Cameras:
    """Cameras in VGGT's frame and unit, for the images it saw.

    Raises:
        ValueError: for an output without poses.
    """
    if output.pose_enc is None:
        raise ValueError("expected poses, got the output of a network without camera head")
    height, width = views.cameras.height, views.cameras.width
    poses, fields_of_view = output.pose_enc.float().split([7, 2], dim=-1)
    encoding = torch.cat([poses, fields_of_view.clamp(min=_MIN_FIELD_OF_VIEW)], dim=-1)
    extrinsics, intrinsics = decode_pose(encoding, height, width)
    return Cameras(homogeneous(extrinsics), intrinsics, height, width)


def predicted_points(output: VGGTOutput, views: Views) -> Float[Tensor, "batch view height width 3"] | None:
    """The point head's points, else depth and cameras unprojected, else None."""
    if output.world_points is not None:
        return output.world_points[..., :3].float()
    if output.pose_enc is None or output.depth is None:
        return None
    height, width = views.cameras.height, views.cameras.width
    depth = output.depth[..., 0].float()
    pixels = pixel_centers(height, width, depth).expand(*depth.shape[:2], -1, -1)
    return predicted_cameras(output, views).unproject(pixels, depth.flatten(-2)).unflatten(-2, (height, width))


def _camera_scores(predicted: Float[Tensor, "view 4 4"], true: Float[Tensor, "view 4 4"]) -> dict[str, float]:
    _require_finite(predicted, "cameras")
    errors = relative_pose_errors(predicted, true)
    identity = relative_pose_errors(torch.eye(4).to(true).expand_as(true), true)
    scores = {f"auc{threshold}": pose_auc(errors.larger, float(threshold)) for threshold in AUC_THRESHOLDS}
    scores |= {"rotation_error": errors.rotation.mean().item(), "translation_error": errors.translation.mean().item()}
    return scores | {"identity_auc30": pose_auc(identity.larger, 30.0)}


def _require_finite(values: Tensor, what: str) -> None:
    if not bool(torch.isfinite(values).all()):
        raise InputError(f"evaluation: expected finite predicted {what}, got others")
