"""Means of scores of which some are not known."""

import math

import torch


class MeanScores:
    """Means over groups of what is known, metric by metric; ready to be added up over processes."""

    def __init__(self, names: tuple[str, ...]) -> None:
        """Nothing counted yet."""
        self.names = names
        self.sums = torch.zeros(2, len(names), dtype=torch.float64)
        """Above: sums; below: how many."""

    def add(self, scores: dict[str, float]) -> None:
        """Count one group; nan is not counted."""
        values = torch.tensor([scores.get(name, math.nan) for name in self.names], dtype=torch.float64)
        known = torch.isfinite(values)
        self.sums += torch.stack([torch.where(known, values, 0.0), known.double()])

    def means(self) -> dict[str, float]:
        """By metric; nan where nothing was known."""
        totals, counts = self.sums.tolist()
        return {
            name: total / count if count else math.nan
            for name, total, count in zip(self.names, totals, counts, strict=True)
        }
