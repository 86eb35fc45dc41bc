"""OccWorld's VQ-VAE: a frame of class numbers <-> a plane of code numbers."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn

from models.occupancy.occworld.config import TokenizerConfig
from models.occupancy.occworld.layers import Downsample, Level, Middle, Plane, Upsample, conv3, group_norm

Labels = Integer[Tensor, "*batch x y z"]


class DownLevel(Level):
    """Blocks, and all but the coarsest level a stride-2 convolution."""

    def __init__(self, before: int, after: int, blocks: int, *, has_attention: bool, halves: bool) -> None:
        super().__init__(before, after, blocks, has_attention=has_attention)
        if halves:
            self.downsample = Downsample(after)


class UpLevel(Level):
    """Blocks, and all but the finest level a doubling of the plane."""

    def __init__(self, before: int, after: int, blocks: int, *, has_attention: bool, doubles: bool) -> None:
        super().__init__(before, after, blocks, has_attention=has_attention)
        if doubles:
            self.upsample = Upsample(after)


class Encoder(nn.Module):
    """A plane of embedded heights -> features at the coarsest level."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths = [config.width * factor for factor in config.multipliers]
        self.conv_in = conv3(config.channels, config.width)
        self.down = nn.ModuleList(
            DownLevel(
                ([config.width, *widths])[level],
                width,
                config.blocks,
                has_attention=config.sides[level] in config.attention_sizes,
                halves=level < len(widths) - 1,
            )
            for level, width in enumerate(widths)
        )
        self.mid = Middle(widths[-1])
        self.norm_out, self.conv_out = group_norm(widths[-1]), conv3(widths[-1], config.z_channels)

    def forward(self, x: Plane) -> tuple[Plane, list[tuple[int, int]]]:
        """Features, and the size of each level's plane, finest first."""
        x = self.conv_in(x)
        sizes = []
        for level in self.down:
            assert isinstance(level, DownLevel)
            sizes.append((x.shape[-2], x.shape[-1]))
            x = level.blocks(x)
            if hasattr(level, "downsample"):
                x = level.downsample(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x)))), sizes


class Decoder(nn.Module):
    """The mirror image of the encoder, with as many blocks per level. `up.0` is the finest level."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths = [config.width * factor for factor in config.multipliers]
        self.conv_in = conv3(config.z_channels, widths[-1])
        self.mid = Middle(widths[-1])
        self.up = nn.ModuleList(
            UpLevel(
                ([*widths, widths[-1]])[level + 1],
                width,
                config.blocks,
                has_attention=config.sides[level] in config.attention_sizes,
                doubles=level > 0,
            )
            for level, width in enumerate(widths)
        )
        self.norm_out, self.conv_out = group_norm(widths[0]), conv3(widths[0], config.channels)

    def forward(self, z: Plane, sizes: list[tuple[int, int]]) -> Plane:
        """`sizes`: what the encoder returned."""
        x = self.mid(self.conv_in(z))
        for level in reversed(range(len(self.up))):
            part = self.up[level]
            assert isinstance(part, UpLevel)
            x = part.blocks(x)
            if level > 0:
                x = part.upsample(x, sizes[level - 1])
        return self.conv_out(F.silu(self.norm_out(x)))


@dataclass(frozen=True)
class Quantized:
    """What a quantizer makes of features."""

    features: Plane
    """For the decoder; gradients reach the encoder as if nothing was rounded."""
    codes: Int[Tensor, "batch x y"]
    loss: Float[Tensor, ""]
    projected: Float[Tensor, "batch code_channel x y"]
    """What was rounded to codes."""


class VectorQuantizer(nn.Module):
    """Nearest code by squared distance between two 1x1 convolutions (van den Oord et al. 2017, eq. 1 to 3)."""

    def __init__(
        self, num_codes: int, code_channels: int, z_channels: int, *, beta: float = 1.0, legacy_beta: bool = True
    ) -> None:
        """See `TokenizerConfig`."""
        super().__init__()
        self.embedding = nn.Embedding(num_codes, code_channels)
        nn.init.uniform_(self.embedding.weight, -1 / num_codes, 1 / num_codes)
        self.quant_conv = nn.Conv2d(z_channels, code_channels, 1)
        self.post_quant_conv = nn.Conv2d(code_channels, z_channels, 1)
        self.beta, self.legacy_beta = beta, legacy_beta

    def forward(self, z: Plane) -> Quantized:
        """Mean (sg(e) - z)^2 is the commitment, mean (e - sg(z))^2 the codebook's term; one of them has weight beta."""
        projected = self.quant_conv(z)
        codes = self.nearest(projected)
        vectors = self.vectors(codes)
        commitment = (vectors.detach() - projected).square().mean()
        codebook = (vectors - projected.detach()).square().mean()
        loss = commitment + self.beta * codebook if self.legacy_beta else codebook + self.beta * commitment
        straight_through = projected + (vectors - projected).detach()
        return Quantized(self.post_quant_conv(straight_through), codes, loss, projected)

    def nearest(self, projected: Float[Tensor, "batch code_channel x y"]) -> Int[Tensor, "batch x y"]:
        """Number of the nearest code of each cell."""
        flat = projected.movedim(1, -1)
        weights = self.embedding.weight
        # |z - e|^2 without |z|^2, which all codes share
        return (weights.square().sum(1) - 2 * flat @ weights.T).argmin(-1)

    def vectors(self, codes: Integer[Tensor, "*batch x y"]) -> Float[Tensor, "*batch code_channel x y"]:
        """Of code numbers, before `post_quant_conv`."""
        return self.embedding(codes).movedim(-1, -3)


@dataclass(frozen=True)
class CodeUse:
    """How evenly codes are used."""

    share: float
    """Of the codes that occur at all."""
    perplexity: float
    """exp of the entropy of their frequencies: as many codes as are used evenly."""


def code_use(codes: Integer[Tensor, "*batch"], num_codes: int) -> CodeUse:
    """Over all cells."""
    counts = torch.bincount(codes.flatten().long(), minlength=num_codes).double()
    frequencies = counts[counts > 0] / counts.sum()
    return CodeUse(len(frequencies) / num_codes, math.exp(-(frequencies * frequencies.log()).sum().item()))


@torch.no_grad()
def restart_codes(
    quantizer: VectorQuantizer,
    projected: Float[Tensor, "batch code_channel x y"],
    is_stale: Tensor,
    generator: torch.Generator,
) -> int:
    """Set stale codes to what the encoder says of random cells (Dhariwal et al. 2020, section 3); how many."""
    stale = is_stale.nonzero()[:, 0]
    cells = projected.detach().movedim(1, -1).flatten(0, 2)
    chosen = torch.randint(len(cells), (len(stale),), generator=generator)
    quantizer.embedding.weight[stale] = cells[chosen.to(cells.device)].to(quantizer.embedding.weight.dtype)
    return len(stale)


@dataclass(frozen=True)
class Reconstruction:
    """Of frames, by way of their codes."""

    logits: Float[Tensor, "*batch x y z cls"]
    codes: Int[Tensor, "*batch code_x code_y"]
    quantizer_loss: Float[Tensor, ""]
    projected: Float[Tensor, "frames code_channel code_x code_y"]


class Tokenizer(nn.Module):
    """Class numbers -> codes -> class logits; the table of class embeddings is the classifier, too."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.class_embeds = nn.Embedding(config.num_classes, config.expansion)
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.vqvae = VectorQuantizer(
            config.num_codes,
            config.code_channels,
            config.z_channels,
            beta=config.beta,
            legacy_beta=config.legacy_beta,
        )

    def forward(self, labels: Labels) -> Reconstruction:
        """Logits of the frames themselves."""
        z, sizes = self.encode(labels)
        quantized = self.vqvae(z)
        logits = self._logits(self.decoder(quantized.features, sizes))
        lead = labels.shape[:-3]
        codes = quantized.codes.unflatten(0, lead)
        return Reconstruction(logits.unflatten(0, lead), codes, quantized.loss, quantized.projected)

    def encode(self, labels: Labels) -> tuple[Plane, list[tuple[int, int]]]:
        """Features of all frames one after the other, and the planes' sizes for the decoder."""
        frames = labels.flatten(0, -4) if labels.ndim > 3 else labels[None]
        embedded = self.class_embeds(frames.long()).flatten(-2)  # frame x y (z channel)
        return self.encoder(embedded.movedim(-1, 1))

    def codes(self, labels: Labels) -> tuple[Int[Tensor, "*batch code_x code_y"], list[tuple[int, int]]]:
        """Code numbers of frames, and the planes' sizes for the decoder."""
        z, sizes = self.encode(labels)
        return self.vqvae.nearest(self.vqvae.quant_conv(z)).unflatten(0, labels.shape[:-3]), sizes

    def decode(
        self, codes: Integer[Tensor, "*batch code_x code_y"], sizes: list[tuple[int, int]]
    ) -> Float[Tensor, "*batch x y z cls"]:
        """Class logits of frames of codes."""
        vectors = self.vqvae.vectors(codes.flatten(0, -3))
        return self._logits(self.decoder(self.vqvae.post_quant_conv(vectors), sizes)).unflatten(0, codes.shape[:-2])

    def _logits(self, plane: Plane) -> Float[Tensor, "frames x y z cls"]:
        config = self.config
        features = plane.movedim(1, -1).unflatten(-1, (config.heights, config.expansion))
        return features @ self.class_embeds.weight.T
