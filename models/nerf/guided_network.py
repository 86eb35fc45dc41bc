"""Depth-guided marching: a sweep per target view says where surfaces are, a few samples per ray are spent there.

Source images -> `LightMaps`; a target camera -> two levels of plane sweep -> an interval per ray; samples in it ->
`LightField` -> compositing. VGGT's depth, where there is one, is splatted into the target and joins the sweep.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from geometry import Cameras, RayBundle, TensorStruct, Views, pixel_centers, sample_at_pixels
from models.nerf.compositing import RenderOutput, composite
from models.nerf.cost_volume import PlaneDistribution, VolumeRegulariser, sweep_loss
from models.nerf.depth_guide import Intervals, fractions, guided_samples, intervals
from models.nerf.depth_prior import DepthPrior
from models.nerf.depth_splat import SplattedDepth, occupancy, splat_depth
from models.nerf.feature_maps import FeatureMaps
from models.nerf.light_field import GUIDE_CHANNELS, LightField, LightSamples, SceneSamples
from models.nerf.light_stem import COARSER, SWEEP_CHANNELS, LightMaps, LightStem, sweep_size, working_size
from models.nerf.nerf_config import Jitter, Marching, NerfConfig
from models.nerf.plane_sweep import DisparityRange, SweptPixels, matching_cost, sample_swept, sweep_lines, view_weights
from models.nerf.scene_colors import SceneColors
from models.nerf.scene_field import SceneField
from models.nerf.scene_residual import SceneResidual
from models.nerf.shadow_map import depth_behind, shadow_maps

FINE_PLANES = 8
_COARSE_WIDTH, _FINE_WIDTH = 16, 8
_PRIOR_CHANNELS = 3
_STRICTNESS = 50.0
"""By how much the logit of a plane falls per squared difference of colour from the scene's own field."""
_SURE = 0.5
"""Confidence of surfaces that cast shadows; with the few planes of the fine level hardly any has less."""


@dataclass(frozen=True)
class GuidedMaps(FeatureMaps):
    """Source views as the guided network sees them; `features` are the fine maps."""

    sweep: Float[Tensor, "batch view sweep coarse_rows coarse_cols"] | None = None


@dataclass(frozen=True)
class AimedMaps(TensorStruct):
    """Source views, and where the surfaces of one target view per scene are."""

    maps: GuidedMaps
    target: Cameras
    planes: DisparityRange
    levels: tuple[PlaneDistribution, PlaneDistribution]
    """Coarse and fine sweep."""
    guide: Float[Tensor, "batch channel rows cols"]
    """Centre, half of the interval, confidence, then the sweep's context."""
    shadows: Float[Tensor, "batch view shadow_rows shadow_cols"]
    """Inverse depth of the target's surfaces in the source views, see `shadow_map`."""
    scene: SceneColors | None
    """What the scene's own field shows in the target view, where there is one."""

    @property
    def surface(self) -> Float[Tensor, "batch 2 rows cols"]:
        """Disparity fraction and confidence of the target's surface."""
        return self.guide[:, [0, 2]]

    def depth_loss(self, depth: Float[Tensor, "batch height width"]) -> Float[Tensor, ""]:
        """How badly both levels know the target's depth (camera z, 0 = unknown), see `sweep_loss`."""
        return sum(sweep_loss(level, self.planes, depth) for level in self.levels)

    def color_loss(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, ""]:
        """Expected error of the colours that both levels' planes show, where the target's own picture is known.

        On every plane the sources' colours, blended by how much they see, miss the target's by so much (mean over
        channels); the mean over planes under their likelihood is least where the surface is. Needs no depth.
        """
        return sum(self._color_error(level, images) for level in self.levels)

    def _color_error(self, level: PlaneDistribution, images: Tensor) -> Float[Tensor, ""]:
        rows, cols = level.logits.shape[1:3]
        scale = rows / images.shape[-2]
        truth = F.interpolate(images, (rows, cols), mode="area").flatten(2)
        size = [round(side * scale) for side in self.maps.images.shape[-2:]]
        sources = F.interpolate(self.maps.images.flatten(0, 1), size, mode="area")
        pixels = pixel_centers(rows, cols, truth).expand(len(truth), -1, 2)
        inverse = self.planes.inverse_depth(level.centers.flatten(1, 2).detach())
        swept = sweep_lines(self.maps.cameras, self.target.resized(rows, cols), pixels).at(inverse)
        weights = view_weights(swept, depth_behind(self.shadows, self.planes, swept, inverse))[:, :, None]
        total = weights.sum(1)
        colors = sample_swept(sources.unflatten(0, self.maps.images.shape[:2]), swept)
        error = ((colors * weights).sum(1) / total.clamp_min(1e-6) - truth[..., None]).abs().mean(1)
        likely = level.logits.flatten(1, 2).softmax(-1)
        # where one view alone looks, it finds the colour it looks for on some plane or other
        is_seen = (swept.visible.sum(1) > 1).all(-1)
        return ((likely * error).sum(-1) * is_seen).sum() / is_seen.sum().clamp_min(1)


class GuidedNeRF(nn.Module):
    """Renders a scene it has never seen with a few samples per ray; see `GeneralizableNeRF` for the methods."""

    def __init__(self, config: NerfConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.feature_channels
        self.stem = LightStem(channels)
        prior = _PRIOR_CHANNELS if config.depth_prior else 0
        self.coarse = VolumeRegulariser(SWEEP_CHANNELS + 2 + prior, _COARSE_WIDTH, levels=3, halves_planes=True)
        self.fine = VolumeRegulariser(channels + 2 + 1, _FINE_WIDTH, levels=2, halves_planes=False)
        self.field = LightField(channels, GUIDE_CHANNELS - 1 + _FINE_WIDTH, config.hidden, config.fused)
        self.residual = (
            SceneResidual(config.fused, config.residual_channels, config.residual_resolution)
            if config.residual_channels
            else None
        )
        self.scene_field = SceneField(config.scene_field) if config.scene_field else None

    @property
    def knows_scene(self) -> bool:
        """Whether a field of the scene takes the place of VGGT's depth."""
        return self.scene_field is not None and bool(self.scene_field.is_learned)

    def encode(self, source: Views, tokens: Tensor | None = None, prior: DepthPrior | None = None) -> GuidedMaps:
        """Once per set of source views; VGGT's tokens are not looked at, only its depth."""
        maps: LightMaps = self.stem(source.images)
        return GuidedMaps(maps.fine, source.images, source.cameras, prior, sweep=maps.coarse)

    def aim(
        self, maps: GuidedMaps, target: Cameras, near: Float[Tensor, " batch"], far: Float[Tensor, " batch"]
    ) -> AimedMaps:
        """Sweep the target view (one camera per scene), coarse and then fine around what that found."""
        planes = DisparityRange(near, far)
        rows, cols = sweep_size(target, maps.cameras)
        small = (-(-rows // COARSER), -(-cols // COARSER))
        count = self.config.sweep_planes
        half = torch.full((len(near), *small), 0.5).to(near)
        centers = fractions(Intervals(half, half), count)
        cost, swept = self._cost(maps, maps.sweep, target, planes, centers, None)
        seen = self.scene_field.view(target, near, far, *small) if self.knows_scene else None
        if self.config.depth_prior:
            known = None if seen is None else seen.depth
            cost = torch.cat([cost, self._prior(maps, target, planes.inverse_depth(centers), known)], dim=1)
        coarse = self.coarse(cost, centers)
        scene = None
        if seen is not None:
            scene = SceneColors.of(seen.rgb, target, maps.images, maps.cameras)
            doubt = scene.mean_doubt(swept, seen.rgb.flatten(2).transpose(1, 2)).unflatten(1, small)
            coarse = replace(coarse, logits=coarse.logits - _STRICTNESS * doubt)
        found = coarse.estimate()
        shadows = self._shadows(found.center, found.confidence, maps, target, planes, shrink=COARSER)
        wide = intervals(found, coarse.spacing, floor=1.5, ceiling=5.0)
        around = _resampled(
            torch.stack([wide.center.detach(), wide.half, found.confidence.detach()], dim=1), rows, cols
        )
        centers = fractions(Intervals(around[:, 0], around[:, 1]), FINE_PLANES)
        cost, _ = self._cost(maps, maps.features, target, planes, centers, shadows)
        trust = around[:, 2:, :, :, None].expand(-1, -1, -1, -1, FINE_PLANES)
        fine = self.fine(torch.cat([cost, trust], dim=1), centers)
        found = fine.estimate()
        narrow = intervals(found, fine.spacing, floor=0.5, ceiling=FINE_PLANES / 2)
        guide = torch.stack([narrow.center, narrow.half, found.confidence * around[:, 2]], dim=1)
        shadows = self._shadows(found.center, found.confidence, maps, target, planes, shrink=2)
        guide = torch.cat([guide, fine.context], dim=1)
        return AimedMaps(maps, target, planes, (coarse, fine), guide, shadows, scene)

    def render_rays(
        self, aimed: AimedMaps, rays: RayBundle, marching: Marching, jitter: Jitter | None = None
    ) -> RenderOutput:
        """March rays of the target view that `aimed` is for through their intervals."""
        draw = None if jitter is None else jitter(marching.guided)
        pixels = aimed.target.project(rays.at(rays.t_far[..., None])[:, :, 0]).pixels
        found = sample_at_pixels(aimed.guide, pixels, aimed.target.height, aimed.target.width)
        center, half = found[..., 0], found[..., 1]
        samples = guided_samples(Intervals(center.detach(), half), aimed.planes, rays, marching.guided, draw)
        inverse = 1 / (samples.t * rays.cos_optical[..., None])
        place = (aimed.planes.fraction(inverse) - center[..., None]) / half[..., None]
        # log of the interval's length in units of the whole range: small where the sweep is sure
        guide = torch.cat([torch.log(half[..., None]) / 4 + 1, found[..., 2:]], dim=-1)
        length = (samples.t_ends[..., -1] - samples.t_starts[..., 0]).clamp_min(1e-9)
        residual = None if self.residual is None else self.residual(rays.at(samples.t).flatten(1, 2))
        swept = sweep_lines(aimed.maps.cameras, aimed.target, pixels).at(inverse)
        behind = depth_behind(aimed.shadows, aimed.planes, swept, inverse)
        features, colors = (
            sample_swept(one, swept).flatten(3).transpose(2, 3) for one in (aimed.maps.features, aimed.maps.images)
        )
        scene = None
        if aimed.scene is not None:
            rgb = sample_at_pixels(aimed.scene.rgb, pixels, aimed.target.height, aimed.target.width)
            scene = SceneSamples(rgb, aimed.scene.doubt(swept, rgb).flatten(2))
        seen = LightSamples(
            features=features,
            colors=colors,
            weights=view_weights(swept, behind).flatten(2),
            behind=behind.flatten(2),
            directions=self._directions(aimed, rays, center.detach()),
            guide=guide,
            place=place,
            length=length,
            scene=scene,
        )
        return composite(self.field(seen, residual), samples, rays, marching.background)

    @staticmethod
    def _directions(aimed: AimedMaps, rays: RayBundle, center: Tensor) -> Float[Tensor, "batch view ray 4"]:
        """How target rays differ from the source views' to the same surface, see `LightSamples`."""
        cameras = aimed.maps.cameras
        t = 1 / (aimed.planes.inverse_depth(center.clamp_min(0)) * rays.cos_optical)
        surface = rays.origins + rays.directions * t[..., None]
        source = F.normalize(surface[:, None] - cameras.centers[:, :, None], dim=-1)
        # in the camera's own frame, so that moving the whole world changes nothing
        offset = (rays.directions[:, None] - source) @ cameras.w2c[..., :3, :3].transpose(-1, -2)
        cosine = (rays.directions[:, None] * source).sum(-1, keepdim=True)
        return torch.cat([offset, cosine], dim=-1)

    @staticmethod
    def _cost(
        maps: GuidedMaps,
        features: Tensor,
        target: Cameras,
        planes: DisparityRange,
        centers: Tensor,
        shadows: Tensor | None,
    ) -> tuple[Float[Tensor, "batch cost rows cols plane"], SweptPixels]:
        rows, cols = centers.shape[1:3]
        pixels = pixel_centers(rows, cols, centers).expand(len(centers), -1, 2)
        inverse = planes.inverse_depth(centers.flatten(1, 2))
        swept = sweep_lines(maps.cameras, target.resized(rows, cols), pixels).at(inverse)
        behind = None if shadows is None else depth_behind(shadows, planes, swept, inverse)
        cost = matching_cost(features, swept, behind)
        return cost.unflatten(2, (rows, cols)), swept

    @staticmethod
    def _shadows(
        center: Tensor, confidence: Tensor, maps: GuidedMaps, target: Cameras, planes: DisparityRange, shrink: int
    ) -> Float[Tensor, "batch view rows cols"]:
        """Of surfaces the sweep found, at the working size of the source images over `shrink`.

        Coarser than the sweep where that is fine, so that no holes are left between the points of a surface.
        """
        rows, cols = (-(-side // shrink) for side in working_size(maps.cameras.height, maps.cameras.width))
        return shadow_maps(planes, center.clamp(0, 1), confidence > _SURE, target, maps.cameras, rows, cols)

    @staticmethod
    def _prior(maps: GuidedMaps, target: Cameras, inverse_depth: Tensor, known: SplattedDepth | None) -> Tensor:
        """Occupancy by a known depth of the target view or else VGGT's of the sources; all zero where there is none."""
        rows, cols = inverse_depth.shape[1:3]
        if known is None and maps.prior is None:
            return inverse_depth.new_zeros(len(inverse_depth), _PRIOR_CHANNELS, *inverse_depth.shape[1:])
        return occupancy(known or splat_depth(maps.prior, maps.cameras, target, rows, cols), inverse_depth)


def _resampled(maps: Float[Tensor, "batch channel rows cols"], rows: int, cols: int) -> Tensor:
    return F.interpolate(maps, (rows, cols), mode="bilinear", align_corners=False)
