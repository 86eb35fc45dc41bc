"""The sizes of a MapAnything network (Keetha et al. 2025) as a frozen dataclass, read from JSON or from weights.

The defaults are those of the released model of version 1.1 (docs/mapanything.md, "Sizes").
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from geometry.errors import InputError
from models.config_checks import (
    build,
    read_json,
    require_choice,
    require_divisible,
    require_layers,
    require_not_negative,
    require_positive,
    section,
)
from models.vggt.config import ViTConfig

PATCH_ENCODER, VIT_ENCODER = "patch", "vit"
_DATA_KEYS = frozenset({"views", "H", "W", "batch", "is_metric_scale"})
"""Of recorded inputs, which stand beside the sizes in the `config.json` of fixtures."""
_HEAD_WIDTH = 64
"""Of all released transformers: number of heads where only weights are known."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class MapAnythingConfig:
    """All sizes of one network."""

    patch_size: int = 14
    embed_dim: int = 1536
    """Of the image tokens and of all that is added to them."""
    image_encoder: str = VIT_ENCODER
    """`vit`: DINOv2-style without its last norm; `patch`: one convolution with a table of positions."""
    pos_embed_grid: int = 37
    """Side of the grid of stored positions of the image encoder, patches."""
    encoder_blocks: int = 24
    encoder_heads: int = 24
    encoder_mlp: str = "swiglu"
    encoder_init_values: float | None = 1.0
    """Initial LayerScale of the image encoder; None or 0: none."""
    num_register_tokens: int = 0
    passes_class_token: bool = True
    """Class token and registers of the image encoder take part in the attention over views."""
    sharing_dim: int = 1536
    blocks: int = 16
    heads: int = 24
    mlp: str = "swiglu"
    taps: tuple[int, ...] = (7, 11)
    """Blocks, from 0, whose outputs the dense head reads besides the fused features and the last block's."""
    init_values: float | None = 1e-5
    """Initial LayerScale of the attention over views; None or 0: none."""
    reference_view_marked: bool = True
    """Without the mark the network is equivariant: no view is special (Wang et al. 2025, pi3)."""
    takes_geometry: bool = True
    """Has encoders for rays, depth and poses."""
    predicts_scale: bool = True
    dense_encoder_dims: tuple[int, ...] = (588, 768, 1024)
    global_encoder_dims: tuple[int, ...] = (128, 256, 512)
    dpt_feature_dim: int = 256
    dpt_layer_dims: tuple[int, ...] = (96, 192, 384, 768)
    pose_hidden: int = 784
    scale_hidden: int = 196
    canonical_quaternions: bool = False
    """Quaternions are given with w >= 0. The released weights have seen either sign: q and -q give other features."""

    def __post_init__(self) -> None:
        """Refuse impossible sizes."""
        require_positive(
            self, "patch_size", "embed_dim", "pos_embed_grid", "sharing_dim", "blocks", "heads", "dpt_feature_dim"
        )
        require_layers(self, "encoder_blocks", "blocks")
        require_positive(self, "pose_hidden", "scale_hidden", "encoder_heads")
        require_not_negative(self, "encoder_blocks", "num_register_tokens")
        require_choice("image_encoder", self.image_encoder, (PATCH_ENCODER, VIT_ENCODER))
        for name in ("mlp", "encoder_mlp"):
            require_choice(name, getattr(self, name), ("mlp", "swiglu"))
        require_divisible("sharing_dim", self.sharing_dim, self.heads)
        require_divisible("embed_dim", self.embed_dim, self.encoder_heads)
        require_divisible("dpt_feature_dim", self.dpt_feature_dim, 2)
        if self.blocks % 2:
            raise InputError(f"blocks must be even (global and frame attention in turn), got {self.blocks}")
        if len(self.taps) != 2 or not 0 <= self.taps[0] < self.taps[1] < self.blocks - 1:
            raise InputError(f"taps must be two blocks in ascending order before the last one, got {list(self.taps)}")
        if len(self.dpt_layer_dims) != 4:
            raise InputError(f"dpt_layer_dims must have 4 entries, got {list(self.dpt_layer_dims)}")
        for name in ("dense_encoder_dims", "global_encoder_dims", "dpt_layer_dims"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise InputError(f"{name} must be positive numbers, got {list(getattr(self, name))}")

    @property
    def vit_config(self) -> ViTConfig:
        """Sizes of the image encoder."""
        return ViTConfig(
            img_size=self.pos_embed_grid * self.patch_size,
            patch_size=self.patch_size,
            embed_dim=self.embed_dim,
            depth=self.encoder_blocks,
            num_heads=self.encoder_heads,
            init_values=self.encoder_init_values,
            ffn_layer=self.encoder_mlp,
            num_register_tokens=self.num_register_tokens,
            interpolate_antialias=False,
            interpolate_offset=0.1,
        )

    @classmethod
    def read(cls, config: "Mapping[str, Any] | str | Path") -> "MapAnythingConfig":
        """From a mapping or a JSON file of field names.

        Raises:
            InputError: naming an unknown key, a wrong type or an impossible size.
        """
        if isinstance(config, str | Path):
            return cls.read(read_json(Path(config)))
        raw = {key: value for key, value in section(config, "the config").items() if key not in _DATA_KEYS}
        if "image_encoder" not in raw and "encoder_blocks" not in raw and "pos_embed_grid" in raw:
            raw |= {"image_encoder": PATCH_ENCODER}  # recorded networks have no other one
        if raw.get("image_encoder") == PATCH_ENCODER:
            raw = {"encoder_blocks": 0, "encoder_heads": 1, "sharing_dim": raw.get("embed_dim", cls.embed_dim)} | raw
        return build(cls, raw, "the config")


def config_of_weights(shapes: Shapes, known: MapAnythingConfig | None = None) -> MapAnythingConfig:
    """The sizes that tensors of these shapes have, by their names.

    What no shape says (heads, taps, whether view 0 is marked) is `known`'s, else that of the released models: heads
    are 64 wide, the taps lie after a half and three quarters of the blocks.

    Raises:
        InputError: naming a tensor that no such network lacks.
    """
    has_vit = "encoder.model.cls_token" in shapes
    blocks = _count(shapes, "info_sharing.self_attention_blocks.")
    sharing_dim = _size(shapes, "info_sharing.norm.weight", 0)
    sizes: dict[str, Any] = {
        "sharing_dim": sharing_dim,
        "blocks": blocks,
        "mlp": _mlp(shapes, "info_sharing.self_attention_blocks.0.mlp."),
        "init_values": _scaled(shapes, "info_sharing.self_attention_blocks.0.ls1.gamma"),
        "takes_geometry": "ray_dirs_encoder.conv_in.weight" in shapes,
        "predicts_scale": "scale_token" in shapes,
        "dpt_feature_dim": _size(shapes, "dpt_regressor_head.conv1.weight", 1),
        "dpt_layer_dims": tuple(_size(shapes, f"dpt_feature_head.input_process.{k}.0.0.weight", 0) for k in range(4)),
        "pose_hidden": _size(shapes, "pose_head.proj.weight", 0),
    }
    if sizes["predicts_scale"]:
        sizes["scale_hidden"] = _size(shapes, "scale_head.proj.weight", 0)
    if sizes["takes_geometry"]:
        sizes |= _sizes_of_inputs(shapes)
    if has_vit:
        embed_dim = _size(shapes, "encoder.model.patch_embed.proj.weight", 0)
        sizes |= {
            "image_encoder": VIT_ENCODER,
            "embed_dim": embed_dim,
            "patch_size": _size(shapes, "encoder.model.patch_embed.proj.weight", 2),
            "pos_embed_grid": round((_size(shapes, "encoder.model.pos_embed", 1) - 1) ** 0.5),
            "encoder_blocks": _count(shapes, "encoder.model.blocks."),
            "encoder_mlp": _mlp(shapes, "encoder.model.blocks.0.mlp."),
            "encoder_init_values": _scaled(shapes, "encoder.model.blocks.0.ls1.gamma"),
            "num_register_tokens": shapes.get("encoder.model.register_tokens", (1, 0))[1],
        }
    else:
        embed_dim = _size(shapes, "encoder.proj.weight", 0)
        sizes |= {
            "image_encoder": PATCH_ENCODER,
            "embed_dim": embed_dim,
            "patch_size": _size(shapes, "encoder.proj.weight", 2),
            "pos_embed_grid": round(_size(shapes, "encoder.pos_embed", 1) ** 0.5),
            "encoder_blocks": 0,
        }
    if known is not None:
        return replace(known, **sizes)
    heads = {"heads": max(1, sharing_dim // _HEAD_WIDTH), "encoder_heads": max(1, embed_dim // _HEAD_WIDTH)}
    return MapAnythingConfig(**sizes, **heads, taps=(blocks // 2 - 1, 3 * blocks // 4 - 1))


def _sizes_of_inputs(shapes: Shapes) -> dict[str, Any]:
    """Widths inside the encoders of geometry."""
    blocks = _count(shapes, "ray_dirs_encoder.encoder.") - 1
    dense = [_size(shapes, "ray_dirs_encoder.conv_in.weight", 0)]
    dense += [_size(shapes, f"ray_dirs_encoder.encoder.{k}.conv1.weight", 0) for k in range(blocks)]
    return {"dense_encoder_dims": tuple(dense), "global_encoder_dims": _global_widths(shapes)}


def _global_widths(shapes: Shapes) -> tuple[int, ...]:
    """Of the nested linear layers of an encoder of single vectors, but for the last one."""
    start = "cam_rot_encoder.encoder."
    names = [name for name in shapes if name.startswith(start) and name.endswith(".weight")]
    ordered = sorted(names, key=lambda name: -name.count("."))
    return tuple(shapes[name][0] for name in ordered[:-1])


def _size(shapes: Shapes, name: str, axis: int) -> int:
    if name not in shapes:
        raise InputError(f"expected the weights of a MapAnything network, got none named {name}")
    return shapes[name][axis]


def _count(shapes: Shapes, prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in shapes if name.startswith(prefix)})


def _mlp(shapes: Shapes, prefix: str) -> str:
    return "swiglu" if f"{prefix}w12.weight" in shapes else "mlp"


def _scaled(shapes: Shapes, name: str) -> float | None:
    return 1.0 if name in shapes else None
