"""The whole network: images and geometry -> factored metric reconstruction (MapAnything, Keetha et al. 2025)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geometry.errors import require
from models.mapanything.config import MapAnythingConfig
from models.mapanything.encoders import DenseEncoder, GlobalEncoder, image_encoder
from models.mapanything.heads import (
    IMAGES_AT_A_TIME,
    DPTFeatures,
    DPTRegressor,
    PoseHead,
    ScaleHead,
    activated,
    in_chunks,
    unit,
)
from models.mapanything.inputs import GeometricInputs, encoded_depth, encoded_poses
from models.mapanything.output import Reconstruction, reconstruction_from_factors
from models.mapanything.sharing import InformationSharing, SharedTokens
from models.vggt.layers import Block

MIN_SCALE = 1e-8
"""Meters per unit, as upstream."""
_NORM_EPS = 1e-6

GEOMETRY_ENCODERS = (
    "ray_dirs_encoder",
    "depth_encoder",
    "depth_scale_encoder",
    "cam_rot_encoder",
    "cam_trans_encoder",
    "cam_trans_scale_encoder",
)


class MapAnything(nn.Module):
    """Attribute names equal the keys of the released weights."""

    def __init__(self, config: MapAnythingConfig | None = None) -> None:
        """Random weights; without a configuration the sizes are those of the released model."""
        super().__init__()
        config = MapAnythingConfig() if config is None else config
        self.config = config
        self.recompute_in_training = True
        self.encoder = image_encoder(config)
        if config.takes_geometry:
            self.ray_dirs_encoder = DenseEncoder(3, config)
            self.depth_encoder = DenseEncoder(1, config)
            self.depth_scale_encoder = GlobalEncoder(1, config)
            self.cam_rot_encoder = GlobalEncoder(4, config)
            self.cam_trans_encoder = GlobalEncoder(3, config)
            self.cam_trans_scale_encoder = GlobalEncoder(1, config)
        self.fusion_norm_layer = nn.LayerNorm(config.embed_dim, eps=_NORM_EPS)
        self.info_sharing = InformationSharing(config)
        self.dpt_feature_head = DPTFeatures(config)
        self.dpt_regressor_head = DPTRegressor(config.dpt_feature_dim)
        self.pose_head = PoseHead(config)
        if config.predicts_scale:
            token = torch.empty(config.embed_dim)
            self.scale_token = nn.Parameter(token if token.is_meta else nn.init.trunc_normal_(token, std=0.02))
            self.scale_head = ScaleHead(config)
        else:
            self.scale_token = None

    @classmethod
    def from_config(cls, config: "Mapping[str, Any] | str | Path") -> "MapAnything":
        """Random weights, sizes from a mapping or a JSON file; unknown keys are an `InputError` that names them."""
        return cls(MapAnythingConfig.read(config))

    @property
    def patch_size(self) -> int:
        """Sides of images are multiples of it."""
        return self.config.patch_size

    @property
    def takes_geometry(self) -> bool:
        """Uses more of its inputs than the images."""
        return self.config.takes_geometry

    @property
    def predicts_scale(self) -> bool:
        """Lengths are meters where the data's are."""
        return self.config.predicts_scale

    @property
    def has_reference_view(self) -> bool:
        """The world frame is that of view 0; else any."""
        return self.config.reference_view_marked

    @property
    def image_size(self) -> int:
        """Pixels: side of the images that its stored positions are for."""
        return self.config.pos_embed_grid * self.config.patch_size

    def set_checkpointing(self, enabled: bool) -> None:
        """Whether training computes activations again backwards, block by block and image by image: less memory."""
        self.recompute_in_training = enabled
        for module in self.modules():
            if isinstance(module, Block):
                module.recompute_in_training = enabled

    def forward(self, inputs: GeometricInputs, *, images_at_a_time: int | None = IMAGES_AT_A_TIME) -> Reconstruction:
        """Predict all views together; the world frame is that of view 0.

        Sides of the images are multiples of the patch size. The encoders of geometry, the sum of features and the heads
        run outside autocast; image encoder and attention follow the caller's.

        Raises:
            InputError: for images of another shape, or geometry that the network has no encoders for.
        """
        images = inputs.images
        patch = self.config.patch_size
        height, width = images.shape[-2:]
        require(
            height % patch == 0 and width % patch == 0,
            f"image sides must be multiples of {patch}, got {height}x{width}",
        )
        encoded = self.encoder(images.flatten(0, 1))
        with torch.autocast(images.device.type, enabled=False):
            fused = self.fused(encoded.patches.to(images.dtype), inputs)
        batch, views = images.shape[:2]
        tokens = torch.cat([fused, encoded.extra.to(fused.dtype)], dim=1).unflatten(0, (batch, views))
        shared = self.info_sharing(tokens, self.scale_token)
        with torch.autocast(images.device.type, enabled=False):
            return self._predicted(fused, shared, (height, width), images_at_a_time)

    def fused(
        self, patches: Float[Tensor, "batch_view patch channel"], inputs: GeometricInputs
    ) -> Float[Tensor, "batch_view patch channel"]:
        """The sum of all features and its LayerNorm; what is unused adds exactly nothing."""
        if not self.config.takes_geometry:
            return self.fusion_norm_layer(patches)

        def where(flags: Tensor, features: Tensor) -> Tensor:
            """Zeros where unused: the encoders have biases. Features of a view are added to all its patches."""
            features = features if features.ndim == 3 else features[:, None]
            return torch.where(flags.flatten()[:, None, None], features, 0.0)

        depth = encoded_depth(inputs.depth_along_ray, inputs.has_depth)
        poses = encoded_poses(
            inputs.quaternions, inputs.translations, inputs.has_pose, is_canonical=self.config.canonical_quaternions
        )
        rays = torch.where(inputs.has_rays[..., None, None, None], inputs.rays, 0.0).flatten(0, 1).movedim(-1, 1)
        knows_depth = inputs.has_depth & inputs.shows_depth_scale
        knows_pose = inputs.has_pose & inputs.shows_pose_scale
        total = patches + where(inputs.has_rays, self.ray_dirs_encoder(rays))
        total = total + where(inputs.has_depth, self.depth_encoder(depth.values.flatten(0, 1)[:, None]))
        total = total + where(knows_depth, self.depth_scale_encoder(depth.log_mean.flatten()[:, None]))
        total = total + where(inputs.has_pose, self.cam_rot_encoder(poses.quaternions.flatten(0, 1)))
        total = total + where(inputs.has_pose, self.cam_trans_encoder(poses.translations.flatten(0, 1)))
        total = total + where(knows_pose, self.cam_trans_scale_encoder(poses.log_mean.flatten()[:, None]))
        return self.fusion_norm_layer(total)

    def _predicted(
        self,
        fused: Float[Tensor, "batch_view patch channel"],
        shared: SharedTokens,
        image_size: tuple[int, int],
        images_at_a_time: int | None,
    ) -> Reconstruction:
        batch, views = shared.last.shape[:2]
        rows, cols = (side // self.config.patch_size for side in image_size)
        dtype = self.fusion_norm_layer.weight.dtype

        def as_map(tokens: Tensor) -> Tensor:
            """Patches of every image as a map; other tokens left out."""
            return tokens[:, : rows * cols].transpose(1, 2).unflatten(2, (rows, cols)).to(dtype)

        last = as_map(shared.last.flatten(0, 1))
        levels = [as_map(fused), *(as_map(one.flatten(0, 1)) for one in (shared.first_tap, shared.second_tap)), last]
        channels = in_chunks(
            self.dpt_feature_head,
            self.dpt_regressor_head,
            levels,
            image_size,
            images=images_at_a_time,
            recomputes=self.training and self.recompute_in_training and torch.is_grad_enabled(),
        )
        dense = activated(channels)
        pose = self.pose_head(last)
        scale = None
        if shared.scale is not None:
            scale = self.scale_head(shared.scale.to(dtype)).exp().clamp(min=MIN_SCALE)

        def by_view(values: Tensor) -> Tensor:
            return values.unflatten(0, (batch, views))

        return reconstruction_from_factors(
            by_view(dense.rays),
            by_view(dense.depth_along_ray),
            unit(by_view(pose[:, 3:])),
            by_view(pose[:, :3]),
            scale=scale,
            confidence=by_view(dense.confidence),
            mask_logits=by_view(dense.mask_logits),
        )
