"""Batches of views with depth -> what a network is compared with, and what it can be given."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geometry import FrameBatch, InputError, Views
from geometry.pixel_rays import along_ray, unit_rays
from geometry.precision import full_precision
from geometry.quaternions import quaternion_from_rotation
from models.mapanything.inputs import GeometricInputs
from models.mapanything.objective.truth import GeometryTruth
from models.vggt.objective.ground_truth import relative_to_first
from models.vggt.pose_encoding import inverse_se3


def truth_of_batch(batch: FrameBatch) -> GeometryTruth:
    """In the frame of each group's view 0, metric groups in meters.

    Raises:
        InputError: for groups without depth.
    """
    meters = torch.tensor([one.meters or 1.0 for one in batch.traits], dtype=batch.views.cameras.w2c.dtype)
    is_metric = torch.tensor([one.meters is not None for one in batch.traits])
    is_synthetic = torch.tensor([one.is_synthetic for one in batch.traits])
    device = batch.views.images.device
    return truth_of_views(
        batch.views,
        meters.to(device, non_blocking=True),
        is_metric.to(device, non_blocking=True),
        is_synthetic.to(device, non_blocking=True),
    )


@full_precision
def truth_of_views(
    views: Views,
    meters: Float[Tensor, " batch"],
    is_metric: Bool[Tensor, " batch"],
    is_synthetic: Bool[Tensor, " batch"],
) -> GeometryTruth:
    """Lengths times `meters`; where the views say nothing, a pixel without depth of a rendering shows no surface.

    Raises:
        InputError: for views without depth.
    """
    if views.depth is None:
        raise InputError("training and evaluation need the depth of every view, these views have none")
    cameras = views.cameras
    c2w = inverse_se3(relative_to_first(cameras.w2c))
    c2w = torch.cat([c2w[..., :3], c2w[..., 3:] * _translation_scale(meters, c2w)], dim=-1)
    rays = unit_rays(cameras.intrinsics, cameras.height, cameras.width)
    distance = along_ray(views.depth * meters[:, None, None, None], rays)
    points_cam = rays * distance[..., None]
    valid = distance > 0
    return GeometryTruth(
        points=torch.einsum("bvrc,bvhwc->bvhwr", c2w[..., :3, :3], points_cam) + c2w[..., None, None, :3, 3],
        points_cam=points_cam,
        rays=rays,
        depth_along_ray=distance,
        quaternions=quaternion_from_rotation(c2w[..., :3, :3]),
        translations=c2w[..., :3, 3],
        valid=valid,
        unambiguous=valid | ~is_synthetic[:, None, None, None] if views.no_surface is None else ~views.no_surface,
        is_metric=is_metric,
        is_synthetic=is_synthetic,
    )


def _translation_scale(meters: Float[Tensor, " batch"], c2w: Float[Tensor, "batch view 4 4"]) -> Tensor:
    """Factor of the last column of poses, whose last entry stays 1."""
    factor = torch.ones_like(c2w[..., 3:])
    factor[..., :3, :] = meters[:, None, None, None]
    return factor


def inputs_of_truth(images: Float[Tensor, "batch view 3 height width"], truth: GeometryTruth) -> GeometricInputs:
    """Everything that is known; the scale of metric groups is shown."""
    batch, views = images.shape[:2]
    everywhere = torch.ones(batch, views, dtype=torch.bool, device=images.device)
    has_depth = truth.valid.flatten(2).any(-1)
    metric = truth.is_metric[:, None] & everywhere
    return GeometricInputs(
        images=images,
        rays=truth.rays,
        depth_along_ray=truth.depth_along_ray,
        quaternions=truth.quaternions,
        translations=truth.translations,
        has_rays=everywhere,
        has_depth=has_depth,
        has_pose=everywhere,
        shows_depth_scale=has_depth & metric,
        shows_pose_scale=metric,
    )
