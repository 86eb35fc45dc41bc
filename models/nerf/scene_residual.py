"""What fine-tuning adds for one scene: a compact volume of features in the world frame."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from models.nerf.scene_box import SceneBox

_PLANES = ((0, 1), (0, 2), (1, 2))
_LINES = (2, 1, 0)


class SceneResidual(SceneBox):
    """Vector-matrix factorised feature volume (Chen et al. 2022, TensoRF, eq. 4), added to the fused features.

    Its last layer starts at zero: before the first step the model renders exactly what the general one does.
    """

    def __init__(self, fused: int, channels: int, resolution: int) -> None:
        super().__init__()
        self.planes = nn.Parameter(0.1 * torch.randn(3, channels, resolution, resolution))
        self.lines = nn.Parameter(0.1 * torch.randn(3, channels, resolution, 1))
        self.out = nn.Linear(3 * channels, fused)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, points_world: Float[Tensor, "batch point 3"]) -> Float[Tensor, "batch point fused"]:
        """Residual features of points."""
        position = self.contracted(points_world).reshape(1, -1, 3)
        planes = torch.stack([position[0][:, list(axes)] for axes in _PLANES])
        lines = torch.stack([position[0][:, axis] for axis in _LINES])
        lines = torch.stack([torch.zeros_like(lines), lines], dim=-1)
        on_planes = F.grid_sample(self.planes, planes[:, None], align_corners=True)[:, :, 0]
        on_lines = F.grid_sample(self.lines, lines[:, None], align_corners=True)[:, :, 0]
        features = (on_planes * on_lines).flatten(0, 1).T
        return self.out(features).reshape(*points_world.shape[:2], -1)
