"""What a multi-view reconstruction network predicts, whichever network it is: one struct for all of them."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from geometry.precision import full_precision
from geometry.quaternions import quaternion_inverse, quaternion_product, rotated, rotation_from_quaternion
from geometry.tensor_struct import TensorStruct

Points = Float[Tensor, "batch view height width 3"]
Maps = Float[Tensor, "batch view height width"]


@dataclass(frozen=True)
class Reconstruction(TensorStruct):
    """Factored geometry of every view: X_world = scale * (R (ray * depth) + t), all lengths times `scale` already.

    The world frame is that of view 0, exactly or nearly: no network is forced to give view 0 the identity. An
    equivariant network has a frame of its own (`in_frame_of_first`).
    """

    points: Points
    """In the world frame."""
    points_cam: Points
    """In each camera's frame, OpenCV axes."""
    rays: Points
    """Unit directions through the pixel centers, in each camera's frame."""
    depth_along_ray: Maps
    """Distance of the surface from the camera's center; its z is that of `points_cam`."""
    quaternions: Float[Tensor, "batch view 4"]
    """World from camera, xyzw, unit."""
    translations: Float[Tensor, "batch view 3"]
    """Centers of the cameras in the world frame."""
    scale: Float[Tensor, "batch view"] | None = None
    """Meters per unit of the network's own geometry, the same for all views; None: the network knows no scale."""
    confidence: Maps | None = None
    """At least 1, larger is surer."""
    mask_logits: Maps | None = None
    """Of there being a surface with a depth: sky and the like have none."""

    @property
    def c2w(self) -> Float[Tensor, "batch view 4 4"]:
        """Camera to world."""
        rotation = rotation_from_quaternion(self.quaternions)
        top = torch.cat([rotation, self.translations[..., None]], dim=-1)
        last = torch.zeros_like(top[..., :1, :])
        last[..., 3] = 1
        return torch.cat([top, last], dim=-2)

    def without_scale(self) -> "Reconstruction":
        """All lengths in the network's own unit; `scale` itself is kept."""
        if self.scale is None:
            return self
        per_view = self.scale
        return replace(
            self,
            points=self.points / per_view[..., None, None, None],
            points_cam=self.points_cam / per_view[..., None, None, None],
            depth_along_ray=self.depth_along_ray / per_view[..., None, None],
            translations=self.translations / per_view[..., None],
        )

    @full_precision
    def in_frame_of_first(self) -> "Reconstruction":
        """The world moved so that the predicted pose of view 0 is the identity.

        X -> R_0^T (X - t_0), q -> q_0^-1 q, t -> R_0^T (t - t_0).
        """
        first_quaternion, first_translation = self.quaternions[:, :1], self.translations[:, :1]
        inverse = quaternion_inverse(first_quaternion)
        rotation = rotation_from_quaternion(inverse)[:, 0]
        moved = self.points - first_translation[:, :, None, None]
        return replace(
            self,
            points=torch.einsum("brc,bvhwc->bvhwr", rotation, moved),
            quaternions=quaternion_product(inverse.expand_as(self.quaternions), self.quaternions),
            translations=rotated(inverse.expand_as(self.quaternions), self.translations - first_translation),
        )


@full_precision
def reconstruction_from_factors(
    rays: Points,
    depth_along_ray: Maps,
    quaternions: Float[Tensor, "batch view 4"],
    translations: Float[Tensor, "batch view 3"],
    *,
    scale: Float[Tensor, " batch"] | None = None,
    confidence: Maps | None = None,
    mask_logits: Maps | None = None,
) -> Reconstruction:
    """Points from unit rays, distances and poses in one unit, then everything times `scale`."""
    points_cam = rays * depth_along_ray[..., None]
    rotation = rotation_from_quaternion(quaternions)
    points = torch.einsum("bvrc,bvhwc->bvhwr", rotation, points_cam) + translations[:, :, None, None]
    per_view = None if scale is None else scale[:, None].expand(-1, rays.shape[1])
    factor = torch.ones_like(translations[..., 0]) if per_view is None else per_view
    return Reconstruction(
        points=points * factor[..., None, None, None],
        points_cam=points_cam * factor[..., None, None, None],
        rays=rays,
        depth_along_ray=depth_along_ray * factor[..., None, None],
        quaternions=quaternions,
        translations=translations * factor[..., None],
        scale=per_view,
        confidence=confidence,
        mask_logits=mask_logits,
    )
