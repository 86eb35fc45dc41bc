"""A linear network that fits numbers: a run of the harness in milliseconds, whose batches are given one by one.

`python -m tests.training.toy FOLDER ...options` runs it on the command line; the batch of step 1 of process 1 is nan.
"""

from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, IterableDataset

from geometry import one_line_errors
from training.checkpoint import CheckpointKind, CheckpointRecord
from training.cli import parse_options
from training.options import RunOptions
from training.run_task import RunTask, plain_options
from training.schedules import WarmupCosine
from training.trainer import fit

TOY = CheckpointKind("toy", "toy.py", CheckpointRecord, lambda record: nn.Linear(2, 1))
_NUM_STEPS = 8
"""Of the schedule, however long a run is."""


class ToyTask(RunTask):
    """Mean of the squared outputs for inputs of ones times the batch's number; a step of Adam per batch."""

    kind = TOY
    monitor = None
    shown = ()

    def __init__(self, options: RunOptions, *, parts: int = 0) -> None:
        """`parts`: backward passes per step, by hand; 0: Lightning steps."""
        super().__init__(options)
        torch.manual_seed(0)
        self.model = nn.Linear(2, 1)
        self.parts = parts
        self.automatic_optimization = parts == 0

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor | None:
        if self.automatic_optimization:
            return self._loss(batch)
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        for part in range(self.parts):  # the number of the batch is in the last part
            self.manual_backward(self._loss(batch if part == self.parts - 1 else torch.ones_like(batch)) / self.parts)
        optimizer.step()
        self.lr_scheduler_step(self.lr_schedulers(), None)
        return None

    def _loss(self, batch: Tensor) -> Tensor:
        loss = (self.model(torch.ones(2)) * batch).float().square().mean()
        self.watch_loss(loss, lambda: f"number {batch.item()}")
        return loss

    def clipping_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"the toy": list(self.model.parameters())}

    def build_optimizer(self) -> Optimizer:
        return torch.optim.Adam(self.model.parameters(), lr=0.1)

    def build_schedule(self, optimizer: Optimizer, total_steps: int) -> WarmupCosine:
        return WarmupCosine(optimizer, warmup_steps=1, total_steps=_NUM_STEPS, final_fraction=0.1)

    def record(self) -> CheckpointRecord:
        return CheckpointRecord(options=plain_options(self.options), commit="none")


class Numbers(pl.LightningDataModule):
    """One number per step and process, from the trainer's step on."""

    def __init__(self, *numbers: list[float]) -> None:
        """A list for each process."""
        super().__init__()
        self.numbers = numbers

    def steps_per_epoch(self, world_size: int) -> int:
        return len(self.numbers[0])

    def train_dataloader(self) -> DataLoader:
        mine, first = self.numbers[self.trainer.global_rank], self.trainer.global_step

        class Rest(IterableDataset):
            def __iter__(self) -> Iterator[Tensor]:
                return (torch.tensor(number) for number in mine[first:])

        return DataLoader(Rest(), batch_size=None)


@one_line_errors
def main() -> None:
    options = parse_options(RunOptions, "toy")
    fit(options, ToyTask(options), Numbers([1.0, 1.0, 1.0], [1.0, torch.nan, 1.0]))


if __name__ == "__main__":
    main()
