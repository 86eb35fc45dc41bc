"""Fused points -> density along a ray, and color blended from source pixels."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from geometry import RayBundle, RaySamples
from models.layers import mlp, sinusoidal_encoding
from models.nerf.hierarchical.point_features import PointFeatures
from models.nerf.hierarchical.view_aggregation import AggregatedPoints

_DENSITY_PER_RANGE = 100.0
"""Density of a softplus of 1, over t_far - t_near, so that no result depends on the scene's unit."""
_POSITION_OCTAVES = 6
"""Of the position along the ray: the finest wave has 1/32 of its length."""


class RayAttention(nn.Module):
    """Samples of a ray look at each other, to find the one place where the views agree best (IBRNet, sec. 3.2)."""

    def __init__(self, fused: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.position = nn.Linear(2 + 2 * _POSITION_OCTAVES, fused)
        self.norm = nn.LayerNorm(fused)
        self.qkv = nn.Linear(fused, 3 * hidden)
        self.out = nn.Linear(hidden, fused)

    def forward(
        self, fused: Float[Tensor, "batch ray sample fused"], rays: RayBundle, samples: RaySamples
    ) -> Float[Tensor, "batch ray sample fused"]:
        """Residual multi-head attention over the sample axis; positions and lengths relative to the ray's range."""
        extent = (rays.t_far - rays.t_near)[..., None]
        position = sinusoidal_encoding((samples.t - rays.t_near[..., None]) / extent * 2 - 1, _POSITION_OCTAVES)
        length = torch.log(samples.deltas / extent + 1e-6)[..., None] / 5
        placed = fused + self.position(torch.cat([position, length], dim=-1).to(fused.dtype))
        qkv = self.qkv(self.norm(placed)).unflatten(-1, (3, self.heads, -1))
        queries, keys, values = (part.transpose(2, 3).flatten(0, 1) for part in qkv.unbind(3))
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        mixed = mixed.unflatten(0, fused.shape[:2]).transpose(2, 3).flatten(3)
        return placed + self.out(mixed)


class RadianceField(nn.Module):
    """Density from fused features with the whole ray in view; color from the source pixels."""

    def __init__(self, hidden: int, fused: int, heads: int) -> None:
        super().__init__()
        self.along_ray = RayAttention(fused, hidden, heads)
        self.density = mlp(fused, fused, 1)
        self.blend_view = nn.Linear(hidden + 4, hidden)
        self.blend_fused = nn.Linear(fused, hidden, bias=False)
        self.blend_logit = nn.Linear(hidden, 1)
        self.own_color = mlp(fused, hidden, 4)
        with torch.no_grad():
            self.density[-1].bias.fill_(-3.0)
            self.own_color[-1].bias[3] = -3.0

    def densities(
        self, fused: Float[Tensor, "batch ray sample fused"], rays: RayBundle, samples: RaySamples
    ) -> Float[Tensor, "batch ray sample"]:
        """Density in 1 / scene unit, >= 0."""
        raw = self.density(self.along_ray(fused, rays, samples))[..., 0]
        return F.softplus(raw.float()) * _DENSITY_PER_RANGE / (rays.t_far - rays.t_near)[..., None]

    def colors(self, points: PointFeatures, aggregated: AggregatedPoints) -> Float[Tensor, "batch point 3"]:
        """Convex combination of the colors in the visible source views and one color of the field's own.

        The latter fills in what no source view sees.
        """
        hidden = self.blend_view(torch.cat([aggregated.per_view, points.direction_offsets], dim=-1))
        hidden = F.relu(hidden + self.blend_fused(aggregated.fused)[:, None])
        view_logits = self.blend_logit(hidden)[..., 0].masked_fill(~points.visible, -1e4)
        own = self.own_color(aggregated.fused)
        shares = torch.softmax(torch.cat([view_logits, own[:, None, :, 3]], dim=1).float(), dim=1)
        palette = torch.cat([points.colors, torch.sigmoid(own[:, None, :, :3]).to(points.colors.dtype)], dim=1)
        return (shares[..., None] * palette).sum(1)
