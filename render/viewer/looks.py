"""What somebody wants to see, and the picture of it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from geometry import Cameras
from render.paths import intrinsics_of_fov
from render.viewer.gauge import Gauge
from render.viewer.layers import Layer, picture
from render.viewer.scene_renderer import Frame, SceneRenderer
from render.viewer.schedule import Size, Task


@dataclass(frozen=True)
class Look:
    """A place, a lens and what to show; equal ones show the same."""

    rotation: tuple[float, ...]
    """Camera to page, row by row."""
    position: tuple[float, ...]
    """In the page's world."""
    vertical_fov: float
    """Radians."""
    layer: Layer
    n_views: int
    samples: tuple[tuple[str, int], ...]
    """Per ray, by the names of the options."""
    held_out: int | None = None
    """The view whose photograph the layer `error` compares with."""


@dataclass(frozen=True)
class Picture:
    """A look, rendered."""

    image: Float[Tensor, "height width 3"]
    frame: Frame
    psnr: float | None
    """Of the layer `error`, in dB."""

    @property
    def is_slow(self) -> bool:
        """See `Frame`."""
        return self.frame.is_slow


def rendered(task: Task, renderer: SceneRenderer, gauge: Gauge, is_outdated: Callable[[], bool]) -> Picture | None:
    """The picture of a `Look`; None if it became outdated."""
    look: Look = task.request
    samples, moving = dict(look.samples), task.level == 0 and not task.is_last
    if look.layer != "error" or look.held_out is None:
        w2c = gauge.w2c(torch.tensor(look.rotation).reshape(3, 3), torch.tensor(look.position))
        camera = Cameras(w2c[None], intrinsics_of_fov(look.vertical_fov, *task.size)[None], *task.size)
        frame = renderer.render(camera, look.n_views, samples=samples, moving=moving, is_outdated=is_outdated)
        return None if frame is None else Picture(picture(frame, look.layer), frame, None)
    scene, view = renderer.scene, look.held_out
    near, far = scene.near_far([view])
    frame = renderer.render(
        scene.cameras([view], renderer.scale).resized(*task.size),
        look.n_views,
        samples=samples,
        bounds=(near.item(), far.item()),
        moving=moving,
        is_outdated=is_outdated,
    )
    if frame is None:
        return None
    photograph = scene.views([view], renderer.scale, wants_depth=False, wants_mask=False).images
    truth = F.interpolate(photograph, task.size, mode="area")[0].permute(1, 2, 0)
    error = (frame.rgb - truth).square().mean().clamp_min(1e-10)
    return Picture(picture(frame, "error", truth), frame, -10 * error.log10().item())


def full_size(look: Look, canvas: Size, max_side: int, renderer: SceneRenderer) -> Size:
    """Rows and columns of the full picture: in the canvas's proportions, or in the photograph's it is compared with."""
    rows, columns = canvas
    if look.layer == "error" and look.held_out is not None:
        rows, columns = renderer.scene.image_size(look.held_out, renderer.scale)
    factor = max_side / max(rows, columns)
    return max(round(rows * factor), 8), max(round(columns * factor), 8)
