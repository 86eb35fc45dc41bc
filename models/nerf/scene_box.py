"""The part of space that the per-scene grids of fine-tuning cover."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geometry import Cameras, pixel_centers

_MAX_VIEWS = 64
"""Of a scan, whose common part of space is determined; chosen for speed."""


def common_box(
    cameras: Cameras, near: Float[Tensor, " view"], far: Float[Tensor, " view"], quantile: float = 0.01
) -> tuple[Float[Tensor, " 3"], Float[Tensor, " 3"]]:
    """Axis-aligned box (min, max), world frame, around what at least half of the views see between near and far.

    `cameras` has one leading axis, the views; of very many, every n-th is taken.
    """
    step = -(-len(near) // _MAX_VIEWS)
    cameras, near, far = cameras[::step], near[::step], far[::step]
    grid = pixel_centers(9, 9, cameras.w2c) / 9 * torch.tensor([cameras.width, cameras.height]).to(cameras.w2c)
    fractions = torch.linspace(0, 1, 17).to(cameras.w2c)
    depth = near[:, None] + (far - near)[:, None] * fractions
    view, steps = depth.shape
    pixels = grid.repeat(steps, 1).expand(view, -1, 2)
    points = cameras.unproject(pixels, depth.repeat_interleave(len(grid), dim=1)).reshape(-1, 3)
    projection = cameras.project(points.expand(view, -1, 3))
    between = (projection.depth > near[:, None]) & (projection.depth < far[:, None])
    seen = (projection.visible & between).float().mean(0)
    common = points[seen >= min(0.5, seen.max().item())]
    return common.quantile(quantile, dim=0), common.quantile(1 - quantile, dim=0)


class SceneBox(nn.Module):
    """What belongs to one scene: points of the world -> coordinates from -1 to 1, of which a box gets the middle half.

    Space outside the box is contracted into a shell around it (Barron et al. 2022, eq. 10, with the max norm): with the
    box from -1 to 1, x = 1 gets the coordinate 1/2, x = 3 gets (2 - 1/3) / 2 = 0.83, infinity gets 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("box_min", torch.zeros(3))
        self.register_buffer("box_max", torch.ones(3))

    def set_bounds(self, box_min: Float[Tensor, " 3"], box_max: Float[Tensor, " 3"]) -> None:
        """Set the box; world frame, scene units."""
        self.box_min.copy_(box_min)
        self.box_max.copy_(box_max)

    def contracted(self, points_world: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """Axes stay x, y, z."""
        unit, radius = self._unit_and_radius(points_world)
        return (2 - 1 / radius) * unit / radius / 2

    def shrinkage(self, points_world: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
        """By how much a step away from the box is shorter in coordinates than inside it: 1 inside, 1 / 9 at x = 3."""
        return self._unit_and_radius(points_world)[1][..., 0].square().reciprocal()

    def _unit_and_radius(self, points_world: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates in which the box goes from -1 to 1, and the largest of them, at least 1."""
        unit = (points_world - self.box_min) / (self.box_max - self.box_min) * 2 - 1
        return unit, unit.abs().amax(-1, keepdim=True).clamp_min(1)
