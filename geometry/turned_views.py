"""The same photographs, mirrored or with their cameras rolled: what a network should see alike, and often does not."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from geometry.cameras import Cameras
from geometry.views import Views

_IMAGES = ("images", "depth", "mask", "no_surface")


def mirrored(views: Views) -> Views:
    """As if a mirror stood in the plane x = 0 of the world: left and right change places in the images.

    A pixel at x of an image W wide moves to W - x, its depth stays. Done twice nothing has changed.
    """
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0])).to(views.cameras.w2c)
    before = views.cameras

    def moved(intrinsics: Tensor) -> Tensor:
        intrinsics = intrinsics.clone()
        intrinsics[..., 0, 2] = before.width - intrinsics[..., 0, 2]
        return intrinsics

    w2c, sizes = mirror @ before.w2c @ mirror, (before.height, before.width)
    return _with(views, _cameras(before, w2c, moved, *sizes), lambda image: image.flip(-1))


def rolled(views: Views, quarter_turns: int) -> Views:
    """The cameras roll about their optical axes, so that the images turn clockwise; the world stays.

    A quarter turn takes the pixel (x, y) of an image H high to (H - y, x). Four of them change nothing.
    """
    turns = quarter_turns % 4
    cameras = rolled_cameras(views.cameras, turns)
    return _with(views, cameras, lambda image: image.rot90(-turns, (-2, -1))) if turns else views


def rolled_cameras(cameras: Cameras, quarter_turns: int) -> Cameras:
    """The cameras of `rolled` views."""
    for _ in range(quarter_turns % 4):
        cameras = _rolled_once(cameras)
    return cameras


def _rolled_once(before: Cameras) -> Cameras:
    roll = torch.eye(4).to(before.w2c)
    roll[:2, :2] = torch.tensor([[0.0, -1.0], [1.0, 0.0]])

    def moved(intrinsics: Tensor) -> Tensor:
        rows = intrinsics[..., 1, [1, 0, 2]], intrinsics[..., 0, [1, 0, 2]]
        turned = torch.stack([*rows, intrinsics[..., 2, :]], dim=-2)
        turned[..., 0, 2] = before.height - turned[..., 0, 2]
        return turned

    return _cameras(before, roll @ before.w2c, moved, before.width, before.height)


def _cameras(before: Cameras, w2c: Tensor, moved: Callable[[Tensor], Tensor], height: int, width: int) -> Cameras:
    on_host = None if before.host_intrinsics is None else moved(before.host_intrinsics)
    return Cameras(w2c, moved(before.intrinsics), height, width, on_host)


def _with(views: Views, cameras: Cameras, turn: Callable[[Tensor], Tensor]) -> Views:
    images = {name: getattr(views, name) for name in _IMAGES}
    turned = {name: turn(values) for name, values in images.items() if values is not None}
    return replace(views, cameras=cameras, **turned)
