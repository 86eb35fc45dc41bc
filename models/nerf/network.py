"""The generalizable radiance field: lines 3 to 8 of the data flow in the README."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geometry import RayBundle, Views
from models.nerf.compositing import FieldOutput, RenderOutput, composite
from models.nerf.depth_prior import OFFSET_CHANNELS, DepthPrior
from models.nerf.feature_maps import FeatureExtractor, FeatureMaps
from models.nerf.point_features import gather_point_features
from models.nerf.radiance_field import RadianceField
from models.nerf.ray_sampling import importance_positions, merged, stratified_samples, widened
from models.nerf.scene_residual import SceneResidual
from models.nerf.view_aggregation import ViewAggregation

Jitter = Callable[[int], Float[Tensor, "batch ray count"]]
"""Uniform numbers in [0, 1) for `count` samples of every ray."""
NearFar = Literal["data", "auto"]


@dataclass(frozen=True)
class NerfConfig:
    """Everything that determines the shapes of the weights; stored in every checkpoint."""

    token_layers: int
    """0 = the image stem alone, without a VGGT."""
    token_channels: int
    feature_channels: int = 24
    hidden: int = 32
    fused: int = 64
    heads: int = 2
    residual_channels: int = 0
    """Channels of the per-scene residual; 0 = a general model, which has none."""
    residual_resolution: int = 128
    depth_prior: bool = False
    """The field is told how far a point lies from the depth that VGGT sees in every source view."""


@dataclass(frozen=True)
class Marching:
    """How rays are marched."""

    coarse: int
    """Samples spread evenly between near and far (`N_samples`)."""
    fine: int
    """Further samples where the coarse pass found something (`N_importance`); 0 = coarse pass only."""
    background: float = 0.0
    """Grey level of what a ray does not hit."""
    near_far: NearFar = "data"
    """Where rays start and end: at the bounds of the data set, or where VGGT's depth says that there is something."""


class GeneralizableNeRF(nn.Module):
    """Renders a scene it has never seen from a few posed images of it."""

    def __init__(self, config: NerfConfig) -> None:
        super().__init__()
        self.config = config
        self.extractor = FeatureExtractor(config.token_layers, config.token_channels, config.feature_channels)
        observed = config.feature_channels + (OFFSET_CHANNELS if config.depth_prior else 0)
        self.aggregation = ViewAggregation(observed, config.hidden, config.fused)
        self.field = RadianceField(config.hidden, config.fused, config.heads)
        self.residual = (
            SceneResidual(config.fused, config.residual_channels, config.residual_resolution)
            if config.residual_channels
            else None
        )

    def encode(
        self,
        source: Views,
        tokens: Float[Tensor, "batch view layer channel token_rows token_cols"] | None,
        prior: DepthPrior | None = None,
    ) -> FeatureMaps:
        """Once per set of source views; all rays of all targets share the result."""
        maps = replace(self.extractor(source, tokens), prior=prior)
        return maps.with_depth() if self.config.depth_prior else maps

    def render_rays(
        self, maps: FeatureMaps, rays: RayBundle, marching: Marching, jitter: Jitter | None = None
    ) -> RenderOutput:
        """March rays through the field; `rays` has the batch axis of `maps`.

        Without `jitter` the samples sit in the middle of their bins and the result is deterministic. Points of the
        coarse pass are not evaluated again in the fine pass: only their density is, with the new neighbours known.
        """
        draw = jitter or (lambda _count: None)
        samples = stratified_samples(rays, marching.coarse, draw(marching.coarse))
        fused, rgb = self._evaluate(maps, rays, samples.t)
        field = FieldOutput(self.field.densities(fused, rays, samples), rgb)
        coarse = composite(field, samples, rays, marching.background)
        if marching.fine == 0:
            return coarse
        positions = importance_positions(samples, widened(coarse.weights.detach()), marching.fine, draw(marching.fine))
        samples, order = merged(samples, positions, rays)
        extra_fused, extra_rgb = self._evaluate(maps, rays, positions)
        fused = _reordered(torch.cat([fused, extra_fused], dim=2), order)
        rgb = _reordered(torch.cat([rgb, extra_rgb], dim=2), order)
        field = FieldOutput(self.field.densities(fused, rays, samples), rgb)
        return composite(field, samples, rays, marching.background, coarse)

    def _evaluate(
        self, maps: FeatureMaps, rays: RayBundle, t: Float[Tensor, "batch ray sample"]
    ) -> tuple[Float[Tensor, "batch ray sample fused"], Float[Tensor, "batch ray sample 3"]]:
        """Fused features and colours at positions along the rays."""
        points_world = rays.at(t)
        directions = rays.directions[:, :, None].expand_as(points_world).flatten(1, 2)
        points = gather_point_features(maps, points_world.flatten(1, 2), directions)
        aggregated = self.aggregation(points)
        if self.residual is not None:
            fused = aggregated.fused + self.residual(points_world.flatten(1, 2))
            aggregated = aggregated._replace(fused=fused)
        rgb = self.field.colors(points, aggregated)
        return aggregated.fused.unflatten(1, t.shape[1:]), rgb.unflatten(1, t.shape[1:])


def _reordered(
    values: Float[Tensor, "batch ray sample channel"], order: Tensor
) -> Float[Tensor, "batch ray sample channel"]:
    return values.gather(2, order[..., None].expand_as(values))
