"""Frozen VGGT and renderer together: posed images in, rendered views out."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geometry import Cameras, TensorStruct, Views, pixel_centers
from geometry.turned_views import rolled
from models.memory import in_parts, named_if_out_of_memory
from models.nerf.renderer import RENDER_ADVICE, SOURCES_ADVICE, Renderer, SourceMaps, TargetView
from models.nerf.rolled import QUARTER_TURNS, RolledMaps, RolledView
from models.vggt.cache import FeatureCache
from models.vggt.frozen import FrozenFeatures, FrozenVGGT

QUALITIES = ("fast", "full")
"""fast: as trained; full: the mean over four positions of the cameras, see `models.nerf.rolled`, four times as slow."""


@dataclass(frozen=True)
class RenderedImage(TensorStruct):
    """One rendered view, on the CPU."""

    rgb: Float[Tensor, "height width 3"]
    depth: Float[Tensor, "height width"]
    """Camera z, scene units."""
    opacity: Float[Tensor, "height width"]


class VGGTNeRF(nn.Module):
    """The whole path. Its state dict holds the renderer only; VGGT's weights stay in their own file."""

    def __init__(self, vggt: FrozenVGGT | None, network: Renderer, cache_bytes: int = 1 << 30) -> None:
        """`vggt` None: for a network that reads nothing of it."""
        super().__init__()
        self.vggt = vggt
        self.network = network
        self.cache = FeatureCache(cache_bytes)
        self.quality = "fast"
        """One of `QUALITIES`."""

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

    def encode(
        self,
        source: Views,
        names: tuple[str, ...] | None = None,
        *,
        drops_backbone: bool = False,
        quarter_turns: int = 0,
    ) -> SourceMaps:
        """Maps of source views, see `Renderer.encode`.

        Pass `names` when the same views come back (one scene, one video): VGGT then sees them once. Without gradients
        work is done in parts where memory does not suffice, here as in `view` and `render_image`. `quarter_turns`: maps
        of the views with rolled cameras, see `rolled`, for a target that is rolled alike; VGGT sees them upright.

        Raises:
            MemoryExceeded: where not even the smallest parts fit, naming options to lower.
        """
        with named_if_out_of_memory(SOURCES_ADVICE):
            seen = self.frozen_features(source, names) if self.network.uses_backbone else None

            def maps_of(turns: int) -> SourceMaps:
                known = None if seen is None else seen.rolled(turns)
                return self.network.encode(rolled(source, turns), known, drops_backbone=drops_backbone)

            maps = maps_of(quarter_turns)
            if self.quality == "fast":
                return maps
            others = [maps_of(quarter_turns + turns) for turns in QUARTER_TURNS[1:]]
            return RolledMaps(maps.images, maps.cameras, maps.prior, (maps, *others))

    def view(
        self, maps: SourceMaps, camera: Cameras, near: Float[Tensor, " batch"], far: Float[Tensor, " batch"]
    ) -> TargetView:
        """One target camera per scene, see `Renderer.view`."""
        with named_if_out_of_memory(SOURCES_ADVICE):
            if not isinstance(maps, RolledMaps):
                return self.network.view(maps, camera, near, far)
            pairs = zip(maps.turned, QUARTER_TURNS, strict=True)
            turned = [self.network.view(one, camera.turned(-turns), near, far) for one, turns in pairs]
            return RolledView(camera, turned[0].bounds, tuple(turned))


@torch.no_grad()
def render_image(view: TargetView, chunk: int, on_chunk: Callable[[int], None] | None = None) -> RenderedImage:
    """Every pixel of a target view (batch 1).

    `chunk` rays are in memory at a time; when that does not fit, chunks are halved until it does. `on_chunk` is told
    the number of rays done, for progress bars.
    """
    camera = view.camera
    size = (camera.height, camera.width)

    def rendered(first: int, last: int) -> tuple[Tensor, Tensor, Tensor]:
        output = view.render(rays[:, first:last])
        return output.rgb[0].cpu(), output.depth[0].cpu(), output.opacity[0].cpu()

    with named_if_out_of_memory(RENDER_ADVICE):
        pixels = pixel_centers(*size, camera.w2c)[None]
        rays = camera.rays(pixels, view.bounds.near, view.bounds.far)
        parts = in_parts(rendered, pixels.shape[1], part=chunk, on_done=on_chunk, advice=RENDER_ADVICE)
    rgb, depth, opacity = (torch.cat(column) for column in zip(*parts, strict=True))
    return RenderedImage(rgb.clamp(0, 1).unflatten(0, size), depth.unflatten(0, size), opacity.unflatten(0, size))
