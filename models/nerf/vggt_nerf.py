"""Frozen VGGT and radiance field together: posed images in, rendered views out."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geometry import Cameras, InputError, RayBundle, TensorStruct, Views, pixel_centers
from models.nerf.compositing import RenderOutput
from models.nerf.depth_prior import depth_prior
from models.nerf.depth_range import DepthRange, automatic_range
from models.nerf.feature_maps import FeatureMaps, map_size
from models.nerf.guided_network import AimedMaps, GuidedNeRF
from models.nerf.nerf_config import Jitter, Marching, NerfConfig
from models.nerf.network import GeneralizableNeRF
from models.vggt.cache import FeatureCache
from models.vggt.frozen import FrozenFeatures, FrozenVGGT


@dataclass(frozen=True)
class RenderedImage(TensorStruct):
    """One rendered view, on the CPU."""

    rgb: Float[Tensor, "height width 3"]
    depth: Float[Tensor, "height width"]
    """Camera z, scene units."""
    opacity: Float[Tensor, "height width"]


class VGGTNeRF(nn.Module):
    """The whole path. Its state dict holds the radiance field only; VGGT's weights stay in their own file."""

    def __init__(
        self, vggt: FrozenVGGT | None, config: NerfConfig, marching: Marching, cache_bytes: int = 1 << 30
    ) -> None:
        """`vggt` None: the image stem alone, for a `config` without token layers and depth prior."""
        super().__init__()
        self.vggt = vggt
        self.network = GuidedNeRF(config) if config.sampler == "guided" else GeneralizableNeRF(config)
        self.marching = marching
        self.cache = FeatureCache(cache_bytes)

    def frozen_features(self, source: Views, names: tuple[str, ...] | None = None) -> FrozenFeatures | None:
        """What VGGT sees in the source views; computed once per set of views where `names` identify the scenes."""
        if self.vggt is None:
            return None
        if names is None:
            return self.vggt(source.images)
        size = tuple(source.images.shape[-2:])
        per_scene = [
            self.cache.get((name, tuple(ids.tolist()), size), lambda images=images: self.vggt(images[None]))
            for name, ids, images in zip(names, source.ids, source.images, strict=True)
        ]
        return FrozenFeatures.cat([features.to(source.images.device) for features in per_scene])

    def encode(self, source: Views, names: tuple[str, ...] | None = None, *, trusts_vggt: bool = True) -> FeatureMaps:
        """Feature maps of source views; pass `names` when the same views come back (one scene, one video).

        Without `trusts_vggt` as if VGGT had contradicted the given cameras.
        """
        is_asked = not self.network.knows_scene or self.marching.near_far == "auto"
        seen = self.frozen_features(source, names) if is_asked else None
        if seen is None:
            return self.network.encode(source, None)
        prior = None
        if self.vggt.has_depth:
            prior = depth_prior(seen, source.cameras, *map_size(*source.images.shape[-2:]))
            prior = prior if trusts_vggt else prior.distrusted()
        return self.network.encode(source, seen.tokens, prior)

    def depth_range(
        self, maps: FeatureMaps, cameras: Cameras, near: Float[Tensor, " batch"], far: Float[Tensor, " batch"]
    ) -> DepthRange:
        """Where the rays of one target camera per scene start and end; `near` and `far` are the data set's bounds.

        The one place that decides it, for training, validation, evaluation and video alike.
        """
        data = DepthRange(near, far, torch.zeros_like(near, dtype=torch.bool))
        if self.marching.near_far == "data":
            return data
        if maps.prior is None:
            raise InputError("--near_far auto: expected a VGGT with camera and depth heads, got one without")
        return automatic_range(maps.prior, maps.cameras, cameras, data)

    def aim(self, maps: FeatureMaps, cameras: Cameras, bounds: DepthRange) -> FeatureMaps | AimedMaps:
        """What `render_rays` needs for one target camera per scene, within its depth range."""
        return self.network.aim(maps, cameras, bounds.near, bounds.far)

    def render_rays(self, maps: FeatureMaps | AimedMaps, rays: RayBundle, jitter: Jitter | None = None) -> RenderOutput:
        """See `GeneralizableNeRF.render_rays`; `maps` from `aim`."""
        return self.network.render_rays(maps, rays, self.marching, jitter)

    @torch.no_grad()
    def render_image(
        self,
        maps: FeatureMaps,
        camera: Cameras,
        near: Float[Tensor, ""],
        far: Float[Tensor, ""],
        chunk: int,
        on_chunk: Callable[[int], None] | None = None,
    ) -> RenderedImage:
        """Render every pixel of one camera (no leading axes) from the maps of one scene (batch 1).

        `chunk` rays are in memory at a time; when that does not fit, chunks are halved until it does. `on_chunk` is
        told the number of rays done, for progress bars.
        """
        pixels = pixel_centers(camera.height, camera.width, camera.w2c)[None]
        rays = camera[None].rays(pixels, near[None], far[None])
        maps = self.network.aim(maps, camera[None], near[None], far[None])
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        done, count = 0, pixels.shape[1]
        while done < count:
            some = rays[:, done : done + chunk]
            try:
                output = self.render_rays(maps, some)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or some.t_near.shape[1] == 1:
                    raise
                chunk = max(1, min(chunk, some.t_near.shape[1]) // 2)
                continue
            parts.append((output.rgb[0].cpu(), output.depth[0].cpu(), output.opacity[0].cpu()))
            done += some.t_near.shape[1]
            if on_chunk is not None:
                on_chunk(some.t_near.shape[1])
        rgb, depth, opacity = (torch.cat(column) for column in zip(*parts, strict=True))
        size = (camera.height, camera.width)
        return RenderedImage(rgb.clamp(0, 1).unflatten(0, size), depth.unflatten(0, size), opacity.unflatten(0, size))


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed, on a GPU or on the CPU."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text
