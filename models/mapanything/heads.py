"""Dense, pose and scale heads (MapAnything, Keetha et al. 2025, sec. 3.1; DPT, Ranftl et al. 2021)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from models.mapanything.config import MapAnythingConfig
from models.vggt.heads.dpt_blocks import Maps, Scratch, resize_maps

DENSE_CHANNELS = 6
"""Ray (3), distance, confidence, mask."""
IMAGES_AT_A_TIME = 8
"""That the dense head works on, to bound memory; the result is the same up to rounding."""
RECOMPUTED_IMAGES = 2
"""At a time where training computes the head's activations again backwards, as in `models.vggt.heads.dpt_head`."""
_MIN_LENGTH = 1e-8


class DPTFeatures(nn.Module):
    """Four maps of tokens, one cell per patch -> one map of 8 cells per patch."""

    def __init__(self, config: MapAnythingConfig) -> None:
        super().__init__()
        first, second, third, last = config.dpt_layer_dims
        resized = (
            [nn.ConvTranspose2d(first, first, 4, stride=4)],
            [nn.ConvTranspose2d(second, second, 2, stride=2)],
            [],
            [nn.Conv2d(last, last, 3, stride=2, padding=1)],
        )
        dims_in = (config.embed_dim, *[config.sharing_dim] * 3)
        dims_out = (first, second, third, last)
        self.input_process = nn.ModuleList(
            nn.Sequential(nn.Sequential(nn.Conv2d(dim_in, dim_out, 1), *resize))
            for dim_in, dim_out, resize in zip(dims_in, dims_out, resized, strict=True)
        )
        self.scratch = Scratch(config.dpt_layer_dims, config.dpt_feature_dim, rectifies_skip=False)

    def forward(self, levels: Sequence[Float[Tensor, "batch _ rows cols"]]) -> Float[Tensor, "batch feature _ _"]:
        """Fused from coarse to fine; a coarse map of one cell too many is cut."""
        scratch = self.scratch
        fine = [process(level) for process, level in zip(self.input_process, levels, strict=True)]
        level3 = scratch.layer3_rn(fine[2])
        path = scratch.refinenet4(scratch.layer4_rn(fine[3]))[..., : level3.shape[-2], : level3.shape[-1]]
        path = scratch.refinenet3(path, level3)
        path = scratch.refinenet2(path, scratch.layer2_rn(fine[1]))
        return scratch.refinenet1(path, scratch.layer1_rn(fine[0]))


class DPTRegressor(nn.Module):
    """The fused map -> values per pixel."""

    def __init__(self, features: int) -> None:
        super().__init__()
        hidden = features // 2
        self.conv1 = nn.Conv2d(features, hidden, 3, padding=1)
        self.conv2 = nn.Sequential(
            nn.Conv2d(hidden, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, DENSE_CHANNELS, 1)
        )

    def forward(self, maps: Maps, image_size: tuple[int, int]) -> Float[Tensor, "batch 6 rows cols"]:
        """At `image_size` (height, width)."""
        return self.conv2(resize_maps(self.conv1(maps), *image_size))


class DensePrediction(NamedTuple):
    """Per pixel of every image."""

    rays: Float[Tensor, "batch height width 3"]
    depth_along_ray: Float[Tensor, "batch height width"]
    confidence: Float[Tensor, "batch height width"]
    mask_logits: Float[Tensor, "batch height width"]


def activated(channels: Float[Tensor, "batch 6 height width"]) -> DensePrediction:
    """Unit rays, positive distances exp(d), confidences 1 + exp(c), mask logits."""
    ray, depth, confidence, mask = channels.split([3, 1, 1, 1], dim=1)
    return DensePrediction(
        unit(ray.movedim(1, -1)), depth[:, 0].exp(), 1 + confidence[:, 0].exp(), mask[:, 0].contiguous()
    )


def unit(vectors: Float[Tensor, "*batch channel"]) -> Float[Tensor, "*batch channel"]:
    """x / |x|, |x| at least 1e-8."""
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=_MIN_LENGTH)


def in_chunks(
    features: DPTFeatures,
    regressor: DPTRegressor,
    levels: Sequence[Float[Tensor, "batch _ rows cols"]],
    image_size: tuple[int, int],
    *,
    images: int | None = IMAGES_AT_A_TIME,
    recomputes: bool = False,
) -> Float[Tensor, "batch 6 height width"]:
    """Both parts of the dense head on some `images` at a time (None: all).

    `recomputes`: smaller chunks keep nothing for the backward pass, which computes each of them again.
    """

    def predicted(*part: Tensor) -> Tensor:
        return regressor(features(part), image_size)

    count = len(levels[0])
    step = RECOMPUTED_IMAGES if recomputes else (images or count)
    chunks = []
    for first in range(0, count, step):
        part = [level[first : first + step] for level in levels]
        if recomputes:  # nothing in it is random
            chunks.append(checkpoint(predicted, *part, use_reentrant=False, preserve_rng_state=False))
        else:
            chunks.append(predicted(*part))
    return chunks[0] if len(chunks) == 1 else torch.cat(chunks)


class _ResidualConv(nn.Module):
    """x + relu(c3(relu(c2(relu(c1 x))))), 1x1 convolutions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.res_conv1, self.res_conv2, self.res_conv3 = (nn.Conv2d(dim, dim, 1) for _ in range(3))

    def forward(self, maps: Maps) -> Maps:
        inner = F.relu(self.res_conv3(F.relu(self.res_conv2(F.relu(self.res_conv1(maps))))))
        return maps + inner


class PoseHead(nn.Module):
    """The last tokens of a view -> its translation and its unit quaternion."""

    def __init__(self, config: MapAnythingConfig) -> None:
        super().__init__()
        dim = config.pose_hidden
        self.proj = nn.Conv2d(config.sharing_dim, dim, 1)
        self.res_conv = nn.ModuleList(_ResidualConv(dim) for _ in range(2))
        self.more_mlps = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())
        self.fc_t = nn.Linear(dim, 3)
        self.fc_rot = nn.Linear(dim, 4)

    def forward(self, tokens: Float[Tensor, "batch channel rows cols"]) -> Float[Tensor, "batch 7"]:
        """[translation, quaternion before it is made a unit]."""
        maps = self.proj(tokens)
        for block in self.res_conv:
            maps = block(maps)
        pooled = self.more_mlps(maps.mean(dim=(-2, -1)))
        return torch.cat([self.fc_t(pooled), self.fc_rot(pooled)], dim=-1)


class ScaleHead(nn.Module):
    """The scale token -> one number, the logarithm of the scale."""

    def __init__(self, config: MapAnythingConfig) -> None:
        super().__init__()
        dim = config.scale_hidden
        self.proj = nn.Linear(config.sharing_dim, dim)
        self.mlp = nn.Sequential(*(nn.Sequential(nn.Linear(dim, dim), nn.ReLU()) for _ in range(2)))
        self.output_proj = nn.Linear(dim, 1)

    def forward(self, token: Float[Tensor, "batch channel"]) -> Float[Tensor, " batch"]:
        """Before the exponential."""
        return self.output_proj(self.mlp(self.proj(token)))[..., 0]
