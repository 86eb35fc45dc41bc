"""The page's world: the scene moved and scaled so that what the views look at is at a distance of one.

Its clipping planes, speeds and sizes are made for such scenes; the data sets' units reach from meters to millimeters.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from geometry import rigid_inverse
from render.source_pool import SourcePool
from render.trajectories import upward


@dataclass(frozen=True)
class Gauge:
    """page = (scene - center) * scale; axes are the scene's own."""

    center: Float[Tensor, " 3"]
    """Double precision, as all of it."""
    scale: float
    up: Float[Tensor, " 3"]
    """Upward in both worlds."""

    @classmethod
    def of(cls, pool: SourcePool) -> "Gauge":
        """Center: the mean of what the views look at, in the middle (in disparity) of their depth range."""
        c2w = pool.cameras.c2w.double()
        middle = 2 / (1 / pool.near.double() + 1 / pool.far.double())
        looked_at = c2w[:, :3, 3] + c2w[:, :3, 2] * middle[:, None]
        return cls(looked_at.mean(0), 1 / middle.median().item(), upward(c2w))

    def to_page(self, points: Float[Tensor, "*point 3"]) -> Float[Tensor, "*point 3"]:
        """Points of the scene in the page's world."""
        return (points.double() - self.center) * self.scale

    def w2c(self, rotation: Float[Tensor, "3 3"], position: Float[Tensor, " 3"]) -> Float[Tensor, "4 4"]:
        """World to camera of the scene, single precision; `rotation` and `position`: camera to the page's world."""
        c2w = torch.eye(4, dtype=torch.float64)
        c2w[:3, :3], c2w[:3, 3] = rotation, position / self.scale + self.center
        return rigid_inverse(c2w).float()
