"""Depth Anything 3 (Lin et al. 2025) in the place of a VGGT: one plain ViT whose later blocks look across views.

Its sizes, names of weights and conventions are those of the public code (github.com/ByteDance-Seed/Depth-Anything-3);
docs/vggt.md, "Other backbones", says them. Depth and cameras are predicted; its ray map and its encoder of known
cameras are not built, their weights are passed over.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from geometry.constants import constant
from geometry.errors import InputError
from geometry.quaternions import quaternion_from_rotation, rotation_from_quaternion
from models.config_checks import (
    build,
    read_json,
    require_choice,
    require_divisible,
    require_known_keys,
    require_layers,
    require_positive,
    section,
)
from models.vggt.aggregator import IMAGE_MEAN, IMAGE_STD
from models.vggt.attention import patch_positions, rotary_angles
from models.vggt.config import FFN_LAYERS, DPTConfig, MissingHeadError
from models.vggt.heads.dpt_head import FRAMES_CHUNK_SIZE, DPTHead
from models.vggt.layers import Block, PatchEmbed, normal_parameter
from models.vggt.pose_encoding import homogeneous, inverse_se3
from models.vggt.vggt import BackboneSizes, VGGTOutput
from models.vggt.vit import resize_position_embedding

HEADS = ("camera", "depth")
_VITS = {"vits": (384, 12, 6), "vitb": (768, 12, 12), "vitl": (1024, 24, 16), "vitg": (1536, 40, 24)}
"""Name -> embed_dim, depth, num_heads."""
_CHOOSING_VIEWS = 3
"""From so many views on the reference view is chosen; of fewer it is the first."""
_LEAST_FIELD = 2e-6
"""Radians; upstream keeps the tangent of half the field of view above 1e-6."""
_WRAPPER = "model."
_OTHER_PARTS = ("cam_enc", "gs_head", "gs_adapter")
"""Parts of published weights that nothing here reads."""
_RAY_BRANCH = "_aux"
"""At the end of the names of the depth head's second branch, which predicts rays."""


@dataclass(frozen=True)
class DepthAnythingConfig:
    """Sizes of the network; the defaults are DA3-Base."""

    name: str = "da3-base"
    img_size: int = 518
    """Side in pixels of the square image whose patch grid the stored position embedding has."""
    patch_size: int = 14
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    ffn_layer: str = "mlp"
    alt_start: int = 4
    """From this block on queries and keys are normalized and turned, and odd blocks look across views."""
    out_layers: tuple[int, ...] = (5, 7, 9, 11)
    """Blocks that the depth head reads, finest level first."""
    features: int = 128
    out_channels: tuple[int, ...] = (96, 192, 384, 768)

    def __post_init__(self) -> None:
        """Refuse impossible sizes."""
        require_positive(self, "img_size", "patch_size", "embed_dim", "depth", "num_heads", "alt_start", "features")
        require_layers(self, "depth")
        require_divisible("embed_dim", self.embed_dim, self.num_heads)
        require_divisible("head width", self.embed_dim // self.num_heads, 4)
        require_choice("ffn_layer", self.ffn_layer, FFN_LAYERS)
        if self.img_size < self.patch_size:
            raise InputError(f"img_size must be a patch ({self.patch_size}) or more, got {self.img_size}")
        if len(self.out_layers) != 4 or not all(0 <= layer < self.depth for layer in self.out_layers):
            raise InputError(f"out_layers must be 4 of 0..{self.depth - 1}, got {list(self.out_layers)}")
        if not self.alt_start < self.depth:
            raise InputError(f"alt_start must be below the {self.depth} blocks, got {self.alt_start}")

    @classmethod
    def read(cls, path: Path) -> "DepthAnythingConfig":
        """From the `config.json` of a published model.

        Raises:
            InputError: for unknown keys, wrong types, or a network of another kind (metric, monocular, nested).
        """
        raw = read_json(path)
        name = str(raw.get("model_name"))
        where = f"config {path}: config"
        sections = section(raw.get("config"), where)
        require_known_keys(sections, {"__object__", "net", "head", "cam_dec", *_OTHER_PARTS}, where)
        if "net" not in sections or "head" not in sections:
            raise InputError(f"{where} of {name} must have the sections net and head, got {', '.join(sections)}")
        return build(cls, {"name": name, **_net(sections["net"], where), **_head(sections["head"], where)}, where)

    @property
    def license_terms(self) -> str:
        """Of the published weights of this size."""
        if self.embed_dim in (_VITS["vits"][0], _VITS["vitb"][0]):
            return "Apache-2.0"
        return "CC BY-NC 4.0, no commercial use" if self.embed_dim in (_VITS["vitl"][0], _VITS["vitg"][0]) else ""


def _net(raw: Any, where: str) -> dict[str, Any]:
    """The transformer's section: a named size or sizes, and where the blocks begin to look across views."""
    net = section(raw, f"{where}.net")
    net.pop("__object__", None)
    if "name" in net:
        name = net.pop("name")
        if not isinstance(name, str) or name not in _VITS:
            raise InputError(f"{where}.net.name must be one of {', '.join(_VITS)}, got {name!r}")
        net |= dict(zip(("embed_dim", "depth", "num_heads"), _VITS[name], strict=True))
        net |= {"ffn_layer": "swiglu"} if name == "vitg" else {}
    if "alt_start" not in net:
        raise InputError(f"{where}.net must have alt_start: without it a network sees single views")
    start = net["alt_start"]
    for key, only in (("qknorm_start", start), ("rope_start", start), ("cat_token", True)):
        if net.pop(key, only) != only:
            raise InputError(f"{where}.net.{key} must be {only!r} in a network of several views, got {raw[key]!r}")
    return net


def _head(raw: Any, where: str) -> dict[str, Any]:
    """The depth head's section; its activations are the published ones."""
    head = section(raw, f"{where}.head")
    head.pop("__object__", None)
    head.pop("dim_in", None)
    for key, only in (("output_dim", 2), ("activation", "exp"), ("conf_activation", "expp1"), ("max_depth", 0)):
        if head.pop(key, only) != only:
            raise InputError(f"{where}.head.{key} must be {only!r}, got {raw[key]!r}")
    return head


def is_depth_anything(config: Path | None) -> bool:
    """Whether a configuration file is that of a Depth Anything 3."""
    return config is not None and str(read_json(config).get("model_name", "")).lower().startswith("da3")


class AlternatingTransformer(nn.Module):
    """A DINOv2 ViT; from block `alt_start` on, odd blocks attend to the tokens of all views."""

    def __init__(self, config: DepthAnythingConfig) -> None:
        """Random weights."""
        super().__init__()
        self.config = config
        dim, side = config.embed_dim, config.img_size // config.patch_size
        self.patch_embed = PatchEmbed(config.patch_size, dim)
        self.cls_token = normal_parameter(1, 1, dim, std=0.02)
        self.camera_token = normal_parameter(1, 2, dim, std=0.02)
        self.pos_embed = normal_parameter(1, 1 + side**2, dim, std=0.02)
        self.blocks = nn.ModuleList(
            Block(
                dim,
                config.num_heads,
                init_values=1.0,
                qk_norm=index >= config.alt_start,
                norm_eps=1e-6,
                ffn_layer=config.ffn_layer,
            )
            for index in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, images: Float[Tensor, "batch view 3 height width"], layers: Collection[int]
    ) -> dict[int, Float[Tensor, "batch view token channel"]]:
        """Tokens of blocks by index, class or camera token first: [last block of single views, block] as channels.

        Images are normalized by mean and standard deviation. Blocks behind the last one asked for do not run.
        """
        config = self.config
        batch, views = images.shape[:2]
        tokens = self._embedded(images)
        local_angles, global_angles = self._angles(images)
        own, kept = tokens, {}
        order: Tensor | None = None
        for index in range(max(layers) + 1):
            if index == config.alt_start - 1 and views >= _CHOOSING_VIEWS:
                order = reference_first(tokens[:, :, 0])
                tokens, own = _gathered(tokens, order), _gathered(own, order)
            if index == config.alt_start:
                camera = self.camera_token[:, [0] + [1] * (views - 1)].expand(batch, -1, -1)
                tokens = torch.cat([camera[:, :, None], tokens[:, :, 1:]], dim=2)
            if index >= config.alt_start and index % 2:
                tokens = self.blocks[index](tokens.flatten(1, 2), global_angles).unflatten(1, (views, -1))
            else:
                angles = local_angles if index >= config.alt_start else None
                tokens = self.blocks[index](tokens.flatten(0, 1), angles).unflatten(0, (batch, views))
                own = tokens
            if index in layers:
                pair = torch.cat([own, tokens], dim=-1)
                kept[index] = pair if order is None else _gathered(pair, order.argsort(1))
        return kept

    def _embedded(self, images: Tensor) -> Float[Tensor, "batch view token channel"]:
        """Patches behind the class token, with positions."""
        config = self.config
        height, width = images.shape[-2:]
        rows, cols = height // config.patch_size, width // config.patch_size
        patches = self.patch_embed(images.flatten(0, 1))
        positions = self.pos_embed
        if height != width or rows * cols != positions.shape[1] - 1:
            positions = resize_position_embedding(positions, rows, cols, antialias=False, offset=0.1)
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1) + positions.to(patches.dtype)
        return tokens.unflatten(0, images.shape[:2])

    def _angles(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Rotary angles within a view, and across views, where all patches stand at (1, 1)."""
        config = self.config
        rows, cols = (side // config.patch_size for side in images.shape[-2:])
        positions = patch_positions(rows, cols, 1, images.device)
        head_dim = config.embed_dim // config.num_heads
        across = rotary_angles(positions.clamp(max=1), head_dim, base=100.0).repeat(images.shape[1], 1)
        return rotary_angles(positions, head_dim, base=100.0), across


def reference_first(class_tokens: Float[Tensor, "batch view channel"]) -> Int[Tensor, "batch view"]:
    """Views in the order in which they are shown: the reference view, then the others as they were.

    The reference is the most middling view: of mean cosine to the others, length and variance of its class token, each
    brought to [0, 1] over the views, the sum of distances from 0.5 is least (upstream's `saddle_balanced`).
    """
    lengths = class_tokens.norm(dim=-1)
    directions = class_tokens / lengths[..., None]
    views = class_tokens.shape[1]
    cosines = (directions @ directions.mT).sum(-1) - 1
    measures = torch.stack([cosines / (views - 1), lengths, directions.var(dim=-1)])
    low, high = measures.amin(-1, keepdim=True), measures.amax(-1, keepdim=True)
    middling = ((measures - low) / (high - low + 1e-8) - 0.5).abs().sum(0)
    chosen = middling.argmin(1, keepdim=True)
    indices = torch.arange(views, device=chosen.device).expand_as(middling)
    return torch.where(indices == chosen, -1, indices).argsort(1)


def _gathered(tokens: Float[Tensor, "batch view token channel"], order: Int[Tensor, "batch view"]) -> Tensor:
    return tokens.gather(1, order[:, :, None, None].expand(-1, -1, *tokens.shape[2:]))


class CameraDecoder(nn.Module):
    """The camera token of a view -> translation, quaternion xyzw and fields of view of world-from-camera."""

    def __init__(self, dim: int) -> None:
        """`dim` channels of a token."""
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())
        self.fc_t = nn.Linear(dim, 3)
        self.fc_qvec = nn.Linear(dim, 4)
        self.fc_fov = nn.Sequential(nn.Linear(dim, 2), nn.ReLU())

    def forward(self, tokens: Float[Tensor, "batch view channel"]) -> Float[Tensor, "batch view 9"]:
        """Pose encoding as `decode_pose` reads it: camera from world, the first view's camera being the world."""
        hidden = self.backbone(tokens)
        c2w = torch.cat([rotation_from_quaternion(self.fc_qvec(hidden)), self.fc_t(hidden)[..., None]], dim=-1)
        w2c = inverse_se3(c2w) @ homogeneous(c2w[:, :1])
        fields = self.fc_fov(hidden).clamp(min=_LEAST_FIELD)
        return torch.cat([w2c[..., :3, 3], quaternion_from_rotation(w2c[..., :3, :3]), fields], dim=-1)


class DepthAnything3(nn.Module):
    """Images -> tokens, depth and cameras; names of parts are those of the published weights."""

    def __init__(self, config: DepthAnythingConfig, heads: Sequence[str] = HEADS) -> None:
        """Random weights; `heads` out of camera, depth."""
        super().__init__()
        self.config = config
        self.heads = tuple(name for name in HEADS if name in heads)
        self.backbone = nn.ModuleDict({"pretrained": AlternatingTransformer(config)})
        dense = DPTConfig(
            patch_size=config.patch_size,
            output_dim=2,
            activation="exp",
            features=config.features,
            out_channels=config.out_channels,
            intermediate_layer_idx=config.out_layers,
        )
        dim = 2 * config.embed_dim
        self.head = DPTHead(dim, dense, rectifies_skip=False) if "depth" in heads else None
        self.cam_dec = CameraDecoder(dim) if "camera" in heads else None

    @property
    def sizes(self) -> BackboneSizes:
        """What a frozen extractor has to know."""
        config = self.config
        return BackboneSizes(config.patch_size, config.depth, 2 * config.embed_dim, config.img_size, self.heads)

    def forward(
        self,
        images: Float[Tensor, "batch view 3 height width"],
        *,
        keep_layers: Collection[int] = (),
        frames_chunk_size: int | None = FRAMES_CHUNK_SIZE,
    ) -> VGGTOutput:
        """Predict what there are heads for; RGB in [0, 1], sides multiples of the patch size.

        In kept tokens the second half is normalized, as the depth head reads it. Heads run outside autocast.
        """
        mean = constant(IMAGE_MEAN, images)[:, None, None]
        std = constant(IMAGE_STD, images)[:, None, None]
        transformer = self.backbone["pretrained"]
        wanted = {*keep_layers, *(self.config.out_layers if self.heads else ())}
        raw = transformer((images - mean) / std, wanted)
        with torch.autocast(images.device.type, enabled=False):
            layers = {index: _half_normalized(pair, transformer.norm) for index, pair in raw.items()}
            predictions: dict[str, Any] = {}
            if self.cam_dec is not None:
                camera = raw[self.config.out_layers[-1]][:, :, 0]
                predictions["pose_enc"] = self.cam_dec(camera.to(self.cam_dec.fc_t.weight.dtype))
            if self.head is not None:
                predictions["depth"], predictions["depth_conf"] = self.head(
                    layers, 1, (images.shape[-2], images.shape[-1]), frames_chunk_size=frames_chunk_size
                )
        return VGGTOutput(
            tokens={layer: layers[layer] for layer in sorted(set(keep_layers))}, patch_start=1, **predictions
        )


def _half_normalized(pair: Float[Tensor, "*batch channel"], norm: nn.Module) -> Float[Tensor, "*batch channel"]:
    own, last = pair.chunk(2, dim=-1)
    return torch.cat([own, norm(last.to(norm.weight.dtype)).to(own)], dim=-1)


def depth_anything_heads(config: DepthAnythingConfig, heads: Sequence[str] | None) -> tuple[str, ...]:
    """The heads to build; None: all.

    Raises:
        MissingHeadError: for one that it has not.
    """
    for name in heads or ():
        if name not in HEADS:
            raise MissingHeadError(f"{config.name} has no {name} head, it has: {', '.join(HEADS)}")
    return HEADS if heads is None else tuple(heads)


def weight_names(found: Collection[str], expected: Mapping[str, Tensor]) -> tuple[dict[str, str], list[str]]:
    """Keys of a file by the name they have here, of the parts that are built; and keys that nobody knows."""
    parts = {key.split(".", 1)[0] for key in expected}
    names: dict[str, str] = {}
    unknown = []
    for key in found:
        name = key.removeprefix(_WRAPPER)
        part = name.split(".", 1)[0]
        if part in parts and not any(piece.endswith(_RAY_BRANCH) for piece in name.split(".")):
            names[name] = key
        elif part not in (*_OTHER_PARTS, "backbone", "head", "cam_dec"):
            unknown.append(key)
    return names, unknown
