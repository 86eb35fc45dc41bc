"""Parts of the dense prediction head: residual unit, fusion of two levels, resizing (docs/vggt.md, "Dense heads")."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

MAX_RESIZE_ELEMENTS = 1_610_612_736
"""Largest output of one resize, 1.5 * 2^30 numbers as upstream; some kernels index with 32 bits."""

Maps = Float[Tensor, "batch channel height width"]


def resize_maps(maps: Maps, height: int, width: int) -> Float[Tensor, "batch channel new_height new_width"]:
    """Bilinear resize with aligned corners; very large results are made a part of the batch at a time."""
    elements = maps.shape[0] * maps.shape[1] * height * width
    num_chunks = min(maps.shape[0], -(-elements // MAX_RESIZE_ELEMENTS))
    parts = [
        F.interpolate(part, (height, width), mode="bilinear", align_corners=True)
        for part in maps.chunk(max(1, num_chunks))
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class ResidualConvUnit(nn.Module):
    """conv2(relu(conv1(r))) + r with r = relu(x): VGGT rectifies in place, so the skip is rectified too.

    Without `rectifies_skip` it is conv2(relu(conv1(r))) + x, as in DUSt3R and MapAnything.
    """

    def __init__(self, features: int, *, rectifies_skip: bool = True) -> None:
        """Two 3x3 convolutions of `features` channels."""
        super().__init__()
        self.rectifies_skip = rectifies_skip
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, maps: Maps) -> Maps:
        """One residual step at constant resolution."""
        rectified = F.relu(maps)
        return self.conv2(F.relu(self.conv1(rectified))) + (rectified if self.rectifies_skip else maps)


class FeatureFusion(nn.Module):
    """Add a finer pyramid level to the path coming from the coarser ones, refine, and resize."""

    def __init__(self, features: int, *, has_lateral: bool = True, rectifies_skip: bool = True) -> None:
        """`has_lateral` is false for the coarsest level, which starts the path."""
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, 1)
        if has_lateral:
            self.resConfUnit1 = ResidualConvUnit(features, rectifies_skip=rectifies_skip)
        self.resConfUnit2 = ResidualConvUnit(features, rectifies_skip=rectifies_skip)

    def forward(self, path: Maps, lateral: Maps | None = None, *, size: tuple[int, int] | None = None) -> Tensor:
        """Refined path at `size` (height, width), by default twice its own."""
        if lateral is not None:
            path = path + self.resConfUnit1(lateral)
        path = self.resConfUnit2(path)
        height, width = size or (2 * path.shape[-2], 2 * path.shape[-1])
        return self.out_conv(resize_maps(path, height, width))


class Scratch(nn.Module):
    """The pyramid: four levels brought to one width, fused from coarse to fine into one map of 8 cells per patch."""

    def __init__(self, out_channels: tuple[int, ...], features: int, *, rectifies_skip: bool = True) -> None:
        """`out_channels` are the widths of the four levels, finest first."""
        super().__init__()
        channels1, channels2, channels3, channels4 = out_channels
        self.layer1_rn = nn.Conv2d(channels1, features, 3, padding=1, bias=False)
        self.layer2_rn = nn.Conv2d(channels2, features, 3, padding=1, bias=False)
        self.layer3_rn = nn.Conv2d(channels3, features, 3, padding=1, bias=False)
        self.layer4_rn = nn.Conv2d(channels4, features, 3, padding=1, bias=False)
        self.refinenet1 = FeatureFusion(features, rectifies_skip=rectifies_skip)
        self.refinenet2 = FeatureFusion(features, rectifies_skip=rectifies_skip)
        self.refinenet3 = FeatureFusion(features, rectifies_skip=rectifies_skip)
        self.refinenet4 = FeatureFusion(features, has_lateral=False, rectifies_skip=rectifies_skip)

    def fuse(self, levels: list[Float[Tensor, "batch _ _ _"]]) -> Float[Tensor, "batch feature rows cols"]:
        """Four levels, finest first -> one map twice as fine as the first."""
        level1, level2 = self.layer1_rn(levels[0]), self.layer2_rn(levels[1])
        level3, level4 = self.layer3_rn(levels[2]), self.layer4_rn(levels[3])
        path = self.refinenet4(level4, size=level3.shape[-2:])
        path = self.refinenet3(path, level3, size=level2.shape[-2:])
        path = self.refinenet2(path, level2, size=level1.shape[-2:])
        return self.refinenet1(path, level1)
