"""What a reconstruction is worth without a network: means of the training rooms, given geometry put together."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from geometry.pixel_rays import intrinsics_from_rays, unit_rays
from models.mapanything.inputs import GeometricInputs
from models.mapanything.objective.truth import GeometryTruth
from models.mapanything.output import Reconstruction, reconstruction_from_factors


@dataclass(frozen=True)
class TrainingMeans:
    """Of the rooms of a family that are trained on."""

    distance: Float[Tensor, "height width"]
    """Along the ray, by pixel, in units of each view's own mean."""
    meters: float
    """Geometric mean of the mean distances of views in meters."""
    per_motion: float
    """Mean distance over the mean motion of the cameras, geometric mean."""
    intrinsics: Float[Tensor, "3 3"]
    """Focal length: geometric mean; principal point: mean."""

    @classmethod
    def of(cls, truth: GeometryTruth) -> "TrainingMeans":
        """Of sets of two or more views."""
        distance = truth.depth_along_ray
        unit = _known_mean(distance)
        by_set, motion = unit.mean(1), truth.translations[:, 1:].norm(dim=-1).mean(1)
        intrinsics = intrinsics_from_rays(truth.rays).flatten(0, 1)
        mean = intrinsics.mean(0)
        mean[0, 0], mean[1, 1] = (intrinsics[:, at, at].log().mean().exp() for at in (0, 1))
        return cls(
            distance=(distance / unit[..., None, None]).flatten(0, 1).mean(0),
            meters=by_set[truth.is_metric].log().mean().exp().item(),
            per_motion=(by_set / motion.clamp(min=1e-6)).log().mean().exp().item(),
            intrinsics=mean,
        )


def constant_prediction(means: TrainingMeans, inputs: GeometricInputs) -> Reconstruction:
    """One distance everywhere, one camera, at one place; in meters."""
    flat = torch.full_like(inputs.depth_along_ray, means.meters)
    return _at_one_place(flat, _mean_rays(means, inputs), inputs)


def trivial_prediction(means: TrainingMeans, inputs: GeometricInputs) -> Reconstruction:
    """Given rays, depth and poses as they are, sparse depth filled from the nearest pixel; else the means.

    The mean map is as large as the given depth of the other views, else as the given motion demands, else as in the
    training rooms; with nothing given this is the mean depth by pixel, all cameras at one place. With everything given
    it is exact.
    """
    rays = torch.where(inputs.has_rays[..., None, None, None], inputs.rays, _mean_rays(means, inputs))
    given = filled_nearest(inputs.depth_along_ray)
    quaternions = torch.where(inputs.has_pose[..., None], inputs.quaternions, _identity_like(inputs.quaternions))
    translations = torch.where(inputs.has_pose[..., None], inputs.translations, 0.0)
    mean_map = means.distance.to(given) * _sizes(means, inputs)[:, None, None, None]
    distance = torch.where(inputs.has_depth[..., None, None], given, mean_map)
    return reconstruction_from_factors(rays, distance, quaternions, translations, scale=_ones(inputs))


def filled_nearest(distance: Float[Tensor, "batch view height width"]) -> Float[Tensor, "batch view height width"]:
    """Unknown pixels (0) get the value of the nearest known one of their view; a view without any stays 0."""
    filled = [_filled(one.cpu().numpy()) for one in distance.flatten(0, 1)]
    return torch.from_numpy(np.stack(filled)).to(distance).view(distance.shape)


def _filled(distance: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "height width"]:
    if not (distance > 0).any():
        return distance
    rows, columns = distance_transform_edt(distance <= 0, return_distances=False, return_indices=True)
    return distance[rows, columns]


def _sizes(means: TrainingMeans, inputs: GeometricInputs) -> Float[Tensor, " batch"]:
    """Mean distance to expect in each set."""
    has_depth = inputs.has_depth & (inputs.depth_along_ray > 0).flatten(2).any(-1)
    depth = torch.where(has_depth, _known_mean(inputs.depth_along_ray), 0.0).sum(1) / has_depth.sum(1).clamp(min=1)
    count = inputs.has_pose[:, 1:].sum(1)
    motion = torch.where(inputs.has_pose[:, 1:], inputs.translations[:, 1:].norm(dim=-1), 0.0).sum(1)
    by_motion = means.per_motion * motion / count.clamp(min=1)
    default = torch.full_like(by_motion, means.meters)
    return torch.where(has_depth.any(1), depth, torch.where(by_motion > 0, by_motion, default))


def _known_mean(distance: Float[Tensor, "batch view height width"]) -> Float[Tensor, "batch view"]:
    known = distance > 0
    return torch.where(known, distance, 0.0).flatten(2).sum(-1) / known.flatten(2).sum(-1).clamp(min=1)


def _mean_rays(means: TrainingMeans, inputs: GeometricInputs) -> Float[Tensor, "batch view height width 3"]:
    height, width = inputs.images.shape[-2:]
    return unit_rays(means.intrinsics.to(inputs.rays), height, width).expand_as(inputs.rays)


def _at_one_place(distance: Tensor, rays: Tensor, inputs: GeometricInputs) -> Reconstruction:
    still = torch.zeros_like(inputs.translations)
    return reconstruction_from_factors(rays, distance, _identity_like(inputs.quaternions), still, scale=_ones(inputs))


def _identity_like(quaternions: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 4"]:
    identity = torch.zeros_like(quaternions)
    identity[..., 3] = 1
    return identity


def _ones(inputs: GeometricInputs) -> Float[Tensor, " batch"]:
    return torch.ones(len(inputs.images), dtype=inputs.images.dtype, device=inputs.images.device)
