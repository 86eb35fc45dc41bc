"""Pinhole cameras: projection, unprojection, rays, and resizing or cropping together with the image.

The model is x ~ K (R X + t) with w2c = [R | t] (Hartley and Zisserman 2004, section 6.1). The worked numbers below are
those of a camera at the origin with f_x = 50, f_y = 40, c_x = 16, c_y = 12, for a 32x24 image.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geometry.errors import InputError
from geometry.precision import full_precision
from geometry.rays import RayBundle
from geometry.tensor_struct import TensorStruct

MAX_ROTATION_ERROR = 1e-3
"""Largest entry of R R^T - I that counts as a rotation: room for the rounding of text files; chosen by hand."""
_LAST_ROW = torch.tensor([0.0, 0.0, 0.0, 1.0])


class Projection(NamedTuple):
    """Where points fall in an image."""

    pixels: Float[Tensor, "*batch point 2"]
    """(x, y) in pixels; meaningless where `depth` <= 0."""
    depth: Float[Tensor, "*batch point"]
    """Camera z in scene units."""
    visible: Bool[Tensor, "*batch point"]
    """In front of the camera and inside the image. Occlusion is not tested."""


@full_precision
def rigid_inverse(transform: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Inverse of a rotation-plus-translation: [R | t] -> [R^T | -R^T t]."""
    rotation_t = transform[..., :3, :3].transpose(-1, -2)
    translation = -rotation_t @ transform[..., :3, 3:]
    return torch.cat([torch.cat([rotation_t, translation], dim=-1), transform[..., 3:, :]], dim=-2)


def look_at_point(w2c: Float[Tensor, "view 4 4"]) -> Float[Tensor, "3"]:
    """The world point p nearest to all optical axes: it minimizes the sum of |(I - a a^T)(p - c)|^2.

    a is the unit axis of a camera, c its center. Cameras at (-1, 0, 0) and (1, 0, 0) that look along (1, 0, 1) and
    (-1, 0, 1) give (0, 0, 1).
    """
    axes, centers = w2c[:, 2, :3], rigid_inverse(w2c)[:, :3, 3]
    across = torch.eye(3).to(w2c) - axes[:, :, None] * axes[:, None, :]
    return torch.linalg.lstsq(across.reshape(-1, 3), (across @ centers[..., None]).reshape(-1, 1)).solution[:, 0]


def pixel_centers(height: int, width: int, like: Tensor) -> Float[Tensor, "pixel 2"]:
    """Centers (x + 0.5, y + 0.5) of all pixels in row-major order, on the device and in the dtype of `like`."""
    ys = torch.arange(height, device=like.device, dtype=like.dtype) + 0.5
    xs = torch.arange(width, device=like.device, dtype=like.dtype) + 0.5
    grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
    return torch.stack([grid_x, grid_y], dim=-1).reshape(-1, 2)


@dataclass(frozen=True)
class Cameras(TensorStruct):
    """Pinhole cameras, OpenCV axes (+x right, +y down, +z forward)."""

    w2c: Float[Tensor, "*batch 4 4"]
    """World to camera, rigid, scene units."""
    intrinsics: Float[Tensor, "*batch 3 3"]
    """Pixels; the center of the top-left pixel is (0.5, 0.5)."""
    height: int
    width: int
    host_intrinsics: Float[Tensor, "*batch 3 3"] | None = None
    """The same matrices on the CPU, where `to` has moved them to another device: sizes of maps depend on them."""

    HOST_FIELDS = frozenset({"host_intrinsics"})

    def to(self, *args: Any, **kwargs: Any) -> "Cameras":
        """See `TensorStruct`; intrinsics that leave the CPU are kept there as well."""
        moved = super().to(*args, **kwargs)
        if self.intrinsics.device.type == "cpu" and moved.intrinsics.device.type != "cpu":
            return replace(moved, host_intrinsics=self.intrinsics)
        return moved if moved.intrinsics.device.type != "cpu" else replace(moved, host_intrinsics=None)

    @property
    def median_focal(self) -> float:
        """Of all cameras, f_x in pixels; where it is known on the CPU, no GPU is waited for."""
        known = self.intrinsics if self.host_intrinsics is None else self.host_intrinsics
        return known[..., 0, 0].median().item()

    @property
    def c2w(self) -> Float[Tensor, "*batch 4 4"]:
        """Camera to world."""
        return rigid_inverse(self.w2c)

    @property
    def centers(self) -> Float[Tensor, "*batch 3"]:
        """Optical centers in the world frame."""
        return self.c2w[..., :3, 3]

    @full_precision
    def project(self, points_world: Float[Tensor, "*#batch point 3"]) -> Projection:
        """World points into every camera: x = f_x X / Z + c_x, y = f_y Y / Z + c_y with (X, Y, Z) = R X_world + t.

        (1, -0.5, 5) falls on (50 / 5 + 16, -20 / 5 + 12) = (26, 8). Points at or behind the camera plane are never
        visible.
        """
        points_cam = points_world @ self.w2c[..., :3, :3].transpose(-1, -2) + self.w2c[..., None, :3, 3]
        depth = points_cam[..., 2]
        in_front = depth > 0
        homogeneous = points_cam @ self.intrinsics.transpose(-1, -2)
        pixels = homogeneous[..., :2] / torch.where(in_front, depth, torch.ones_like(depth))[..., None]
        x, y = pixels.unbind(-1)
        visible = in_front & (x >= 0) & (x <= self.width) & (y >= 0) & (y <= self.height)
        return Projection(pixels, depth, visible)

    @full_precision
    def unproject(
        self, pixels: Float[Tensor, "*batch point 2"], depth: Float[Tensor, "*batch point"]
    ) -> Float[Tensor, "*batch point 3"]:
        """Pixels with camera-z depth -> world points R^T (depth K^-1 (x, y, 1) - t); the inverse of `project`.

        Pixel (26, 8) at depth 5 is the point (1, -0.5, 5).
        """
        points_cam = self._directions_cam(pixels) * depth[..., None]
        c2w = self.c2w
        return points_cam @ c2w[..., :3, :3].transpose(-1, -2) + c2w[..., None, :3, 3]

    @full_precision
    def rays(
        self,
        pixels: Float[Tensor, "*batch ray 2"],
        near: Float[Tensor, "*batch"],
        far: Float[Tensor, "*batch"],
    ) -> RayBundle:
        """Rays through pixel positions, from the plane z = near to z = far of each camera.

        With d = K^-1 (x, y, 1) the direction is R^T d / |d|; a point at camera z lies at t = |d| z, so cos_optical is
        1 / |d|. Pixel (66, 12), f_x right of the principal point, has d = (1, 0, 1): from z = 2 on is from t = 2.828.
        """
        directions_cam = self._directions_cam(pixels)
        length = directions_cam.norm(dim=-1)
        c2w = self.c2w
        directions = (directions_cam / length[..., None]) @ c2w[..., :3, :3].transpose(-1, -2)
        return RayBundle(
            origins=c2w[..., None, :3, 3].expand_as(directions),
            directions=directions,
            t_near=near[..., None] * length,
            t_far=far[..., None] * length,
            cos_optical=1 / length,
        )

    def resized(self, height: int, width: int) -> "Cameras":
        """The same cameras for images resized to height x width: f_x and c_x times width'/width, f_y and c_y alike.

        No half pixel is added, since pixel centers are at +0.5: a width of 8 for 32 turns c_x = 16 into 4.
        """
        scale_host = torch.tensor([width / self.width, height / self.height, 1.0])
        host = None if self.host_intrinsics is None else self.host_intrinsics * scale_host[:, None]
        intrinsics = self.intrinsics * scale_host.to(self.intrinsics, non_blocking=True)[:, None]
        return replace(self, intrinsics=intrinsics, host_intrinsics=host, height=height, width=width)

    def cropped(self, top: int, left: int, height: int, width: int) -> "Cameras":
        """The same cameras for the window whose top-left pixel is (left, top): c_x - left, c_y - top."""
        offset = torch.tensor([[0.0, 0.0, left], [0.0, 0.0, top], [0.0, 0.0, 0.0]])
        host = None if self.host_intrinsics is None else self.host_intrinsics - offset
        intrinsics = self.intrinsics - offset.to(self.intrinsics, non_blocking=True)
        return replace(self, intrinsics=intrinsics, host_intrinsics=host, height=height, width=width)

    def turned(self, quarter_turns: int) -> "Cameras":
        """The same cameras for images turned counterclockwise by so many quarters, as `numpy.rot90` does.

        One quarter takes (x, y) to (y, width - x), with axes X' = Y, Y' = -X: for a 32x24 image f = (50, 40) and
        c = (16, 12) become f' = (40, 50) and c' = (12, 16).
        """
        if quarter_turns % 4 == 0:
            return self

        def of(matrix: Tensor) -> Tensor:
            x, y, last = matrix.unbind(-2)
            along_x, along_y, offset = torch.stack([y, self.width * last - x, last], dim=-2).unbind(-1)
            return torch.stack([along_y, -along_x, offset], dim=-1)

        # rows and columns change places, without a product: exact under autocast too
        x, y, z, last = self.w2c.unbind(-2)
        return replace(
            self,
            w2c=torch.stack([y, -x, z, last], dim=-2),
            intrinsics=of(self.intrinsics),
            host_intrinsics=None if self.host_intrinsics is None else of(self.host_intrinsics),
            height=self.width,
            width=self.height,
        ).turned(quarter_turns % 4 - 1)

    def scaled(self, factor: float) -> "Cameras":
        """The same cameras in a unit in which lengths are `factor` times as large: t times `factor`."""
        unit = torch.ones(4, 4).to(self.w2c)
        unit[:3, 3] = factor
        return replace(self, w2c=self.w2c * unit)

    def _directions_cam(self, pixels: Tensor) -> Tensor:
        """Camera-frame directions with z = 1."""
        homogeneous = torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1)
        # 3x3 inverse in double: float32 loses a tenth of a pixel at focal lengths of thousands of pixels
        inverse = torch.linalg.inv_ex(self.intrinsics.double()).inverse.to(self.intrinsics)
        directions = homogeneous @ inverse.transpose(-1, -2)
        return directions / directions[..., 2:]


def possible_cameras(w2c: Float[Tensor, "view 4 4"], intrinsics: Float[Tensor, "view 3 3"]) -> Bool[Tensor, " view"]:
    """Which of many cameras `check_camera` accepts, all at once: one by one takes 0.3 ms each."""
    rotation = w2c[:, :3, :3].double()
    is_finite = torch.isfinite(w2c.float()).flatten(1).all(1) & torch.isfinite(intrinsics.float()).flatten(1).all(1)
    is_rigid = ((w2c[:, 3] - _LAST_ROW.to(w2c)).abs() <= MAX_ROTATION_ERROR).all(1)
    deviation = (rotation @ rotation.mT - torch.eye(3, dtype=torch.float64, device=w2c.device)).abs().amax((1, 2))
    is_rotation = (deviation <= MAX_ROTATION_ERROR) & (torch.linalg.det(rotation) >= 0)
    has_focal = (intrinsics[:, [0, 1], [0, 1]].float() > 0).all(1)
    last_row = torch.tensor([0.0, 0.0, 1.0], dtype=intrinsics.dtype, device=intrinsics.device)
    return is_finite & is_rigid & is_rotation & has_focal & (intrinsics[:, 2] == last_row).all(1)


def check_camera(w2c: Float[Tensor, "4 4"], intrinsics: Float[Tensor, "3 3"], where: str) -> None:
    """Refuse a camera that no image can have come from.

    R is a rotation when no entry of R R^T - I exceeds `MAX_ROTATION_ERROR`, and det R > 0.

    Raises:
        InputError: naming `where`, for a non-finite entry, a rotation that is not one, or impossible intrinsics.
    """
    if not (torch.isfinite(w2c.float()).all() and torch.isfinite(intrinsics.float()).all()):
        raise InputError(f"{where}: expected finite camera matrices, got NaN or infinity")
    rotation = w2c[:3, :3].double()
    deviation = (rotation @ rotation.T - torch.eye(3, dtype=torch.float64, device=w2c.device)).abs().max().item()
    if deviation > MAX_ROTATION_ERROR or torch.linalg.det(rotation) < 0:
        determinant = torch.linalg.det(rotation).item()
        raise InputError(
            f"{where}: expected a rotation matrix, got one off by {deviation:.3g}, determinant {determinant:.3g}"
        )
    if not bool(((w2c[3] - _LAST_ROW.to(w2c)).abs() <= MAX_ROTATION_ERROR).all()):
        raise InputError(f"{where}: expected a last row 0 0 0 1, got {w2c[3].tolist()}")
    focal = intrinsics.diagonal()[:2].float()
    if not bool((focal > 0).all()) or intrinsics[2].tolist() != [0, 0, 1]:
        raise InputError(
            f"{where}: expected intrinsics with positive focal lengths and last row 0 0 1, got {intrinsics.tolist()}"
        )
