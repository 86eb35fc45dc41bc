"""When last.ckpt is written."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from training.checkpoint import LAST
from training.endings import StopOnSigterm


class LastCheckpoint(Checkpoint):
    """Every so many steps, with all that belongs to the step done: its metrics logged, a validation that is due run.

    Lightning's own callback writes before both. A run that was killed then, and goes on from that file, would have
    neither, and no best.ckpt of that step.
    """

    def __init__(self, folder: Path, every: int, stop: StopOnSigterm) -> None:
        """`every`: optimizer steps; also after the last step before a `stop`, whose callback comes first.

        Writing is a thing of all processes together: what only one of them has been asked for does not count.
        """
        self.path = folder / LAST
        self.stop = stop
        self.every = every
        self._written_at = -1

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Write, unless a validation comes first."""
        loop = trainer.fit_loop.epoch_loop
        fetcher = trainer.fit_loop._data_fetcher
        if fetcher is not None and loop._should_check_val_fx(fetcher) and not loop.val_loop.skip:
            return
        if self._is_due(trainer):
            trainer._logger_connector.update_train_step_metrics()  # once more after this hook
            self._write(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what was put off."""
        if self._is_due(trainer):
            self._write(trainer)

    def _is_due(self, trainer: pl.Trainer) -> bool:
        """Once per step, although several batches may make one."""
        step = trainer.global_step
        return step > 0 and (step % self.every == 0 or self.stop.is_agreed) and step != self._written_at

    def _write(self, trainer: pl.Trainer) -> None:
        self._written_at = trainer.global_step
        trainer.save_checkpoint(self.path, weights_only=False)
