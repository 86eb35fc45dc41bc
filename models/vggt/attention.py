"""Multi-head self-attention, optional query/key normalization, 2-D rotary positions (RoPE, Su et al. 2021, eq. 15)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


def patch_positions(rows: int, cols: int, num_special: int, device: torch.device) -> Int[Tensor, "token 2"]:
    """Integer (row + 1, column + 1) of each patch, row-major, after `num_special` tokens at (0, 0)."""
    grid = torch.cartesian_prod(torch.arange(1, rows + 1, device=device), torch.arange(1, cols + 1, device=device))
    return torch.cat([grid.new_zeros(num_special, 2), grid])


def rotary_angles(positions: Int[Tensor, "token 2"], head_dim: int, *, base: float) -> Float[Tensor, "token head_dim"]:
    """Rotation angle of each channel of a head: the first half turns with the row, the second with the column.

    Within a half of d channels the angles are [theta, theta] with theta_j = position * base^(-2 j / d), in float32.
    """
    half = head_dim // 2
    exponents = torch.arange(0, half, 2, dtype=torch.float32, device=positions.device) / half
    theta = positions.float()[:, :, None] * (1.0 / base**exponents)  # token 2 half/2
    return torch.cat([theta, theta], dim=2).flatten(1)


def rotate(
    tokens: Float[Tensor, "batch head token head_dim"], angles: Float[Tensor, "token head_dim"]
) -> Float[Tensor, "batch head token head_dim"]:
    """Rotate pairs of channels by `angles`; the two members of a pair lie a quarter of the head apart."""
    angles = angles.to(tokens.dtype)  # before the trigonometry: the reference's half precision does so too
    first, second = tokens.unflatten(-1, (2, 2, -1)).unbind(-2)  # each batch head token 2 head_dim/4
    quarter_turned = torch.stack([-second, first], dim=-2).flatten(-3)
    return tokens * angles.cos() + quarter_turned * angles.sin()


class Attention(nn.Module):
    """softmax(q k^T / sqrt(head width)) v over all tokens of a sequence, without a mask."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        qkv_bias: bool = True,
        proj_bias: bool = True,
        qk_norm: bool = False,
    ) -> None:
        """`dim` channels split over `num_heads`; `qk_norm` normalizes queries and keys per head (eps 1e-5)."""
        super().__init__()
        self.num_heads = num_heads
        head_dim = dim // num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.q_norm = nn.LayerNorm(head_dim) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(head_dim) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim, bias=proj_bias)

    def forward(
        self,
        tokens: Float[Tensor, "batch token channel"],
        angles: Float[Tensor, "token head_dim"] | None = None,
    ) -> Float[Tensor, "batch token channel"]:
        """Attend; `angles` from `rotary_angles` turns queries and keys."""
        qkv = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each batch head token head_dim
        query, key = self.q_norm(query), self.k_norm(key)
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.proj(attended.transpose(1, 2).flatten(2))
