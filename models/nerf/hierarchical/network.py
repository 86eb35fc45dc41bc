"""Coarse and fine samples along whole rays: the classical way (Mildenhall et al. 2020, sec. 5.2) over source views."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from geometry import Cameras, RayBundle, Views, require
from models.nerf.compositing import FieldOutput, RenderOutput, composite
from models.nerf.depth_prior import OFFSET_CHANNELS, DepthPrior
from models.nerf.depth_range import DepthRange
from models.nerf.hierarchical.feature_maps import FeatureExtractor, FeatureMaps
from models.nerf.hierarchical.point_features import gather_point_features
from models.nerf.hierarchical.radiance_field import RadianceField
from models.nerf.hierarchical.view_aggregation import ViewAggregation
from models.nerf.losses import termination_loss
from models.nerf.ray_sampling import importance_positions, merged, stratified_samples, widened
from models.nerf.renderer import Jitter, NearFar, NetworkConfig, Renderer, TargetRays, TargetView
from models.nerf.scene_residual import SceneResidual
from models.vggt.frozen import FrozenFeatures


@dataclass(frozen=True, kw_only=True)
class HierarchicalConfig(NetworkConfig):
    """Shapes of the weights."""

    token_layers: int
    """VGGT layers whose tokens are read; 0 = the image stem alone, without a VGGT."""
    token_channels: int
    heads: int = 2
    """Of the attention along rays."""

    @property
    def reads_tokens(self) -> bool:
        """Always: without a VGGT it was trained with none, and gets none."""
        return True


@dataclass(frozen=True)
class HierarchicalSamples:
    """Samples of a ray between near and far."""

    N_samples: int = 64
    """Spread evenly."""
    N_importance: int = 64
    """Further ones where the coarse pass found something; 0 = coarse pass only."""

    def __post_init__(self) -> None:
        """Raises InputError, naming the option."""
        require(self.N_samples >= 1, f"--N_samples: expected at least 1, got {self.N_samples}")
        require(self.N_importance >= 0, f"--N_importance: expected 0 or more, got {self.N_importance}")


@dataclass(frozen=True)
class HierarchicalView(TargetView):
    """Any camera between near and far: this network needs no preparation for a target view."""

    network: "HierarchicalNeRF"
    maps: FeatureMaps
    camera: Cameras
    bounds: DepthRange

    def render(self, rays: RayBundle, jitter: Jitter | None = None) -> RenderOutput:
        """See `HierarchicalNeRF.march`."""
        return self.network.march(self.maps, rays, jitter)

    def depth_loss(self, output: RenderOutput, truth: TargetRays) -> Float[Tensor, ""]:
        """See `termination_loss`; summed over the fine and the coarse pass."""
        return sum(termination_loss(one, truth.rays, truth.depth) for one in output.passes)


class HierarchicalNeRF(Renderer):
    """VGGT's tokens and an image stem -> feature maps; points of rays look them up and are fused over the views."""

    Config = HierarchicalConfig
    Samples = HierarchicalSamples
    has_default_layers = True
    trusts_tokens_by_depth = False

    def __init__(
        self,
        config: HierarchicalConfig,
        samples: HierarchicalSamples | None = None,
        *,
        background: float = 0.0,
        near_far: NearFar = "data",
    ) -> None:
        """See `Renderer`."""
        super().__init__(config, samples or HierarchicalSamples(), background=background, near_far=near_far)
        self.extractor = FeatureExtractor(config.token_layers, config.token_channels, config.feature_channels)
        observed = config.feature_channels + (OFFSET_CHANNELS if config.depth_prior else 0)
        self.aggregation = ViewAggregation(observed, config.hidden, config.fused)
        self.field = RadianceField(config.hidden, config.fused, config.heads)
        self.residual = (
            SceneResidual(config.fused, config.residual_channels, config.residual_resolution)
            if config.residual_channels
            else None
        )

    def training_window(self, height: int, width: int) -> None:
        """None: rays cost the same wherever they lie."""
        return None

    def _encode(self, source: Views, seen: FrozenFeatures | None, prior: DepthPrior | None) -> FeatureMaps:
        trust = prior.trust if self.config.depth_prior and prior is not None else None
        features = self.extractor(source, None if seen is None else seen.tokens, trust)
        maps = FeatureMaps(source.images, source.cameras, prior, features)
        return maps.with_depth() if self.config.depth_prior else maps

    def _view(self, maps: FeatureMaps, camera: Cameras, bounds: DepthRange) -> HierarchicalView:
        return HierarchicalView(self, maps, camera, bounds)

    def march(self, maps: FeatureMaps, rays: RayBundle, jitter: Jitter | None = None) -> RenderOutput:
        """March rays through the field; `rays` has the batch axis of `maps`.

        Without `jitter` the samples sit in the middle of their bins and the result is deterministic. Points of the
        coarse pass are not evaluated again in the fine pass: only their density is, with the new neighbors known.
        """
        draw = jitter or (lambda _count: None)
        coarse_count, fine_count = self.samples.N_samples, self.samples.N_importance
        samples = stratified_samples(rays, coarse_count, draw(coarse_count), is_open=self.near_far == "open")
        fused, rgb = self._evaluate(maps, rays, samples.t)
        field = FieldOutput(self.field.densities(fused, rays, samples), rgb)
        coarse = composite(field, samples, rays, self.background)
        if fine_count == 0:
            return coarse
        positions = importance_positions(samples, widened(coarse.weights.detach()), fine_count, draw(fine_count))
        samples, order = merged(samples, positions, rays)
        extra_fused, extra_rgb = self._evaluate(maps, rays, positions)
        fused = _reordered(torch.cat([fused, extra_fused], dim=2), order)
        rgb = _reordered(torch.cat([rgb, extra_rgb], dim=2), order)
        field = FieldOutput(self.field.densities(fused, rays, samples), rgb)
        return composite(field, samples, rays, self.background, coarse)

    def _evaluate(
        self, maps: FeatureMaps, rays: RayBundle, t: Float[Tensor, "batch ray sample"]
    ) -> tuple[Float[Tensor, "batch ray sample fused"], Float[Tensor, "batch ray sample 3"]]:
        """Fused features and colors at positions along the rays."""
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
