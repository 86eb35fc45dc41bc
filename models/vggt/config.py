"""The sizes of a VGGT network as frozen dataclasses, read from JSON strictly.

The defaults are VGGT-1B. Field names are the reference model's argument names, so its hub `config.json` and the
fixtures' `config.json` are read as they are. Every unknown key, wrong type or impossible size is an `InputError`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from geometry.errors import InputError
from models.config_checks import (
    build,
    read_json,
    require_choice,
    require_divisible,
    require_known_keys,
    require_layers,
    require_not_negative,
    require_positive,
    section,
)
from models.vggt.heads.activations import CONFIDENCE_ACTIVATIONS, POSE_ACTIVATIONS, VALUE_ACTIVATIONS

MATCH_STEM = "match"
HEADS = ("camera", "depth", "point", "track")
LAYER_PARTS = (5, 12, 18, 24)
"""Layers that dense heads read, counted from 1, in 24ths of the network: 4, 11, 17 and 23 of VGGT-1B, from 0."""

_NAMED_VITS = {  # name -> embed_dim, depth, num_heads
    "dinov2_vits14_reg": (384, 12, 6),
    "dinov2_vitb14_reg": (768, 12, 12),
    "dinov2_vitl14_reg": (1024, 24, 16),
    "dinov2_vitg2_reg": (1536, 40, 24),
}
FFN_LAYERS = ("mlp", "swiglu", "swiglufused", "identity")
_FIXED_VIT_ARGUMENTS = {"in_chans": 3, "block_chunks": 0, "drop_path_rate": 0, "drop_path_uniform": False}
_IGNORED_KEYS = frozenset({"inputs", "state_dict_elements"})
_CONSTRUCTOR_KEYS = frozenset({"img_size", "patch_size", "embed_dim", *(f"enable_{name}" for name in HEADS)})


class MissingHeadError(InputError):
    """A head is asked for that the network does not have."""


@dataclass(frozen=True)
class ViTConfig:
    """DINOv2-style vision transformer (docs/vggt.md, "Patch embedding")."""

    img_size: int = 518
    """Side in pixels of the square image whose patch grid the stored position embedding has."""
    patch_size: int = 14
    embed_dim: int = 1024
    depth: int = 24
    num_heads: int = 16
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    proj_bias: bool = True
    ffn_bias: bool = True
    init_values: float | None = 1.0
    """Initial LayerScale; None or 0 leaves LayerScale out."""
    ffn_layer: str = "mlp"
    num_register_tokens: int = 4
    interpolate_antialias: bool = True
    interpolate_offset: float = 0.0
    qk_norm: bool = False

    def __post_init__(self) -> None:
        """Refuse impossible sizes."""
        require_positive(self, "img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio")
        require_layers(self, "depth")
        require_divisible("vit.embed_dim", self.embed_dim, self.num_heads)
        require_choice("vit.ffn_layer", self.ffn_layer, FFN_LAYERS)
        require_not_negative(self, "num_register_tokens", "interpolate_offset")
        if self.img_size < self.patch_size:
            raise InputError(f"vit.img_size must hold a patch of {self.patch_size} pixels, got {self.img_size}")


@dataclass(frozen=True)
class AggregatorConfig:
    """Patch embedding and the alternating frame / global attention (docs/vggt.md, "Alternating attention")."""

    img_size: int = 518
    patch_size: int = 14
    embed_dim: int = 1024
    depth: int = 24
    """Number of frame blocks, and of global blocks."""
    num_heads: int = 16
    mlp_ratio: float = 4.0
    num_register_tokens: int = 4
    qkv_bias: bool = True
    proj_bias: bool = True
    ffn_bias: bool = True
    patch_embed: str = "dinov2_vitl14_reg"
    """A name with "conv", a named DINOv2 size, "vit" with the sizes in `vit`, or "match", ours for small images."""
    stem_blocks: int = 0
    """Residual blocks after each halving of a "match" stem."""
    aa_order: tuple[str, ...] = ("frame", "global")
    aa_block_size: int = 1
    qk_norm: bool = True
    rope_freq: float = 100.0
    """Base of the rotary frequencies; 0 or less turns rotary positions off."""
    init_values: float | None = 0.01
    vit: ViTConfig | None = None

    def __post_init__(self) -> None:
        """Refuse impossible sizes."""
        require_positive(self, "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "aa_block_size")
        require_not_negative(self, "num_register_tokens", "stem_blocks")
        require_layers(self, "depth", "stem_blocks")
        require_divisible("aggregator.embed_dim", self.embed_dim, self.num_heads)
        require_divisible("aggregator.depth", self.depth, self.aa_block_size)
        if self.rope_freq > 0:
            require_divisible("aggregator head width", self.embed_dim // self.num_heads, 4)
        if sorted(self.aa_order) != ["frame", "global"]:
            raise InputError(f"aggregator.aa_order must hold 'frame' and 'global' once, got {list(self.aa_order)}")
        if (self.patch_embed == "vit") != (self.vit is not None):
            raise InputError(
                "aggregator.vit must be given exactly when aggregator.patch_embed is 'vit', "
                f"got patch_embed {self.patch_embed!r} and vit {self.vit}"
            )
        if self.patch_embed == MATCH_STEM and (self.patch_size < 4 or self.patch_size & (self.patch_size - 1)):
            raise InputError(
                f"aggregator.patch_size must be a power of two from 4 on for patch_embed {MATCH_STEM!r}, "
                f"got {self.patch_size}"
            )
        if self.stem_blocks and self.patch_embed != MATCH_STEM:
            raise InputError(
                f"aggregator.stem_blocks {self.stem_blocks}: expected patch_embed {MATCH_STEM!r}, "
                f"got {self.patch_embed!r}"
            )
        vit = self.vit_config
        if vit is not None and (vit.embed_dim, vit.patch_size) != (self.embed_dim, self.patch_size):
            raise InputError(
                f"patch_embed {self.patch_embed!r} is {vit.embed_dim} wide with patches of "
                f"{vit.patch_size}, aggregator expects {self.embed_dim} and {self.patch_size}"
            )

    @property
    def vit_config(self) -> ViTConfig | None:
        """Sizes of the vision transformer, or None for convolutions."""
        if "conv" in self.patch_embed or self.patch_embed == MATCH_STEM:
            return None
        if self.patch_embed == "vit":
            return self.vit
        require_choice("aggregator.patch_embed", self.patch_embed, ("conv", MATCH_STEM, "vit", *_NAMED_VITS))
        embed_dim, depth, num_heads = _NAMED_VITS[self.patch_embed]
        return ViTConfig(
            self.img_size, self.patch_size, embed_dim, depth, num_heads, num_register_tokens=self.num_register_tokens
        )


@dataclass(frozen=True)
class CameraHeadConfig:
    """Iterative camera regression (docs/vggt.md, "Camera head")."""

    trunk_depth: int = 4
    pose_encoding_type: str = "absT_quaR_FoV"
    num_heads: int = 16
    mlp_ratio: float = 4.0
    init_values: float | None = 0.01
    trans_act: str = "linear"
    quat_act: str = "linear"
    fl_act: str = "relu"

    def __post_init__(self) -> None:
        """Refuse unknown names."""
        require_positive(self, "trunk_depth", "num_heads", "mlp_ratio")
        require_layers(self, "trunk_depth")
        require_choice("camera_head.pose_encoding_type", self.pose_encoding_type, ("absT_quaR_FoV",))
        for name in ("trans_act", "quat_act", "fl_act"):
            require_choice(f"camera_head.{name}", getattr(self, name), tuple(POSE_ACTIVATIONS))


@dataclass(frozen=True)
class DPTConfig:
    """Dense prediction head (docs/vggt.md, "Dense heads")."""

    patch_size: int = 14
    output_dim: int = 4
    """Predicted values per pixel, the confidence included."""
    activation: str = "inv_log"
    conf_activation: str = "expp1"
    features: int = 256
    out_channels: tuple[int, ...] = (256, 512, 1024, 1024)
    intermediate_layer_idx: tuple[int, ...] = (4, 11, 17, 23)
    """Which aggregator layer feeds each of the four pyramid levels, finest level first."""
    pos_embed: bool = True
    feature_only: bool = False
    """Stop at the feature map and predict nothing."""
    down_ratio: int = 1
    """Image pixels per output pixel."""

    def __post_init__(self) -> None:
        """Refuse impossible sizes and unknown names."""
        require_positive(self, "patch_size", "features", "down_ratio")
        require_choice("activation", self.activation, tuple(VALUE_ACTIVATIONS))
        require_choice("conf_activation", self.conf_activation, tuple(CONFIDENCE_ACTIVATIONS))
        for name in ("out_channels", "intermediate_layer_idx"):
            if len(getattr(self, name)) != 4:
                raise InputError(f"{name} must have 4 entries, got {list(getattr(self, name))}")
        if min(self.out_channels) < 1:
            raise InputError(f"out_channels must be positive, got {list(self.out_channels)}")
        if self.output_dim < 2 and not self.feature_only:
            raise InputError(f"output_dim must be at least 2 (a value and its confidence), got {self.output_dim}")
        if self.activation == "xy_inv_log" and self.output_dim != 4 and not self.feature_only:
            raise InputError(f"activation 'xy_inv_log' needs output_dim 4, got {self.output_dim}")
        require_divisible("features", self.features, 1 if self.feature_only else 2)
        if self.pos_embed:
            require_divisible("features", self.features, 4 if self.feature_only else 8)
            for channels in self.out_channels:
                require_divisible("out_channels", channels, 4)


@dataclass(frozen=True)
class TrackerConfig:
    """Iterative point tracker (docs/vggt.md, "Track head")."""

    stride: int = 2
    """Image pixels per feature-map cell."""
    corr_levels: int = 7
    corr_radius: int = 4
    latent_dim: int = 128
    hidden_size: int = 384
    use_spaceatt: bool = True
    depth: int = 6
    max_scale: int = 518
    """Divisor of the flow given to the transformer, in cells."""
    predict_conf: bool = True

    def __post_init__(self) -> None:
        """Refuse impossible sizes."""
        require_positive(self, "stride", "corr_levels", "latent_dim", "hidden_size", "depth", "max_scale")
        require_layers(self, "depth", "corr_levels", "corr_radius")
        require_divisible("tracker.hidden_size", self.hidden_size, 8)
        require_divisible("tracker.latent_dim", self.latent_dim, 4)
        require_not_negative(self, "corr_radius")


# VGGT-1B's heads (docs/vggt.md, "Dense heads")
_DEPTH_DEFAULTS = {"output_dim": 2, "activation": "exp"}
_FEATURE_DEFAULTS = {"features": 128, "pos_embed": False, "feature_only": True, "down_ratio": 2}


@dataclass(frozen=True)
class TrackHeadConfig:
    """Feature pyramid and tracker (docs/vggt.md, "Track head")."""

    iters: int = 4
    feature_extractor: DPTConfig = field(default_factory=lambda: DPTConfig(**_FEATURE_DEFAULTS))
    tracker: TrackerConfig = field(default_factory=TrackerConfig)

    def __post_init__(self) -> None:
        """Refuse parts that do not fit together."""
        require_positive(self, "iters")
        if not self.feature_extractor.feature_only:
            raise InputError("track_head.feature_extractor.feature_only must be true, got false")
        if self.feature_extractor.features != self.tracker.latent_dim:
            raise InputError(
                "track_head.feature_extractor.features must equal tracker.latent_dim, "
                f"got {self.feature_extractor.features} and {self.tracker.latent_dim}"
            )

    @property
    def smallest_image(self) -> int:
        """Fewest pixels along a side: the coarsest level of the tracker's pyramid needs one cell."""
        return self.tracker.stride * 2 ** (self.tracker.corr_levels - 1)


@dataclass(frozen=True)
class VGGTConfig:
    """All sizes of one network; a head that is None is absent."""

    aggregator: AggregatorConfig = field(default_factory=AggregatorConfig)
    camera_head: CameraHeadConfig | None = field(default_factory=CameraHeadConfig)
    depth_head: DPTConfig | None = field(default_factory=lambda: DPTConfig(**_DEPTH_DEFAULTS))
    point_head: DPTConfig | None = field(default_factory=DPTConfig)
    track_head: TrackHeadConfig | None = field(default_factory=TrackHeadConfig)

    def __post_init__(self) -> None:
        """Refuse heads that do not fit the aggregator."""
        if self.camera_head is not None:
            require_divisible("2 * aggregator.embed_dim", 2 * self.aggregator.embed_dim, self.camera_head.num_heads)
        for name, head in (("depth_head", self.depth_head), ("point_head", self.point_head)):
            if head is not None:
                self._check_pyramid(name, head)
                if head.feature_only:
                    raise InputError(f"{name}.feature_only must be false, got true")
        if self.track_head is not None:
            self._check_pyramid("track_head.feature_extractor", self.track_head.feature_extractor)

    def _check_pyramid(self, name: str, head: DPTConfig) -> None:
        depth = self.aggregator.depth
        for layer in head.intermediate_layer_idx:
            if not 0 <= layer < depth:
                raise InputError(f"{name}.intermediate_layer_idx must lie in 0..{depth - 1}, got {layer}")
        if head.patch_size != self.aggregator.patch_size:
            raise InputError(
                f"{name}.patch_size must equal aggregator.patch_size {self.aggregator.patch_size}, "
                f"got {head.patch_size}"
            )

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads that are present, out of `HEADS`."""
        return tuple(name for name in HEADS if getattr(self, f"{name}_head") is not None)

    def with_heads(self, wanted: tuple[str, ...] | list[str]) -> "VGGTConfig":
        """The same network with only the named heads.

        Raises:
            InputError: for a name that is no head's.
            MissingHeadError: for a head that is not there.
        """
        for name in wanted:
            require_choice("head", name, HEADS)
            if name not in self.heads:
                raise MissingHeadError(f"the network has no {name} head, it has: {', '.join(self.heads) or 'none'}")
        return replace(self, **{f"{name}_head": None for name in HEADS if name not in wanted})

    def adding_heads(self, names: tuple[str, ...] | list[str]) -> "VGGTConfig":
        """The same network with further heads, in VGGT-1B's sizes or, where there is a dense head, with its widths.

        Raises:
            InputError: for a name that is no head's, or a head that is there already.
        """
        dense = self.depth_head or self.point_head
        depth, patch_size = self.aggregator.depth, self.aggregator.patch_size
        layers = tuple(-(-depth * part // 24) - 1 for part in LAYER_PARTS)
        shared = {"patch_size": patch_size, "intermediate_layer_idx": layers}
        if dense is not None:
            shared |= {"intermediate_layer_idx": dense.intermediate_layer_idx, "out_channels": dense.out_channels}
        features = {} if dense is None else {"features": dense.features}
        sections: dict[str, Any] = {}
        for name in names:
            require_choice("head", name, HEADS)
            if name in self.heads:
                raise InputError(f"there is a {name} head already")
            if name == "camera":
                sections["camera_head"] = CameraHeadConfig()
            elif name == "track":
                extractor = DPTConfig(**_FEATURE_DEFAULTS | shared)
                sections["track_head"] = TrackHeadConfig(feature_extractor=extractor)
            else:
                sections[f"{name}_head"] = DPTConfig(**(_DEPTH_DEFAULTS if name == "depth" else {}) | shared | features)
        return replace(self, **sections)

    @classmethod
    def read(cls, config: "Mapping[str, Any] | str | Path") -> "VGGTConfig":
        """From a mapping or a JSON file: the full form (`aggregator`, heads) or the hub's constructor arguments."""
        if isinstance(config, str | Path):
            return cls.read(read_json(Path(config)))
        if "aggregator" in config:
            return cls._from_sections(config)
        return cls._from_constructor_arguments(config)

    @classmethod
    def _from_sections(cls, raw: Mapping[str, Any]) -> "VGGTConfig":
        require_known_keys(raw, {"aggregator", *(f"{name}_head" for name in HEADS)} | _IGNORED_KEYS, "the config")
        aggregator = _aggregator(section(raw["aggregator"], "aggregator"))
        inherited = {"patch_size": aggregator.patch_size}
        sections: dict[str, Any] = {}
        for key, kind, defaults in (
            ("camera_head", CameraHeadConfig, {}),
            ("depth_head", DPTConfig, inherited | _DEPTH_DEFAULTS),
            ("point_head", DPTConfig, inherited),
        ):
            given = raw.get(key)
            sections[key] = None if given is None else build(kind, defaults | section(given, key), key)
        track = raw.get("track_head")
        if track is not None:
            where = "track_head"
            track = section(track, where)
            extractor = inherited | _FEATURE_DEFAULTS | section(track.get("feature_extractor", {}), where)
            tracker = section(track.get("tracker", {}), where)
            track = track | {
                "feature_extractor": build(DPTConfig, extractor, f"{where}.feature_extractor"),
                "tracker": build(TrackerConfig, tracker, f"{where}.tracker"),
            }
            track = build(TrackHeadConfig, track, where)
        return cls(aggregator=aggregator, track_head=track, **sections)

    @classmethod
    def _from_constructor_arguments(cls, raw: Mapping[str, Any]) -> "VGGTConfig":
        require_known_keys(raw, _CONSTRUCTOR_KEYS | _IGNORED_KEYS, "the config")
        sizes = {key: raw[key] for key in ("img_size", "patch_size", "embed_dim") if key in raw}
        sections: dict[str, Any] = {"aggregator": sizes}
        for name in HEADS:
            enabled = raw.get(f"enable_{name}", True)
            if not isinstance(enabled, bool):
                raise InputError(f"enable_{name} must be true or false, got {enabled!r}")
            sections[f"{name}_head"] = {} if enabled else None
        return cls._from_sections(sections)


def _aggregator(raw: dict[str, Any]) -> AggregatorConfig:
    """The aggregator section; sizes that `vit` leaves out are the aggregator's."""
    if raw.get("vit") is not None:
        vit = section(raw["vit"], "aggregator.vit")
        for key, only in _FIXED_VIT_ARGUMENTS.items():
            if vit.pop(key, only) != only:
                raise InputError(f"aggregator.vit.{key} must be {only!r}, got {raw['vit'][key]!r}")
        shared = ("img_size", "patch_size", "embed_dim", "num_register_tokens")
        defaults = {key: raw[key] if key in raw else getattr(AggregatorConfig, key) for key in shared}
        raw = raw | {"vit": build(ViTConfig, defaults | vit, "aggregator.vit")}
    return build(AggregatorConfig, raw, "aggregator")
