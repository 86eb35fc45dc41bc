"""Samples of one step, whose images may differ in size -> one batch."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from data.seeds import derived_seed, seeded_generator
from geometry import SceneBatch, Views


def cropped_batch(samples: Sequence[SceneBatch]) -> SceneBatch:
    """The samples stacked; where sizes differ, all views of a sample are cut to one random window of the least size.

    The least height and the least width count, so that every window fits.
    """
    sizes = [sample.target.images.shape[-2:] for sample in samples]
    height, width = (min(sides) for sides in zip(*sizes, strict=True))
    return SceneBatch.stack([_cropped(sample, height, width) for sample in samples])


def _cropped(sample: SceneBatch, height: int, width: int) -> SceneBatch:
    full_height, full_width = sample.target.images.shape[-2:]
    if (full_height, full_width) == (height, width):
        return sample
    generator = seeded_generator(derived_seed(int(sample.seeds), 9))
    top, left = (
        int(torch.randint(full - part + 1, (), generator=generator))
        for full, part in ((full_height, height), (full_width, width))
    )
    return replace(
        sample,
        source=cropped_views(sample.source, top, left, height, width),
        target=cropped_views(sample.target, top, left, height, width),
    )


def cropped_views(views: Views, top: int, left: int, height: int, width: int) -> Views:
    """All of the views cut to one window of height x width pixels."""
    window = (..., slice(top, top + height), slice(left, left + width))
    return replace(
        views,
        images=views.images[window],
        depth=None if views.depth is None else views.depth[window],
        mask=None if views.mask is None else views.mask[window],
        cameras=views.cameras.cropped(top, left, height, width),
    )
