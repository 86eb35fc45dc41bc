"""All views of a scene at once on torch tensors: the fast counterpart of `tracer`, for streams and `--tracer fast`.

The same scenes, lights and textures, with hard shadows; depth agrees to about 0.05 mm, color up to edges and
highlights.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from data.procedural import torch_shapes, torch_textures
from data.procedural.scene import Item, Light, Scene
from data.procedural.tracer import SHADOW_OFFSET, SHOULDER
from geometry import Cameras

# offsets (x, y) in a pixel; no two samples share a row or a column
_PIXEL_SAMPLES = {
    2: ((0.25, 0.75), (0.75, 0.25)),
    4: ((0.125, 0.375), (0.375, 0.875), (0.625, 0.125), (0.875, 0.625)),
}
_SHADOW_OFFSET = 50 * SHADOW_OFFSET  # float32 needs more room than the exact tracer


class RenderedViews(NamedTuple):
    """Photographs with their depth."""

    images: Float[Tensor, "view 3 height width"]
    """RGB [0, 1]."""
    depth: Float[Tensor, "view height width"]
    """Camera z at pixel centers, scene units, 0 where the ray meets nothing."""


@dataclass(frozen=True)
class _Hits:
    t: Float[Tensor, " ray"]
    """Camera z; infinity where nothing is hit."""
    index: Int[Tensor, " ray"]
    """Which item; -1 for none."""


@torch.no_grad()
def render_views(scene: Scene, cameras: Cameras, light: int = 3, *, samples: int = 2) -> RenderedViews:
    """Photograph a scene with several cameras (one leading axis, table frame) on the cameras' device.

    Every pixel is the mean of 2 or 4 `samples` spread over it.
    """
    cameras = cameras.to(torch.float32)
    centers = _Rays.through(cameras, 0.5, 0.5)
    candidates = _candidates(scene, centers)
    depth = _trace(scene, centers, candidates).t
    total = torch.zeros_like(centers.directions)
    for x, y in _PIXEL_SAMPLES[samples]:
        rays = _Rays.through(cameras, x, y)
        total += _shade(scene, rays, _trace(scene, rays, candidates), scene.lights[light])
    size = (len(cameras.w2c), cameras.height, cameras.width)
    images = (total / samples).view(*size, 3).permute(0, 3, 1, 2).contiguous()
    return RenderedViews(images, torch.where(depth.isfinite(), depth, 0).view(size))


@dataclass(frozen=True)
class _Rays:
    """Rays of all views, view by view; directions have camera z = 1, so the ray parameter is depth."""

    origins: Float[Tensor, "view 3"]
    directions: Float[Tensor, "ray 3"]
    pixel: float
    """Slope between neighboring rays."""

    @classmethod
    def through(cls, cameras: Cameras, offset_x: float, offset_y: float) -> "_Rays":
        intrinsics, rotation = cameras.intrinsics, cameras.w2c[:, :3, :3]
        steps = torch.arange(max(cameras.height, cameras.width), device=rotation.device, dtype=rotation.dtype)
        x = (steps[None, : cameras.width] + offset_x - intrinsics[:, 0, 2:]) / intrinsics[:, 0, :1]
        y = (steps[None, : cameras.height] + offset_y - intrinsics[:, 1, 2:]) / intrinsics[:, 1, 1:2]
        x, y = torch.broadcast_tensors(x[:, None], y[:, :, None])
        directions = torch.stack([x, y, torch.ones_like(x)], dim=-1).flatten(1, 2) @ rotation
        return cls(cameras.centers, directions.flatten(0, 1), 1 / float(intrinsics[0, 0, 0]))

    @property
    def per_view(self) -> int:
        return len(self.directions) // len(self.origins)


def _placed(item: Item, like: Tensor) -> tuple[Tensor, Tensor]:
    """Rotation (table frame to local) and center as tensors."""
    return like.new_tensor(item.rotation), like.new_tensor(item.center)


def _candidates(scene: Scene, rays: _Rays) -> list[Tensor]:
    """For every item the numbers (candidate,) of rays whose pixels may show its bounding sphere."""
    views = len(rays.origins)
    lengths = rays.directions.norm(dim=-1).view(views, -1)
    directions = (rays.directions.view(views, -1, 3) / lengths[..., None]).transpose(1, 2)
    found = []
    for item in scene.items:
        toward = rays.directions.new_tensor(item.center) - rays.origins
        distance = toward.norm(dim=-1, keepdim=True)
        radius = item.shape.bounding_radius + rays.pixel * distance
        along = torch.bmm(toward[:, None], directions)[:, 0]
        nearest = (distance.square() - radius.square()).clamp_min(0).sqrt()
        found.append((along >= nearest).flatten().nonzero()[:, 0])
    return found


def _trace(scene: Scene, rays: _Rays, candidates: list[Tensor]) -> _Hits:
    best = rays.directions.new_full((len(rays.directions),), torch.inf)
    index = torch.full_like(best, -1, dtype=torch.int64)
    for number, (item, picked) in enumerate(zip(scene.items, candidates, strict=True)):
        rotation, center = _placed(item, best)
        origin = ((rays.origins - center) @ rotation.T)[picked // rays.per_view]
        found = torch_shapes.intersect(item.shape, origin, rays.directions[picked] @ rotation.T)
        is_closer = found < best[picked]
        picked = picked[is_closer]
        best[picked], index[picked] = found[is_closer], number
    return _Hits(best, index)


def _shade(scene: Scene, rays: _Rays, hits: _Hits, light: Light) -> Float[Tensor, "ray 3"]:
    """Colors; textures leave out what is finer than a pixel."""
    rgb = torch.zeros_like(rays.directions)
    hit = (hits.index >= 0).nonzero()[:, 0]
    if not len(hit):
        return rgb
    order = hit[hits.index[hit].argsort(stable=True)]
    counts = torch.bincount(hits.index[order], minlength=len(scene.items)).tolist()
    directions, eyes = rays.directions[order], rays.origins[order // rays.per_view]
    points = eyes + hits.t[order, None] * directions
    albedo, normals, gloss = [], [], []
    for item, part in zip(scene.items, points.split(counts), strict=True):
        if not len(part):
            continue
        rotation, center = _placed(item, points)
        local = (part - center) @ rotation.T
        local_normals = torch_shapes.normal(item.shape, local)
        distance = float((center - rays.origins[0]).norm())
        size = rays.pixel * distance
        albedo.append(torch_textures.color(item.texture, local, local_normals, size))
        normals.append(local_normals @ rotation)
        gloss.append(points.new_tensor([item.specular, item.shininess]).expand(len(part), 2))
    normal, toward_eye = torch.cat(normals), -F.normalize(directions, dim=-1)
    direction = points.new_tensor(light.direction)
    lit = _lit(scene, points + _SHADOW_OFFSET * normal, direction)
    color = _phong(torch.cat(albedo), normal, toward_eye, light, lit, torch.cat(gloss))
    rgb[order] = _tone(color * scene.exposure)
    return rgb


def _phong(albedo: Tensor, normal: Tensor, toward_eye: Tensor, light: Light, lit: Tensor, gloss: Tensor) -> Tensor:
    direction, color = normal.new_tensor(light.direction), normal.new_tensor(light.color)
    cosine = normal @ direction
    mirrored = ((2 * cosine[:, None] * normal - direction) * toward_eye).sum(-1).clamp_min(0)
    highlight = gloss[:, 0] * lit * (cosine > 0) * mirrored ** gloss[:, 1]
    ambient = light.ambient * (0.75 + 0.25 * normal[:, 2:])
    diffuse = (1 - light.ambient) * (lit * cosine.clamp_min(0))[:, None] * color
    return albedo * (ambient + diffuse) + highlight[:, None] * color


def _lit(scene: Scene, lifted: Float[Tensor, "point 3"], direction: Float[Tensor, "3"]) -> Float[Tensor, " point"]:
    """1 where the lamp is seen, 0 in shadow; only points in the cylinder a solid's sphere shades are tested."""
    lit = torch.ones_like(lifted[:, 0])
    for item in scene.items:
        if not item.casts_shadow:
            continue
        rotation, center = _placed(item, lifted)
        from_center = lifted - center
        along = from_center @ direction
        radius = item.shape.bounding_radius
        is_near = (from_center.square().sum(-1) - along * along < radius * radius) & (along < radius)
        near = is_near.nonzero()[:, 0]
        if len(near):
            start = from_center[near] @ rotation.T
            blocked = torch_shapes.intersect(item.shape, start, (rotation @ direction)[None]).isfinite()
            lit[near[blocked]] = 0
    return lit


def _tone(color: Float[Tensor, "point 3"]) -> Float[Tensor, "point 3"]:
    """Linear up to the shoulder, then bent so that highlights approach 1 without clipping."""
    room = 1 - SHOULDER
    return torch.where(color > SHOULDER, 1 - room * torch.exp((SHOULDER - color) / room), color).clamp(0, 1)
