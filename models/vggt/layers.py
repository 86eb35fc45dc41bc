"""Blocks and patches of ViT, aggregator and camera trunk (docs/vggt.md, "Transformer block" and "Patch embedding")."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from geometry.errors import InputError
from models.vggt.attention import Attention

Tokens = Float[Tensor, "batch token channel"]


def normal_parameter(*shape: int, std: float) -> nn.Parameter:
    """A parameter drawn from N(0, std^2); on the meta device, which holds no values, nothing is drawn.

    Random numbers on the meta device would import torch's compiler, which takes longer than all the rest.
    """
    values = torch.empty(shape)
    return nn.Parameter(values if values.is_meta else values.normal_(std=std))


class Mlp(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, dim_in: int, dim_hidden: int, dim_out: int, *, bias: bool = True) -> None:
        """Widths of the three ends."""
        super().__init__()
        self.fc1 = nn.Linear(dim_in, dim_hidden, bias=bias)
        self.fc2 = nn.Linear(dim_hidden, dim_out, bias=bias)

    def forward(self, values: Float[Tensor, "*batch dim_in"]) -> Float[Tensor, "*batch dim_out"]:
        """Apply to the last axis."""
        return self.fc2(F.gelu(self.fc1(values)))


class SwiGLU(nn.Module):
    """w3(silu(a) * b) with [a, b] = w12(x); the hidden width is 2/3 of the nominal one, rounded up to 8."""

    def __init__(self, dim: int, dim_nominal: int, *, bias: bool = True) -> None:
        """`dim_nominal` is the hidden width an MLP would have."""
        super().__init__()
        dim_hidden = -(-int(dim_nominal * 2 / 3) // 8) * 8
        self.w12 = nn.Linear(dim, 2 * dim_hidden, bias=bias)
        self.w3 = nn.Linear(dim_hidden, dim, bias=bias)

    def forward(self, values: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Apply to the last axis."""
        gate, value = self.w12(values).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class LayerScale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, dim: int, initial: float) -> None:
        """Every factor starts at `initial`."""
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), initial))

    def forward(self, tokens: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Scale the last axis."""
        return tokens * self.gamma


class Block(nn.Module):
    """x + scale1 Attn(LN(x)), then x + scale2 MLP(LN(x)); in training the activations are recomputed backwards."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        proj_bias: bool = True,
        ffn_bias: bool = True,
        init_values: float | None = None,
        qk_norm: bool = False,
        norm_eps: float = 1e-5,
        ffn_layer: str = "mlp",
        recompute_in_training: bool = True,
    ) -> None:
        """`init_values` None or 0 leaves LayerScale out; `ffn_layer` is "mlp", "swiglu", "swiglufused", "identity"."""
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim, num_heads, qkv_bias=qkv_bias, proj_bias=proj_bias, qk_norm=qk_norm)
        self.ls1 = LayerScale(dim, init_values) if init_values else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        dim_hidden = int(dim * mlp_ratio)
        if ffn_layer == "mlp":
            self.mlp: nn.Module = Mlp(dim, dim_hidden, dim, bias=ffn_bias)
        elif ffn_layer == "identity":
            self.mlp = nn.Identity()
        else:
            self.mlp = SwiGLU(dim, dim_hidden, bias=ffn_bias)
        self.ls2 = LayerScale(dim, init_values) if init_values else nn.Identity()
        self.recompute_in_training = recompute_in_training

    def forward(self, tokens: Tokens, angles: Float[Tensor, "token head_dim"] | None = None) -> Tokens:
        """One block; `angles` from `rotary_angles` gives the tokens positions."""
        if self.training and self.recompute_in_training and torch.is_grad_enabled():
            return checkpoint(self._transform, tokens, angles, use_reentrant=False)
        return self._transform(tokens, angles)

    def _transform(self, tokens: Tensor, angles: Tensor | None) -> Tensor:
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens), angles))
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))


class PatchEmbed(nn.Module):
    """One convolution whose kernel and stride are the patch."""

    def __init__(self, patch_size: int, dim: int) -> None:
        """`patch_size` in pixels, `dim` output channels."""
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Tokens:
        """One token per patch, row-major; sides that are no multiples of the patch are an `InputError`."""
        require_whole_patches(images, self.patch_size)
        return self.proj(images).flatten(2).transpose(1, 2)


def require_whole_patches(images: Float[Tensor, "batch 3 height width"], patch_size: int) -> None:
    """Refuse images whose sides are no multiples of the patch."""
    height, width = images.shape[-2:]
    if height % patch_size or width % patch_size or not height or not width:
        raise InputError(f"image sides must be multiples of {patch_size}, got {height}x{width}")
