"""Density and color of a few samples per ray: tiny layers over what the source views show there.

Order-free in the views, as IBRNet's (Wang et al. 2021, sec. 3.2), and as small as ENeRF's (Lin et al. 2022, sec. 3.3):
colors are blends of source pixels.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from geometry import TensorStruct
from models.layers import masked_mean_and_variance, masked_softmax, mlp
from models.nerf.compositing import FieldOutput
from models.nerf.guided.plane_sweep import share_seen

DIRECTION_CHANNELS = 4
GUIDE_CHANNELS = 3
"""Numbers about a ray's interval and a sample's offset in it, besides the sweep's context."""
_VARIANCE_FLOOR = 1e-3
"""Added to variances of features of unit variance before the logarithm: views that agree to 3 % agree."""
_OPTICAL_LENGTH = 8.0
"""Optical length of a whole interval at a softplus of 1: one such sample out of 8 already hides 63 %."""
_MISMATCH_WEIGHT = 20.0
"""By how much the logit of a view falls per squared difference of its color from the scene's own field."""


@dataclass(frozen=True)
class ObservedSamples(TensorStruct):
    """Samples of rays as the source views see them; `point` runs over rays, then samples."""

    features: Float[Tensor, "batch view point channel"]
    colors: Float[Tensor, "batch view point 3"]
    weights: Float[Tensor, "batch view point"]
    """[0, 1]: 0 = a view does not look there, next to 0 = something hides the point, see `view_weights`."""
    behind: Float[Tensor, "batch view point"]
    """From -1 to 1, see `depth_behind`."""
    directions: Float[Tensor, "batch view ray 4"]
    """How the target ray differs from the source's to the same surface, in the source's frame, and their cosine."""
    guide: Float[Tensor, "batch ray context"]
    """What the sweep knows about the ray."""
    offset: Float[Tensor, "batch ray sample"]
    """From 1 at the near end of the ray's interval to -1 at its far end, 0 where the sweep expects the surface."""
    length: Float[Tensor, "batch ray"]
    """Of the interval, scene units."""
    volume: Float[Tensor, "batch ray sample swept"] | None = None
    """Of the sweep's volume at the samples, where it is read."""
    scene: "SceneSamples | None" = None
    """What the scene's own field says, where there is one."""


@dataclass(frozen=True)
class SceneSamples(TensorStruct):
    """What the field of a scene shows at samples."""

    rgb: Float[Tensor, "batch ray 3"]
    """Coarsely, what the ray sees."""
    color_mismatch: Float[Tensor, "batch view point"]
    """How much the source views' colors contradict that, see `SceneColors.color_mismatch`."""


class GuidedRadianceField(nn.Module):
    """Weights of a few thousand numbers; `hidden` wide per view, `fused` wide per sample."""

    def __init__(self, channels: int, context: int, hidden: int, fused: int, volume: int = 0) -> None:
        """`volume`: channels of `ObservedSamples.volume`; 0 = it is not read."""
        super().__init__()
        observed = channels + 3
        self.view_in = nn.Linear(observed + 1, hidden)
        self.directions_in = nn.Linear(DIRECTION_CHANNELS, hidden, bias=False)
        # a Linear on [view, mean, variance], without repeating the statistics for every view
        self.statistics_in = nn.Linear(2 * observed, hidden, bias=False)
        self.blend = nn.Linear(hidden, 1)
        self.fuse = nn.Linear(hidden + 2 * observed + 1, fused)
        self.guide_in = nn.Linear(context, fused)
        self.offset_in = nn.Linear(1, fused, bias=False)
        self.volume_in = nn.Linear(volume, fused, bias=False) if volume else None
        self.along_ray = nn.Linear(2 * fused, fused, bias=False)
        self.density = mlp(fused, fused // 2, 1)
        self.own_color = nn.Linear(fused, 4)
        with torch.no_grad():
            self.density[-1].bias.fill_(-1.0)
            self.own_color.bias[3] = -4.0
            if self.volume_in is not None:
                self.volume_in.weight.zero_()

    def forward(
        self, samples: ObservedSamples, residual: Float[Tensor, "batch point fused"] | None = None
    ) -> FieldOutput:
        """Density in 1 / scene unit and color; `residual` is what fine-tuning adds to the fused features."""
        count = samples.offset.shape[-1]
        weights = samples.weights[..., None]
        visible = weights > 0
        observed = torch.cat([samples.features, samples.colors], dim=-1)
        share = weights / weights.sum(1, keepdim=True).clamp_min(1e-6)
        mean, variance = masked_mean_and_variance(observed, share.to(observed.dtype))
        statistics = torch.cat([mean, torch.log(variance.float() + _VARIANCE_FLOOR).to(mean.dtype) / 4 + 1], dim=-1)
        hidden = (
            self.view_in(torch.cat([observed, samples.behind[..., None]], dim=-1))
            + self.statistics_in(statistics)[:, None]
        )
        hidden = hidden.unflatten(2, (-1, count)) + self.directions_in(samples.directions)[..., None, :]
        hidden = F.relu(hidden.flatten(2, 3))
        logits = self.blend(hidden)
        if samples.scene is not None:
            logits = logits - _MISMATCH_WEIGHT * samples.scene.color_mismatch[..., None]
        pooled = (hidden * masked_softmax(logits, visible)).sum(1)
        seen = share_seen(weights.to(observed.dtype))
        fused = self.fuse(torch.cat([pooled, statistics, seen], dim=-1))
        if residual is not None:
            fused = fused + residual
        fused = fused.unflatten(1, (-1, count)) + self.offset_in(samples.offset[..., None])
        if self.volume_in is not None and samples.volume is not None:
            fused = fused + self.volume_in(samples.volume)
        fused = F.relu(fused + self.guide_in(samples.guide)[:, :, None])
        ray = torch.cat([fused.mean(2), fused.amax(2)], dim=-1)
        fused = F.relu(fused + self.along_ray(ray)[:, :, None])
        density = F.softplus(self.density(fused)[..., 0].float()) * _OPTICAL_LENGTH / samples.length[..., None]
        return FieldOutput(density, self._colors(fused, logits, samples))

    def _colors(
        self,
        fused: Float[Tensor, "batch ray sample fused"],
        logits: Float[Tensor, "batch view point 1"],
        samples: ObservedSamples,
    ) -> Float[Tensor, "batch ray sample 3"]:
        """Blend of what the visible views show, and one color of the field's own for what none of them sees.

        The scene's own field knows the latter better, where there is one.
        """
        own = self.own_color(fused).flatten(1, 2)
        view_logits = logits[..., 0].masked_fill(samples.weights == 0, -1e4)
        shares = torch.softmax(torch.cat([view_logits, own[:, None, :, 3]], dim=1).float(), dim=1)
        blended = (shares[:, :-1, :, None] * samples.colors).sum(1)
        scene = samples.scene
        known = torch.sigmoid(own[..., :3]) if scene is None else scene.rgb.repeat_interleave(fused.shape[2], dim=1)
        return (blended + shares[:, -1, :, None] * known).unflatten(1, fused.shape[1:3])
