"""Pictures of one scene from anywhere, by a model whose source views are chosen and encoded as the camera moves."""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float
from torch import Tensor

from data.scene import PosedScene
from data.view_selection.neighbors import dissimilarity
from geometry import Cameras, Views, pixel_centers
from models.nerf.compositing import RenderOutput
from models.nerf.renderer import SourceMaps
from models.nerf.vggt_nerf import VGGTNeRF
from render.source_pool import SourcePool
from training.precision import autocast_of

_MAX_SETS = 8
"""Sets of source views whose maps are kept."""
_CLEARLY_WORSE = 0.5
"""Mean `dissimilarity` by which kept sources may be behind the best ones while the camera moves: about 30 degrees."""
_RAYS_AT_A_TIME = 1024
"""Rays between two looks at whether the picture is still wanted; on two cores about a tenth of a second."""


@dataclass(frozen=True)
class Frame:
    """A rendered picture, on the CPU."""

    rgb: Float[Tensor, "height width 3"]
    depth: Float[Tensor, "height width"]
    """Camera z, scene units; 0 where a ray hits nothing."""
    opacity: Float[Tensor, "height width"]
    spread: Float[Tensor, "height width"]
    """Standard deviation of camera z under the compositing weights, over `depth`."""
    near: float
    far: float
    sources: tuple[int, ...]
    is_slow: bool
    """Sources had to be encoded for it."""


class KeptMaps:
    """Maps of the sets of source views that were used last."""

    def __init__(self, most: int = _MAX_SETS) -> None:
        self.most = most
        self._maps: OrderedDict[tuple[int, ...], SourceMaps] = OrderedDict()

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        """The sets, the one used last at the end."""
        return iter(tuple(self._maps))

    def __contains__(self, sources: tuple[int, ...]) -> bool:
        return sources in self._maps

    def get(self, sources: tuple[int, ...], encode: Callable[[], SourceMaps]) -> SourceMaps:
        """Those of a set, encoded if they are not there."""
        if sources not in self._maps:
            self._maps[sources] = encode()
        self._maps.move_to_end(sources)
        while len(self._maps) > self.most:
            self._maps.popitem(last=False)
        return self._maps[sources]

    def clear(self) -> None:
        """Forget all of them: the model is another one."""
        self._maps.clear()


class SceneRenderer:
    """Not for several threads at once."""

    def __init__(
        self,
        model: VGGTNeRF,
        scene: PosedScene,
        pool: SourcePool,
        device: torch.device,
        *,
        scale: float = 1.0,
        chunk: int = 4096,
        precision: str = "32-true",
    ) -> None:
        """`scale`: of the scene's images; `chunk`: most rays at a time."""
        self.scene, self.pool, self.device = scene, pool, device
        self.scale, self.chunk, self.precision = scale, min(chunk, _RAYS_AT_A_TIME), precision
        self.kept = KeptMaps()
        self.use(model)

    def use(self, model: VGGTNeRF) -> None:
        """Render with this model from now on."""
        self.model = model.to(self.device).eval()
        self.kept.clear()
        own = self.model.network.samples
        self.samples = {field.name: getattr(own, field.name) for field in fields(own)}
        """The model's own number of samples per ray, by the names of the options."""

    def sources_for(self, w2c: Float[Tensor, "4 4"], count: int, *, moving: bool) -> tuple[int, ...]:
        """The best sources; while the camera moves, the best of those encoded already unless they are clearly worse."""
        distance = dict(zip(self.pool.ids, dissimilarity(self.pool.cameras.w2c, w2c).tolist(), strict=True))

        def mean(sources: tuple[int, ...]) -> float:
            return math.fsum(distance[view] for view in sources) / len(sources)

        best = self.pool.nearest(w2c, count)
        known = [sources for sources in self.kept if len(sources) == count]
        if not moving or best in known or not known:
            return best
        near = min(known, key=mean)
        return near if mean(near) - mean(best) <= _CLEARLY_WORSE else best

    @torch.no_grad()
    def render(
        self,
        camera: Cameras,
        count: int,
        *,
        samples: Mapping[str, int] | None = None,
        bounds: tuple[float, float] | None = None,
        moving: bool = False,
        is_outdated: Callable[[], bool] = lambda: False,
    ) -> Frame | None:
        """What a camera (one leading axis of length 1) sees from `count` sources; None where it became outdated.

        `bounds`: near and far, if known; `samples`: per ray, as `self.samples` has them.
        """
        w2c = camera.w2c[0]
        sources = self.sources_for(w2c, count, moving=moving)
        is_slow = sources not in self.kept
        near, far = bounds or self.pool.bounds(camera, sources)
        if samples:
            network = self.model.network
            network.samples = replace(network.samples, **samples)
        with autocast_of(self.precision, self.device):
            maps = self.kept.get(sources, lambda: self._encode(sources))
            if is_outdated():
                return None
            there = camera.to(self.device)
            limits = [torch.tensor([limit], device=self.device) for limit in (near, far)]
            view = self.model.view(maps, there, *limits)
            pixels = pixel_centers(camera.height, camera.width, there.w2c)[None]
            rays = there.rays(pixels, view.bounds.near, view.bounds.far)
            parts = []
            for first in range(0, pixels.shape[1], self.chunk):
                if is_outdated():
                    return None
                part = rays[:, first : first + self.chunk]
                parts.append(measured(view.render(part), part.cos_optical))
        flat = torch.cat(parts, dim=1)[0].unflatten(0, (camera.height, camera.width)).cpu()
        rgb, (depth, opacity, spread) = flat[..., :3].clamp(0, 1), flat[..., 3:].unbind(-1)
        return Frame(rgb, depth, opacity, spread, near, far, sources, is_slow)

    def _encode(self, sources: tuple[int, ...]) -> SourceMaps:
        views = self.scene.views(sources, self.scale, wants_depth=False, wants_mask=False)
        return self.model.encode(Views.stack([views]).to(self.device), (self.scene.name,))


def measured(output: RenderOutput, cos_optical: Tensor) -> Float[Tensor, "batch ray 6"]:
    """Color, depth, opacity and relative spread of depth: sqrt(sum_i w_i (z_i - z)^2 / sum_i w_i) / z."""
    z = output.samples.t * cos_optical[..., None]
    weights, depth = output.weights.float(), output.depth.float()
    variance = (weights * (z - depth[..., None]).square()).sum(-1) / output.opacity.clamp_min(1e-6)
    spread = torch.where(depth > 0, variance.sqrt() / depth.clamp_min(1e-9), 0)
    return torch.cat([output.rgb.float(), torch.stack([depth, output.opacity.float(), spread], dim=-1)], dim=-1)
