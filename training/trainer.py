"""Run folder, callbacks, logger and the Lightning trainer; the same for every task."""

import errno
import logging
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins import MixedPrecision

from geometry import InputError
from training.allocator import keep_freed_memory
from training.best_checkpoint import BestCheckpoint
from training.checkpoint import LAST, AtomicCheckpointIO, current_commit
from training.cli import write_config
from training.endings import StopOnSigterm, has_finished
from training.folder_claim import FolderClaim
from training.gradient_check import GradientCheck
from training.last_checkpoint import LastCheckpoint
from training.launch import World, launcher, resolved
from training.options import RunOptions
from training.precision import announce_slow, device_of
from training.progress import StepProgress
from training.run_task import RunTask

_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
_CANNOT_WRITE |= {errno.EEXIST, errno.ENOTDIR, errno.EISDIR}  # a file where a folder should be, and the other way round


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
        InputError: when the folder holds another run already, training meets a number that is not finite, or a
            parameter has no part in the loss.
        InputError: also when the folder cannot be written any more; what is in it stays whole.
        KeyboardInterrupt: after Ctrl-C, when the loggers are closed; `Terminated` where the task was ended by that.
    """
    _quieten()
    keep_freed_memory()
    options = resolved(options)
    trainer = build_trainer(options, task, data, callbacks)
    claim = FolderClaim(options.run_dir)
    _prepare_folder(options, trainer, task, claim, is_continued=is_continued)
    if not is_continued:
        _say_what_runs(options, trainer)
    path = None if task.resumed is None else task.resumed.path
    task.resumed = None  # the trainer has it: nothing but the trainer keeps its tensors, and only until they are loaded
    with claim, _writing_into(options), _ctrl_c_as_usual():
        trainer.fit(task, data, ckpt_path=path, weights_only=True)
        if has_finished(trainer):  # the last step need not be one that --save_every names
            trainer.save_checkpoint(options.run_dir / "checkpoints" / LAST, weights_only=False)
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
    total_steps = task.total_steps(data.steps_per_epoch(options.num_processes))
    stop = StopOnSigterm(folder / LAST)
    every_run = [
        LearningRateMonitor("step"),
        stop,
        GradientCheck(),
        StepProgress(options.log_every, task.shown, f"{options.expname}: {task.part}"),
    ]
    if task.monitor is not None:
        metric, best = task.monitor
        every_run.append(BestCheckpoint(filename="best", monitor=metric, mode=best, save_top_k=1, **common))
    last = LastCheckpoint(folder, options.save_every, stop)  # behind the best one, of which it tells
    try:
        return _lightning_trainer(options, task, [*every_run, *callbacks, last], total_steps)
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        asked = f"--accelerator {options.accelerator} --devices {options.devices} --num_nodes {options.num_nodes}"
        raise InputError(
            f"{asked} --strategy {options.strategy} --precision {options.precision}: not possible here ({reason})"
        ) from None


def _lightning_trainer(
    options: RunOptions, task: RunTask, callbacks: list[pl.Callback], total_steps: int
) -> pl.Trainer:
    # Lightning would silently compute in bfloat16
    on_cpu = device_of(options.accelerator).type == "cpu" and options.precision == "16-mixed"
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
        plugins=[AtomicCheckpointIO(task.resumed), *([MixedPrecision("16-mixed", "cpu")] if on_cpu else [])],
        devices=options.devices or 1,
        num_nodes=options.num_nodes or 1,
        accelerator=options.accelerator,
        strategy=options.lightning_strategy,
        precision=None if on_cpu else cast(Any, options.precision),
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )


@contextmanager
def _writing_into(options: RunOptions) -> Iterator[None]:
    """A full disk, or a folder that became read-only, is no error of the program.

    Raises:
        InputError: then.
    """
    before = threading.excepthook

    def of_threads(failure: threading.ExceptHookArgs) -> None:
        """TensorBoard's thread fails first, the next line to log fails then."""
        if not _is_about_writing(failure.exc_value):
            before(failure)

    threading.excepthook = of_threads
    try:
        yield
    except (OSError, ValueError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__  # Lightning wraps those of loggers
        if not _is_about_writing(cause):
            raise
        last = options.run_dir / "checkpoints" / LAST
        rest = f"{last} is whole: --ckpt goes on with it" if last.is_file() else "there is no checkpoint yet"
        raise InputError(f"{options.run_dir}: expected space and the right to write, got {cause}; {rest}") from None
    finally:
        threading.excepthook = before


def _is_about_writing(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in _CANNOT_WRITE


@contextmanager
def _ctrl_c_as_usual() -> Iterator[None]:
    """Lightning ends the process after Ctrl-C, with status 1 and deaf to a second one; a command may have more to say.

    Raises:
        KeyboardInterrupt: instead, the one that Lightning caught.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        interrupt = stop.__context__
        if not isinstance(interrupt, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        raise interrupt from None


def _prepare_folder(
    options: RunOptions, trainer: pl.Trainer, task: RunTask, claim: FolderClaim, *, is_continued: bool
) -> None:
    """The first process of all claims the run's folder; where a launcher has started more, all learn the outcome.

    Raises:
        InputError: on all of them, for a folder that holds another run or cannot be written.
    """
    problem = None
    if trainer.is_global_zero:
        problem = _claimed(options, claim) if is_continued else _first_files(options, claim)
    if trainer.world_size > 1 and launcher() is not None:  # without one Lightning starts the others later
        trainer.strategy.connect(task)
        trainer.strategy.setup_environment()
        problem = trainer.strategy.broadcast(problem)
    if problem is not None:
        raise InputError(problem)


def _first_files(options: RunOptions, claim: FolderClaim) -> str | None:
    """Create the run's folder and write the resolved options into it; None, or why that is not possible."""
    existing = sorted((options.run_dir / "checkpoints").glob("*.ckpt"))
    if existing and not options.ckpt:
        resume = f"resume it with --ckpt {existing[-1]} or take another name"
        return f"--expname: {options.run_dir} holds a run already; {resume}"
    if existing and options.run_dir.resolve() not in Path(options.ckpt).resolve().parents:
        other = f"--ckpt {options.ckpt} is of another folder, and would replace it; take another name"
        return f"--expname: {options.run_dir} holds a run already; {other}"
    problem = _claimed(options, claim)
    if problem is None:
        try:
            write_config(options, options.run_dir / "config.txt", f"commit {current_commit()}")
        except InputError as error:
            problem = str(error)
        except OSError as error:
            problem = _not_writable(options, error)
    return problem


def _claimed(options: RunOptions, claim: FolderClaim) -> str | None:
    try:
        options.run_dir.mkdir(parents=True, exist_ok=True)
        return None if claim.take() else f"--expname: another process trains in {options.run_dir} now"
    except OSError as error:
        return _not_writable(options, error)


def _not_writable(options: RunOptions, error: OSError) -> str:
    return f"--basedir {options.basedir}: expected a folder that can be written, got {error}"


def _say_what_runs(options: RunOptions, trainer: pl.Trainer) -> None:
    """One line on processes, device and precision (first process only)."""
    if not trainer.is_global_zero:
        return
    device = trainer.strategy.root_device
    world = World(trainer.num_nodes, trainer.world_size // trainer.num_nodes)
    sys.stdout.write(f"{world}, accelerator: {device.type}, precision: {options.precision}\n")
    sys.stdout.flush()
    announce_slow(options.precision, device)


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
