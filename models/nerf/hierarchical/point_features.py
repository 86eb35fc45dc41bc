"""Points in space -> what every source view shows there."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from geometry import TensorStruct, full_precision, sample_at_pixels
from models.nerf.depth_prior import DEPTH_CHANNELS, encoded_offsets
from models.nerf.hierarchical.feature_maps import FeatureMaps


@dataclass(frozen=True)
class PointFeatures(TensorStruct):
    """Observations of points by source views. `point` runs over rays, then samples."""

    features: Float[Tensor, "batch view point channel"]
    """Of the maps; with a depth prior `encoded_offsets` behind them."""
    colors: Float[Tensor, "batch view point 3"]
    direction_offsets: Float[Tensor, "batch view point 4"]
    """Target ray direction minus source ray direction in the source camera's frame, and the cosine between them."""
    visible: Bool[Tensor, "batch view point"]
    """In front of the camera and inside the image."""


def gather_point_features(
    maps: FeatureMaps,
    points_world: Float[Tensor, "batch point 3"],
    directions: Float[Tensor, "batch point 3"],
) -> PointFeatures:
    """Project points into all source views and look features and colors up. `directions`: unit, of the target rays."""
    cameras = maps.cameras
    projection = cameras.project(points_world[:, None])
    height, width = cameras.height, cameras.width
    source_directions = F.normalize(points_world[:, None] - cameras.centers[:, :, None], dim=-1)
    offsets = directions[:, None] - source_directions
    # in the camera's own frame, so that moving the whole world changes nothing
    offsets_cam = _rotated(offsets, cameras.w2c)
    cosine = (directions[:, None] * source_directions).sum(-1, keepdim=True)
    features = sample_at_pixels(maps.features, projection.pixels, height, width)
    if maps.has_depth:
        features, looked_up = features.split([features.shape[-1] - DEPTH_CHANNELS, DEPTH_CHANNELS], dim=-1)
        features = torch.cat([features, encoded_offsets(looked_up, projection.depth)], dim=-1)
    return PointFeatures(
        features=features,
        colors=sample_at_pixels(maps.images, projection.pixels, height, width),
        direction_offsets=torch.cat([offsets_cam, cosine], dim=-1),
        visible=projection.visible,
    )


@full_precision
def _rotated(
    vectors: Float[Tensor, "batch view point 3"], transform: Float[Tensor, "batch view 4 4"]
) -> Float[Tensor, "batch view point 3"]:
    return vectors @ transform[..., :3, :3].transpose(-1, -2)
