"""MapAnything's reconstruction of photographs or of views of a scene, as the products of `render.export` take it."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import nn

from data.image_io import image_size
from data.multi_view.sampler import BatchShape
from data.multi_view.windows import Window, ZoomRange, choose_window, load_frames
from data.scene import Frame, PosedScene
from geometry import Cameras, InputError, require, rigid_inverse
from models.mapanything.inference import Scene, View, infer
from models.memory import MemoryExceeded, is_out_of_memory
from render.export.cameras import PhotoCameras, of_scene
from render.export.renderings import Renderings
from training.mapanything.checkpoint import read_reconstructor
from training.precision import AUTO, autocast_of, resolved_precision

GIVEN = ("intrinsics", "poses", "depth")
"""What views of a scene can give beside their images."""
_USUAL_FOCAL = 1.2
"""Focal length over the long side, of photographs whose camera is not asked for; only their middle counts."""


class Reconstructed(NamedTuple):
    """Of one scene, in the frame of its first view; meters where the network knows them."""

    renderings: Renderings
    """Of the windows that the network saw."""
    photos: PhotoCameras
    """The files as they are, with predicted cameras."""


def scene_of_photographs(paths: Sequence[Path]) -> PosedScene:
    """Photographs of which nothing is known; numbered in their order."""
    frames = {}
    for number, path in enumerate(paths):
        height, width = image_size(path)
        focal = _USUAL_FOCAL * max(height, width)
        middle = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        frames[number] = Frame(number, path, torch.eye(4), middle, height, width, near=1.0, far=2.0)
    return PosedScene(
        name="photographs", scan="photographs", frames=frames, neighbors={}, train_views=tuple(frames),
        held_out_views=(),
    )  # fmt: skip


def reconstructed(
    scene: PosedScene,
    view_ids: Sequence[int],
    names: Sequence[str],
    weights: str,
    *,
    given: Collection[str] = (),
    longer_side: int = 0,
    device: torch.device,
) -> Reconstructed:
    """All views together, each as the largest window that has the proportions of the first.

    `given`: of `GIVEN`, what the network gets of the scene; lengths are meters where the scene knows its unit.
    `longer_side`: of the images, pixels; 0: the one that the network's positions are for. Edges and what is no surface
    have no depth, the least confident pixels have.

    Raises:
        InputError: for weights that cannot be read, a size that is no multiple of the patch, geometry for a network of
            images, or too many views for the memory.
    """
    network = read_reconstructor(weights)
    longer, patch = longer_side or network.image_size, network.patch_size
    require(
        longer >= patch and longer % patch == 0,
        f"--image_size: expected a multiple of the patch size {patch}, got {longer}",
    )
    first = scene.frames[view_ids[0]]
    height, width = BatchShape(longer, (1.0, 1.0), patch, (1, 1), 1).fitted(first.height, first.width)
    views = [_on(device, view) for view in _views(scene, view_ids, height, width, given)]
    try:
        with autocast_of(resolved_precision(AUTO, device), device):
            cast(nn.Module, network).to(device).eval()
            found = infer(network, views, percentile=0.0)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryExceeded(
            f"out of memory for {len(views)} images of {width}x{height}: lower --image_size, or take fewer by --views "
            "or --max_images"
        ) from None
    renderings = inferred_views(names, views, found).to("cpu")
    cameras = tuple(
        _of_file(renderings.cameras[index], window, scene.frames[view])
        for index, (view, window) in enumerate(zip(view_ids, _windows(scene, view_ids, height, width), strict=True))
    )
    return Reconstructed(renderings, replace(of_scene(scene, view_ids), cameras=cameras))


def inferred_views(names: Sequence[str], views: Sequence[View], scene: Scene) -> Renderings:
    """Cameras, masked depth and colors of a scene, in the frame of its first view.

    Confidence c of the network (above 1) becomes 1 - 1 / c, which is in [0, 1) and has the same order.
    """
    confidence = scene.reconstruction.confidence
    known = [one[one > 0] for one in scene.depth]
    far = torch.stack([one.max() if len(one) else one.new_ones(()) for one in known])
    sure = torch.ones_like(scene.depth) if confidence is None else 1 - 1 / confidence[0].clamp_min(1)
    return Renderings(
        names=tuple(names),
        cameras=Cameras(scene.w2c.float(), scene.intrinsics.float(), *scene.depth.shape[1:]),
        depth=scene.depth.float(),
        colors=torch.stack([view.image for view in views]).permute(0, 2, 3, 1).float(),
        confidence=sure.float(),
        near=torch.stack([one.min() if len(one) else one.new_zeros(()) for one in known]).float(),
        far=far.float(),
        scene_far=far.float(),
    )


def _views(scene: PosedScene, view_ids: Sequence[int], height: int, width: int, given: Collection[str]) -> list[View]:
    loaded = load_frames(scene, view_ids, height, width, zoom=ZoomRange.none(), generator=None)
    meters = scene.traits.meters
    lacking = [view for view in view_ids if not scene.has_depth(view)]
    if "depth" in given and len(lacking) == len(view_ids):
        raise InputError(f"--given depth: expected depth maps of {scene.name}, got none")
    c2w = rigid_inverse(loaded.cameras.w2c)
    c2w[:, :3, 3] *= meters or 1.0
    assert loaded.depth is not None
    return [
        View(
            image=loaded.images[index],
            intrinsics=loaded.cameras.intrinsics[index] if "intrinsics" in given else None,
            depth=loaded.depth[index] * (meters or 1.0) if "depth" in given and view not in lacking else None,
            c2w=c2w[index] if "poses" in given else None,
            is_metric=meters is not None,
        )
        for index, view in enumerate(view_ids)
    ]


def _on(device: torch.device, view: View) -> View:
    moved = {name: value.to(device) for name, value in vars(view).items() if isinstance(value, torch.Tensor)}
    return replace(view, **moved)


def _windows(scene: PosedScene, view_ids: Sequence[int], height: int, width: int) -> list[Window]:
    """As `load_frames` cuts them."""
    frames = [scene.frames[view] for view in view_ids]
    cameras = [Cameras(frame.w2c.float(), frame.intrinsics.float(), frame.height, frame.width) for frame in frames]
    return [choose_window(camera, height, width, ZoomRange.none(), None) for camera in cameras]


def _of_file(camera: Cameras, window: Window, frame: Frame) -> Cameras:
    """The camera of a resized window as that of the whole image."""
    return camera.resized(window.height, window.width).cropped(-window.top, -window.left, frame.height, frame.width)
