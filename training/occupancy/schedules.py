"""Learning rates over steps: the guide's, and OccWorld's."""

import math

from torch.optim import Optimizer

from training.schedules import StepCountState

GUIDE, OCCWORLD = "guide", "occworld"
SCHEDULES = (GUIDE, OCCWORLD)
OCCWORLD_START = 1e-6
"""Rate of the first update of OccWorld's warm-up."""


def guide_rate(step: int, total: int, *, peak: float, floor: float, warmup: int, warmup_ratio: float) -> float:
    """Linear from `warmup_ratio` of the peak over `warmup` steps, then half a cosine to `floor` over the others.

    VeryLargeWeebModel's trainer lets the cosine span all steps although it begins after the warm-up, so that it ends
    far above its floor.
    """
    if step < warmup:
        return peak * (warmup_ratio + (1 - warmup_ratio) * step / warmup)
    return floor + (peak - floor) * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))) / 2


def occworld_rate(step: int, total: int, *, peak: float, floor: float, warmup: int) -> float:
    """Of update `step`, from 0: linear from 1e-6 over the warm-up, then on the cosine that spans all updates.

    An update runs with what the schedule says of the one before it, so that the first two have the same rate.
    """
    made = max(0, step - 1)
    if made < warmup:
        return OCCWORLD_START + (peak - OCCWORLD_START) * made / warmup
    return floor + (peak - floor) * (1 + math.cos(math.pi * made / total)) / 2


class OccupancySchedule(StepCountState):
    """One of `SCHEDULES` for all parameter groups."""

    def __init__(
        self, optimizer: Optimizer, total: int, *, name: str, floor: float, warmup: int, warmup_ratio: float
    ) -> None:
        self.total, self.name, self.floor = total, name, floor
        self.warmup, self.warmup_ratio = warmup, warmup_ratio
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        """Rates for the step after `last_epoch` steps; at the end and after it, the last one."""
        step = min(self.last_epoch, self.total)
        return [self._rate(step, float(base)) for base in self.base_lrs]

    def _rate(self, step: int, peak: float) -> float:
        if self.name == OCCWORLD:
            return occworld_rate(step, self.total, peak=peak, floor=self.floor, warmup=self.warmup)
        return guide_rate(
            step, self.total, peak=peak, floor=self.floor, warmup=self.warmup, warmup_ratio=self.warmup_ratio
        )
