"""Depth-guided sampling: a sweep per target view says where surfaces are, a few samples per ray are spent there.

Source images -> `GuidedMaps`; a target camera -> two levels of plane sweep -> an interval per ray; samples in it ->
`GuidedRadianceField` -> compositing. VGGT's depth, where there is one, is splatted into the target and joins the sweep;
its tokens, where they are read, join the feature maps.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from geometry import Cameras, RayBundle, Views, pixel_centers, require, sample_at_pixels
from models.memory import in_parts, joined
from models.nerf.compositing import RenderOutput, composite
from models.nerf.depth_prior import DepthPrior
from models.nerf.depth_range import DepthRange
from models.nerf.guided.cost_volume import DepthEstimate, PlaneDistribution, VolumeRegularizer, sweep_loss
from models.nerf.guided.depth_fit import best_matches, fit_views
from models.nerf.guided.depth_guide import Intervals, fractions, guided_samples, intervals
from models.nerf.guided.depth_splat import BELL_WIDTHS, SplattedDepth, depth_evidence, splat_depth
from models.nerf.guided.image_stem import (
    COARSER,
    FEATURE_PIXELS,
    SWEEP_CHANNELS,
    ImageStem,
    halved,
    halvings,
    sweep_size,
)
from models.nerf.guided.plane_sweep import (
    DisparityRange,
    matching_cost,
    sample_swept,
    sweep_lines,
    view_weights,
)
from models.nerf.guided.radiance_field import GUIDE_CHANNELS, GuidedRadianceField, ObservedSamples, SceneSamples
from models.nerf.guided.scene_colors import SceneColors
from models.nerf.guided.scene_field import SceneField
from models.nerf.guided.shadow_map import depth_behind, shadow_maps
from models.nerf.renderer import (
    SOURCES_ADVICE,
    Jitter,
    NearFar,
    NetworkConfig,
    Renderer,
    SourceMaps,
    TargetRays,
    TargetView,
)
from models.nerf.scene_residual import SceneResidual
from models.vggt.frozen import FrozenFeatures

MIN_FEATURE_PIXELS = 32 * 32
"""The sweep is a quarter as fine on each side, and its regularizer halves it twice."""
FINE_PLANES = 8
"""Of the fine sweep, around what the coarse one found."""
_COARSE_WIDTH, _FINE_WIDTH = 16, 8
"""Channels of the two regularizers' finest levels."""
_PRIOR_CHANNELS = 3
"""See `depth_evidence`."""
_FINE_BELLS = (0.003, 0.012)
"""Widths of the evidence of depth on the fine planes, which lie about four times as near to each other."""
_MISMATCH_WEIGHT = 50.0
"""By how much the logit of a plane falls per squared difference of color ([0, 1]^2) from the scene's own field; chosen
on held-out views of DTU's scan24."""
_SURE = 0.5
"""Confidence of surfaces that cast shadows; with the few planes of the fine level hardly any has less."""
_WINDOW = (128, 160)
"""Rows and columns, in pixels of the sweep, of the part of a target view that a training step sweeps."""


@dataclass(frozen=True, kw_only=True)
class GuidedConfig(NetworkConfig):
    """Shapes of the weights."""

    sweep_planes: int = 48
    """Of the coarse sweep, between near and far."""
    scene_field: int = 0
    """Cells along each side of the per-scene field that shows where surfaces are; 0 = none."""
    feature_pixels: int = FEATURE_PIXELS
    """Most pixels of a feature map; no weight depends on it."""
    token_layers: int = 0
    """VGGT layers whose tokens join the feature maps; 0 = none."""
    token_channels: int = 0
    sample_volume: bool = False
    """The fine sweep's volume is read at every sample, not only where the surface is."""
    fine_depth: bool = False
    """VGGT's depth, with a scale and a shift for each view, joins both levels of the sweep; else the coarse one."""

    @property
    def reads_tokens(self) -> bool:
        """See `NetworkConfig`."""
        return self.token_layers > 0

    def __post_init__(self) -> None:
        """Raises InputError, naming the option."""
        require(not self.fine_depth or self.depth_prior, "--fine_depth: expected --depth_prior beside it")
        least = f"at least {MIN_FEATURE_PIXELS} (32 x 32)"
        require(
            self.feature_pixels >= MIN_FEATURE_PIXELS, f"--feature_pixels: expected {least}, got {self.feature_pixels}"
        )


@dataclass(frozen=True)
class GuidedSamples:
    """Samples of a ray, all in the interval that the sweep found."""

    N_guided: int = 8

    def __post_init__(self) -> None:
        """Raises InputError, naming the option."""
        require(self.N_guided >= 1, f"--N_guided: expected at least 1, got {self.N_guided}")


@dataclass(frozen=True)
class GuidedMaps(SourceMaps):
    """Feature maps of the source views; both cover the image edge to edge."""

    fine: Float[Tensor, "batch view channel rows cols"]
    """To refine the sweep and to blend with."""
    coarse: Float[Tensor, "batch view sweep coarse_rows coarse_cols"]
    """To sweep with."""


@dataclass(frozen=True)
class GuidedView(TargetView):
    """Where the surfaces of one target view per scene are."""

    network: "GuidedNeRF"
    maps: GuidedMaps
    camera: Cameras
    bounds: DepthRange
    planes: DisparityRange
    levels: tuple[PlaneDistribution, PlaneDistribution]
    """Coarse and fine sweep."""
    guide: Float[Tensor, "batch channel rows cols"]
    """Center and half of the interval (disparity fractions), confidence, then the sweep's context."""
    shadows: Float[Tensor, "batch view shadow_rows shadow_cols"]
    """Inverse depth of the target's surfaces in the source views, see `shadow_map`."""
    lookup: Float[Tensor, "batch looked_up rows cols"] | None
    """See `PlaneDistribution.lookup`; of the fine level, where samples read it."""
    scene: SceneColors | None
    """What the scene's own field shows in the target view, where there is one."""
    opacity: Float[Tensor, "batch 1 coarse_rows coarse_cols"] | None
    """Of the scene's own field, where there is one and a background that rays may see."""

    @property
    def surface(self) -> Float[Tensor, "batch 2 rows cols"]:
        """Disparity fraction and confidence of the target's surface."""
        return self.guide[:, [0, 2]]

    def render(self, rays: RayBundle, jitter: Jitter | None = None) -> RenderOutput:
        """March rays through their intervals."""
        count = self.network.samples.N_guided
        draw = None if jitter is None else jitter(count)
        pixels = self.camera.project(rays.at(rays.t_far[..., None])[:, :, 0]).pixels
        found = sample_at_pixels(self.guide, pixels, self.camera.height, self.camera.width)
        center, half = found[..., 0], found[..., 1]
        samples = guided_samples(Intervals(center.detach(), half), self.planes, rays, count, draw)
        inverse = 1 / (samples.t * rays.cos_optical[..., None])
        fraction = self.planes.fraction(inverse)
        offset = (fraction - center[..., None]) / half[..., None]
        # log of the interval's length in units of the whole range: small where the sweep is sure
        guide = torch.cat([torch.log(half[..., None]) / 4 + 1, found[..., 2:]], dim=-1)
        length = (samples.t_ends[..., -1] - samples.t_starts[..., 0]).clamp_min(1e-9)
        swept = sweep_lines(self.maps.cameras, self.camera, pixels).at(inverse)
        behind = depth_behind(self.shadows, self.planes, swept, inverse)
        features, colors = (
            sample_swept(one, swept).flatten(3).transpose(2, 3) for one in (self.maps.fine, self.maps.images)
        )
        scene = None
        if self.scene is not None:
            rgb = sample_at_pixels(self.scene.rgb, pixels, self.camera.height, self.camera.width)
            scene = SceneSamples(rgb, self.scene.color_mismatch(swept, rgb).flatten(2))
        seen = ObservedSamples(
            features=features,
            colors=colors,
            weights=view_weights(swept, behind).flatten(2),
            behind=behind.flatten(2),
            directions=self._directions(rays, center.detach()),
            guide=guide,
            offset=offset,
            length=length,
            volume=self._volume(pixels, fraction),
            scene=scene,
        )
        field = self.network.field(seen, self.network.residual_at(rays.at(samples.t).flatten(1, 2)))
        if self.opacity is not None:
            # colors alone cannot tell a white surface from the white background
            opacity = sample_at_pixels(self.opacity, pixels, self.camera.height, self.camera.width)
            field = replace(field, density=field.density * opacity)
        return composite(field, samples, rays, self.network.background)

    def _volume(self, pixels: Tensor, fraction: Tensor) -> Tensor | None:
        if self.lookup is None:
            return None
        found = sample_at_pixels(self.lookup, pixels, self.camera.height, self.camera.width)
        return self.levels[1].at_samples(found, fraction, FINE_PLANES)

    def _directions(self, rays: RayBundle, center: Tensor) -> Float[Tensor, "batch view ray 4"]:
        """How target rays differ from the source views' to the same surface, see `ObservedSamples`."""
        cameras = self.maps.cameras
        t = 1 / (self.planes.inverse_depth(center.clamp_min(0)) * rays.cos_optical)
        surface = rays.origins + rays.directions * t[..., None]
        source = F.normalize(surface[:, None] - cameras.centers[:, :, None], dim=-1)
        # in the camera's own frame, so that moving the whole world changes nothing
        offset = (rays.directions[:, None] - source) @ cameras.w2c[..., :3, :3].transpose(-1, -2)
        cosine = (rays.directions[:, None] * source).sum(-1, keepdim=True)
        return torch.cat([offset, cosine], dim=-1)

    def depth_loss(self, output: RenderOutput, truth: TargetRays) -> Float[Tensor, ""]:
        """How badly both levels of the sweep know the depth of the whole view, see `sweep_loss`."""
        return sum(sweep_loss(level, self.planes, truth.view.depth) for level in self.levels)

    def color_loss(self, output: RenderOutput, truth: TargetRays) -> Float[Tensor, ""]:
        """Expected error of the colors that both levels' planes show, over the whole view. Needs no depth.

        On every plane the sources' colors, blended by how much they see, miss the target's by so much (mean over
        channels); the mean over planes under their likelihood is least where the surface is.
        """
        return sum(self._color_error(level, truth.view.images) for level in self.levels)

    def coarse_loss(self, output: RenderOutput, truth: TargetRays) -> Float[Tensor, ""]:
        """Mean squared error of the whole view as both levels render it: the planes' colors, blended by likelihood.

        Unlike `color_loss` it is content with a blend that looks right, as the rays of the rendered image are.
        """
        return sum(self._blend_error(level, truth.view.images) for level in self.levels)

    def _blend_error(self, level: PlaneDistribution, images: Tensor) -> Float[Tensor, ""]:
        colors, reference, is_seen = self._plane_colors(level, images)
        blend = (level.logits.flatten(1, 2).softmax(-1)[:, None] * colors).sum(-1)
        error = (blend - reference).square().mean(1)
        return (error * is_seen).sum() / is_seen.sum().clamp_min(1)

    def _color_error(self, level: PlaneDistribution, images: Tensor) -> Float[Tensor, ""]:
        colors, reference, is_seen = self._plane_colors(level, images)
        error = (colors - reference[..., None]).abs().mean(1)
        likely = level.logits.flatten(1, 2).softmax(-1)
        return ((likely * error).sum(-1) * is_seen).sum() / is_seen.sum().clamp_min(1)

    def _plane_colors(
        self, level: PlaneDistribution, images: Tensor
    ) -> tuple[Float[Tensor, "batch 3 ray plane"], Float[Tensor, "batch 3 ray"], Bool[Tensor, "batch ray"]]:
        """Colors that a level's planes show, blended over the sources; the target's; where several views look."""
        rows, cols = level.logits.shape[1:3]
        scale = rows / images.shape[-2]
        reference = F.interpolate(images, (rows, cols), mode="area").flatten(2)
        size = [round(side * scale) for side in self.maps.images.shape[-2:]]
        sources = F.interpolate(self.maps.images.flatten(0, 1), size, mode="area")
        pixels = pixel_centers(rows, cols, reference).expand(len(reference), -1, 2)
        inverse = self.planes.inverse_depth(level.centers.flatten(1, 2).detach())
        swept = sweep_lines(self.maps.cameras, self.camera.resized(rows, cols), pixels).at(inverse)
        weights = view_weights(swept, depth_behind(self.shadows, self.planes, swept, inverse))[:, :, None]
        colors = sample_swept(sources.unflatten(0, self.maps.images.shape[:2]), swept)
        # where one view alone looks, it finds the color it looks for on some plane or other
        is_seen = (swept.visible.sum(1) > 1).all(-1)
        return (colors * weights).sum(1) / weights.sum(1).clamp_min(1e-6), reference, is_seen


class GuidedNeRF(Renderer):
    """In the spirit of ENeRF (Lin et al. 2022): a plane sweep per target view, then few samples per ray."""

    Config = GuidedConfig
    Samples = GuidedSamples
    has_default_layers = False
    trusts_tokens_by_depth = True
    loss_names = ("depth", "color", "coarse")
    needs_one_of = ("depth", "color")

    def __init__(
        self,
        config: GuidedConfig,
        samples: GuidedSamples | None = None,
        *,
        background: float = 0.0,
        near_far: NearFar = "data",
    ) -> None:
        """See `Renderer`."""
        super().__init__(config, samples or GuidedSamples(), background=background, near_far=near_far)
        channels = config.feature_channels
        self.stem = ImageStem(
            channels, config.feature_pixels, token_layers=config.token_layers, token_channels=config.token_channels
        )
        prior, fine_prior = (_PRIOR_CHANNELS if told else 0 for told in (config.depth_prior, config.fine_depth))
        self.coarse = VolumeRegularizer(SWEEP_CHANNELS + 2 + prior, _COARSE_WIDTH, levels=3, halves_planes=True)
        self.fine = VolumeRegularizer(
            channels + 2 + 1 + fine_prior,
            _FINE_WIDTH,
            levels=2,
            halves_planes=False,
            keeps_features=config.sample_volume,
        )
        volume = _FINE_WIDTH + 1 if config.sample_volume else 0
        self.field = GuidedRadianceField(
            channels, GUIDE_CHANNELS - 1 + _FINE_WIDTH, config.hidden, config.fused, volume
        )
        self.residual = (
            SceneResidual(config.fused, config.residual_channels, config.residual_resolution)
            if config.residual_channels
            else None
        )
        # learned before, by a task of its own; one that went on would know the training views better than others
        resolution = config.scene_field
        self.scene_field = (
            SceneField(resolution, background, is_open=near_far == "open").requires_grad_(False) if resolution else None
        )

    @property
    def reads_depth(self) -> bool:
        """See `Renderer`; a field of the scene takes the place of VGGT's depth, and tokens are trusted as depth is."""
        is_told = super().reads_depth if self.scene_field is None else self.near_far == "auto"
        return is_told or self.reads_tokens

    def with_new_parts(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Renderer`: tokens (`--vggt_layers`), depth in the sweep's fine level (`--fine_depth`).

        Besides, the volume of that level at the samples (`--sample_volume`).
        """
        extended, context, first = dict(weights), "stem.context.", "fine.first.0.weight"
        if self.stem.context is not None and not any(key.startswith(context) for key in weights):
            self.stem.context.say_nothing()
            extended |= {key: value for key, value in self.state_dict().items() if key.startswith(context)}
        if self.field.volume_in is not None and "field.volume_in.weight" not in weights:
            extended["field.volume_in.weight"] = torch.zeros_like(self.field.volume_in.weight)
        surplus = self.fine.first[0].in_channels - (weights[first].shape[1] if first in weights else 0)
        if self.config.fine_depth and surplus == _PRIOR_CHANNELS:
            extended[first] = F.pad(weights[first], (0, 0) * 3 + (0, surplus))
        return extended

    def training_window(self, height: int, width: int) -> tuple[int, int]:
        """A sweep of a part of the view costs as much less as the part is smaller, and sees the same parallax."""
        factor = 2 ** halvings(height, width, self.config.feature_pixels)
        rows, cols = _WINDOW
        return min(rows * factor, height), min(cols * factor, width)

    def residual_at(self, points_world: Float[Tensor, "batch point 3"]) -> Float[Tensor, "batch point fused"] | None:
        """What fine-tuning adds to the fused features of points; None in a general model."""
        return None if self.residual is None else self.residual(points_world)

    def _encode(self, source: Views, seen: FrozenFeatures | None, prior: DepthPrior | None) -> GuidedMaps:
        """VGGT's tokens, where they are read, count as much as its depth is to be trusted."""
        tokens = None if seen is None or not self.reads_tokens else seen.tokens
        coarse, fine = self.stem(source.images, tokens, None if prior is None else prior.trust)
        return GuidedMaps(source.images, source.cameras, prior, fine, coarse)

    def _view(self, maps: GuidedMaps, camera: Cameras, bounds: DepthRange) -> GuidedView:
        """Sweep the target view, coarse and then fine around what that found."""
        near, far = bounds.near, bounds.far
        planes = DisparityRange(near, far)
        rows, cols = sweep_size(camera, maps.cameras, self.config.feature_pixels)
        small = (-(-rows // COARSER), -(-cols // COARSER))
        half = near.new_full((len(near), *small), 0.5)
        centers = fractions(Intervals(half, half), self.config.sweep_planes)
        shown = None if self.scene_field is None else self.scene_field.view(camera, near, far, *small)
        scene = None if shown is None else SceneColors.of(shown.rgb, camera, maps.images, maps.cameras)
        cost, mismatch = self._cost(maps, maps.coarse, camera, planes, centers, None, scene)
        if self.config.depth_prior:
            matched = best_matches(cost, centers) if self.config.fine_depth and shown is None else None
            known = self._known(maps, camera, planes, matched, *small) if shown is None else shown.depth
            cost = torch.cat([cost, _evidence(known, planes.inverse_depth(centers))], dim=1)
        coarse = self.coarse(cost, centers)
        opacity = None if shown is None or not self.background else shown.opacity
        if mismatch is not None:
            coarse = replace(coarse, logits=coarse.logits - _MISMATCH_WEIGHT * mismatch)
        found = coarse.estimate()
        shadows = self._shadows(found.center, found.confidence, maps, camera, planes, shrink=COARSER)
        wide = intervals(found, coarse.spacing, floor=1.5, ceiling=5.0)
        around = _resampled(
            torch.stack([wide.center.detach(), wide.half, found.confidence.detach()], dim=1), rows, cols
        )
        centers = fractions(Intervals(around[:, 0], around[:, 1]), FINE_PLANES)
        cost, _ = self._cost(maps, maps.fine, camera, planes, centers, shadows)
        trust = around[:, 2:, :, :, None].expand(-1, -1, -1, -1, FINE_PLANES)
        told = [cost, trust]
        if self.config.fine_depth:
            if shown is None:
                known = self._known(maps, camera, planes, found, *self._own_size(maps, camera, rows, cols))
            else:
                known = shown.depth
            known = None if known is None else known.resized(rows, cols)
            told.append(_evidence(known, planes.inverse_depth(centers), _FINE_BELLS))
        fine = self.fine(torch.cat(told, dim=1), centers)
        found = fine.estimate()
        narrow = intervals(found, fine.spacing, floor=0.5, ceiling=FINE_PLANES / 2)
        guide = torch.stack([narrow.center, narrow.half, found.confidence * around[:, 2]], dim=1)
        shadows = self._shadows(found.center, found.confidence, maps, camera, planes, shrink=2)
        guide = torch.cat([guide, fine.context], dim=1)
        lookup, levels = fine.lookup if self.config.sample_volume else None, (coarse, replace(fine, features=None))
        return GuidedView(self, maps, camera, bounds, planes, levels, guide, shadows, lookup, scene, opacity)

    @staticmethod
    def _cost(
        maps: GuidedMaps,
        features: Tensor,
        target: Cameras,
        planes: DisparityRange,
        centers: Tensor,
        shadows: Tensor | None,
        scene: SceneColors | None = None,
    ) -> tuple[Float[Tensor, "batch cost rows cols plane"], Float[Tensor, "batch rows cols plane"] | None]:
        """Matching cost of every plane, and how much its colors contradict the scene's own field where there is one."""
        rows, cols = centers.shape[1:3]
        camera = target.resized(rows, cols)
        every_pixel = pixel_centers(rows, cols, centers).expand(len(centers), -1, 2)

        def strip(first: int, last: int) -> tuple[Tensor, Tensor | None]:
            rays, size = slice(first * cols, last * cols), (last - first, cols)
            inverse = planes.inverse_depth(centers[:, first:last].flatten(1, 2))
            swept = sweep_lines(maps.cameras, camera, every_pixel[:, rays]).at(inverse)
            behind = None if shadows is None else depth_behind(shadows, planes, swept, inverse)
            cost = matching_cost(features, swept, behind).unflatten(2, size)
            if scene is None:
                return cost, None
            shown = scene.rgb.flatten(2).transpose(1, 2)[:, rays]
            return cost, scene.mean_color_mismatch(swept, shown).unflatten(1, size)

        parts = in_parts(strip, rows, advice=SOURCES_ADVICE)
        mismatch = [part[1] for part in parts if part[1] is not None]
        return joined([part[0] for part in parts], 2), joined(mismatch, 1) if mismatch else None

    @staticmethod
    def _shadows(
        center: Tensor, confidence: Tensor, maps: GuidedMaps, target: Cameras, planes: DisparityRange, shrink: int
    ) -> Float[Tensor, "batch view rows cols"]:
        """Of surfaces the sweep found, at the working size of the source images over `shrink`.

        Coarser than the sweep where that is fine, so that no holes are left between the points of a surface.
        """
        rows, cols = (-(-side // shrink) for side in maps.fine.shape[-2:])
        return shadow_maps(planes, center.clamp(0, 1), confidence > _SURE, target, maps.cameras, rows, cols)

    @staticmethod
    def _known(
        maps: GuidedMaps, target: Cameras, planes: DisparityRange, found: DepthEstimate | None, rows: int, cols: int
    ) -> SplattedDepth | None:
        """VGGT's depth of the sources in the target view, where there is one; each source's fitted to what is found."""
        if maps.prior is None:
            return None
        fit = None if found is None else fit_views(maps.cameras, target, maps.prior, planes, found)
        return splat_depth(maps.prior, maps.cameras, target, rows, cols, fit)

    @staticmethod
    def _own_size(maps: GuidedMaps, target: Cameras, rows: int, cols: int) -> tuple[int, int]:
        """Rows and columns in which the target is as fine as VGGT's depth of the sources, at most those given.

        Drawn more finely, its points would leave pixels between them empty.
        """
        if maps.prior is None:
            return rows, cols
        own = maps.cameras.median_focal * maps.prior.depth.shape[-1] / maps.cameras.width
        return halved(rows, cols, max(0, round(math.log2(target.median_focal * cols / target.width / own))))


def _evidence(known: SplattedDepth | None, inverse_depth: Tensor, widths: tuple[float, float] = BELL_WIDTHS) -> Tensor:
    """Evidence of a known depth on planes, see `depth_evidence`; all zero where there is none."""
    if known is None:
        return inverse_depth.new_zeros(len(inverse_depth), _PRIOR_CHANNELS, *inverse_depth.shape[1:])
    return depth_evidence(known, inverse_depth, widths)


def _resampled(maps: Float[Tensor, "batch channel rows cols"], rows: int, cols: int) -> Tensor:
    return F.interpolate(maps, (rows, cols), mode="bilinear", align_corners=False)
