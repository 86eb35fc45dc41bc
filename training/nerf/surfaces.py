"""Where the surfaces of a scene are known from before its own field learns (`--surfaces`)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from data.novel_view.dataset import pool_targets
from data.scene import PosedScene
from data.seeds import evenly_spread
from geometry import InputError, Views
from models.nerf.depth_range import DepthRange
from models.nerf.guided.plane_sweep import DisparityRange
from models.nerf.guided.scene_field import Surfaces
from models.nerf.vggt_nerf import VGGTNeRF

_CELL = 4
"""Pixels of a training image along a cell of the maps of sparse points."""


def no_surfaces(scene: PosedScene) -> Surfaces:
    """Nothing is known of any training view."""
    return Surfaces(torch.tensor(scene.train_views), torch.zeros(len(scene.train_views), 2, 1, 1))


@torch.no_grad()
def surfaces_of_model(
    model: VGGTNeRF, scene: PosedScene, scale: float, num_sources: int, num_views: int, *, shows_progress: bool = False
) -> Surfaces:
    """What the general model sees in `num_views` of the training views, evenly spread (0 = all), from others of them.

    Nothing is known (confidence 0) of the views that are left out. `scale`: of the images; the maps are on the model's
    device.
    """
    views = scene.train_views
    looked_at = pool_targets(scene, evenly_spread(views, num_views or len(views)))
    device = next(model.parameters()).device
    surfaces = {}
    for target in tqdm(looked_at, desc="surfaces", unit="view", leave=False, disable=not shows_progress):
        source = Views.stack([scene.views(target.candidates[:num_sources], scale, wants_depth=False)])
        view = scene.views([target.view_id], scale, wants_depth=False).to(device)
        maps = model.encode(source.to(device))
        seen_from: Any = model.view(maps, view.cameras, view.near, view.far)  # a `GuidedView`: see the options
        surfaces[target.view_id] = seen_from.surface
    nothing = torch.zeros_like(seen_from.surface)
    return Surfaces(torch.tensor(views), torch.cat([surfaces.get(view, nothing) for view in views]))


def surfaces_of_points(scene: PosedScene, bounds: DepthRange, scale: float) -> Surfaces:
    """The sparse points that each training view observes (Deng et al. 2022, DS-NeRF, sec. 3.2), in cells of 4 pixels.

    A cell's disparity fraction is the mean over the points in it and around it (3 x 3 cells); confidence is 1 where a
    point lies in the cell itself. `bounds`: between which rays of a training view are marched; `scale`: of the images.

    Raises:
        InputError: when the scene has no points, or does not say which of its views observe them.
    """
    views, points = scene.train_views, scene.points
    if points is None or not any(len(points.rows.get(view, ())) for view in views):
        have = "no points" if points is None else f"{len(points.points_world)} points without views that observe them"
        raise InputError(
            f"--surfaces points: scene {scene.name}: expected sparse points with the views that observe them, "
            f"got {have}; --surfaces model looks for surfaces instead, --surface_loss 0 does without"
        )
    cameras = scene.cameras(views, scale)
    points_world = torch.from_numpy(points.points_world).float()
    maps = []
    for index, view in enumerate(views):
        planes = DisparityRange(bounds.near[index : index + 1], bounds.far[index : index + 1])
        seen = cameras[index].project(points_world[torch.as_tensor(points.rows.get(view, ()), dtype=torch.long)])
        fraction = planes.fraction(1 / seen.depth[seen.visible][None])[0]
        maps.append(_in_cells(seen.pixels[seen.visible], fraction, (cameras.height, cameras.width)))
    return Surfaces(torch.tensor(views), torch.stack(maps))


def _in_cells(
    pixels: Float[Tensor, "point 2"], fraction: Float[Tensor, " point"], size: Sequence[int]
) -> Float[Tensor, "2 rows cols"]:
    rows, cols = (max(1, side // _CELL) for side in size)
    cells = torch.tensor([cols / size[1], rows / size[0]])
    x, y = (pixels * cells).long().unbind(-1)
    where = y.clamp(0, rows - 1) * cols + x.clamp(0, cols - 1)
    counted = torch.stack([fraction, torch.ones_like(fraction)])
    sums = torch.zeros(2, rows * cols).index_add_(1, where, counted).unflatten(1, (rows, cols))
    around = F.avg_pool2d(sums[None], 3, stride=1, padding=1)[0]
    return torch.stack([around[0] / around[1].clamp_min(1e-6), (sums[1] > 0).float()])
