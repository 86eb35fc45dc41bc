"""Another exposure and white balance for all photographs of a sample."""

from dataclasses import replace

import torch

from geometry import Views

_WHITE_BALANCE = 0.25
"""Change of single channels, as a share of that of the exposure."""


def jittered(source: Views, target: Views, strength: float, generator: torch.Generator) -> tuple[Views, Views]:
    """Both with colors times one gain per channel, in [0, 1]: a change that all views of a scene share.

    The logarithm of the exposure is uniform within `strength` of 0, that of each channel's own gain within a quarter of
    it: with 0.4, exposures from 0.67 to 1.49 and channels that differ by 10 % at most. Black stays black.
    """
    draws = 2 * torch.rand(4, generator=generator) - 1
    gain = torch.exp(strength * (draws[0] + _WHITE_BALANCE * draws[1:]))[:, None, None]
    return replace(source, images=(source.images * gain).clamp(max=1)), replace(
        target, images=(target.images * gain).clamp(max=1)
    )
