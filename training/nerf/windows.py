"""Parts of target views that a training step views instead of whole ones."""

from dataclasses import replace

import torch

from data.novel_view.batches import cropped_views
from geometry import SceneBatch


def random_window(batch: SceneBatch, rows: int, cols: int, generator: torch.Generator) -> SceneBatch:
    """The same batch with its targets cut to a random window of rows x cols pixels, at one place for all scenes."""
    height, width = batch.target.images.shape[-2:]
    top, left = (random_start(size, part, generator) for size, part in ((height, rows), (width, cols)))
    return replace(batch, target=cropped_views(batch.target, top, left, rows, cols))


def random_start(size: int, part: int, generator: torch.Generator) -> int:
    """Windows that reach over the edge are pushed back inside: else hardly any would hold what lies at the edge."""
    start = int(torch.randint(-part, size + 1, (), generator=generator))
    return min(max(start, 0), size - part)
