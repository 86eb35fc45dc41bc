"""Sizes of OccWorld."""

from dataclasses import dataclass, field
from typing import Any

from geometry import InputError, require
from models.config_checks import build, require_known_keys, require_layers, section


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Of the VQ-VAE; the defaults are the released ones, 14,168,272 parameters."""

    num_classes: int = 18
    expansion: int = 8
    """Channels of a class's embedding."""
    heights: int = 16
    """Voxels along z; the channels of the plane are heights * expansion."""
    width: int = 64
    multipliers: tuple[int, ...] = (1, 2, 4)
    """Of the width, finest level first; between levels the plane is halved."""
    blocks: int = 2
    """Residual blocks per level."""
    attention_sizes: tuple[int, ...] = (50,)
    """Sides of the plane at which levels have attention."""
    plane: int = 200
    """Voxels along x and y."""
    z_channels: int = 128
    num_codes: int = 512
    code_channels: int = 128
    beta: float = 1.0
    """Weight of the commitment."""
    legacy_beta: bool = True
    """The reference's mistake: beta weighs the codebook's term instead; the same at beta 1."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be."""
        for name in ("num_classes", "expansion", "heights", "width", "blocks", "plane", "num_codes", "code_channels"):
            require(getattr(self, name) >= 1, f"tokenizer {name}: expected at least 1, got {getattr(self, name)}")
        require_layers(self, "blocks")
        require(len(self.multipliers) > 0, "tokenizer multipliers: expected at least one level, got none")

    @property
    def channels(self) -> int:
        """Of the plane: an embedding per height, heights slowest."""
        return self.heights * self.expansion

    @property
    def code_plane(self) -> int:
        """Side of the plane of codes."""
        return self.sides[-1]

    @property
    def sides(self) -> tuple[int, ...]:
        """Of the plane, finest level first: stride-2 convolutions with padding 1 round up."""
        found = [self.plane]
        for _ in self.multipliers[1:]:
            found.append((found[-1] - 1) // 2 + 1)
        return tuple(found)


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Of the autoregressive transformer; the defaults are the released ones, 58,182,740 parameters."""

    frames: int = 15
    """The longest window."""
    channels: tuple[int, ...] = (128, 256, 512)
    """By level; the first is that of codes and poses."""
    pose_layers: int = 2
    temporal_layers: int = 6
    heads: int = 8
    learnable_queries: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be."""
        require(len(self.channels) >= 2, f"transformer channels: expected 2 or more levels, got {len(self.channels)}")
        require_layers(self, "pose_layers", "temporal_layers")
        bad = [width for width in self.channels[:-1] if width % self.heads]
        require(not bad, f"transformer channels: expected multiples of {self.heads} heads, got {bad}")
        require(self.frames >= 2, f"transformer frames: expected at least 2, got {self.frames}")


@dataclass(frozen=True, kw_only=True)
class OccWorldConfig:
    """All of it."""

    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    num_commands: int = 3
    pose_channels: int = 128

    def __post_init__(self) -> None:
        """Refuse parts that do not fit each other."""
        width = self.transformer.channels[0]
        for name, value in (("code_channels", self.tokenizer.code_channels), ("pose_channels", self.pose_channels)):
            require(value == width, f"{name} {value}: expected the transformer's first width, {width}")

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "OccWorldConfig":
        """From JSON values.

        Raises:
            InputError: for an unknown key.
        """
        values = section(plain, "OccWorld's sizes")
        require_known_keys(values, cls.__dataclass_fields__, "OccWorld's sizes")
        parts = {"tokenizer": TokenizerConfig, "transformer": TransformerConfig}
        built = {name: build(kind, section(values.pop(name, {}), name), name) for name, kind in parts.items()}
        return cls(**values, **built)

    @classmethod
    def of_reference(cls, plain: dict[str, Any]) -> "OccWorldConfig":
        """From the arguments of the reference's classes (`vae`, `transformer`).

        Raises:
            InputError: for a missing one, or ones that contradict each other.
        """
        try:
            vae, transformer = plain["vae"], plain["transformer"]
            encoder, codes = vae["encoder_cfg"], vae["vqvae_cfg"]
            tokenizer = TokenizerConfig(
                num_classes=vae["num_classes"],
                expansion=vae["expansion"],
                heights=encoder["in_channels"] // vae["expansion"],
                width=encoder["ch"],
                multipliers=tuple(encoder["ch_mult"]),
                blocks=encoder["num_res_blocks"],
                attention_sizes=tuple(encoder["attn_resolutions"]),
                plane=encoder["resolution"],
                z_channels=codes["z_channels"],
                num_codes=codes["n_e"],
                code_channels=codes["e_dim"],
                beta=codes["beta"],
                legacy_beta=codes.get("legacy", True),
            )
            return cls(
                tokenizer=tokenizer,
                transformer=TransformerConfig(
                    frames=transformer["num_frames"],
                    channels=tuple(transformer["channels"]),
                    pose_layers=transformer["pose_attn_layers"],
                    temporal_layers=transformer["temporal_attn_layers"],
                    heads=transformer["num_heads"],
                    learnable_queries=transformer["learnable_queries"],
                ),
                num_commands=plain["pose_encoder"]["in_channels"] - 2,
                pose_channels=plain["pose_encoder"]["out_channels"],
            )
        except KeyError as error:
            raise InputError(f"configuration of OccWorld: expected an entry {error}, got none") from None
