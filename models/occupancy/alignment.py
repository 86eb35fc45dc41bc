"""Past grids as they are seen from a future pose, heights as channels."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from geometry.voxels import EgoGrid, VoxelGrid, source_coordinates, warp_trilinear

Stack = Float[Tensor, "batch frame x y z"]
HeightsFirst = Float[Tensor, "batch frame z x y"]


def aligned(
    ego: EgoGrid,
    volumes: Stack,
    poses: Float[Tensor, "batch frame 13"],
    target: Float[Tensor, "batch 13"],
) -> tuple[HeightsFirst, HeightsFirst]:
    """Volumes between voxels in the grid frame of `target`, and the share of each value that the source knows.

    Level grids turn in the plane only, which one lookup per column does (`level_warp`); tilted ones need one per voxel.
    World poses of either are float64; gradients reach the volumes, and the target's pose.
    """
    motion = ego.frame.motion(poses, target[:, None]).to(volumes.dtype)
    if ego.frame.orientation == "yaw":
        return level_warp(ego.grid, volumes, motion)
    warped, known = warp_trilinear(ego.grid, volumes.flatten(0, 1)[:, None], motion.flatten(0, 1))
    lead = volumes.shape[:2]
    return tuple(one[:, 0].movedim(-1, 1).unflatten(0, lead) for one in (warped, known))  # type: ignore[return-value]


def level_warp(
    grid: VoxelGrid, volumes: Stack, motion: Float[Tensor, "batch frame 4 4"]
) -> tuple[HeightsFirst, HeightsFirst]:
    """The same as `geometry.voxels.warp_trilinear` for motions that turn about z only.

    Trilinear weights are products then: bilinear ones in the plane, shared by all heights, and linear ones along z,
    shared by all columns. Computed in float32 at least.
    """
    dtype = torch.promote_types(volumes.dtype, torch.float32)
    lead, (x, y, z) = volumes.shape[:2], grid.size
    low, high, step = grid.minimum, grid.maximum, grid.voxel
    plane = VoxelGrid(low, (high[0], high[1], low[2] + step[2]), step)
    flat = motion.flatten(0, 1).to(dtype)
    position = source_coordinates(plane, flat)[..., 0, :2] * (2 / flat.new_tensor((x, y))) - 1
    position = position.flip(-1)  # grid_sample counts the last axis first
    columns = volumes.flatten(0, 1).to(dtype).movedim(-1, 1)
    with torch.autocast(volumes.device.type, enabled=False):
        turned = F.grid_sample(columns, position, align_corners=False)
        known = F.grid_sample(torch.ones_like(columns[:, :1]), position, align_corners=False)
        heights = _heights(flat[:, 2, 3] / step[2], z)
        raised = (heights @ turned.flatten(2)).view_as(turned)
    share = known * heights.sum(-1)[..., None, None]
    return raised.unflatten(0, lead).to(volumes.dtype), share.unflatten(0, lead).to(volumes.dtype)


def _heights(shift: Float[Tensor, " item"], count: int) -> Float[Tensor, "item target source"]:
    """Linear weights of the source's layers for each layer of the target, which lies `shift` layers higher."""
    layers = torch.arange(count, device=shift.device, dtype=shift.dtype)
    return (1 - (layers[None, :, None] + shift[:, None, None] - layers).abs()).clamp(min=0)
