"""What the Lightning modules of all tasks have in common.

Checkpoints that say what they are, exact resume, a stop at numbers that are not finite, clipping, pictures.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from data.image_io import write_image
from geometry import InputError
from training.checkpoint import Checkpoint, CheckpointKind, CheckpointRecord, current_commit
from training.errors import NonFiniteError
from training.options import RunOptions
from training.pictures import as_bytes

_MAY_CHANGE_ON_RESUME = frozenset(
    {
        *("expname", "basedir", "datadir", "ckpt", "init_from", "vggt_ckpt"),
        *("num_epochs", "max_steps", "save_every", "val_every", "num_val", "log_every"),
        *("num_workers", "accelerator", "strategy"),
    }
)


class RunTask(pl.LightningModule, ABC):
    """A run of some task. The network is the attribute `model`; a step is an optimizer step."""

    kind: ClassVar[CheckpointKind[Any, Any]]
    """Of the checkpoints it writes."""
    monitor: tuple[str, str] | None
    """Validation metric that chooses best.ckpt, and whether its "min" or its "max" is best; None: there is none."""
    shown: tuple[str, ...]
    """Metrics beside the progress bar."""
    part: str = "train"
    """Name on the progress bar and, of a run that several tasks make, in its log and of its pictures."""
    may_change_on_resume: frozenset[str] = frozenset()
    """Options of the task that do not alter what it learns; those of every run come on top."""
    model: nn.Module

    def __init__(self, options: RunOptions) -> None:
        super().__init__()
        self.options = options
        self.commit = current_commit()
        self.resumed: Checkpoint[Any, Any] | None = None

    @abstractmethod
    def record(self) -> CheckpointRecord:
        """What every checkpoint of this run says about itself."""

    def total_steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps of this task."""
        options = self.options
        return options.max_steps if options.max_steps > 0 else options.num_epochs * steps_per_epoch

    @abstractmethod
    def build_optimizer(self) -> Optimizer:
        """Over everything that learns."""

    @abstractmethod
    def build_schedule(self, optimizer: Optimizer, total_steps: int) -> LRScheduler:
        """Learning rates over the steps of the run."""

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Optimizer and schedule, counted in optimizer steps."""
        optimizer = self.build_optimizer()
        schedule = self.build_schedule(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the record in."""
        checkpoint[self.kind.key] = self.record().to_plain()

    def resume(self, checkpoint: Checkpoint[Any, Any]) -> None:
        """Go on exactly where a checkpoint of the same run ends; the trainer loads it.

        Raises:
            InputError: when it is not of the same run: the result would be that of no uninterrupted run.
        """
        self.require_same_run(checkpoint.record)
        self.resumed = checkpoint

    def require_same_run(self, theirs: Any) -> None:
        """Refuse the record of a run with other options.

        Raises:
            InputError: naming the option that differs.
        """
        defaults = {name: plain(field.default) for name, field in self.options.__dataclass_fields__.items()}
        ignored = _MAY_CHANGE_ON_RESUME | self.may_change_on_resume
        for name, mine in self.record().options.items():
            before = theirs.options.get(name, defaults.get(name))  # an option added since: the run used its default
            if isinstance(mine, list) and not isinstance(before, list):
                before = [before]  # the option took a single value then
            if name not in ignored and before != mine:
                raise InputError(
                    f"--{name}: the run to resume was started with {before!r}, got {mine!r}; "
                    f"--init_from starts a new run from its weights"
                )

    def require_finite(self, value: Tensor, what: str, where: Callable[[], str]) -> None:
        """Stop the run when a value is not finite.

        Raises:
            NonFiniteError: naming `what`, the step, and its samples as `where` describes them.
        """
        if not bool(torch.isfinite(value).all()):
            raise NonFiniteError(f"step {self.global_step}: expected a finite {what}, got {value.item()} for {where()}")

    def clip_gradients_of(
        self, groups: Mapping[str, Sequence[nn.Parameter]], where: Callable[[], str]
    ) -> dict[str, Tensor]:
        """Scale the gradient of each group down to `--grad_clip`; the norms before that, by group.

        Raises:
            NonFiniteError: for a norm that is not finite, unless a gradient scaler skips the step.
        """
        norms = clip_by_group(groups, self.options.grad_clip)
        if self.trainer.precision != "16-mixed":
            for name, norm in norms.items():
                self.require_finite(norm, f"gradient of {name}", where)
        return norms

    def save_picture(self, picture: Float[Tensor, "height width 3"], index: int) -> None:
        """Into the run's folder `validation`, and for the logger."""
        folder = self.options.run_dir / "validation"
        folder.mkdir(parents=True, exist_ok=True)
        name = "step" if self.part == "train" else f"{self.part}_step"
        write_image(folder / f"{name}_{self.global_step:07d}_{index}.png", as_bytes(picture))
        if isinstance(self.logger, TensorBoardLogger):
            self.logger.experiment.add_image(f"val/{index}", picture, self.global_step, dataformats="HWC")


@torch.no_grad()
def clip_by_group(groups: Mapping[str, Sequence[nn.Parameter]], max_norm: float) -> dict[str, Tensor]:
    """Scale the gradient of each group down to `max_norm` where it is larger; the norms before that, by group.

    A parameter without gradient has norm 0.
    """
    norms = {}
    for name, parameters in groups.items():
        norm = nn.utils.clip_grad_norm_(parameters, max_norm)
        norms[name] = norm.full_tensor() if isinstance(norm, DTensor) else norm
    return norms


def plain_options(options: RunOptions) -> dict[str, Any]:
    """Options as plain values for a record."""
    return {name: plain(value) for name, value in asdict(options).items()}


def plain(value: Any) -> Any:
    """Tuples as lists, which is how they come back from a record."""
    return list(value) if isinstance(value, tuple) else value
