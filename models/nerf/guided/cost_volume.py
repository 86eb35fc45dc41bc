"""Cost volume of a target view -> distribution of its depth over planes, per pixel.

Volumes are laid out rows, cols, plane: with few planes last, 3D convolutions on a CPU are twenty times as fast as with
the image's columns last.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from geometry import TensorStruct
from models.memory import in_parts, joined
from models.nerf.guided.plane_sweep import DisparityRange
from models.nerf.renderer import SOURCES_ADVICE

_WINDOW = 2
"""Planes on either side of the most likely one that count for the depth."""
_HALO = 4
"""Cells of a regularizer's coarsest level, on either side of a strip of rows, that its result depends on: with three
levels 14 rows, with two 6."""
_MAX_WITHOUT_ONEDNN = 20480
"""Channels * rows * cols up to which torch does not hand a batch of one to oneDNN."""


@dataclass(frozen=True)
class PlaneDistribution(TensorStruct):
    """What one level of the sweep says about the depth of every pixel. Fractions: see `plane_sweep`."""

    logits: Float[Tensor, "batch rows cols plane"]
    centers: Float[Tensor, "batch rows cols plane"]
    """Disparity fraction of the planes, descending: from near to far."""
    context: Float[Tensor, "batch channel rows cols"]
    """Features of the volume where the surface is."""
    features: Float[Tensor, "batch channel rows cols plane"] | None = None
    """Of the whole volume, where they are kept."""

    @property
    def spacing(self) -> Float[Tensor, "batch rows cols"]:
        """Disparity fraction between neighboring planes."""
        return self.centers[..., 0] - self.centers[..., 1]

    @property
    def lookup(self) -> Float[Tensor, "batch looked_up rows cols"]:
        """What `at_samples` reads: middle and spacing of a pixel's planes, then features and likelihood of each."""
        assert self.features is not None
        planes = torch.stack([self.centers.mean(-1), self.spacing], dim=1)
        volume = torch.cat([self.features, self.logits.softmax(-1)[:, None]], dim=1)
        return torch.cat([planes, volume.movedim(-1, 1).flatten(1, 2)], dim=1)

    @staticmethod
    def at_samples(
        found: Float[Tensor, "batch ray looked_up"], fraction: Float[Tensor, "batch ray sample"], count: int
    ) -> Float[Tensor, "batch ray sample feature"]:
        """Features and likelihood, relative to a uniform one, at disparity fractions of rays: linear between planes.

        `found`: `lookup` of `count` planes where the rays are; before the first plane and behind the last one theirs.
        """
        middle, spacing = found[..., 0, None], found[..., 1, None]
        position = ((count - 1) / 2 - (fraction - middle) / spacing).clamp(0, count - 1)
        plane = torch.arange(count, device=found.device, dtype=found.dtype)
        share = (1 - (position[..., None] - plane).abs()).clamp_min(0)
        # contiguous: else the product of many small matrices takes eight times as long on a CPU
        volume = share @ found[..., 2:].unflatten(-1, (count, -1)).contiguous()
        return torch.cat([volume[..., :-1], volume[..., -1:] * count], dim=-1)

    def estimate(self) -> "DepthEstimate":
        """Mean and deviation within two planes of the most likely one, and how likely those are together.

        A mean over all planes would lie between the two surfaces of an edge, on neither.
        """
        likely = self.logits.softmax(-1)
        plane = torch.arange(likely.shape[-1], device=likely.device)
        window = (plane - likely.argmax(-1, keepdim=True)).abs() <= _WINDOW
        inside = likely * window
        mass = inside.sum(-1)
        inside = inside / mass[..., None]
        center = (inside * self.centers).sum(-1)
        variance = (inside * (self.centers - center[..., None]).square()).sum(-1)
        return DepthEstimate(center, (variance + (0.1 * self.spacing).square()).sqrt(), mass)


@dataclass(frozen=True)
class DepthEstimate(TensorStruct):
    """Depth of every pixel as disparity fraction."""

    center: Float[Tensor, "batch rows cols"]
    spread: Float[Tensor, "batch rows cols"]
    """Standard deviation, disparity fraction."""
    confidence: Float[Tensor, "batch rows cols"]
    """(0, 1]: how much of the distribution is around the center."""


class _Conv3d(nn.Conv3d):
    """nn.Conv3d; on a CPU a batch of one small volume is computed as a batch of two, which torch hands to oneDNN.

    For one volume of at most 20480 channels * rows * cols torch's own code takes up to five times as long.
    """

    def forward(self, volume: Float[Tensor, "batch channel rows cols plane"]) -> Tensor:
        """See nn.Conv3d."""
        is_slow = volume.device.type == "cpu" and len(volume) == 1 and volume[0, ..., 0].numel() <= _MAX_WITHOUT_ONEDNN
        return super().forward(volume.expand(2, -1, -1, -1, -1))[:1] if is_slow else super().forward(volume)


class _Conv(nn.Sequential):
    """3x3x3 convolution and ReLU; the strides are those of rows, cols and planes."""

    def __init__(self, channels_in: int, channels_out: int, stride: tuple[int, int, int] = (1, 1, 1)) -> None:
        super().__init__(_Conv3d(channels_in, channels_out, 3, stride, padding=1), nn.ReLU())


class VolumeRegularizer(nn.Module):
    """A small 3D U-Net (Yao et al. 2018, MVSNet, sec. 3.2) of two or three levels; planes are halved with the image."""

    def __init__(
        self, channels_in: int, width: int, *, levels: int, halves_planes: bool, keeps_features: bool = False
    ) -> None:
        """`keeps_features`: the features of the whole volume are wanted, `width` times as much as the logits."""
        super().__init__()
        self.dims = (1, 2, 2) if keeps_features else (1, 2)
        """Axes of the rows in what `_regularized` returns."""
        stride = (2, 2, 2 if halves_planes else 1)
        widths = [width * min(2**level, 4) for level in range(levels)]
        self.first = _Conv(channels_in, width)
        self.down = nn.ModuleList(
            nn.Sequential(_Conv(fine, coarse, stride), _Conv(coarse, coarse)) for fine, coarse in pairwise(widths)
        )
        self.up = nn.ModuleList(nn.Conv3d(coarse, fine, 1) for fine, coarse in pairwise(widths))
        self.last = _Conv(width, width)
        self.logit = nn.Linear(width, 1)

    def forward(
        self, cost: Float[Tensor, "batch cost rows cols plane"], centers: Float[Tensor, "batch rows cols plane"]
    ) -> PlaneDistribution:
        """Likelihood of every plane, from the cost around it; on a CPU in float32 under autocast too.

        In bfloat16 there the gradients of its kernels held inf or nan, others in every run of one seed (torch 2.15).
        """
        if cost.device.type == "cpu":
            with torch.autocast("cpu", enabled=False):
                return self._distribution(cost.float(), centers)
        return self._distribution(cost, centers)

    def _distribution(self, cost: Tensor, centers: Tensor) -> PlaneDistribution:
        rows, halved = cost.shape[2], 2 ** len(self.down)

        def strip(first: int, last: int) -> list[Tensor]:
            above, below = max(first - _HALO * halved, 0), min(last + _HALO * halved, rows)
            maps = self._regularized(cost[:, :, above:below])
            return [one.narrow(dim, first - above, last - first) for one, dim in zip(maps, self.dims, strict=True)]

        parts = in_parts(strip, rows, least=halved, advice=SOURCES_ADVICE)
        columns = zip(zip(*parts, strict=True), self.dims, strict=True)
        logits, context, *features = (joined(list(maps), dim) for maps, dim in columns)
        return PlaneDistribution(logits, centers, context, *features)

    def _regularized(self, cost: Float[Tensor, "batch cost rows cols plane"]) -> list[Tensor]:
        """Logits (batch rows cols plane), context (batch channel rows cols) and, where they are kept, features."""
        levels = [self.first(cost)]
        for down in self.down:
            levels.append(down(levels[-1]))
        merged = levels.pop()
        for up in reversed(self.up):
            fine = levels.pop()
            merged = fine + F.interpolate(up(merged), fine.shape[2:], mode="nearest")
        features = self.last(F.relu(merged))
        hidden = features.movedim(1, -1)
        logits = self.logit(hidden)[..., 0]
        context = (logits.softmax(-1)[..., None] * hidden).sum(-2)
        return [logits, context.movedim(-1, 1), features][: len(self.dims)]


def sweep_loss(
    level: PlaneDistribution, planes: DisparityRange, depth: Float[Tensor, "batch height width"]
) -> Float[Tensor, ""]:
    """Cross entropy with the two planes around the known depth (camera z, 0 = unknown), whose shares have it as mean.

    Depth is looked up in the nearest pixel. Pixels whose depth lies outside the planes are left out. NaN in, NaN out.
    """
    rows, cols = level.logits.shape[1:3]
    known = F.interpolate(depth[:, None], (rows, cols), mode="nearest-exact")[:, 0]
    fraction = planes.fraction(1 / known.clamp_min(1e-6))
    position = (level.centers[..., 0] - fraction) / level.spacing
    last = level.logits.shape[-1] - 1
    counts = ((known > 0) & (position > -0.5) & (position < last + 0.5)).to(known)
    position = position.clamp(0, last)
    before = position.nan_to_num().floor().clamp_max(last - 1).long()  # NaN would be no index: an error on GPUs
    share = (position - before)[..., None]
    likely = level.logits.log_softmax(-1)
    entropy = -(1 - share) * likely.gather(-1, before[..., None]) - share * likely.gather(-1, before[..., None] + 1)
    return (entropy[..., 0] * counts).sum() / counts.sum().clamp_min(1)
