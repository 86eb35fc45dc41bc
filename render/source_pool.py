"""Which views of a scene are the sources of a camera that may stand anywhere, and between which depths it sees."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from data.scene import PosedScene
from data.view_selection.neighbors import dissimilarity
from geometry import Cameras

_GRID, _DEPTHS = 3, 8
"""Rays along each side of a source's image, and depths on each, that stand for what it sees."""
_MIN_NEAR = 0.1
"""Nearest depth in units of the sources' own: a camera that flies in still does not see what touches it."""


@dataclass(frozen=True)
class SourcePool:
    """Views that may be sources, without their images."""

    ids: tuple[int, ...]
    cameras: Cameras
    """One leading axis, in the order of `ids`."""
    near: Float[Tensor, " view"]
    """Camera z, scene units."""
    far: Float[Tensor, " view"]

    @classmethod
    def of(cls, scene: PosedScene, ids: Sequence[int], scale: float = 1.0) -> "SourcePool":
        """Those views of a scene, their images resized by `scale`. Opens no file.

        Raises:
            InputError: as `PosedScene.cameras`.
        """
        return cls(tuple(ids), scene.cameras(ids, scale), *scene.near_far(ids))

    def ranked(self, w2c: Float[Tensor, "4 4"]) -> list[int]:
        """All views, those that see most of what the camera sees first: see `most_similar`."""
        return [self.ids[index] for index in dissimilarity(self.cameras.w2c, w2c).argsort(stable=True).tolist()]

    def nearest(self, w2c: Float[Tensor, "4 4"], count: int) -> tuple[int, ...]:
        """The first `count` of `ranked`, in ascending order, so that equal sets of views are equal."""
        return tuple(sorted(self.ranked(w2c)[:count]))

    def bounds(self, camera: Cameras, sources: Sequence[int]) -> tuple[float, float]:
        """Near and far (camera z) of what the sources see and a camera (no leading axis) sees as well.

        What a source sees is represented by points on 3 x 3 of its rays, from its near to its far depth. A camera at a
        source's place gets that source's bounds. Where nothing of it lies in the camera's image, they are the sources'
        own.
        """
        rows = torch.tensor([self.ids.index(view) for view in sources])
        views, near, far = self.cameras[rows], self.near[rows], self.far[rows]
        steps = (torch.arange(_GRID) + 0.5) / _GRID
        y, x = torch.meshgrid(steps * views.height, steps * views.width, indexing="ij")
        pixels = torch.stack([x, y], dim=-1).reshape(1, -1, 2).expand(len(rows), -1, 2)
        weights = torch.linspace(0, 1, _DEPTHS)
        depths = [1 / torch.lerp(1 / near, 1 / far, weight) for weight in weights]
        points = [views.unproject(pixels, depth[:, None].expand(-1, _GRID**2)) for depth in depths]
        seen = camera.project(torch.stack(points).flatten(0, 2))
        depth = seen.depth[seen.visible].clamp_min(_MIN_NEAR * near.min())
        if not len(depth) or depth.max() <= depth.min():
            return near.min().item(), far.max().item()
        return depth.min().item(), depth.max().item()
