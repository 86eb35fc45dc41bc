"""One progress bar for the whole run, with rate and time left, also after a resume."""

from typing import Any

import pytorch_lightning as pl
from tqdm import tqdm


class StepProgress(pl.Callback):
    """Counts optimizer steps up to the end of the run; shows the latest values of some metrics."""

    def __init__(self, refresh_every: int, shown: tuple[str, ...], name: str = "train") -> None:
        self.refresh_every = refresh_every
        self.shown = shown
        self.name = name
        self.bar = tqdm(disable=True)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar at the step where training starts or goes on (first process only)."""
        total = int(trainer.estimated_stepping_batches)
        self.bar = tqdm(
            total=total, initial=trainer.global_step, unit="step", desc=self.name, disable=not trainer.is_global_zero
        )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance to the trainer's step."""
        if trainer.global_step % self.refresh_every == 0 or trainer.global_step == self.bar.total:
            self.bar.set_postfix(self._shown(trainer), refresh=False)
            self.bar.update(trainer.global_step - self.bar.n)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Label the bar while it does not advance."""
        self.bar.set_description("validate")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Back to training."""
        self.bar.set_description(self.name)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the bar."""
        self.bar.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the message stands on a line of its own (`teardown` is not called then)."""
        self.bar.close()

    def _shown(self, trainer: pl.Trainer) -> dict[str, str]:
        metrics = trainer.callback_metrics
        return {name: f"{metrics[name].item():.4g}" for name in self.shown if name in metrics}
