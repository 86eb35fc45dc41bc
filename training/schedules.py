"""Learning rate over optimizer steps."""

import math
from typing import Any

from torch.optim import Optimizer
from warmup_scheduler import GradualWarmupScheduler


class WarmupCosine(GradualWarmupScheduler):
    """Linear warm-up to the base rate, then half a cosine down to `final_fraction` of it.

    warmup-scheduler 0.3 keeps the second phase in a scheduler object of its own: it is pickled into checkpoints, is
    restored tied to a dead optimizer (the rate freezes), and is stepped one step late (the rate overshoots). Here the
    rate is a closed form of the step count, which is all the state there is.
    """

    def __init__(self, optimizer: Optimizer, *, warmup_steps: int, total_steps: int, final_fraction: float) -> None:
        self.final_fraction = final_fraction
        self.decay_steps = max(1, total_steps - warmup_steps)
        super().__init__(optimizer, multiplier=1.0, total_epoch=warmup_steps)

    def get_lr(self) -> list[float]:
        """Rates of the parameter groups at `last_epoch`, which counts optimizer steps. Never zero before the end."""
        if self.last_epoch < self.total_epoch:
            return [base * (self.last_epoch + 1) / (self.total_epoch + 1) for base in self.base_lrs]
        progress = min(1.0, (self.last_epoch - self.total_epoch) / self.decay_steps)
        cosine = (1 + math.cos(math.pi * progress)) / 2
        return [base * (self.final_fraction + (1 - self.final_fraction) * cosine) for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """The number of steps made, nothing else: all the rest is given by the options."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after `last_epoch` steps, with the rates of that moment."""
        self.last_epoch = state_dict["last_epoch"]
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate
