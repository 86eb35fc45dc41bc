"""Layers of the two-dimensional autoencoder of Esser et al. 2021 (VQGAN), as OccWorld uses them."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Plane = Float[Tensor, "batch _ _ _"]

_GROUPS = 32
_GROUP_WIDTH = 4
"""Channels per group where there are 32 channels or fewer."""
_DROPOUT = 0.0


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups, or groups of 4 channels where there are at most 32."""
    return nn.GroupNorm(channels // _GROUP_WIDTH if channels <= _GROUPS else _GROUPS, channels, eps=1e-6)


def conv3(before: int, after: int) -> nn.Conv2d:
    """3x3, same size."""
    return nn.Conv2d(before, after, 3, padding=1)


class ResidualBlock(nn.Module):
    """norm, swish, 3x3, norm, swish, dropout, 3x3; a 1x1 shortcut where the widths differ."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(before), conv3(before, after)
        self.norm2, self.dropout, self.conv2 = group_norm(after), nn.Dropout(_DROPOUT), conv3(after, after)
        if before != after:
            self.nin_shortcut = nn.Conv2d(before, after, 1)

    def forward(self, x: Plane) -> Plane:
        """Same plane."""
        inner = self.conv1(F.silu(self.norm1(x)))
        inner = self.conv2(self.dropout(F.silu(self.norm2(inner))))
        return inner + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class PlaneAttention(nn.Module):
    """Single-head attention among all cells of the plane, scale channels^-1/2, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Plane) -> Plane:
        """Same plane."""
        inner = self.norm(x)
        query, key, value = (part(inner).flatten(2).mT[:, None] for part in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(query, key, value)[:, 0].mT
        return x + self.proj_out(mixed.reshape(x.shape))


class Downsample(nn.Module):
    """3x3 with stride 2 and padding 1: half the plane, rounded up."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Plane) -> Plane:
        """Half the plane."""
        return self.conv(x)


class Upsample(nn.Module):
    """Nearest, cut or zero-padded to a given size, then 3x3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3(channels, channels)

    def forward(self, x: Plane, size: tuple[int, int]) -> Plane:
        """To `size`."""
        doubled = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.conv(resized(doubled, size))


def resized(x: Plane, size: tuple[int, int]) -> Plane:
    """Zero-padded (or cut, by one) at the far ends of both axes."""
    return F.pad(x, (0, size[1] - x.shape[-1], 0, size[0] - x.shape[-2]))


class Middle(nn.Module):
    """Block, attention, block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1, self.attn_1 = ResidualBlock(channels, channels), PlaneAttention(channels)
        self.block_2 = ResidualBlock(channels, channels)

    def forward(self, x: Plane) -> Plane:
        """Same plane."""
        return self.block_2(self.attn_1(self.block_1(x)))


class Level(nn.Module):
    """Residual blocks of one plane size, each followed by attention where the level has it."""

    def __init__(self, before: int, after: int, blocks: int, *, has_attention: bool) -> None:
        super().__init__()
        widths = [before] + [after] * blocks
        self.block = nn.ModuleList(ResidualBlock(widths[index], after) for index in range(blocks))
        self.attn = nn.ModuleList(PlaneAttention(after) for _ in range(blocks if has_attention else 0))

    def blocks(self, x: Plane) -> Plane:
        """Same plane."""
        for index, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[index](x)
        return x


class UnetBlock(nn.Module):
    """LayerNorm, 3x3, ReLU, 3x3, plus the shortcut, ReLU."""

    def __init__(self, normalized: tuple[int, ...], before: int, after: int) -> None:
        """`normalized`: trailing axes of the LayerNorm, (x, y) or (channel, x, y)."""
        super().__init__()
        self.ln = nn.LayerNorm(list(normalized))
        self.conv1, self.conv2 = conv3(before, after), conv3(after, after)
        self.shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Plane) -> Plane:
        """Same plane."""
        return F.relu(self.conv2(F.relu(self.conv1(self.ln(x)))) + self.shortcut(x))


class FeedForward(nn.Module):
    """Four times as wide, GELU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)

    def forward(self, x: Float[Tensor, "*batch channel"]) -> Float[Tensor, "*batch channel"]:
        """Same width."""
        return self.fc2(F.gelu(self.fc1(x)))


def attention(channels: int, heads: int) -> nn.MultiheadAttention:
    """Batch first."""
    return nn.MultiheadAttention(channels, heads, batch_first=True)


def attend(layer: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mixed values; `mask` is true where a key is not seen."""
    return layer(query, key, key, attn_mask=mask, need_weights=False)[0]


def future_mask(steps: int, device: torch.device) -> Tensor:
    """True above the diagonal: query i sees keys 0 to i."""
    return torch.ones(steps, steps, dtype=torch.bool, device=device).triu(1)
