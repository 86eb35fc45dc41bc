"""Windows kept in memory, so that what is computed is computed once."""

from dataclasses import fields
from typing import Any

import numpy as np
import torch

from data.occupancy.types import OccupancyBatch, WindowSource

_GRIDS = ("history", "future", "moving", "visible")


class KeptWindows(WindowSource):
    """A source of binary grids whose windows are kept once they were read, one bit per voxel."""

    def __init__(self, source: WindowSource) -> None:
        self.source = source
        self.num_classes, self.empty_class = source.num_classes, source.empty_class
        self.ground_classes, self.space = source.ground_classes, source.space
        self._kept: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, item: int) -> OccupancyBatch:
        if item not in self._kept:
            sample = self.source[item]
            values = {field.name: getattr(sample, field.name) for field in fields(sample)}
            self._kept[item] = {name: _packed(value) if name in _GRIDS else value for name, value in values.items()}
        kept = self._kept[item]
        values: dict[str, Any] = {name: _unpacked(one) if name in _GRIDS else one for name, one in kept.items()}
        return OccupancyBatch(**values)


def _packed(grids: torch.Tensor | None) -> tuple[np.ndarray, torch.Size, torch.dtype] | None:
    return None if grids is None else (np.packbits(grids.numpy().astype(bool)), grids.shape, grids.dtype)


def _unpacked(packed: tuple[np.ndarray, torch.Size, torch.dtype] | None) -> torch.Tensor | None:
    if packed is None:
        return None
    bits, shape, dtype = packed
    return torch.from_numpy(np.unpackbits(bits, count=shape.numel()).reshape(shape)).to(dtype)
