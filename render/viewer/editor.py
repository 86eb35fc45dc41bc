"""The keys of a camera path that somebody edits."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from geometry import Cameras
from render.paths import PathFile, intrinsics_of_fov
from render.viewer.schedule import Size


class PathEditor:
    """Cameras of one size with square pixels; `path` None without any."""

    def __init__(self, size: Size) -> None:
        self.height, self.width = size
        self.closed = False
        self.frames = 120
        self.fps = 24
        self._keys: list[tuple[Tensor, float]] = []

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, w2c: Float[Tensor, "4 4"], vertical_fov: float) -> None:
        """A key behind the last one; `vertical_fov` in radians."""
        self._keys.append((w2c, vertical_fov))

    def take(self, path: PathFile) -> None:
        """The keys of a file instead of those here, its lenses, size and speed too."""
        cameras = path.cameras
        self._keys = [(w2c, vertical_fov(cameras, index)) for index, w2c in enumerate(cameras.w2c)]
        self.height, self.width = cameras.height, cameras.width
        self.closed, self.frames = path.closed, path.frames or max(len(self._keys), 2)
        self.fps = max(1, round(path.fps or self.fps))

    def delete(self, index: int = -1) -> None:
        """Drop a key, from 0 on, or the last one, if there is one."""
        if -len(self._keys) <= index < len(self._keys):
            del self._keys[index]

    def clear(self) -> None:
        """Drop all."""
        self._keys.clear()

    @property
    def path(self) -> PathFile | None:
        """What `render.video --path` renders."""
        if not self._keys:
            return None
        w2c = torch.stack([w2c for w2c, _ in self._keys])
        intrinsics = torch.stack([intrinsics_of_fov(fov, self.height, self.width) for _, fov in self._keys])
        cameras = Cameras(w2c, intrinsics, self.height, self.width)
        return PathFile(cameras, frames=self.frames, closed=self.closed, fps=self.fps)


def vertical_fov(cameras: Cameras, index: int = 0) -> float:
    """Of one of the cameras, radians."""
    return 2 * math.atan(cameras.height / 2 / cameras.intrinsics[index, 1, 1].item())
