"""The generalizable radiance field: lines 3 to 8 of the data flow in the README."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geometry import Cameras, RayBundle, Views
from models.nerf.compositing import FieldOutput, RenderOutput, composite
from models.nerf.depth_prior import OFFSET_CHANNELS, DepthPrior
from models.nerf.feature_maps import FeatureExtractor, FeatureMaps
from models.nerf.nerf_config import Jitter, Marching, NerfConfig
from models.nerf.point_features import gather_point_features
from models.nerf.radiance_field import RadianceField
from models.nerf.ray_sampling import importance_positions, merged, stratified_samples, widened
from models.nerf.scene_residual import SceneResidual
from models.nerf.view_aggregation import ViewAggregation


class GeneralizableNeRF(nn.Module):
    """Renders a scene it has never seen from a few posed images of it."""

    knows_scene = False
    """See `GuidedNeRF.knows_scene`."""

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
        maps = self.extractor(source, tokens, prior.trust if self.config.depth_prior and prior is not None else None)
        maps = replace(maps, prior=prior)
        return maps.with_depth() if self.config.depth_prior else maps

    def aim(
        self, maps: FeatureMaps, target: Cameras, near: Float[Tensor, " batch"], far: Float[Tensor, " batch"]
    ) -> FeatureMaps:
        """The maps as they are: this network needs no preparation for a target view, see `GuidedNeRF.aim`."""
        return maps

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
