"""A view rendered four times, as if all cameras were rolled by a quarter turn each time, and averaged.

Self-ensembling (Timofte et al. 2016, "Seven ways to improve example-based single image super resolution", sec. 2.7): a
network sees turned photographs a little differently, and what it is unsure of averages out.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from geometry import Cameras, RayBundle, RaySamples
from geometry.turned_views import rolled
from models.nerf.compositing import RenderOutput
from models.nerf.depth_range import DepthRange
from models.nerf.renderer import Jitter, SourceMaps, TargetRays, TargetView

QUARTER_TURNS = range(4)


@dataclass(frozen=True)
class RolledMaps(SourceMaps):
    """Source views as a renderer sees them in four positions; the other fields are those of the first."""

    turned: tuple[SourceMaps, ...]
    """One for each of `QUARTER_TURNS`."""


@dataclass(frozen=True)
class RolledView(TargetView):
    """One target camera per scene in four positions. Rays are those of the camera as it stands."""

    camera: Cameras
    bounds: DepthRange
    turned: tuple[TargetView, ...]

    def render(self, rays: RayBundle, jitter: Jitter | None = None) -> RenderOutput:
        """The mean of the colors and opacities; depth is the weighted mean over the samples of all four."""
        seen = [view.render(rays, jitter) for view in self.turned]

        def mean(name: str) -> Tensor:
            return torch.stack([getattr(one, name) for one in seen]).mean(0)

        def joined(name: str) -> Tensor:
            return torch.cat([getattr(one.samples, name) for one in seen], dim=-1)

        samples = RaySamples(joined("t"), joined("t_starts"), joined("t_ends"))
        weights = torch.cat([one.weights for one in seen], dim=-1) / len(seen)
        opacity = mean("opacity")
        t = (weights * samples.t).sum(-1) / opacity.clamp_min(1e-6)
        return RenderOutput(mean("rgb"), t * rays.cos_optical, opacity, weights, samples)

    def depth_loss(self, output: RenderOutput, truth: TargetRays) -> Float[Tensor, ""]:
        """The mean of the four; where it is one of samples, that of all four's."""
        turned = [replace(truth, view=rolled(truth.view, turns)) for turns in QUARTER_TURNS]
        losses = [view.depth_loss(output, one) for view, one in zip(self.turned, turned, strict=True)]
        return torch.stack(losses).mean()
