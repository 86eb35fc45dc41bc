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
    before = views.cameras
    signs = torch.tensor([-1.0, 1.0, 1.0, 1.0]).to(before.w2c)

    def moved(intrinsics: Tensor) -> Tensor:
        intrinsics = intrinsics * (signs[:3, None] * signs[:3]).to(intrinsics)
        intrinsics[..., 0, 2] += before.width
        return intrinsics

    on_host = None if before.host_intrinsics is None else moved(before.host_intrinsics)
    w2c = before.w2c * signs[:, None] * signs
    cameras = replace(before, w2c=w2c, intrinsics=moved(before.intrinsics), host_intrinsics=on_host)
    return _with(views, cameras, lambda image: image.flip(-1))


def rolled(views: Views, quarter_turns: int) -> Views:
    """The cameras roll about their optical axes, so that the images turn clockwise; the world stays.

    A quarter turn takes the pixel (x, y) of an image H high to (H - y, x). Four of them change nothing.
    """
    turns = quarter_turns % 4
    cameras = views.cameras.turned(-turns)  # counted counterclockwise there
    return _with(views, cameras, lambda image: image.rot90(-turns, (-2, -1))) if turns else views


def _with(views: Views, cameras: Cameras, turn: Callable[[Tensor], Tensor]) -> Views:
    images = {name: getattr(views, name) for name in _IMAGES}
    turned = {name: turn(values) for name, values in images.items() if values is not None}
    return replace(views, cameras=cameras, **turned)
