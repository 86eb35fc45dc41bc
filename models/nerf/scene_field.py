"""Where the surfaces of one scene are, learned from its photographs alone: a coarse field beside the general network.

Density and colour on voxel grids (Sun et al. 2022, DVGO, sec. 4), which cost two lookups per sample instead of a
network over all source views. Where hardly any source looks, or at a grazing angle, the views do not match in a sweep,
but the rays of all photographs together still say where the surface is.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from geometry import Cameras, RayBundle, RaySamples, pixel_centers
from models.nerf.compositing import FieldOutput, RenderOutput, composite
from models.nerf.depth_splat import SplattedDepth
from models.nerf.nerf_config import Jitter
from models.nerf.ray_sampling import stratified_samples
from models.nerf.scene_box import SceneBox

_COARSER = 4
_SAMPLES = 64
_MOST_PARTS = 8
"""Each part of a lookup has a gradient of the whole grid."""
_FIRST_LOGIT = -6.0
_OPTICAL_LENGTH = 100.0
"""Density of a softplus of 1, over the size of the box: opaque within a few cells."""
_MOST_CONFIDENCE = 0.95
_HAZE_POWER = 4
"""Half opaque haze, as all is before the first step, says nothing about the depth."""
_BACKGROUND = 0.5


class SceneField(SceneBox):
    """Density and colour, seen alike from everywhere, on a grid and a four times coarser one; their sum counts."""

    def __init__(self, resolution: int) -> None:
        super().__init__()
        sizes = (resolution // _COARSER, resolution)
        self.grids = nn.ParameterList(nn.Parameter(torch.zeros(1, 4, size, size, size)) for size in sizes)

    def logits(self, points_world: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 4"]:
        """Of density and colour."""
        places = self.contracted(points_world).reshape(-1, 3)
        # torch's 3D lookup runs one thread per batch entry on a CPU
        parts = min(torch.get_num_threads(), _MOST_PARTS) if places.device.type == "cpu" and len(places) else 1
        padded = F.pad(places, (0, 0, 0, -len(places) % parts)).view(parts, 1, 1, -1, 3)
        found = sum(
            F.grid_sample(grid.expand(parts, -1, -1, -1, -1), padded, padding_mode="border", align_corners=True)
            for grid in self.grids
        )
        return found[:, :, 0, 0].movedim(1, -1).reshape(-1, 4)[: len(places)].unflatten(0, points_world.shape[:-1])

    def render(self, rays: RayBundle, jitter: Jitter | None = None) -> RenderOutput:
        """March rays from t_near to t_far with evenly spread samples.

        What they do not hit is grey: before black, dark surfaces would come out as haze, without a depth.
        """
        samples = stratified_samples(rays, _SAMPLES, None if jitter is None else jitter(_SAMPLES))
        logits = self.logits(rays.at(samples.t))
        size = (self.box_max - self.box_min).mean()
        density = F.softplus(logits[..., 0] + _FIRST_LOGIT) * _OPTICAL_LENGTH / size
        return composite(FieldOutput(density, torch.sigmoid(logits[..., 1:])), samples, rays, _BACKGROUND)

    @torch.no_grad()
    def depth(
        self, target: Cameras, near: Float[Tensor, " batch"], far: Float[Tensor, " batch"], rows: int, cols: int
    ) -> SplattedDepth:
        """Of a target view (one camera per scene), as if it had been carried over from source views."""
        camera = target.resized(rows, cols)
        rays = camera.rays(pixel_centers(rows, cols, near).expand(len(near), -1, 2), near, far)
        seen = self.render(rays)
        inverse = 1 / (seen.samples.t * rays.cos_optical[..., None])
        mean = (seen.weights * inverse).sum(-1) / seen.opacity.clamp_min(1e-6)
        # rays end at one surface: how far their weights are spread out says little about how right it is
        maps = (mean, torch.zeros_like(mean), _MOST_CONFIDENCE * seen.opacity**_HAZE_POWER)
        return SplattedDepth(*(values.unflatten(1, (rows, cols)) for values in maps))


def distortion_loss(
    weights: Float[Tensor, "*batch ray sample"], samples: RaySamples, rays: RayBundle
) -> Float[Tensor, ""]:
    """How far a ray's weight is spread out, in units of its length (Barron et al. 2022, eq. 15); mean over rays.

    Of weights that sum to one: others could be had for less by rays that hit nothing.
    """
    weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-6)
    length = (rays.t_far - rays.t_near)[..., None]
    place = (samples.t - rays.t_near[..., None]) / length
    before = torch.cumsum(weights, dim=-1) - weights
    moment_before = torch.cumsum(weights * place, dim=-1) - weights * place
    between = 2 * (weights * (place * before - moment_before)).sum(-1)
    within = (weights.square() * samples.deltas / length).sum(-1) / 3
    return (between + within).mean()
