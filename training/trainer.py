"""Run folder, callbacks, logger and the Lightning trainer; the same for every task."""

import logging
import os
import warnings
from collections.abc import Sequence
from typing import Any, Protocol, cast, runtime_checkable

import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger

from geometry import InputError
from training.allocator import keep_freed_memory
from training.checkpoint import AtomicCheckpointIO, current_commit
from training.cli import write_config
from training.options import RunOptions
from training.progress import StepProgress
from training.run_task import RunTask


@runtime_checkable
class RunData(Protocol):
    """What `fit` needs of a Lightning data module besides Lightning's own methods."""

    def steps_per_epoch(self, world_size: int) -> int:
        """Optimizer steps of an epoch."""
        ...


def fit(
    options: RunOptions,
    task: RunTask,
    data: RunData,
    callbacks: Sequence[pl.Callback] = (),
    *,
    is_continued: bool = False,
) -> pl.Trainer:
    """Train, from the start or exactly on from `task.resumed`; `callbacks` beside those of every run.

    `is_continued`: another task of the same command has begun the run; its last.ckpt is replaced.

    Writes `config.txt`, `checkpoints/last.ckpt`, `checkpoints/best.ckpt`, TensorBoard events and validation pictures
    below the run's folder.

    Raises:
        InputError: when the folder holds another run already, or training meets a number that is not finite.
    """
    _quieten()
    keep_freed_memory()
    trainer = build_trainer(options, task, data, callbacks)
    if not is_continued:
        _prepare_folder(options)
    path = None if task.resumed is None else task.resumed.path
    task.resumed = None  # the trainer has it: nothing but the trainer keeps its tensors, and only until they are loaded
    trainer.fit(task, data, ckpt_path=path, weights_only=True)
    if trainer.state.finished:  # the last step need not be one that --save_every names
        trainer.save_checkpoint(options.run_dir / "checkpoints" / "last.ckpt", weights_only=False)
    return trainer


def build_trainer(
    options: RunOptions, task: RunTask, data: RunData, callbacks: Sequence[pl.Callback] = ()
) -> pl.Trainer:
    """A Lightning trainer that counts everything in optimizer steps.

    Raises:
        InputError: for devices, a strategy or a precision that Lightning does not know or this machine does not have.
    """
    folder = options.run_dir / "checkpoints"
    common = {"dirpath": folder, "save_weights_only": False, "enable_version_counter": False}
    total_steps = task.total_steps(data.steps_per_epoch(options.devices))
    every_run = [
        ModelCheckpoint(filename="last", every_n_train_steps=options.save_every, save_top_k=1, **common),
        LearningRateMonitor("step"),
        StepProgress(options.log_every, task.shown, task.part),
    ]
    if task.monitor is not None:
        metric, best = task.monitor
        every_run.append(ModelCheckpoint(filename="best", monitor=metric, mode=best, save_top_k=1, **common))
    try:
        return _lightning_trainer(options, task, [*every_run, *callbacks], total_steps)
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        asked = f"--accelerator {options.accelerator} --devices {options.devices} --strategy {options.strategy}"
        raise InputError(f"{asked} --precision {options.precision}: not possible here ({reason})") from None


def _lightning_trainer(
    options: RunOptions, task: RunTask, callbacks: list[pl.Callback], total_steps: int
) -> pl.Trainer:
    log = "tensorboard" if task.part == "train" else f"tensorboard/{task.part}"
    return pl.Trainer(
        max_steps=total_steps,
        max_epochs=-1,
        # a run shorter than that still validates once, at its end, and so has a best.ckpt
        val_check_interval=min(options.val_every, total_steps),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=options.log_every,
        callbacks=callbacks,
        logger=TensorBoardLogger(options.run_dir, name="", version=log),
        plugins=[AtomicCheckpointIO(task.resumed)],
        devices=options.devices,
        accelerator=options.accelerator,
        strategy=options.lightning_strategy,
        precision=cast(Any, options.precision),
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )


def _prepare_folder(options: RunOptions) -> None:
    """Create the run's folder and write the resolved options into it (first process only)."""
    if int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_PROCID", "0"))) != 0:
        return
    existing = sorted((options.run_dir / "checkpoints").glob("*.ckpt"))
    if existing and not options.ckpt:
        raise InputError(
            f"--expname: {options.run_dir} holds a run already; "
            f"resume it with --ckpt {existing[-1]} or take another name"
        )
    try:
        options.run_dir.mkdir(parents=True, exist_ok=True)
        write_config(options, options.run_dir / "config.txt", f"commit {current_commit()}")
    except OSError as error:
        raise InputError(f"--basedir {options.basedir}: expected a folder that can be written, got {error}") from None


def _quieten() -> None:
    """Silence advertisements and advice that does not apply; real warnings stay."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*Checkpoint directory .* exists.*",
        ".*module\\(s\\) in eval mode.*",  # frozen modules are meant to be
        ".*LeafSpec.*",
        ".*resuming from a checkpoint that ended before the epoch ended.*",  # our samplers go on at the exact step
        ".*ModelCheckpoint with manual optimization.*",  # checkpoints are meant to be from after the step
        ".*number of training batches.*smaller than the logging interval.*",
    ):
        warnings.filterwarnings("ignore", message)
