"""Parts of target views that a training step sweeps instead of whole ones."""

from dataclasses import replace

import torch

from geometry import SceneBatch
from models.nerf.light_stem import halvings


def random_window(batch: SceneBatch, rows: int, cols: int, generators: list[torch.Generator]) -> SceneBatch:
    """The same batch with targets cut to a random window that is swept at rows x cols or, in a small image, fewer.

    One and the same place for all scenes. A sweep of a part of the view costs as much less as the part is smaller,
    and sees the same parallax.
    """
    height, width = batch.target.images.shape[-2:]
    factor = 2 ** halvings(height, width)
    rows, cols = min(rows * factor, height), min(cols * factor, width)
    top, left = (_random_start(size, part, generators[0]) for size, part in ((height, rows), (width, cols)))
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
