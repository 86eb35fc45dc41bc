"""A frozen VGGT, or another network in its place: images of any size -> feature maps, and depth and cameras if wanted.

It resizes inside, runs without gradients, stays in evaluation mode, follows its owner to another device, and is
invisible to checkpoints, optimizers and distributed training.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from geometry.cameras import Cameras
from geometry.constants import constant
from geometry.errors import InputError, require
from geometry.tensor_struct import TensorStruct
from models.memory import halved_to_fit
from models.vggt.backbones import LoadedNetwork, MultiViewNetwork, load_network
from models.vggt.config import LAYER_PARTS
from models.vggt.heads.dpt_head import FRAMES_CHUNK_SIZE
from models.vggt.match_cameras import cameras_from_matches, require_match_stem, with_matched_cameras
from models.vggt.pose_encoding import decode_pose, homogeneous
from models.vggt.vggt import VGGT, VGGTOutput
from models.vggt.weights import WeightIdentity

FROZEN_HEADS = ("camera", "depth")
RANGE_TOLERANCE = 1e-3
"""Intensity beyond [0, 1] that rounding may leave; images of 0 to 255 and normalized ones are off by far more."""


@dataclass(frozen=True)
class FrozenFeatures(TensorStruct):
    """VGGT's output for views of one scene; depth and cameras are None without their heads."""

    tokens: Float[Tensor, "batch view layer channel rows cols"]
    """Patch tokens of the kept layers, frame half then global half; cells tile the image. float32, bfloat16 on GPUs."""
    depth: Float[Tensor, "batch view height width"] | None = None
    """Camera z at the resolution of the input, in the units of `w2c`."""
    depth_conf: Float[Tensor, "batch view height width"] | None = None
    """Above 1 for VGGT-1B; higher is surer."""
    w2c: Float[Tensor, "batch view 4 4"] | None = None
    """Camera from world; the world is the first view's camera as predicted, so its own matrix is near the identity."""
    intrinsics: Float[Tensor, "batch view 3 3"] | None = None
    """In pixels of the input, centers at +0.5; the principal point is the image's middle."""

    @classmethod
    def cat(cls, parts: Sequence["FrozenFeatures"]) -> "FrozenFeatures":
        """Join along the batch axis."""
        columns = {item.name: [getattr(part, item.name) for part in parts] for item in fields(cls)}
        return cls(**{name: None if column[0] is None else torch.cat(column) for name, column in columns.items()})

    def rolled(self, quarter_turns: int) -> "FrozenFeatures":
        """As of images that are turned clockwise, see `geometry.turned_views`; VGGT has still seen them upright."""
        turns = quarter_turns % 4
        if not turns:
            return self
        w2c, intrinsics = self.w2c, self.intrinsics
        if w2c is not None and intrinsics is not None:
            w2c = Cameras(w2c, intrinsics, 0, 0).turned(-turns).w2c
            if turns % 2:  # the principal point stays in the middle
                x, y, last = intrinsics.unbind(-2)
                along_x, along_y, offset = torch.stack([y, x, last], dim=-2).unbind(-1)
                intrinsics = torch.stack([along_y, along_x, offset], dim=-1)
        maps = (self.tokens, self.depth, self.depth_conf)
        return FrozenFeatures(*(None if one is None else one.rot90(-turns, (-2, -1)) for one in maps), w2c, intrinsics)

    @property
    def num_bytes(self) -> int:
        """Memory held by all tensors."""
        tensors = (getattr(self, item.name) for item in fields(self))
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def default_layers(depth: int) -> tuple[int, ...]:
    """Four layers spread like those VGGT-1B's dense heads read, the last included; fewer if there are fewer."""
    return tuple(sorted({-(-depth * part // 24) - 1 for part in LAYER_PARTS}))


def patch_grid(height: int, width: int, patch_size: int, image_size: int | None) -> tuple[int, int]:
    """Rows and columns of patches of an image that is resized to a long side of `image_size`; None = as it is."""
    if image_size is None:
        return -(-height // patch_size), -(-width // patch_size)
    scale = image_size / max(height, width)
    return max(1, round(height * scale / patch_size)), max(1, round(width * scale / patch_size))


class FrozenVGGT(nn.Module):
    """Feature extractor around a VGGT, which is deliberately no submodule of it."""

    def __init__(
        self,
        vggt: nn.Module,
        identity: WeightIdentity,
        layers: Sequence[int],
        *,
        image_size: int | None = None,
        license_terms: str = "",
        camera_matches: bool = False,
    ) -> None:
        """Keep the tokens of `layers`, in the order given.

        `image_size` is the long side in pixels the network works at; None keeps the input's resolution, each side
        rounded up to a multiple of the patch. `vggt` is a VGGT or any other `MultiViewNetwork`. `camera_matches`:
        cameras are those of the matches and depth is corrected by them (models/vggt/match_cameras.py).
        """
        super().__init__()
        sizes = cast("MultiViewNetwork", vggt).sizes
        depth, patch_size = sizes.num_layers, sizes.patch_size
        if not layers or any(not 0 <= layer < depth for layer in layers):
            raise InputError(f"layers must be one or more of 0..{depth - 1}, got {list(layers)}")
        if image_size is not None and image_size < patch_size:
            raise InputError(f"image_size must be at least one patch of {patch_size} pixels, got {image_size}")
        surplus = [name for name in sizes.heads if name not in FROZEN_HEADS]
        if surplus:
            raise InputError(f"heads must be out of {', '.join(FROZEN_HEADS)}, got {', '.join(surplus)}")
        dense = vggt.config.depth_head if isinstance(vggt, VGGT) else None
        if dense is not None and (dense.output_dim, dense.down_ratio) != (2, 1):
            raise InputError("depth_head must give one depth per pixel (output_dim 2, down_ratio 1)")
        if camera_matches:
            require_match_stem(vggt, "camera_matches")
            require({"camera", "depth"} <= set(sizes.heads), "camera_matches: expected camera and depth heads")
        self.camera_matches = camera_matches
        self._vggt = (vggt.eval().requires_grad_(False),)  # a tuple hides it from nn.Module's registration
        self.sizes = sizes
        self.identity = identity
        self.license_terms = license_terms
        self.layers = tuple(layers)
        self.image_size = image_size
        self.patch_size = patch_size
        self.training = False
        self._is_checked = False

    @classmethod
    def load(
        cls,
        source: str | Path,
        layers: Sequence[int] | None = None,
        heads: Sequence[str] = (),
        *,
        image_size: int | None = None,
        camera_matches: bool = False,
    ) -> "FrozenVGGT":
        """From any source `load_network` knows; `layers` None takes `default_layers`, `heads` out of camera, depth."""
        surplus = [name for name in heads if name not in FROZEN_HEADS]
        if surplus:
            raise InputError(f"heads must be out of {', '.join(FROZEN_HEADS)}, got {', '.join(surplus)}")
        loaded = load_network(source, heads=heads)
        return cls.of(loaded, layers, image_size=image_size, camera_matches=camera_matches)

    @classmethod
    def of(
        cls,
        loaded: LoadedNetwork,
        layers: Sequence[int] | None = None,
        *,
        image_size: int | None = None,
        camera_matches: bool = False,
    ) -> "FrozenVGGT":
        """Around a network that is loaded; `layers` None takes `default_layers`."""
        layers = default_layers(loaded.sizes.num_layers) if layers is None else layers
        return cls(
            loaded.model,
            loaded.identity,
            layers,
            image_size=image_size,
            license_terms=loaded.license_terms,
            camera_matches=camera_matches,
        )

    @property
    def channels(self) -> int:
        """Channels of one layer's tokens."""
        return self.sizes.token_channels

    @property
    def depth(self) -> int:
        """Layers that there are to choose from."""
        return self.sizes.num_layers

    @property
    def has_depth(self) -> bool:
        """Whether it predicts depth and the cameras whose unit that depth is in."""
        return {"camera", "depth"} <= set(self.sizes.heads)

    def train(self, mode: bool = True) -> "FrozenVGGT":
        """Stay in evaluation mode whatever the owner does."""
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FrozenVGGT":
        """Follow `.to()`, `.cuda()`, `.half()` of the owner."""
        self._vggt[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def working_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in pixels at which the network sees an image of the given size."""
        rows, cols = patch_grid(height, width, self.patch_size, self.image_size)
        return rows * self.patch_size, cols * self.patch_size

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "batch view 3 height width"]) -> FrozenFeatures:
        """Features of RGB images in [0, 1]; values outside by more than 1e-3, or not finite, are an `InputError`.

        On a GPU only the first call looks: reading the range makes the host wait for the device in every step.
        Where memory does not suffice, the depth head sees fewer views at a time.
        """
        if images.device.type == "cpu" or not self._is_checked:
            _check_range(images)
            self._is_checked = True
        height, width = images.shape[-2:]
        work_height, work_width = self.working_size(height, width)
        resized = _resize(images.float(), work_height, work_width)
        dtype = next(self._vggt[0].parameters()).dtype
        vggt = cast("MultiViewNetwork", self._vggt[0])
        low_precision = _autocast_dtype(images)
        with torch.autocast(
            images.device.type, dtype=low_precision or torch.bfloat16, enabled=low_precision is not None
        ):
            output = halved_to_fit(
                lambda views: vggt(resized.to(dtype), keep_layers=self.layers, frames_chunk_size=views),
                min(FRAMES_CHUNK_SIZE, images.shape[1]),
                advice="--n_views or --imgScale_test",
            )
        if self.camera_matches:
            network = cast("VGGT", self._vggt[0])
            output = with_matched_cameras(output, cameras_from_matches(resized, output, network))
        token_dtype = torch.bfloat16 if low_precision is torch.bfloat16 else torch.float32
        rows, cols = work_height // self.patch_size, work_width // self.patch_size
        tokens = torch.stack(
            [
                output.tokens[layer][:, :, output.patch_start :].to(token_dtype).mT.unflatten(-1, (rows, cols))
                for layer in self.layers
            ],
            dim=2,
        )
        return FrozenFeatures(
            tokens, *_depth_at(output, height, width), *_cameras_at(output, (work_height, work_width), height, width)
        )


def _check_range(images: Tensor) -> None:
    if not images.numel():
        raise InputError(f"images are empty, got shape {tuple(images.shape)}")
    low, high = torch.stack(images.aminmax()).tolist()
    if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):  # also false for NaN
        raise InputError(f"image values must be finite and in [0, 1], got {low:.4g} to {high:.4g}")


def _autocast_dtype(images: Tensor) -> torch.dtype | None:
    """bfloat16 on GPUs that compute it natively, float16 on older ones, None (no autocast) elsewhere."""
    if not images.is_cuda:
        return None
    return torch.bfloat16 if torch.cuda.get_device_capability(images.device) >= (8, 0) else torch.float16


def _resize(maps: Float[Tensor, "batch view _ _ _"], height: int, width: int) -> Tensor:
    """Bilinear with antialiasing, pixel centers at +0.5."""
    if maps.shape[-2:] == (height, width):
        return maps
    resized = F.interpolate(maps.flatten(0, 1), (height, width), mode="bilinear", align_corners=False, antialias=True)
    return resized.unflatten(0, maps.shape[:2])


def _depth_at(output: VGGTOutput, height: int, width: int) -> tuple[Tensor | None, Tensor | None]:
    """Depth and its confidence at the resolution of the input."""
    if output.depth is None or output.depth_conf is None:
        return None, None
    maps = torch.stack([output.depth[..., 0], output.depth_conf], dim=2).float()
    depth, confidence = _resize(maps, height, width).unbind(2)
    return depth, confidence


def _cameras_at(
    output: VGGTOutput, work_size: tuple[int, int], height: int, width: int
) -> tuple[Tensor | None, Tensor | None]:
    """w2c and intrinsics in the pixels of the input."""
    if output.pose_enc is None:
        return None, None
    extrinsics, intrinsics = decode_pose(output.pose_enc.float(), *work_size)
    scale = constant([[width / work_size[1]], [height / work_size[0]], [1.0]], intrinsics)
    return homogeneous(extrinsics), intrinsics * scale
