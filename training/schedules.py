"""Learning rate over optimizer steps."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from warmup_scheduler import GradualWarmupScheduler


class StepCountState(LRScheduler):
    """Checkpoint state of a schedule that is a closed form of the number of steps made."""

    def state_dict(self) -> dict[str, Any]:
        """The number of steps made, nothing else: all the rest is given by the options."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after `last_epoch` steps, with the rates of that moment."""
        self.last_epoch = state_dict["last_epoch"]
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate


class WarmupCosine(StepCountState, GradualWarmupScheduler):
    """Linear warm-up to the base rate, then half a cosine down to `final_fraction` of it.

    warmup-scheduler 0.3 keeps the second phase in a scheduler object of its own: it is pickled into checkpoints, is
    restored bound to the old optimizer (the rate stays constant), and is stepped one step late (the rate overshoots).
    Here the rate is a closed form of the step count, which is all the state there is.
    """

    def __init__(self, optimizer: Optimizer, *, warmup_steps: int, total_steps: int, final_fraction: float) -> None:
        self.final_fraction = final_fraction
        self.total_steps = total_steps
        super().__init__(optimizer, multiplier=1.0, total_epoch=warmup_steps)

    def get_lr(self) -> list[float]:
        """Rates of the parameter groups at `last_epoch`, which counts optimizer steps. Never zero before the end."""
        fraction = self._fraction(self.last_epoch)
        return [float(base) * fraction for base in self.base_lrs]

    def _fraction(self, step: int) -> float:
        if step < self.total_epoch:
            return (step + 1) / (self.total_epoch + 1)
        progress = min(1.0, (step - self.total_epoch) / max(1, self.total_steps - self.total_epoch))
        return self.final_fraction + (1 - self.final_fraction) * (1 + math.cos(math.pi * progress)) / 2


class LinearCosine(StepCountState):
    """The schedule VGGT is fine-tuned with: linear from `floor` to the base rate, half a cosine back to `floor`.

    Progress is the number of optimizer steps made over `total_steps` (the reference counts iterations of epochs, and
    keeps the last rate from the end on).
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int, warmup_fraction: float = 0.05, floor: float = 1e-8
    ) -> None:
        self.total_steps, self.warmup_fraction, self.floor = total_steps, warmup_fraction, floor
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        """Rates of the parameter groups for the step after `last_epoch` optimizer steps."""
        progress = min(1.0, self.last_epoch / self.total_steps)
        return [linear_cosine(progress, float(base), self.warmup_fraction, self.floor) for base in self.base_lrs]


def linear_cosine(progress: float, peak: float, warmup_fraction: float = 0.05, floor: float = 1e-8) -> float:
    """Learning rate after the fraction `progress` of a run (docs/vggt.md, "Optimizer and schedule")."""
    if progress < warmup_fraction:
        return floor + (peak - floor) * progress / warmup_fraction
    decay = (progress - warmup_fraction) / (1 - warmup_fraction)
    return floor + (peak - floor) * (1 + math.cos(math.pi * decay)) / 2


class WarmupHalfCosine(StepCountState):
    """Linear from 0 to the base rate, then half a cosine down to the floor of each group (MapAnything's training).

    Groups have an entry `floor`. The first step has rate 0, as in the reference. Progress is the number of optimizer
    steps made over `total_steps`.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup_fraction: float) -> None:
        self.total_steps, self.warmup_fraction = total_steps, warmup_fraction
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        """Rates of the parameter groups for the step after `last_epoch` optimizer steps."""
        progress = min(1.0, self.last_epoch / self.total_steps)
        return [
            warmup_half_cosine(progress, float(base), group["floor"], self.warmup_fraction)
            for base, group in zip(self.base_lrs, self.optimizer.param_groups, strict=True)
        ]


def warmup_half_cosine(progress: float, peak: float, floor: float, warmup_fraction: float) -> float:
    """peak p / w below the warm-up w, then floor + (peak - floor) (1 + cos(pi (p - w) / (1 - w))) / 2."""
    if progress < warmup_fraction:
        return peak * progress / warmup_fraction
    decay = (progress - warmup_fraction) / (1 - warmup_fraction)
    return floor + (peak - floor) / 2 * (1 + math.cos(math.pi * decay))
