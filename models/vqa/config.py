"""Sizes of the network that answers questions about scenes, read from JSON and written into its weight files."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from geometry.errors import require
from models.config_checks import (
    build,
    require_choice,
    require_divisible,
    require_layers,
    require_not_negative,
    require_positive,
    section,
)
from models.vqa.prompt import FORMATS

GEOMETRY_STYLES = ("none", "relative", "plain")
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True)
class VisualConfig:
    """What of a frozen VGGT becomes context of the Perceiver."""

    layers: tuple[int, ...] = (23,)
    """Layers of the VGGT, from 0; early ones keep color, late ones geometry (docs/vqa.md, "Visual tokens")."""
    channels: int = 2048
    """Of the tokens of one layer."""
    has_pixels: bool = False
    """One more level holds the pixels of each cell: an image stem beside VGGT, whose first layer is `in_proj`."""
    has_points: bool = False
    """One more level holds where VGGT's own depth and cameras put the middle of each cell; it becomes a code."""
    pooling: int = 1
    """Cells along a side of the squares that are averaged."""
    merging: int = 1
    """Cells along a side of the squares whose channels become one token (as in Qwen2-VL); nothing is averaged."""
    max_views: int = 10
    """Views that have a code."""

    def __post_init__(self) -> None:
        require_positive(self, "channels", "pooling", "merging", "max_views")
        require(bool(self.layers), "VisualConfig.layers: expected at least one layer, got none")

    @property
    def num_levels(self) -> int:
        """Levels of the stored features."""
        return len(self.layers) + self.has_pixels + self.has_points

    @property
    def dim(self) -> int:
        """Channels of a token of the context."""
        return self.channels * (len(self.layers) + self.has_pixels) * self.merging**2


@dataclass(frozen=True)
class PerceiverConfig:
    """Latents that read the context. The defaults have 80.4 M weights between VGGT-1B and Qwen3-4B."""

    width: int = 1024
    num_latents: int = 128
    num_layers: int = 6
    num_heads: int = 8
    ffn_dim: int = 4096
    dropout: float = 0.1
    pre_norm: bool = False
    """LayerNorm before each part instead of behind it."""
    self_attention: bool = False
    """Latents attend to each other between reading the context and their MLP."""
    latent_std: float = 0.02
    """Of the latents' start. 0.02 with post-norm starts with nearly uniform attention; 1 suits pre-norm."""
    stem_dim: int = 0
    """Channels inside an MLP that every token of the context passes, beside a shortcut; 0: there is none."""
    is_scaled: bool = True
    """LayerNorm before the output, which then has the size of word embeddings; False: the bare linear layer."""

    def __post_init__(self) -> None:
        require_positive(self, "width", "num_latents", "num_layers", "num_heads", "ffn_dim", "latent_std")
        require_not_negative(self, "dropout", "stem_dim")
        require_layers(self, "num_layers")
        require_divisible("PerceiverConfig.width", self.width, self.num_heads)


LARGE_PERCEIVER = PerceiverConfig(width=4096, ffn_dim=16384, is_scaled=False)
"""The published training guide's: 1,227.7 M weights from 2048 to 2560 channels."""


@dataclass(frozen=True)
class GeometryConfig:
    """Tokens of what is known about cameras and depth."""

    style: str = "relative"
    """`relative`: a token per view of numbers that do not depend on the world's frame; `plain`: raw numbers, averaged
    over the views and repeated; `none`: no tokens."""
    num_tokens: int = 10
    """With `relative` also the most views."""

    def __post_init__(self) -> None:
        require_choice("GeometryConfig.style", self.style, GEOMETRY_STYLES)
        require_positive(self, "num_tokens")

    @property
    def count(self) -> int:
        """Tokens that reach the language model."""
        return 0 if self.style == "none" else self.num_tokens


@dataclass(frozen=True)
class LoRAConfig:
    """Low-rank adapters of the language model (Hu et al. 2021): W x + alpha / rank B A x, B = 0 at first."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    targets: tuple[str, ...] = LORA_TARGETS
    frozen_layers: int = 0
    """The first layers that have no adapters."""

    def __post_init__(self) -> None:
        require_positive(self, "rank", "alpha")
        require_not_negative(self, "dropout", "frozen_layers")
        require(bool(self.targets), "LoRAConfig.targets: expected at least one name of a linear layer, got none")


@dataclass(frozen=True)
class VQAConfig:
    """All sizes beside those of VGGT and of the language model."""

    visual: VisualConfig = field(default_factory=VisualConfig)
    perceiver: PerceiverConfig = field(default_factory=PerceiverConfig)
    geometry: GeometryConfig = field(default_factory=GeometryConfig)
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    prompt_format: str = "chat"
    max_length: int = 512
    """Tokens of a row of text with its placeholders; a longer question loses its beginning."""

    def __post_init__(self) -> None:
        require_choice("VQAConfig.prompt_format", self.prompt_format, FORMATS)
        require_positive(self, "max_length")

    @property
    def max_views(self) -> int:
        """Views that a network can be shown: each needs a code, and with `relative` geometry a token."""
        per_view = self.geometry.num_tokens if self.geometry.style == "relative" else self.visual.max_views
        return min(self.visual.max_views, per_view)

    @property
    def num_visual(self) -> int:
        """Placeholders in a prompt: geometry first, then what the Perceiver gives."""
        return self.geometry.count + self.perceiver.num_latents

    def to_plain(self) -> dict[str, Any]:
        """Dicts, lists, strings and numbers."""
        return {key: _plain(value) for key, value in asdict(self).items()}

    @classmethod
    def from_plain(cls, raw: Mapping[str, Any], where: str = "VQAConfig") -> "VQAConfig":
        """The inverse of `to_plain`.

        Raises:
            InputError: for unknown keys and values of the wrong type.
        """
        kinds = {"visual": VisualConfig, "perceiver": PerceiverConfig, "geometry": GeometryConfig, "lora": LoRAConfig}
        values = {
            key: build(kinds[key], section(value, f"{where}.{key}"), f"{where}.{key}") if key in kinds else value
            for key, value in raw.items()
        }
        return build(cls, values, where)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return list(value) if isinstance(value, tuple) else value
