"""Parts of target views that a training step views instead of whole ones."""

from dataclasses import replace

import torch

from geometry import SceneBatch


def random_window(batch: SceneBatch, rows: int, cols: int, generator: torch.Generator) -> SceneBatch:
    """The same batch with its targets cut to a random window of rows x cols pixels, at one place for all scenes."""
    height, width = batch.target.images.shape[-2:]
    top, left = (_random_start(size, part, generator) for size, part in ((height, rows), (width, cols)))
    window = (..., slice(top, top + rows), slice(left, left + cols))
    target = replace(
        batch.target,
        images=batch.target.images[window],
        depth=None if batch.target.depth is None else batch.target.depth[window],
        mask=None if batch.target.mask is None else batch.target.mask[window],
        cameras=batch.target.cameras.cropped(top, left, rows, cols),
    )
    return replace(batch, target=target)


def _random_start(size: int, part: int, generator: torch.Generator) -> int:
    """Windows that reach over the edge are pushed back inside: else hardly any would hold what lies at the edge."""
    start = int(torch.randint(-part, size + 1, (), generator=generator))
    return min(max(start, 0), size - part)
