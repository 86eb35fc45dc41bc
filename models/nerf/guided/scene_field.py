"""Where the surfaces of one scene are, all its photographs considered: a coarse field beside the general network.

Density and color on voxel grids (Sun et al. 2022, DVGO, sec. 4), which cost two lookups per sample instead of a
network over all source views. It learns from the photographs and, as few rays alone would leave much open, from where
the general model sees surfaces in them (in the spirit of Deng et al. 2022, DS-NeRF, sec. 3.2). What one sweep cannot
know, at a margin where hardly any source looks or at a grazing angle, others have seen from elsewhere.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from geometry import Cameras, RayBundle, TensorStruct, Views, pixel_centers, sample_at_pixels
from models.memory import in_parts, joined
from models.nerf.compositing import FieldOutput, RenderOutput, composite
from models.nerf.guided.depth_splat import SplattedDepth
from models.nerf.guided.plane_sweep import DisparityRange
from models.nerf.ray_sampling import stratified_samples
from models.nerf.renderer import SOURCES_ADVICE, Jitter
from models.nerf.scene_box import SceneBox

_COARSER = 4
"""Cells of the fine grid along one of the coarse one."""
_SAMPLES = 64
"""Per ray; 96 change held-out views of DTU's scan24 by less than 0.1 dB."""
_MAX_PARTS = 8
"""Each part of a lookup has a gradient of the whole grid."""
_FIRST_LOGIT = -6.0
"""Of the density, before anything is learned: next to empty space."""
_OPTICAL_LENGTH = 100.0
"""Density of a softplus of 1, over the size of the box: opaque within a few cells."""
_MAX_CONFIDENCE = 0.95
"""Of depth where a ray is opaque."""
_UNSEEN = 0.5
"""Gray level of what rays of photographs do not hit: before black, dark surfaces would come out as haze."""
_SAME_COLOR = 1.5 / 255
"""Largest difference of a channel within the background's color: that of rounding to 8 bits."""


class SceneField(SceneBox):
    """Density and color, seen alike from everywhere, on a grid and a four times coarser one; their sum counts."""

    def __init__(self, resolution: int, background: float = 0.0, *, is_open: bool = False) -> None:
        """`background`: gray level, in the images, of what rays do not hit; 0 = photographs, where all rays hit.

        `is_open`: rays are those of `DepthRange.opened`, of which the most part lies outside the box.
        """
        super().__init__()
        self.background = background
        self.is_open = is_open
        sizes = (resolution // _COARSER, resolution)
        self.grids = nn.ParameterList(nn.Parameter(torch.zeros(1, 4, size, size, size)) for size in sizes)

    def logits(self, points_world: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 4"]:
        """Of density and color."""
        coordinates = self.contracted(points_world).reshape(-1, 3)
        # torch's 3D lookup runs one thread per batch entry on a CPU
        parts = min(torch.get_num_threads(), _MAX_PARTS) if coordinates.device.type == "cpu" and len(coordinates) else 1
        padded = F.pad(coordinates, (0, 0, 0, -len(coordinates) % parts)).view(parts, 1, 1, -1, 3)
        found = sum(
            F.grid_sample(grid.expand(parts, -1, -1, -1, -1), padded, padding_mode="border", align_corners=True)
            for grid in self.grids
        )
        return found[:, :, 0, 0].movedim(1, -1).reshape(-1, 4)[: len(coordinates)].unflatten(0, points_world.shape[:-1])

    def render(self, rays: RayBundle, jitter: Jitter | None = None) -> RenderOutput:
        """March rays from t_near to t_far with evenly spread samples; what they do not hit is background, else gray."""
        draw = None if jitter is None else jitter(_SAMPLES)
        samples = stratified_samples(rays, _SAMPLES, draw, is_open=self.is_open)
        points_world = rays.at(samples.t)
        logits = self.logits(points_world)
        size = (self.box_max - self.box_min).mean()
        density = F.softplus(logits[..., 0] + _FIRST_LOGIT) * _OPTICAL_LENGTH / size
        if self.is_open:  # cells grow with the distance; each is to hide as much as one inside the box
            density = density * self.shrinkage(points_world)
        return composite(
            FieldOutput(density, torch.sigmoid(logits[..., 1:])), samples, rays, self.background or _UNSEEN
        )

    def hits_nothing(self, rgb: Float[Tensor, "*batch 3"]) -> Bool[Tensor, "*batch"]:
        """Whether pixels have the background's color. Those of photographs all show a surface, black ones too.

        A surface of exactly that color counts as nothing; its pixels look the same without it.
        """
        if not self.background:
            return torch.zeros_like(rgb[..., 0], dtype=torch.bool)
        return ((rgb - self.background).abs() < _SAME_COLOR).all(-1)

    @torch.no_grad()
    def view(
        self, target: Cameras, near: Float[Tensor, " batch"], far: Float[Tensor, " batch"], rows: int, cols: int
    ) -> "SceneView":
        """A target view (one camera per scene), coarsely."""
        camera = target.resized(rows, cols)
        every_ray = camera.rays(pixel_centers(rows, cols, near).expand(len(near), -1, 2), near, far)

        def strip(first: int, last: int) -> tuple[Tensor, Tensor, Tensor]:
            rays = every_ray[:, first * cols : last * cols]
            seen = self.render(rays)
            inverse = 1 / (seen.samples.t * rays.cos_optical[..., None])
            return (seen.weights * inverse).sum(-1) / seen.opacity.clamp_min(1e-6), seen.opacity, seen.rgb

        parts = in_parts(strip, rows, advice=SOURCES_ADVICE)
        mean, opacity, rgb = (joined(list(values), 1) for values in zip(*parts, strict=True))
        # rays end at one surface: how far their weights are spread out says little about how right it is
        maps = (mean, torch.zeros_like(mean), _MAX_CONFIDENCE * opacity)
        depth = SplattedDepth(*(values.unflatten(1, (rows, cols)) for values in maps))
        return SceneView(depth, rgb.movedim(-1, 1).unflatten(2, (rows, cols)))


@dataclass(frozen=True)
class SceneView(TensorStruct):
    """What the field of a scene shows in a target view."""

    depth: SplattedDepth
    """As if it had been carried over from source views."""
    rgb: Float[Tensor, "batch 3 rows cols"]

    @property
    def opacity(self) -> Float[Tensor, "batch 1 rows cols"]:
        """0 where rays hit nothing."""
        return self.depth.confidence[:, None] / _MAX_CONFIDENCE


@dataclass(frozen=True)
class Surfaces(TensorStruct):
    """Where the general model sees the surfaces of some views of a scene."""

    ids: Int[Tensor, " view"]
    """View numbers, on the CPU."""
    maps: Float[Tensor, "view 2 rows cols"]
    """Disparity fraction between a view's near and far, and confidence in [0, 1]; they cover the image edge to edge."""

    def of(self, views: Views, pixels: Float[Tensor, "view ray 2"]) -> Float[Tensor, "view ray 2"]:
        """Fraction and confidence at pixels of some of the views, at whatever size.

        Raises:
            ValueError: for a view whose surfaces are not here.
        """
        matches = views.ids[:, None] == self.ids
        if not bool(matches.any(1).all()):
            raise ValueError(f"expected views out of {self.ids.tolist()}, got {views.ids.tolist()}")
        row = matches.int().argmax(1).to(self.maps.device, non_blocking=True)
        return sample_at_pixels(self.maps[row], pixels, views.cameras.height, views.cameras.width)


def surface_loss(
    seen: RenderOutput,
    rays: RayBundle,
    planes: DisparityRange,
    known: Float[Tensor, "view ray 2"],
    hits_nothing: Bool[Tensor, "view ray"],
) -> Float[Tensor, ""]:
    """How far the weight of rays lies from surfaces that are known already; mean over rays, by confidence.

    Distances are disparity fractions, as in the sweep; what goes through is as far away as can be, 1. One surface in
    the right place is best: a loss for thinness (Barron et al. 2022, eq. 15) adds nothing. For rays that hit nothing it
    is the other way round: what goes through is right, and all other weight is 1 away.
    """
    sampled = planes.fraction(1 / (seen.samples.t * rays.cos_optical[..., None]))
    fraction, confidence = known.unbind(-1)
    away = (seen.weights * (sampled - fraction[..., None]).abs()).sum(-1) + 1 - seen.opacity
    return torch.where(hits_nothing, seen.opacity, away * confidence).mean()
