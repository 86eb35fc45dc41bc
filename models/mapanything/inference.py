"""One scene from views with whatever is known of each: checked inputs, masked outputs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from geometry.cameras import check_camera, rigid_inverse
from geometry.errors import InputError, require
from geometry.pixel_rays import along_ray, intrinsics_from_rays, unit_rays
from geometry.quaternions import quaternion_from_rotation
from models.mapanything.adapters import Reconstructor
from models.mapanything.edges import surface_edges
from models.mapanything.heads import IMAGES_AT_A_TIME
from models.mapanything.inputs import GeometricInputs
from models.mapanything.output import Reconstruction

DEFAULT_PERCENTILE = 10.0
"""Of the pixels, the least confident, are masked."""
_MAX_RAY_ERROR = 1e-2
"""Difference of a given direction's length from 1."""
_MAX_OUT_OF_RANGE = 1e-3
"""Of colors in [0, 1]."""


@dataclass(frozen=True)
class View:
    """An image and what is known of its camera and depth; all views have one size. Shapes are checked by `infer`."""

    image: Tensor
    """3 x height x width, RGB in [0, 1]."""
    intrinsics: Tensor | None = None
    """3 x 3, pixels, centers at +0.5; or `rays`."""
    rays: Tensor | None = None
    """height x width x 3, unit directions through the pixel centers in the camera's frame: of any central camera."""
    depth: Tensor | None = None
    """height x width, camera z, 0 where unknown; needs `intrinsics` or `rays`."""
    c2w: Tensor | None = None
    """4 x 4, camera to world; if any view has one, the first has."""
    is_metric: bool = True
    """Depth and pose are in meters; else the network is not told their scale."""


@dataclass(frozen=True)
class Scene:
    """A reconstruction in the frame of the first view."""

    reconstruction: Reconstruction
    """Batch axis of length 1; points outside `mask` are 0."""
    intrinsics: Float[Tensor, "view 3 3"]
    """Fitted to the predicted rays."""
    w2c: Float[Tensor, "view 4 4"]
    depth: Float[Tensor, "view height width"]
    """Camera z; 0 outside `mask`."""
    mask: Bool[Tensor, "view height width"]
    """A surface, not among the least confident, not at an edge."""


@torch.no_grad()
def infer(
    network: Reconstructor,
    views: Sequence[View],
    *,
    images_at_a_time: int | None = IMAGES_AT_A_TIME,
    percentile: float = DEFAULT_PERCENTILE,
    has_edges: bool = False,
) -> Scene:
    """Reconstruct a scene; the network is in evaluation mode.

    `percentile` of the pixels of the scene, those with the least confidence, are masked (0: none), and edges unless
    `has_edges`.

    Raises:
        InputError: naming the view, for inputs that contradict each other or that the network does not take.
    """
    require(0 <= percentile < 100, f"percentile: expected 0 to below 100, got {percentile}")
    inputs = checked_inputs(network, views)
    found = network(inputs, images_at_a_time=images_at_a_time)
    found = found if network.has_reference_view else found.in_frame_of_first()
    z = found.points_cam[0, ..., 2]
    mask = torch.isfinite(found.points[0]).all(-1) & (z > 0)
    if found.mask_logits is not None:
        mask = mask & (found.mask_logits[0] > 0)
    if found.confidence is not None and percentile:
        confidence = found.confidence[0]
        rank = min(confidence.numel(), max(1, math.ceil(percentile / 100 * confidence.numel())))
        mask = mask & (confidence > confidence.flatten().kthvalue(rank).values)
    if not has_edges:
        mask = mask & ~surface_edges(z, found.points_cam[0])
    kept = mask[None, ..., None]
    found = replace(
        found,
        points=torch.where(kept, found.points, 0.0),
        points_cam=torch.where(kept, found.points_cam, 0.0),
        depth_along_ray=torch.where(mask[None], found.depth_along_ray, 0.0),
    )
    return Scene(
        reconstruction=found,
        intrinsics=intrinsics_from_rays(found.rays[0]),
        w2c=rigid_inverse(found.c2w[0]),
        depth=torch.where(mask, z, 0.0),
        mask=mask,
    )


def checked_inputs(network: Reconstructor, views: Sequence[View]) -> GeometricInputs:
    """The views as one batch of one sample.

    Raises:
        InputError: see `infer`.
    """
    require(len(views) > 0, "views: expected at least one, got none")
    for number, view in enumerate(views):
        _check_types(network, view, f"view {number}")
        _check_view(view, number, views[0], network.patch_size)
    has_pose = [view.c2w is not None for view in views]
    require(
        has_pose[0] or not any(has_pose),
        f"view 0: expected a pose (c2w) since view {has_pose.index(True) if any(has_pose) else 0} has one, got none",
    )
    if not network.takes_geometry:
        given = [name for name in ("intrinsics", "rays", "depth", "c2w") for view in views if _of(view, name)]
        require(not given, f"{given[0] if given else ''}: this network takes images only")
    height, width = views[0].image.shape[-2:]
    blank = GeometricInputs.of_images(torch.stack([view.image for view in views])[None])
    rays = [_rays(view, height, width, like=blank.rays[0, 0]) for view in views]
    depths = [
        torch.zeros_like(one[..., 0]) if view.depth is None else along_ray(view.depth.to(one), one)
        for view, one in zip(views, rays, strict=True)
    ]
    poses = torch.stack([torch.eye(4).to(rays[0]) if view.c2w is None else view.c2w.to(rays[0]) for view in views])

    def flags(values: list[bool]) -> Tensor:
        return torch.tensor([values], device=blank.images.device)

    has_depth = [view.depth is not None for view in views]
    return replace(
        blank,
        rays=torch.stack(rays)[None],
        depth_along_ray=torch.stack(depths)[None],
        quaternions=quaternion_from_rotation(poses[:, :3, :3])[None],
        translations=poses[None, :, :3, 3],
        has_rays=flags([_of(view, "intrinsics") or _of(view, "rays") for view in views]),
        has_depth=flags(has_depth),
        has_pose=flags(has_pose),
        shows_depth_scale=flags([one and view.is_metric for one, view in zip(has_depth, views, strict=True)]),
        shows_pose_scale=flags([one and view.is_metric for one, view in zip(has_pose, views, strict=True)]),
    )


def _of(view: View, name: str) -> bool:
    return getattr(view, name) is not None


def _check_types(network: Reconstructor, view: View, where: str) -> None:
    """Tensors, and an image of the network's numbers where the network is."""
    require(isinstance(view, View), f"{where}: expected a View, got {type(view).__name__}")
    for name in ("image", "intrinsics", "rays", "depth", "c2w"):
        value = getattr(view, name)
        require(
            isinstance(value, Tensor) or (value is None and name != "image"),
            f"{where}: expected {name} as a tensor, got {type(value).__name__}",
        )
    weight = next(network.parameters(), view.image) if isinstance(network, nn.Module) else view.image
    require(
        (view.image.dtype, view.image.device) == (weight.dtype, weight.device),
        f"{where}: expected an image of {weight.dtype} on {weight.device} as the network, "
        f"got {view.image.dtype} on {view.image.device}",
    )


def _check_view(view: View, number: int, first: View, patch_size: int) -> None:
    """One view by itself, and its size against that of the first."""
    where, shape = f"view {number}", tuple(view.image.shape)
    require(len(shape) == 3 and shape[0] == 3, f"{where}: expected an image of shape (3, height, width), got {shape}")
    height, width = shape[1:]
    require(
        shape == tuple(first.image.shape),
        f"{where}: expected an image as large as view 0's {tuple(first.image.shape)}, got {shape}",
    )
    require(
        height % patch_size == 0 and width % patch_size == 0,
        f"{where}: expected sides that are multiples of {patch_size}, got {height}x{width}",
    )
    for name, expected in (("rays", (height, width, 3)), ("depth", (height, width)), ("c2w", (4, 4))):
        value = getattr(view, name)
        require(
            value is None or tuple(value.shape) == expected,
            f"{where}: expected {name} of shape {expected}, got {None if value is None else tuple(value.shape)}",
        )
    for name in ("image", "intrinsics", "rays", "depth", "c2w"):
        value = getattr(view, name)
        require(
            value is None or bool(torch.isfinite(value).all()), f"{where}: expected finite {name}, got NaN or infinity"
        )
    low, high = view.image.min().item(), view.image.max().item()
    require(
        low >= -_MAX_OUT_OF_RANGE and high <= 1 + _MAX_OUT_OF_RANGE,
        f"{where}: expected an image in [0, 1], got values from {low:g} to {high:g}",
    )
    require(
        view.intrinsics is None or view.rays is None, f"{where}: expected intrinsics or rays, got both: give only one"
    )
    require(
        view.depth is None or view.intrinsics is not None or view.rays is not None,
        f"{where}: expected intrinsics or rays beside the depth, got neither",
    )
    require(view.depth is None or bool((view.depth >= 0).all()), f"{where}: expected depth of at least 0, got less")
    _check_camera(view, where)


def _check_camera(view: View, where: str) -> None:
    if view.intrinsics is not None:
        require(
            tuple(view.intrinsics.shape) == (3, 3),
            f"{where}: expected intrinsics of shape (3, 3), got {tuple(view.intrinsics.shape)}",
        )
    if view.intrinsics is not None or view.c2w is not None:
        c2w = torch.eye(4) if view.c2w is None else view.c2w.cpu()
        intrinsics = torch.eye(3) if view.intrinsics is None else view.intrinsics.cpu()
        check_camera(rigid_inverse(c2w), intrinsics, where)
    if view.c2w is not None and view.c2w[3].tolist() != [0, 0, 0, 1]:
        raise InputError(f"{where}: expected a pose with last row 0 0 0 1, got {view.c2w[3].tolist()}")
    if view.rays is not None:
        error = (view.rays.norm(dim=-1) - 1).abs().max().item()
        require(error <= _MAX_RAY_ERROR, f"{where}: expected rays of length 1, got one off by {error:.3g}")
        behind = view.depth is not None and bool(((view.depth > 0) & (view.rays[..., 2] <= 0)).any())
        require(not behind, f"{where}: expected rays forward (z > 0) where depth is known, got others")


def _rays(view: View, height: int, width: int, *, like: Tensor) -> Float[Tensor, "height width 3"]:
    """Zeros where nothing is known."""
    if view.rays is not None:
        return view.rays.to(like)
    if view.intrinsics is not None:
        return unit_rays(view.intrinsics.to(like), height, width)
    return torch.zeros_like(like)
