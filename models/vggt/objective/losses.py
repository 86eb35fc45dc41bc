"""The multi-task objective of VGGT: cameras, depth, points and tracks (VGGT, Wang et al. 2025, eq. 2).

All terms are computed in float32 outside autocast (the reference computes them inside it).
"""

import dataclasses
from dataclasses import dataclass, field
from enum import Enum

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geometry.errors import require
from geometry.precision import full_precision
from models.vggt.objective.dense_losses import DenseLoss, DenseOptions, depth_loss, point_loss
from models.vggt.objective.ground_truth import GroundTruth
from models.vggt.objective.surface_terms import MAX_ERROR, SurfaceTerm
from models.vggt.objective.track_loss import TrackLoss, track_loss
from models.vggt.objective.track_targets import TrackTargets
from models.vggt.vggt import VGGTOutput

STAGE_DECAY = 0.6
"""Weight of an iteration over that of the next, as upstream (docs/vggt.md, "Camera loss")."""
MIN_FIRST_VIEW_PIXELS = 100
"""Cameras of a sample count when its first view has more valid pixels, as upstream: they fix the unit."""
UNIT_RANGE = (0.05, 5.0)
"""Of a sample without depth: mean distance of its cameras from the first one in the network's unit, which is the mean
distance of the scene. Chosen by hand: nearer ones see no parallax; above 0, so that no translation is an error."""


class CameraNorm(Enum):
    """How the entries of a translation, a quaternion or a pair of fields of view make one error."""

    L1 = "l1"
    """The mean of their absolute values."""
    L2 = "l2"
    """The length of their vector."""


@dataclass(frozen=True)
class LossWeights:
    """Factors of the tasks in the objective, and what they compare. A task of weight 0 is not computed."""

    camera: float = 5.0
    depth: float = 1.0
    point: float = 1.0
    track: float = 0.05
    match: float = 0.0
    """Of the match stem, whose loss (`match_loss`) needs the views and so is added by the caller."""
    translation: float = 1.0
    rotation: float = 1.0
    focal: float = 0.5
    camera_norm: CameraNorm = CameraNorm.L1
    depth_options: DenseOptions = field(default_factory=DenseOptions)
    point_options: DenseOptions = field(default_factory=lambda: DenseOptions(SurfaceTerm.NORMAL))

    def __post_init__(self) -> None:
        """Refuse negative weights."""
        for name in ("camera", "depth", "point", "track", "match", "translation", "rotation", "focal"):
            require(getattr(self, name) >= 0, f"loss weight {name} must not be negative, got {getattr(self, name)}")


@dataclass(frozen=True)
class CameraLoss:
    """Weighted means over the camera head's iterations."""

    camera: Float[Tensor, ""]
    """The three parts with their factors."""
    T: Float[Tensor, ""]
    """Translation, normalized units."""
    R: Float[Tensor, ""]
    """Quaternion."""
    FL: Float[Tensor, ""]
    """Fields of view, radians."""


@dataclass(frozen=True)
class VGGTLosses:
    """The objective and its parts before the tasks' weights; None where a task takes no part."""

    objective: Float[Tensor, ""]
    camera: Float[Tensor, ""] | None = None
    T: Float[Tensor, ""] | None = None
    R: Float[Tensor, ""] | None = None
    FL: Float[Tensor, ""] | None = None
    conf_depth: Float[Tensor, ""] | None = None
    reg_depth: Float[Tensor, ""] | None = None
    grad_depth: Float[Tensor, ""] | None = None
    conf_point: Float[Tensor, ""] | None = None
    reg_point: Float[Tensor, ""] | None = None
    grad_point: Float[Tensor, ""] | None = None
    track: Float[Tensor, ""] | None = None
    vis: Float[Tensor, ""] | None = None
    conf_track: Float[Tensor, ""] | None = None

    def named(self) -> dict[str, Float[Tensor, ""]]:
        """Those that were computed, by name and detached, for logs."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {name: value.detach() for name, value in values.items() if value is not None}


@full_precision
def camera_loss(
    pose_encodings: Float[Tensor, "stage batch view 9"],
    true_encoding: Float[Tensor, "batch view 9"],
    mask: Bool[Tensor, "batch view height width"],
    weights: LossWeights | None = None,
) -> CameraLoss:
    """Pose error of every iteration, later ones weighing more; samples whose first view is nearly empty are left out.

    Each part is sum_i 0.6^(n-1-i) / n mean |difference| over iterations i = 0..n-1 (docs/vggt.md, "Camera loss"). Off
    by 0.1 along every axis in all of 4 iterations: 0.1 (1 + 0.6 + 0.36 + 0.216) / 4 = 0.0544.

    A sample without any valid pixel counts, with its translations up to scale: the true ones are multiplied by
    <t_predicted, t_true> / <t_true, t_true> of the last iteration, within `UNIT_RANGE` and without a gradient
    (docs/vggt.md, "Camera loss").

    q and -q are the same rotation: the prediction is compared with the nearer of the two at each stage, without a
    gradient through the choice (the reference compares with the one that has w >= 0).
    """
    weights = weights or LossWeights()
    has_no_depth = ~mask.flatten(1).any(-1)
    is_valid = (mask[:, 0].flatten(1).sum(-1) > MIN_FIRST_VIEW_PIXELS) | has_no_depth
    # samples left out have no difference; gathering the others would make the host wait for their number
    predicted, true = (
        torch.where(is_valid[:, None, None], values.float(), 0.0) for values in (pose_encodings, true_encoding)
    )
    parts = zip(predicted.split([3, 4, 2], dim=-1), true.split([3, 4, 2], dim=-1), strict=True)
    (translation, true_translation), (quaternion, true_quaternion), (fields, true_fields) = parts
    unit = torch.where(has_no_depth, _fitted_unit(translation[-1], true_translation), 1.0)
    true_translation = unit[:, None, None] * true_translation
    opposite = (quaternion.detach() * true_quaternion).sum(-1, keepdim=True) < 0
    stages = len(pose_encodings)
    exponents = torch.arange(stages - 1, -1, -1, device=predicted.device).to(predicted.dtype)
    decay = STAGE_DECAY**exponents / stages * (len(is_valid) / is_valid.sum().clamp(min=1))
    norm = weights.camera_norm
    loss_t = (decay * _pose_error(translation - true_translation, norm)).sum()
    loss_r = (decay * _pose_error(quaternion - torch.where(opposite, -true_quaternion, true_quaternion), norm)).sum()
    loss_f = (decay * _pose_error(fields - true_fields, norm)).sum()
    total = weights.translation * loss_t + weights.rotation * loss_r + weights.focal * loss_f
    return CameraLoss(total, loss_t, loss_r, loss_f)


def _fitted_unit(
    predicted: Float[Tensor, "batch view 3"], true: Float[Tensor, "batch view 3"]
) -> Float[Tensor, " batch"]:
    """What the true translations are multiplied by to come nearest to the predicted ones, sample by sample."""
    predicted, true = predicted.detach().flatten(1), true.flatten(1)
    square = true.square().sum(-1).clamp(min=torch.finfo(true.dtype).tiny)
    return ((predicted * true).sum(-1) / square).nan_to_num(1.0).clamp(*UNIT_RANGE)


def _pose_error(difference: Float[Tensor, "stage batch view part"], norm: CameraNorm) -> Float[Tensor, " stage"]:
    """Mean error of each stage."""
    error = difference.abs() if norm is CameraNorm.L1 else difference.norm(dim=-1)
    return error.clamp(max=MAX_ERROR).flatten(1).mean(-1)


def vggt_objective(
    output: VGGTOutput, truth: GroundTruth, weights: LossWeights | None = None, tracks: TrackTargets | None = None
) -> VGGTLosses:
    """Weighted sum of the losses of all heads that gave a prediction.

    L = 5 L_camera + L_depth + L_points + 0.05 L_tracks by default (VGGT, Wang et al. 2025, eq. 2, where the camera has
    1; docs/vggt.md, "Objective"). A perfect prediction with confidence e costs -0.2 for depth, -0.2 for points.
    Tracks count when targets are given; the network must then have been run on their `queries`.
    """
    weights = weights or LossWeights()
    parts: dict[str, Tensor] = {}
    terms: list[Tensor] = []
    if output.pose_enc_list is not None and weights.camera > 0:
        camera = camera_loss(torch.stack(output.pose_enc_list), truth.pose_enc, truth.mask, weights)
        parts |= {"camera": camera.camera, "T": camera.T, "R": camera.R, "FL": camera.FL}
        terms.append(weights.camera * camera.camera)
    if output.depth is not None and weights.depth > 0:
        depth = depth_loss(output.depth, output.depth_conf, truth.depth, truth.mask, weights.depth_options)
        parts |= _dense_parts(depth, "depth")
        terms.append(weights.depth * depth.total)
    if output.world_points is not None and weights.point > 0:
        point = point_loss(
            output.world_points, output.world_points_conf, truth.points, truth.mask, weights.point_options
        )
        parts |= _dense_parts(point, "point")
        terms.append(weights.point * point.total)
    if tracks is not None and weights.track > 0:
        track = _output_track_loss(output, tracks)
        parts |= {"track": track.coords, "vis": track.vis, "conf_track": track.conf}
        terms.append(weights.track * track.total)
    require(bool(terms), "nothing to train: no head with a positive weight gave a prediction")
    return VGGTLosses(objective=torch.stack(terms).sum(), **parts)


def _dense_parts(loss: DenseLoss, name: str) -> dict[str, Tensor]:
    return {f"conf_{name}": loss.conf, f"reg_{name}": loss.reg, f"grad_{name}": loss.surface}


def _output_track_loss(output: VGGTOutput, tracks: TrackTargets) -> TrackLoss:
    has_tracks = output.track_list is not None and output.vis_logits is not None
    require(has_tracks, "track targets were given but the output has no tracks: pass their queries to the network")
    coords = torch.stack(output.track_list)
    return track_loss(coords, output.vis_logits, output.conf_logits, tracks.points, tracks.visible)
