"""Jittered colors of a group of frames (docs/vggt.md, "Photometric augmentation"), cheap for a loader on one core.

Brightness, contrast, saturation, hue and grayscale are affine maps of a color; a frame's are composed into one 3x4
matrix, applied once and clamped once. (torchvision clamps after every step and turns hue in HSV, which takes 12 times
as long; the ranges are the same.)
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

SHARED_PROBABILITY = 0.7
"""One draw for all frames of a group; otherwise one per frame."""
JITTER_PROBABILITY, GRAY_PROBABILITY, BLUR_PROBABILITY = 0.9, 0.05, 0.05
"""As upstream, which leaves blur off (docs/vggt.md, "Photometric augmentation")."""
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.5, 0.5, 0.5, 0.1
"""Greatest change: of a factor from 1, of hue in turns; as upstream."""
BLUR_KERNEL, BLUR_SIGMA = 5, (0.1, 1.0)
"""Pixels: side of the window, range of the standard deviation; as upstream."""

_NUM_DRAWS = 12
"""Uniform numbers that `_Jitter.from_uniform` takes apart: 8 and an order of 4 steps."""
_LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of R, G, B in the luma Y of ITU-R BT.601."""
# ITU-R BT.601 / NTSC: rows are Y, I, Q of RGB; hue is the angle in the IQ plane
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
_TO_RGB = np.linalg.inv(_TO_YIQ)


@dataclass(frozen=True)
class _Jitter:
    """What is done to one frame."""

    order: tuple[int, ...]
    """Of brightness (0), contrast (1), saturation (2) and hue (3); empty: none of them."""
    brightness: float
    contrast: float
    saturation: float
    hue: float
    """Turns."""
    is_gray: bool
    blur: float
    """Standard deviation in pixels; 0 = none."""

    @classmethod
    def from_uniform(cls, draws: list[float]) -> "_Jitter":
        """From 12 numbers, uniform in [0, 1)."""
        is_jittered, brightness, contrast, saturation, hue, gray, is_blurred, blur, *order = draws
        low, high = BLUR_SIGMA
        return cls(
            order=tuple(np.argsort(order).tolist()) if is_jittered < JITTER_PROBABILITY else (),
            brightness=1 + BRIGHTNESS * (2 * brightness - 1),
            contrast=1 + CONTRAST * (2 * contrast - 1),
            saturation=1 + SATURATION * (2 * saturation - 1),
            hue=HUE * (2 * hue - 1),
            is_gray=gray < GRAY_PROBABILITY,
            blur=low + (high - low) * blur if is_blurred < BLUR_PROBABILITY else 0.0,
        )

    def color_map(self, mean: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 4"]:
        """[matrix | offset] for a frame of this mean color; contrast scales the difference from its luma."""
        matrix, offset = np.eye(3), np.zeros(3)
        for step in self.order:
            if step == 1:
                gray = _LUMA @ (matrix @ mean + offset)
                matrix, offset = self.contrast * matrix, self.contrast * offset + (1 - self.contrast) * gray
            else:
                linear = self._linear(step)
                matrix, offset = linear @ matrix, linear @ offset
        joined = np.column_stack([matrix, offset])
        return np.tile(_LUMA @ joined, (3, 1)) if self.is_gray else joined

    def _linear(self, step: int) -> Float[np.ndarray, "3 3"]:
        if step == 0:
            return self.brightness * np.eye(3)
        if step == 2:
            return self.saturation * np.eye(3) + (1 - self.saturation) * np.tile(_LUMA, (3, 1))
        return hue_rotation(self.hue)


def augmented(
    images: Float[Tensor, "view 3 height width"], generator: torch.Generator, *, is_blurred: bool = False
) -> Float[Tensor, "view 3 height width"]:
    """Jittered colors, sometimes gray, with `is_blurred` sometimes blurred, in [0, 1].

    A function of the arguments only; colors are the same with and without blur.
    """
    num_views = len(images)
    is_shared = torch.rand((), generator=generator).item() < SHARED_PROBABILITY
    draws = torch.rand(1 if is_shared else num_views, _NUM_DRAWS, generator=generator).tolist()
    jitters = [_Jitter.from_uniform(draw) for draw in draws] * (num_views if is_shared else 1)
    means = images.mean(dim=(-2, -1)).double().numpy()
    maps = np.stack([jitter.color_map(mean) for jitter, mean in zip(jitters, means, strict=True)])
    maps = torch.from_numpy(maps).to(images.dtype)
    result = torch.baddbmm(maps[..., 3:], maps[..., :3], images.flatten(2)).clamp_(0, 1).view_as(images)
    for view, jitter in enumerate(jitters):
        if is_blurred and jitter.blur > 0:
            channels = [cv2.GaussianBlur(one.numpy(), (BLUR_KERNEL, BLUR_KERNEL), jitter.blur) for one in result[view]]
            result[view] = torch.from_numpy(np.stack(channels))
    return result


def hue_rotation(turns: float) -> Float[np.ndarray, "3 3"]:
    """The matrix that turns the hue of an RGB color and keeps its luma."""
    cos, sin = math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns)
    return _TO_RGB @ np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]]) @ _TO_YIQ
