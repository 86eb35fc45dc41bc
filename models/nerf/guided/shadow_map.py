"""Which points a source view cannot see, as surfaces of the target view lie before them: shadow maps (Williams 1978).

The sweep says where the target's surfaces are; drawn into a source view, the nearest of them per pixel hides all that
is behind it. What only the source sees casts no shadow here, and needs none: it is not in the target's picture.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geometry import Cameras, pixel_centers
from models.nerf.guided.plane_sweep import DisparityRange, SweptPixels, sample_swept, sweep_lines

_SOFTNESS = 0.03
"""Disparity fraction: points half of it behind a surface may belong to it, one and a half behind they are hidden."""


@torch.no_grad()
def shadow_maps(
    planes: DisparityRange,
    center: Float[Tensor, "batch target_rows target_cols"],
    is_sure: Bool[Tensor, "batch target_rows target_cols"],
    target: Cameras,
    source: Cameras,
    rows: int,
    cols: int,
) -> Float[Tensor, "batch view rows cols"]:
    """Inverse depth (1 / camera z of the source view) of the target's nearest surface; 0 = no surface there.

    `center`: the surfaces, disparity fraction, where they are sure. `target` has one camera per scene; a map covers
    the image of its source edge to edge.
    """
    height, width = center.shape[1:]
    pixels = pixel_centers(height, width, center).expand(len(center), -1, 2)
    inverse = planes.inverse_depth(center.flatten(1)[..., None])
    swept = sweep_lines(source, target.resized(height, width), pixels).at(inverse)
    x, y = (((swept.coordinates[..., 0, axis] + 1) * (size / 2)).long() for axis, size in ((0, cols), (1, rows)))
    index = y.clamp(0, rows - 1) * cols + x.clamp(0, cols - 1)
    casts = swept.visible[..., 0] & is_sure.flatten(1)[:, None]
    nearer = torch.where(casts, inverse[:, None, :, 0] / swept.depth_ratio[..., 0], 0.0)
    empty = nearer.new_zeros(*nearer.shape[:2], rows * cols)
    return empty.scatter_reduce(2, index, nearer, "amax").unflatten(2, (rows, cols))


def depth_behind(
    maps: Float[Tensor, "batch view rows cols"],
    planes: DisparityRange,
    swept: SweptPixels,
    inverse: Float[Tensor, "batch ray plane"],
) -> Float[Tensor, "batch view ray plane"]:
    """How far points lie behind the nearest surface, from -1 (well before it, or nothing is there) to 1 (hidden).

    `inverse`: 1 / camera z of the target, of the points that `swept` holds.
    """
    nearest = sample_swept(maps[:, :, None], swept)[:, :, 0]
    ratio = torch.where(swept.visible, swept.depth_ratio, 1.0)
    extent = (1 / planes.near - 1 / planes.far)[:, None, None, None]
    # a source at half the distance sees every difference of inverse depth four times as large as the target does
    behind = (nearest - inverse[:, None] / ratio) * ratio.square()
    return (behind / (extent * _SOFTNESS) - 0.5).clamp(-1, 1)
