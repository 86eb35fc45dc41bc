"""VGGT's depth of the source views as the radiance field reads it: aligned, with how far it is to be trusted.

A point in space is compared with the depth every source view has where the point falls: where views agree that the
difference is zero there is a surface, where a point lies behind the depth of a view that view cannot see it.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from geometry import Cameras, InputError, TensorStruct, full_precision, pixel_centers
from models.vggt.alignment import align_depth, inverse_depth_maps
from models.vggt.frozen import FrozenFeatures

DEPTH_CHANNELS = 2
"""Channels that are looked up: confidence over depth, and confidence."""
_STEP_WIDTHS = (0.01, 0.03, 0.1, 0.3)
"""Of soft steps, relative to the depth, from fine to a third of it; chosen by hand."""
_BELL_WIDTHS = (0.01, 0.03, 0.1)
"""Standard deviations of bells around the depth, relative to it."""
OFFSET_CHANNELS = len(_STEP_WIDTHS) + len(_BELL_WIDTHS) + 1
"""Channels of an encoded difference."""
_TRUSTED_RESIDUAL, _TRUSTED_CAMERA_ERROR = 0.1, 0.3
"""Relative residual and camera error of the alignment at which the trust has fallen to a half; chosen by hand."""
_MIN_CONFIDENCE = 1e-3
"""Interpolated confidence below which a depth counts as unknown."""


@dataclass(frozen=True)
class DepthPrior(TensorStruct):
    """Depth of the source views under their given cameras."""

    depth: Float[Tensor, "batch view rows cols"]
    """Camera z, scene units; 0 where the confidence is 0. Covers the image edge to edge."""
    confidence: Float[Tensor, "batch view rows cols"]
    """[0, 1): 0 = unknown. VGGT's own, times `trust`."""
    residual: Float[Tensor, " batch"]
    """Relative disagreement of the views' depths, see `DepthAlignment`; infinite = their scale is unknown."""
    trust: Float[Tensor, " batch"]
    """[0, 1]: how well VGGT's depths and cameras agree with the given cameras. Under weak perspective a network may
    take a relief for its mirror image, cameras included; the depths then still agree with each other."""

    def dropped(self) -> "DepthPrior":
        """The prior of a VGGT that has seen nothing."""
        nothing = self.map(torch.zeros_like)
        return replace(nothing, residual=torch.full_like(self.residual, torch.inf))

    @property
    def lookup(self) -> Float[Tensor, "batch view 2 rows cols"]:
        """What is interpolated, see `inverse_depth_maps`; unsure pixels count less than sure ones beside them."""
        return inverse_depth_maps(self.depth, self.confidence)


def map_size(height: int, width: int) -> tuple[int, int]:
    """Half of an image, rounded up."""
    return -(-height // 2), -(-width // 2)


def confidence_share(confidence: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """VGGT's confidence (1 and more) -> [0, 1)."""
    return 1 - 1 / confidence.clamp_min(1)


def depth_prior(features: FrozenFeatures, cameras: Cameras, height: int, width: int) -> DepthPrior:
    """Align a VGGT's depth to the given cameras of its views, at half the size of images of height x width.

    Raises:
        InputError: when the VGGT was loaded without its camera or depth head.
    """
    if features.depth is None or features.depth_conf is None or features.w2c is None:
        raise InputError("depth of VGGT: expected a VGGT with camera and depth heads, got one without")
    confidence = confidence_share(features.depth_conf)
    alignment = align_depth(features.depth, confidence, features.w2c, cameras)
    trust = 1 / (1 + (alignment.residual / _TRUSTED_RESIDUAL).square())
    trust = trust / (1 + (alignment.camera_error / _TRUSTED_CAMERA_ERROR).square())
    depth = features.depth * alignment.scale[:, None, None, None]
    maps = inverse_depth_maps(depth, confidence * trust[:, None, None, None]).flatten(0, 1)
    maps = F.interpolate(maps, map_size(height, width), mode="bilinear", align_corners=False, antialias=True)
    inverse, confidence = maps.unflatten(0, depth.shape[:2]).unbind(2)
    is_known = confidence > 0
    return DepthPrior(torch.where(is_known, confidence / inverse, 0.0), confidence, alignment.residual, trust)


def surface_points(
    prior: DepthPrior, source: Cameras, step: int = 1
) -> tuple[Float[Tensor, "batch point 3"], Float[Tensor, "batch point"]]:
    """Every `step`-th row and column of the prior of all source views as points of the world, and their confidence."""
    rows, cols = prior.depth.shape[-2:]
    depth, confidence = (values[..., ::step, ::step].flatten(2) for values in (prior.depth, prior.confidence))
    pixels = pixel_centers(rows, cols, depth).unflatten(0, (rows, cols))[::step, ::step].flatten(0, 1)
    points_world = source.resized(rows, cols).unproject(pixels.expand(*depth.shape, 2), depth)
    return points_world.flatten(1, 2), (confidence * (depth > 0)).flatten(1)


@full_precision
def encoded_offsets(
    looked_up: Float[Tensor, "batch view point 2"], depth: Float[Tensor, "batch view point"]
) -> Float[Tensor, "batch view point offset"]:
    """How far points at camera z `depth` lie behind (+) or before (-) the prior, relative to it, at several widths.

    Soft steps and bells, each times the confidence, which is the last channel: without confidence all is 0.
    """
    weighted_inverse, confidence = looked_up.unbind(-1)
    is_known = confidence > _MIN_CONFIDENCE
    offset = (depth * weighted_inverse / confidence.clamp_min(_MIN_CONFIDENCE) - 1).clamp(-2, 2)
    confidence = torch.where(is_known, confidence, 0.0)
    steps = torch.stack([torch.tanh(offset / width) for width in _STEP_WIDTHS], dim=-1)
    bells = torch.stack([torch.exp(-0.5 * (offset / width).square()) for width in _BELL_WIDTHS], dim=-1)
    return torch.cat([steps, bells, torch.ones_like(confidence)[..., None]], dim=-1) * confidence[..., None]
