"""A VGGT that knows the truth: depth and cameras of images it was told, in a unit of its own, as wrong as wanted."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geometry import Views
from models.vggt.frozen import FrozenFeatures, FrozenVGGT
from models.vggt.weights import WeightIdentity


class OracleVGGT(FrozenVGGT):
    """Recognizes images by their bytes; unknown depth gets confidence 1, that is none."""

    def __init__(
        self,
        views: Iterable[Views],
        *,
        unit: float = 0.01,
        noise: float = 0.0,
        camera_noise: float = 0.0,
        seed: int = 0,
        token_shape: tuple[int, int] = (1, 1),
    ) -> None:
        """`noise`: relative error of depth, half of it smooth, half per pixel; `unit`: of all lengths.

        `token_shape`: layers and channels of its tokens, which are all zero.
        """
        nn.Module.__init__(self)
        self.identity = WeightIdentity("oracle", "0")
        self.layers, self.image_size, self.training = (), None, False
        self.unit, self.noise, self.camera_noise, self.seed = unit, noise, camera_noise, seed
        self.token_shape = token_shape
        self.known: dict[bytes, tuple[Tensor, Tensor]] = {}
        for group in views:
            for image, depth, w2c in zip(group.images, group.depth, group.cameras.w2c, strict=True):
                self.known[_key(image)] = (depth, w2c)

    @property
    def channels(self) -> int:
        """Of the tokens, which say nothing."""
        return self.token_shape[1]

    @property
    def has_depth(self) -> bool:
        """That is all it has."""
        return True

    def _apply(self, fn: object, recurse: bool = True) -> "OracleVGGT":
        return self

    def forward(self, images: Tensor) -> FrozenFeatures:
        """Depth and cameras of known images."""
        found = [[self.known[_key(image)] for image in group] for group in images]
        depth, w2c = (
            torch.stack([torch.stack([entry[part] for entry in group]) for group in found]) for part in (0, 1)
        )
        seed = hash(b"".join(_key(image)[:64] for image in images.flatten(0, 1))) if self.noise else 0
        generator = torch.Generator().manual_seed(abs(seed + self.seed) % 2**62)
        unit = self.unit * (1 + torch.rand((), generator=generator).item())
        w2c = w2c.clone()
        length = w2c[..., :3, 3].norm(dim=-1, keepdim=True)
        w2c[..., :3, 3] = unit * (
            w2c[..., :3, 3] + self.camera_noise * length * torch.randn(w2c[..., :3, 3].shape, generator=generator)
        )
        known = depth > 0
        smooth = torch.randn((*depth.shape[:2], 6, 8), generator=generator)
        smooth = F.interpolate(smooth, depth.shape[-2:], mode="bicubic")
        white = torch.randn(depth.shape, generator=generator)
        depth = unit * depth * (1 + self.noise * 0.7 * (smooth + white))
        tokens = torch.zeros(*images.shape[:2], *self.token_shape, 1, 1)
        return FrozenFeatures(tokens, depth, 1 + 4 * known.float(), w2c, torch.eye(3).expand(*images.shape[:2], 3, 3))


def _key(image: Tensor) -> bytes:
    return image[:, ::5, ::3].contiguous().numpy().tobytes()
