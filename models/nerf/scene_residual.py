"""What fine-tuning adds for one scene: a compact volume of features in the world frame."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from geometry import Cameras, pixel_centers

_PLANES = ((0, 1), (0, 2), (1, 2))
_LINES = (2, 1, 0)


_MOST_VIEWS = 64


def scene_box(
    cameras: Cameras, near: Float[Tensor, " view"], far: Float[Tensor, " view"], quantile: float = 0.01
) -> tuple[Float[Tensor, " 3"], Float[Tensor, " 3"]]:
    """Axis-aligned box (min, max), world frame, around what at least half of the views see between near and far.

    `cameras` has one leading axis, the views; of very many, every n-th is asked.
    """
    step = -(-len(near) // _MOST_VIEWS)
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


class SceneResidual(nn.Module):
    """Vector-matrix factorised feature volume (Chen et al. 2022, TensoRF, eq. 4), added to the fused features.

    Its last layer starts at zero: before the first step the model renders exactly what the general one does.
    Space outside the box is contracted into a shell around it (Barron et al. 2022, eq. 10, with the max norm).
    """

    def __init__(self, fused: int, channels: int, resolution: int) -> None:
        super().__init__()
        self.register_buffer("box_min", torch.zeros(3))
        self.register_buffer("box_max", torch.ones(3))
        self.planes = nn.Parameter(0.1 * torch.randn(3, channels, resolution, resolution))
        self.lines = nn.Parameter(0.1 * torch.randn(3, channels, resolution, 1))
        self.out = nn.Linear(3 * channels, fused)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def place(self, box_min: Float[Tensor, " 3"], box_max: Float[Tensor, " 3"]) -> None:
        """Set the box that gets most of the resolution; world frame, scene units."""
        self.box_min.copy_(box_min)
        self.box_max.copy_(box_max)

    def forward(self, points_world: Float[Tensor, "batch point 3"]) -> Float[Tensor, "batch point fused"]:
        """Residual features of points."""
        unit = (points_world - self.box_min) / (self.box_max - self.box_min) * 2 - 1
        radius = unit.abs().amax(-1, keepdim=True).clamp_min(1)
        contracted = (2 - 1 / radius) * unit / radius
        position = contracted.reshape(1, -1, 3) / 2
        planes = torch.stack([position[0][:, list(axes)] for axes in _PLANES])
        lines = torch.stack([position[0][:, axis] for axis in _LINES])
        lines = torch.stack([torch.zeros_like(lines), lines], dim=-1)
        on_planes = F.grid_sample(self.planes, planes[:, None], align_corners=True)[:, :, 0]
        on_lines = F.grid_sample(self.lines, lines[:, None], align_corners=True)[:, :, 0]
        features = (on_planes * on_lines).flatten(0, 1).T
        return self.out(features).reshape(*points_world.shape[:2], -1)
