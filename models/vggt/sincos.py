"""Sine-cosine position codes [sin(n w_0) ..., cos(n w_0) ...] with w_j = base^(-j / (channels / 2))."""

import torch
from jaxtyping import Float
from torch import Tensor


def sincos(positions: Float[Tensor, " length"], channels: int, *, base: float) -> Float[Tensor, "length channels"]:
    """Code of each position, all sines first; angles in float64, the result in float32."""
    half = channels // 2
    exponents = torch.arange(half, dtype=torch.float64, device=positions.device) / half
    angles = positions.double()[:, None] * base**-exponents
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def sincos_map(
    x: Float[Tensor, " width"], y: Float[Tensor, " height"], channels: int, *, base: float
) -> Float[Tensor, "channels height width"]:
    """Code of a grid of positions: the first half of the channels codes x, the second half y."""
    code_x = sincos(x, channels // 2, base=base).T[:, None, :].expand(-1, len(y), -1)
    code_y = sincos(y, channels // 2, base=base).T[:, :, None].expand(-1, -1, len(x))
    return torch.cat([code_x, code_y])


def image_plane_grid(
    height: int, width: int, aspect: float, device: torch.device
) -> tuple[Float[Tensor, " width"], Float[Tensor, " height"]]:
    """Cell centers (u of each column, v of each row) on an image plane with diagonal 2 (docs/vggt.md, "Dense heads").

    `aspect` is width / height of the image, which need not be that of the map. u spans +-aspect / diagonal.
    """
    diagonal = (aspect**2 + 1) ** 0.5
    last_u = aspect / diagonal * (width - 1) / width
    last_v = 1 / diagonal * (height - 1) / height
    return (
        torch.linspace(-last_u, last_u, width, device=device),
        torch.linspace(-last_v, last_v, height, device=device),
    )
