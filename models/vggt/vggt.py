"""The whole network: images -> tokens -> cameras, depth, points and tracks (Wang et al. 2025; docs/vggt.md)."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geometry.errors import InputError
from models.vggt.aggregator import AggregatedTokens, Aggregator
from models.vggt.config import VGGTConfig
from models.vggt.heads.camera_head import CameraHead
from models.vggt.heads.dpt_head import FRAMES_CHUNK_SIZE, DPTHead
from models.vggt.heads.track_head import TrackHead, Tracks
from models.vggt.layers import Block


@dataclass(frozen=True)
class VGGTOutput:
    """Predictions; those of absent heads are None. Points and poses are in the frame of the first view."""

    tokens: dict[int, Float[Tensor, "batch view token dim"]] = field(default_factory=dict)
    """Aggregated tokens of the layers asked for: camera token, registers, patches row-major."""
    patch_start: int = 0
    """Index of the first patch token."""
    pose_enc: Float[Tensor, "batch view 9"] | None = None
    """Camera-from-world translation, quaternion xyzw, vertical and horizontal field of view in radians."""
    pose_enc_list: list[Float[Tensor, "batch view 9"]] | None = None
    """Pose encodings after each iteration; the last is `pose_enc`."""
    depth: Float[Tensor, "batch view height width _"] | None = None
    """Camera z (one channel for VGGT-1B), in the units of the translations."""
    depth_conf: Float[Tensor, "batch view height width"] | None = None
    world_points: Float[Tensor, "batch view height width _"] | None = None
    """Points in the first camera's frame (three channels for VGGT-1B)."""
    world_points_conf: Float[Tensor, "batch view height width"] | None = None
    track: Float[Tensor, "batch view point 2"] | None = None
    """(x, y) of the query points in every view, in pixels."""
    track_list: list[Float[Tensor, "batch view point 2"]] | None = None
    """Tracks after each iteration; the last is `track`."""
    vis: Float[Tensor, "batch view point"] | None = None
    """Probability that a track is visible."""
    conf: Float[Tensor, "batch view point"] | None = None
    """Probability that a track is right."""
    match_logits: Float[Tensor, "batch other cell cell"] | None = None
    """See `StemTokens`; of a network with a match stem."""
    vis_logits: Float[Tensor, "batch view point"] | None = None
    """`vis` before the sigmoid, for the loss."""
    conf_logits: Float[Tensor, "batch view point"] | None = None


class BackboneSizes(NamedTuple):
    """What `FrozenVGGT` has to know of a network."""

    patch_size: int
    num_layers: int
    token_channels: int
    """Of one layer."""
    img_size: int
    """Longer side in pixels of the images it was trained on."""
    heads: tuple[str, ...]


_HEADS = {"camera": CameraHead, "depth": DPTHead, "point": DPTHead, "track": TrackHead}


def build_head(config: VGGTConfig, name: str) -> Any:
    """A head of a network with random weights; None where it has none."""
    sizes = getattr(config, f"{name}_head")
    return None if sizes is None else _HEADS[name](2 * config.aggregator.embed_dim, sizes)


class VGGT(nn.Module):
    """Visual Geometry Grounded Transformer; attribute names equal the reference's state-dict keys."""

    def __init__(self, config: VGGTConfig | None = None) -> None:
        """Random weights; without a configuration the sizes are those of VGGT-1B."""
        super().__init__()
        config = VGGTConfig() if config is None else config
        self.config = config
        self.aggregator = Aggregator(config.aggregator)
        self.camera_head = build_head(config, "camera")
        self.point_head = build_head(config, "point")
        self.depth_head = build_head(config, "depth")
        self.track_head = build_head(config, "track")

    @property
    def sizes(self) -> BackboneSizes:
        """What a frozen extractor has to know."""
        sizes = self.config.aggregator
        return BackboneSizes(sizes.patch_size, sizes.depth, 2 * sizes.embed_dim, sizes.img_size, self.config.heads)

    def set_checkpointing(self, enabled: bool) -> None:
        """Whether training computes activations again backwards: less memory.

        Those of the aggregator block by block, those of the dense heads a few images at a time.
        """
        blocks = [module for module in self.aggregator.modules() if isinstance(module, Block)]
        for module in [*blocks, *(module for module in self.modules() if isinstance(module, DPTHead))]:
            module.recompute_in_training = enabled

    @classmethod
    def from_config(cls, config: "Mapping[str, Any] | str | Path") -> "VGGT":
        """Random weights, sizes from a mapping or a JSON file; unknown keys are an `InputError` that names them."""
        return cls(VGGTConfig.read(config))

    def forward(
        self,
        images: Float[Tensor, "*batch view channel height width"],
        query_points: Float[Tensor, "*batch point 2"] | None = None,
        *,
        keep_layers: Collection[int] = (),
        frames_chunk_size: int | None = FRAMES_CHUNK_SIZE,
    ) -> VGGTOutput:
        """Predict everything the network has heads for; tracks only when there are query points.

        Images are RGB in [0, 1], sides multiples of the patch size; without a batch axis they get one of length 1.
        Query points are (x, y) pixels of the first view. The camera, depth and point heads run outside autocast;
        aggregator and track head follow the caller's.
        """
        images, query_points = self._checked(images, query_points)
        height, width = images.shape[-2:]
        runs_tracks = query_points is not None
        needed = self._layers_of_heads(runs_tracks) | set(keep_layers)
        aggregated = self.aggregator(images, keep_layers=needed)
        predictions: dict[str, Any] = {}
        with torch.autocast(images.device.type, enabled=False):
            predictions |= self._cameras(aggregated)
            for head, values, confidence in (
                (self.depth_head, "depth", "depth_conf"),
                (self.point_head, "world_points", "world_points_conf"),
            ):
                if head is not None:
                    predictions[values], predictions[confidence] = head(
                        aggregated.layers, aggregated.patch_start, (height, width), frames_chunk_size=frames_chunk_size
                    )
        if runs_tracks:
            tracks = self.track_head(
                aggregated.layers,
                aggregated.patch_start,
                (height, width),
                query_points,
                frames_chunk_size=frames_chunk_size,
            )
            predictions |= _track_predictions(tracks)
        tokens = {layer: aggregated.layers[layer] for layer in sorted(set(keep_layers))}
        return VGGTOutput(
            tokens=tokens, patch_start=aggregated.patch_start, match_logits=aggregated.match_logits, **predictions
        )

    def _checked(self, images: Tensor, query_points: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Inputs with a batch axis."""
        if images.ndim == 4:
            images = images[None]
        if images.ndim != 5:
            raise InputError(f"images must be (batch,) view channel height width, got shape {tuple(images.shape)}")
        if query_points is None:
            return images, None
        if self.track_head is None:
            raise InputError("query points were given but the network has no track head")
        if query_points.ndim == 2:
            query_points = query_points[None]
        if query_points.ndim != 3 or len(query_points) != len(images):
            raise InputError(
                f"query points must be batch point 2 with batch {len(images)}, got shape {tuple(query_points.shape)}"
            )
        return images, query_points

    def _layers_of_heads(self, runs_tracks: bool) -> set[int]:
        config = self.config
        pyramids = [head for head in (config.depth_head, config.point_head) if head is not None]
        if runs_tracks:
            pyramids.append(config.track_head.feature_extractor)
        needed = {layer for head in pyramids for layer in head.intermediate_layer_idx}
        return needed if config.camera_head is None else needed | {config.aggregator.depth - 1}

    def _cameras(self, aggregated: AggregatedTokens) -> dict[str, Any]:
        if self.camera_head is None:
            return {}
        encodings = self.camera_head(aggregated.layers[self.config.aggregator.depth - 1])
        return {"pose_enc": encodings[-1], "pose_enc_list": encodings}


def _track_predictions(tracks: Tracks) -> dict[str, Any]:
    visibility, confidence = tracks.visibility_logits, tracks.confidence_logits
    return {
        "track": tracks.coords[-1],
        "track_list": tracks.coords,
        "vis": visibility.sigmoid(),
        "conf": None if confidence is None else confidence.sigmoid(),
        "vis_logits": visibility,
        "conf_logits": confidence,
    }
