"""SIGTERM, by which schedulers of clusters and of containers end a run before its time is up."""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from tqdm import tqdm

from geometry.errors import is_sigterm_like_ctrl_c


class StopOnSigterm(pl.Callback):
    """SIGTERM ends training after the step at hand; the run then writes its last checkpoint and ends well.

    A second one ends the process at once.
    """

    def __init__(self, last: Path) -> None:
        """`last`: the checkpoint that will be written."""
        self.last = last
        self.is_asked = False
        """This process, at any moment."""
        self.is_agreed = False
        """All processes know of it, and do what follows together."""
        self._before: Any = None
        self._is_part_of_more = is_sigterm_like_ctrl_c()  # Lightning adds to the handler later

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen, unless the command is more than a training. Signals reach the main thread only."""
        if self._is_part_of_more:
            return
        try:
            self._before = signal.signal(signal.SIGTERM, self._ask)
        except ValueError:  # another thread
            self._before = None

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.is_asked = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Lightning's own would wait for the batch, too

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        """All processes stop when one was asked to."""
        self._agree(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Without another step."""
        self._agree(trainer)

    def _agree(self, trainer: pl.Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(self.is_asked, all=False):
            self.is_asked = self.is_agreed = True
            # should_stop would have it validated, for which there may be no time
            trainer.fit_loop.epoch_loop.max_steps = trainer.global_step

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say what happened."""
        self._restore()
        if self.is_asked and trainer.is_global_zero:
            tqdm.write(
                f"SIGTERM: stopped after step {trainer.global_step}; --ckpt {self.last} goes on", file=sys.stdout
            )

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Listen no more."""
        self._restore()

    def _restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None


def has_finished(trainer: pl.Trainer) -> bool:
    """Whether the run has come to its own end: neither interrupted nor stopped by SIGTERM."""
    was_asked = any(isinstance(one, StopOnSigterm) and one.is_asked for one in trainer.callbacks)  # pyright: ignore
    return trainer.state.finished and not was_asked
