"""Perceiver: learned latents read tokens of any number of views by cross-attention (Jaegle et al. 2021)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from models.vqa.config import PerceiverConfig


class PerceiverLayer(nn.Module):
    """Latents read the context, attend to each other where that is asked for, then an MLP; all with residuals.

    `self_attn` is the cross-attention: published weights call it that.
    """

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        self.is_pre_norm = config.pre_norm
        width = config.width
        self.self_attn = _attention(config)
        self.norm1 = nn.LayerNorm(width)
        self.latent_attn = _attention(config) if config.self_attention else None
        self.latent_norm = nn.LayerNorm(width) if config.self_attention else None
        self.mlp = nn.Sequential(
            nn.Linear(width, config.ffn_dim),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.ffn_dim, width),
        )
        self.norm2 = nn.LayerNorm(width)

    def forward(
        self,
        latents: Float[Tensor, "batch latent width"],
        context: Float[Tensor, "batch token width"],
        hidden: Bool[Tensor, "batch token"],
        *,
        wants_weights: bool = False,
    ) -> tuple[Float[Tensor, "batch latent width"], Float[Tensor, "batch latent token"] | None]:
        """`hidden` tokens are not read. Also the attention over tokens, mean of the heads, where it is wanted."""
        weights = None

        def read(values: Tensor) -> Tensor:
            nonlocal weights
            found, weights = self.self_attn(
                values, context, context, key_padding_mask=hidden, need_weights=wants_weights
            )
            return found

        latents = self._residual(latents, read, self.norm1)
        if self.latent_attn is not None:
            attend = self.latent_attn
            latents = self._residual(
                latents, lambda values: attend(values, values, values, need_weights=False)[0], self.latent_norm
            )
        return self._residual(latents, self.mlp, self.norm2), weights

    def _residual(self, values: Tensor, part, norm) -> Tensor:
        return values + part(norm(values)) if self.is_pre_norm else norm(values + part(values))


class Perceiver(nn.Module):
    """Tokens of any number -> `num_latents` embeddings."""

    output_rms: Tensor
    """Size of the embeddings, where they are scaled: that of word embeddings."""

    def __init__(self, config: PerceiverConfig, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.config = config
        self.latents = nn.Parameter(config.latent_std * torch.randn(config.num_latents, config.width))
        self.in_proj = nn.Linear(in_dim, config.width)
        self.stem = _stem(config) if config.stem_dim else None
        self.layers = nn.ModuleList(PerceiverLayer(config) for _ in range(config.num_layers))
        self.context_norm = nn.LayerNorm(config.width) if config.pre_norm else None
        self.out_norm = nn.LayerNorm(config.width) if config.is_scaled else None
        self.out_proj = nn.Linear(config.width, out_dim)
        if config.is_scaled:
            self.register_buffer("output_rms", torch.ones(()))
        for module in self.modules():  # attention's packed input projections keep torch's own start
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(
        self,
        tokens: Float[Tensor, "batch token in"],
        visible: Bool[Tensor, "batch token"],
        codes: Float[Tensor, "#batch token in"] | None = None,
    ) -> Float[Tensor, "batch latent out"]:
        """Embeddings of tokens + codes; only `visible` tokens are read, of which every sample needs one."""
        return self._read(tokens, visible, codes, wants_weights=False)[0]

    def with_attention(
        self,
        tokens: Float[Tensor, "batch token in"],
        visible: Bool[Tensor, "batch token"],
        codes: Float[Tensor, "#batch token in"] | None = None,
    ) -> tuple[Float[Tensor, "batch latent out"], Float[Tensor, "batch latent token"]]:
        """Embeddings, and how much each of them reads of each token: mean of all layers and heads."""
        found, weights = self._read(tokens, visible, codes, wants_weights=True)
        return found, torch.stack(weights).mean(0)

    def _read(
        self, tokens: Tensor, visible: Tensor, codes: Tensor | None, *, wants_weights: bool
    ) -> tuple[Tensor, list[Tensor]]:
        context = self.in_proj(tokens)
        if codes is not None:  # linear: W (t + c) + b
            context = context + F.linear(codes, self.in_proj.weight)
        if self.stem is not None:
            context = context + self.stem(context)
        if self.context_norm is not None:
            context = self.context_norm(context)
        latents = self.latents.expand(len(tokens), -1, -1)
        read = []
        for layer in self.layers:
            latents, weights = layer(latents, context, ~visible, wants_weights=wants_weights)
            if weights is not None:
                read.append(weights)
        if self.out_norm is None:
            return self.out_proj(latents), read
        return self.out_proj(self.out_norm(latents)) * self.output_rms, read


def _attention(config: PerceiverConfig) -> nn.MultiheadAttention:
    return nn.MultiheadAttention(config.width, config.num_heads, dropout=config.dropout, batch_first=True)


def _stem(config: PerceiverConfig) -> nn.Sequential:
    """What attention cannot see in a linear map of tokens, such as that a color is not gray."""
    return nn.Sequential(
        nn.LayerNorm(config.width),
        nn.Linear(config.width, config.stem_dim),
        nn.GELU(),
        nn.Linear(config.stem_dim, config.width),
    )
