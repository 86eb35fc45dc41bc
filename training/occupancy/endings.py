"""What ends a run early, and what stays of it."""

import signal
import sys
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint

from training.occupancy.options import OccupancyOptions


class StopOnSigterm(pl.Callback):
    """SIGTERM ends training after the step at hand; the run then writes its last checkpoint and ends well.

    A second one ends the process as it would have before.
    """

    def __init__(self) -> None:
        self.is_asked = False
        self._before: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen. Signals reach the main thread only, where Lightning trains."""
        try:
            self._before = signal.signal(signal.SIGTERM, self._ask)
        except ValueError:  # another thread
            self._before = None

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.is_asked = True
        self._restore()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        """All processes stop when one was asked to."""
        if trainer.strategy.reduce_boolean_decision(self.is_asked, all=False):
            self.is_asked = True
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say what happened."""
        self._restore()
        if self.is_asked and trainer.is_global_zero:
            sys.stdout.write(f"SIGTERM: stopped after step {trainer.global_step}; go on with --resume\n")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Listen no more."""
        self._restore()

    def _restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None


def kept_checkpoints(options: OccupancyOptions, steps_per_epoch: int) -> list[pl.Callback]:
    """One every `--keep_every` epochs, of which the newest `--keep` stay; nothing else is ever deleted."""
    if not options.keep_every:
        return []
    return [
        ModelCheckpoint(
            dirpath=options.run_dir / "checkpoints",
            filename="step_{step:07d}",
            auto_insert_metric_name=False,
            monitor="step",
            mode="max",
            save_top_k=options.keep,
            every_n_train_steps=options.keep_every * steps_per_epoch,
            save_weights_only=False,
            enable_version_counter=False,
        )
    ]
