"""A U-net in the plane."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Plane = Float[Tensor, "batch _ _ _"]

_GROUP = 8
"""Channels per group of a norm."""


class ConvBlock(nn.Module):
    """3x3, norm, an offset per sample, SiLU."""

    def __init__(self, before: int, after: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.GroupNorm(max(1, after // _GROUP), after)

    def forward(self, x: Plane, offset: Float[Tensor, "batch _"] | None = None) -> Plane:
        """The same plane, or one over the stride."""
        x = self.norm(self.conv(x))
        return F.silu(x if offset is None else x + offset[..., None, None])


class PlaneUnet(nn.Module):
    """`levels` times half the plane and twice the width; the offset of each sample enters at every level.

    The last layer begins at zero: an untrained network leaves what it corrects as it is.
    """

    def __init__(self, inputs: int, outputs: int, width: int, levels: int, conditions: int) -> None:
        super().__init__()
        widths = [width << level for level in range(levels + 1)]
        self.stem = ConvBlock(inputs, width)
        self.before = nn.ModuleList(ConvBlock(one, one) for one in widths)
        self.down = nn.ModuleList(ConvBlock(widths[i], widths[i + 1], stride=2) for i in range(levels))
        self.up = nn.ModuleList(ConvBlock(widths[i + 1], widths[i]) for i in range(levels))
        self.after = nn.ModuleList(ConvBlock(2 * widths[i], widths[i]) for i in range(levels))
        self.conditions = nn.ModuleList(nn.Embedding(conditions, one) for one in widths)
        self.out = nn.Conv2d(width, outputs, 3, padding=1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Plane, condition: Tensor) -> Plane:
        """`condition`: a number per sample."""
        x = self.stem(x)
        skips = []
        for level, block in enumerate(self.before):
            x = block(x, self.conditions[level](condition))
            if level < len(self.down):
                skips.append(x)
                x = self.down[level](x)
        for level in reversed(range(len(self.up))):
            x = F.interpolate(x, size=skips[level].shape[-2:], mode="nearest")
            x = self.after[level](torch.cat([self.up[level](x), skips[level]], dim=1))
        return self.out(x)
