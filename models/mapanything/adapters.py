"""Other networks behind the interface of `MapAnything`: geometry and images in, one `Reconstruction` out."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geometry.errors import InputError
from geometry.pixel_rays import unit_rays
from geometry.quaternions import quaternion_from_rotation
from models.mapanything.heads import IMAGES_AT_A_TIME
from models.mapanything.inputs import GeometricInputs
from models.mapanything.output import Reconstruction
from models.vggt import VGGT
from models.vggt.pose_encoding import decode_pose, inverse_se3

_MIN_FIELD_OF_VIEW = 1e-3
"""Radians. Untrained networks predict fields of view of 0, that is infinite focal lengths."""


@runtime_checkable
class Reconstructor(Protocol):
    """A network that reconstructs the views of a batch together."""

    @property
    def patch_size(self) -> int:
        """Sides of images are multiples of it."""
        ...

    @property
    def takes_geometry(self) -> bool:
        """Uses more of its inputs than the images."""
        ...

    @property
    def predicts_scale(self) -> bool:
        """Lengths are meters where the data's are."""
        ...

    @property
    def has_reference_view(self) -> bool:
        """The world frame is that of view 0; else any."""
        ...

    @property
    def image_size(self) -> int:
        """Pixels: side of the images that its stored positions are for."""
        ...

    def set_checkpointing(self, enabled: bool) -> None:
        """Whether training computes activations again backwards."""
        ...

    def __call__(self, inputs: GeometricInputs, *, images_at_a_time: int | None = ...) -> Reconstruction:
        """Predict all views together."""
        ...


class VGGTReconstructor(nn.Module):
    """A VGGT (Wang et al. 2025) with camera and depth heads; it takes images only and knows no scale."""

    takes_geometry = False
    predicts_scale = False
    has_reference_view = True

    def __init__(self, network: VGGT) -> None:
        """The point head, if there is one, is not asked: points are depth unprojected by the predicted cameras.

        Raises:
            InputError: for a network without one of both heads.
        """
        super().__init__()
        if network.camera_head is None or network.depth_head is None:
            raise InputError(
                f"--model vggt: expected a network with camera and depth heads, got {', '.join(network.config.heads)}"
            )
        self.network = network
        # only the last of the head's iterations is compared, and each one starts from detached poses
        network.camera_head.empty_pose_tokens.requires_grad_(False)

    @property
    def patch_size(self) -> int:
        """See `Reconstructor`."""
        return self.network.config.aggregator.patch_size

    @property
    def image_size(self) -> int:
        """See `Reconstructor`."""
        return self.network.config.aggregator.img_size

    def set_checkpointing(self, enabled: bool) -> None:
        """See `Reconstructor`."""
        self.network.set_checkpointing(enabled)

    def forward(self, inputs: GeometricInputs, *, images_at_a_time: int | None = IMAGES_AT_A_TIME) -> Reconstruction:
        """Cameras, rays and points from pose encodings and depth; the principal point is the center of the image."""
        output = self.network(inputs.images, frames_chunk_size=images_at_a_time)
        assert output.pose_enc is not None
        assert output.depth is not None
        height, width = inputs.images.shape[-2:]
        with torch.autocast(inputs.images.device.type, enabled=False):
            dtype = torch.promote_types(output.pose_enc.dtype, torch.float32)
            pose, fields_of_view = output.pose_enc.to(dtype).split([7, 2], dim=-1)
            encoding = torch.cat([pose, fields_of_view.clamp(min=_MIN_FIELD_OF_VIEW)], dim=-1)
            extrinsics, intrinsics = decode_pose(encoding, height, width)
            return reconstruction_of_cameras(
                inverse_se3(extrinsics), intrinsics, output.depth[..., 0], output.depth_conf
            )


def reconstruction_of_cameras(
    c2w: Float[Tensor, "batch view 4 4"],
    intrinsics: Float[Tensor, "batch view 3 3"],
    depth: Float[Tensor, "batch view height width"],
    confidence: Float[Tensor, "batch view height width"] | None = None,
) -> Reconstruction:
    """Pinhole cameras with camera-z depth as factored geometry; no scale, no mask."""
    height, width = depth.shape[-2:]
    rays = unit_rays(intrinsics, height, width)
    points_cam = rays * (depth / rays[..., 2])[..., None]
    rotation, translation = c2w[..., :3, :3], c2w[..., :3, 3]
    return Reconstruction(
        points=torch.einsum("bvrc,bvhwc->bvhwr", rotation, points_cam) + translation[:, :, None, None],
        points_cam=points_cam,
        rays=rays,
        depth_along_ray=depth / rays[..., 2],
        quaternions=quaternion_from_rotation(rotation),
        translations=translation,
        confidence=confidence,
    )
