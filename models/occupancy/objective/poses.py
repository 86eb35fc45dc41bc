"""Losses of predicted poses: 13 numbers x y z (m), qw qx qy qz, velocity (m/s), angular velocity (rad/s).

Poses are relative to the last observed frame, but for the global pose of a place.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from geometry.body_poses import ORIENTATION, POSITION, VELOCITY, conjugate, product

Poses = Float[Tensor, "batch step 13"]
Scalar = Float[Tensor, ""]

VELOCITIES = slice(VELOCITY.start, 13)
"""Linear and angular."""
MIN_SIGMA, SIGMA_RANGE = 0.001, 9.999
"""Meters and radians: predicted standard deviations lie between 0.001 and 10."""
SIGMA_BIAS = torch.logit(torch.tensor((1 - MIN_SIGMA) / SIGMA_RANGE, dtype=torch.float64)).item()
"""A prediction of 0 is a standard deviation of 1."""
_EPSILON = 1e-8
MIN_SPREAD = 0.01
"""Meters and m/s: standard deviations over a batch below it are what the variance floor penalizes."""
SAME_PLACE, OTHER_PLACE, SAME_HEADING = 5.0, 25.0, 30.0
"""Meters, meters and degrees: nearer than the first and turned by less is the same place, beyond the second another."""


@dataclass(frozen=True, kw_only=True)
class PoseWeights:
    """Weights of the losses of poses; the defaults are those of the AerialWorld training guide."""

    pose: float = 0.5
    """Of position, rotation, half the velocities and the variance floor together."""
    velocity: float = 0.5
    """Of the velocities among them."""
    variance_floor: float = 0.0
    """Among them; the reference has 1, which keeps a collapsed prediction moving whatever the truth does."""
    uncertainty: float = 0.1
    orientation_uncertainty: float = 1.0
    """Of the rotations among the uncertainty; the reference has 0, so that three of six deviations learn nothing."""
    relocalization: float = 0.2
    place: float = 0.1
    place_margin: float = 0.2


def unit_quaternions(quaternions: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 4"]:
    """Divided by their length (plus 1e-8)."""
    return quaternions / (quaternions.norm(dim=-1, keepdim=True) + _EPSILON)


def rotation_loss(prediction: Float[Tensor, "*batch 4"], target: Float[Tensor, "*batch 4"]) -> Scalar:
    """Mean of 1 - |q p|, p of unit length: the same for q and -q."""
    return (1 - (unit_quaternions(prediction) * target).sum(-1).abs()).mean()


def variance_floor(values: Float[Tensor, "batch step axis"]) -> Scalar:
    """[relu(0.01 - s)]^2, s: the mean over axes of the standard deviation over batch and steps."""
    spread = values.flatten(0, 1).std(0, correction=0).mean()
    return F.relu(MIN_SPREAD - spread).square()


def pose_loss(prediction: Poses, target: Poses, weights: PoseWeights) -> Scalar:
    """Position, rotation, velocities and, where asked for, the variance floor of positions and linear velocities."""
    loss = F.smooth_l1_loss(prediction[..., POSITION], target[..., POSITION])
    loss = loss + rotation_loss(prediction[..., ORIENTATION], target[..., ORIENTATION])
    loss = loss + weights.velocity * F.smooth_l1_loss(prediction[..., VELOCITIES], target[..., VELOCITIES])
    if weights.variance_floor:
        floors = variance_floor(prediction[..., POSITION]) + variance_floor(prediction[..., VELOCITY])
        loss = loss + weights.variance_floor * floors
    return loss


def sigmas(prediction: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 6"]:
    """Standard deviations of position (m) and rotation (rad) from what a network says: 0 is 1."""
    return MIN_SIGMA + SIGMA_RANGE * torch.sigmoid(prediction + SIGMA_BIAS)


def rotation_errors(
    prediction: Float[Tensor, "*batch 4"], target: Float[Tensor, "*batch 4"]
) -> Float[Tensor, "*batch 3"]:
    """Rotation vector (rad) from prediction to target, in the predicted frame."""
    between = product(conjugate(unit_quaternions(prediction)), target)
    between = torch.where(between[..., :1] < 0, -between, between)  # q and -q: the short way round
    real, imaginary = between[..., 0], between[..., 1:]
    # half angle over its sine, 1 at angle 0; the square keeps the gradient finite there
    sine = (imaginary.square().sum(-1) + _EPSILON**2).sqrt()
    return imaginary * (2 * torch.atan2(sine, real) / sine)[..., None]


def uncertainty_loss(
    prediction: Poses, target: Poses, deviations: Float[Tensor, "batch step 6"], *, orientation: float
) -> Scalar:
    """(e^2 / s^2 + log s^2) / 2 of the three positions, the same of rotations, and 0.1 (s - 1)^2.

    Without `orientation` only the deviations of positions are drawn to 1 as well as fitted; those of rotations are
    drawn to 1.
    """
    errors = [prediction[..., POSITION] - target[..., POSITION]]
    shares = [1.0]
    if orientation:
        errors.append(rotation_errors(prediction[..., ORIENTATION], target[..., ORIENTATION]))
        shares.append(orientation)
    loss = 0.1 * (deviations - 1).square().mean()
    for index, (error, share) in enumerate(zip(errors, shares, strict=True)):
        squared = deviations[..., 3 * index : 3 * index + 3].square()
        loss = loss + share * 0.5 * (error.square() / (squared + _EPSILON) + squared.log()).mean()
    return loss


def place_loss(
    embeddings: Float[Tensor, "batch channel"],
    same: Int[Tensor, " batch"],
    other: Int[Tensor, " batch"],
    margin: float,
) -> Scalar:
    """Mean of relu(|a - p| - |a - n| + margin): p, n are rows of the same and of another place; -1: there is none."""
    usable = (same >= 0) & (other >= 0)
    if not bool(usable.any()):
        return embeddings.sum() * 0
    anchors, same, other = embeddings[usable], same[usable], other[usable]
    near = (anchors - embeddings[same]).norm(dim=-1)
    far = (anchors - embeddings[other]).norm(dim=-1)
    return F.relu(near - far + margin).mean()


def neighbors_in_embedding(embeddings: Float[Tensor, "batch channel"]) -> tuple[Tensor, Tensor]:
    """The reference's rule, which looks at no place: the nearest embedding is the same, the second nearest another."""
    distances = torch.cdist(embeddings.detach(), embeddings.detach())
    distances.fill_diagonal_(torch.inf)
    order = distances.argsort(1)
    return order[:, 0], order[:, 1] if len(embeddings) > 2 else torch.full_like(order[:, 0], -1)


def neighbors_in_place(poses: Float[Tensor, "batch 7"]) -> tuple[Tensor, Tensor]:
    """By world pose: the nearest within 5 m and 30 degrees is the same place, the nearest beyond 25 m another."""
    apart = torch.cdist(poses[:, :3], poses[:, :3])
    angles = 2 * torch.rad2deg((poses[:, 3:] @ poses[:, 3:].T).abs().clamp(max=1).acos())
    is_self = torch.eye(len(poses), dtype=torch.bool, device=poses.device)
    same = apart.masked_fill(is_self | (apart >= SAME_PLACE) | (angles >= SAME_HEADING), torch.inf).min(1)
    other = apart.masked_fill(apart <= OTHER_PLACE, torch.inf).min(1)
    return (
        torch.where(same.values.isinf(), -1, same.indices),
        torch.where(other.values.isinf(), -1, other.indices),
    )


@dataclass(frozen=True)
class PosePrediction:
    """What a model says of poses; None: it does not."""

    poses: Poses
    deviations: Float[Tensor, "batch step 6"] | None = None
    """Standard deviations of position (m) and rotation (rad)."""
    global_pose: Float[Tensor, "batch 7"] | None = None
    """World position and quaternion of the last observed frame."""
    place: Float[Tensor, "batch channel"] | None = None
    """Unit vector that is near those of the same place."""


def pose_losses(
    prediction: PosePrediction,
    target: Poses,
    global_target: Float[Tensor, "batch 7"],
    weights: PoseWeights,
    *,
    places_by_embedding: bool = False,
) -> Mapping[str, Scalar]:
    """Losses by name, each times its weight; those of weight 0, or of what is not predicted, are not computed.

    `places_by_embedding`: the reference's choice of places, see `neighbors_in_embedding`.
    """
    losses: dict[str, Scalar] = {}
    if weights.pose:
        losses["pose"] = weights.pose * pose_loss(prediction.poses, target, weights)
    if weights.uncertainty and prediction.deviations is not None:
        found = uncertainty_loss(
            prediction.poses, target, prediction.deviations, orientation=weights.orientation_uncertainty
        )
        losses["uncertainty"] = weights.uncertainty * found
    if weights.relocalization and prediction.global_pose is not None:
        losses["relocalization"] = weights.relocalization * F.smooth_l1_loss(prediction.global_pose, global_target)
    if weights.place and prediction.place is not None:
        find = neighbors_in_embedding if places_by_embedding else neighbors_in_place
        same, other = find(prediction.place if places_by_embedding else global_target)
        losses["place"] = weights.place * place_loss(prediction.place, same, other, weights.place_margin)
    return losses


def planning_loss(
    modes: Float[Tensor, "batch step mode 2"],
    steps: Float[Tensor, "batch step 2"],
    command: Float[Tensor, "batch step mode"],
    *,
    order: int = 2,
) -> Scalar:
    """Distance of the commanded mode's path from the true one, summed over the modes picked, over batch and steps.

    Paths are the sums of the steps so far, mode by mode; `order` 2: Euclidean, 1: sum of absolute differences.
    """
    path, truth = modes.cumsum(1), steps.cumsum(1)[:, :, None]
    distances = torch.linalg.vector_norm(path - truth, ord=order, dim=-1)
    return (distances * command).sum() / (modes.shape[0] * modes.shape[1])
