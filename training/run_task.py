"""What the Lightning modules of all tasks have in common.

Checkpoints that say what they are, exact resume, clipping, steps that numbers that are not finite stop, pictures.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, TypeVar

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from data.image_io import write_image
from geometry import InputError, require
from training.checkpoint import EMA_KEY, Checkpoint, CheckpointKind, CheckpointRecord, current_commit
from training.errors import NonFiniteError
from training.options import RunOptions
from training.pictures import as_bytes
from training.weight_average import WeightAverage

Value = TypeVar("Value")
_MAY_CHANGE_ON_RESUME = frozenset(
    {
        *("expname", "basedir", "datadir", "ckpt", "init_from", "vggt_ckpt"),
        *("num_epochs", "max_steps", "save_every", "val_every", "num_val", "log_every"),
        *("num_workers", "accelerator", "strategy", "skip_non_finite"),
        *("devices", "num_nodes"),  # the number of all processes is compared
    }
)
_SKIPPED_KEY = "skipped_steps"
_OF_A_RUN: Mapping[str, type] = {
    **{"optimizer_states": list, "lr_schedulers": list, "loops": dict, "callbacks": dict},
    **{"global_step": int, "epoch": int, "pytorch-lightning_version": str},
}
"""What Lightning writes beside the weights and reads again."""
_MIN_LOSS_SCALE = 1.0
"""A gradient that overflows float16 although the loss scaler does not enlarge it any more is none of its doing."""


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
        self.skipped = {"non_finite": 0, "by_scaler": 0}
        """Steps of the run that were none: `--skip_non_finite`, and overflows that a loss scaler looks for."""
        self.is_step_skipped = False
        self.average: WeightAverage | None = None
        """Of the weights, where the task asks for one."""
        self._losses: list[tuple[Tensor, Callable[[], str]]] = []

    @property
    def before_options(self) -> Mapping[str, Any]:
        """What runs did that are older than an option, where that is not the option's default."""
        return {}

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

    @abstractmethod
    def clipping_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Everything that learns, by the names of parts whose gradients are clipped separately."""

    def log_norms(self, norms: Mapping[str, Tensor]) -> None:
        """Of the gradient of each group before clipping."""
        self.log_dict({f"grad_norm/{name}": norm for name, norm in norms.items()})

    def is_repeated(self, batch_idx: int) -> bool:
        """Whether this process's single validation sample only fills up the last turn: see `num_counted`."""
        return self.num_counted(batch_idx, 1, batch_size=1) == 0

    def num_counted(self, batch_idx: int, num_samples: int, *, batch_size: int) -> int:
        """How many samples of this process's validation batch count; those behind them fill up (`share_of_process`).

        They run through the network, because all processes must. `num_samples` is `batch_size`, in the last batch less.
        """
        trainer = self.trainer
        items: int = trainer.datamodule.num_val_items  # pyright: ignore[reportAttributeAccessIssue]
        mine = -((trainer.global_rank - items) // trainer.world_size)  # items rank, rank + world size, ..., rounded up
        return min(max(mine - batch_idx * batch_size, 0), num_samples)

    def gathered(self, value: Value) -> list[Value]:
        """That of every process, in their order; tensors in it are on the CPU."""
        if self.trainer.world_size == 1:
            return [value]
        found: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(found, value)
        return found

    def on_train_start(self) -> None:
        """The average follows the weights to their device."""
        if self.average is not None:
            self.average.map(lambda tensor: tensor.to(self.device))

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Once per optimizer step; one that was skipped is none for the schedule, nor for the average."""
        if self.is_step_skipped:
            return
        super().lr_scheduler_step(scheduler, metric)
        if self.average is not None:
            self.average.update(self.model, self.global_step - sum(self.skipped.values()))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the record in, how many steps were skipped, and the average of the weights."""
        checkpoint[self.kind.key] = self.record().to_plain()
        checkpoint[_SKIPPED_KEY] = dict(self.skipped)
        if self.average is not None:
            checkpoint[EMA_KEY] = dict(self.average.weights)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting, and with the average where it was."""
        self.skipped |= checkpoint.get(_SKIPPED_KEY, {})
        if self.average is not None:
            self.average.weights = dict(checkpoint[EMA_KEY])

    def on_train_end(self) -> None:
        """Say how many steps were skipped (first process only)."""
        if self.trainer.is_global_zero and any(self.skipped.values()):
            tqdm.write(
                f"{self.part}: {self.global_step} steps, of which {self.skipped['non_finite']} were skipped for "
                f"numbers that are not finite and {self.skipped['by_scaler']} by the loss scaler"
            )

    def resume(self, checkpoint: Checkpoint[Any, Any]) -> None:
        """Go on exactly where a checkpoint of the same run ends; the trainer loads it.

        Raises:
            InputError: when it is not of the same run: the result would be that of no uninterrupted run; and for
                weights without the state of a run.
        """
        self.require_same_run(checkpoint.record)
        for key, kind in _OF_A_RUN.items():
            found = checkpoint.contents.get(key)
            require(
                type(found) is kind,
                f"--ckpt {checkpoint.path}: expected the checkpoint of a run, with {key}, got {type(found).__name__} "
                "there; --init_from starts a new run from weights",
            )
        self.resumed = checkpoint

    def require_same_run(self, theirs: Any) -> None:
        """Refuse the record of a run with other options.

        Raises:
            InputError: naming the option that differs.
        """
        defaults = {name: plain(field.default) for name, field in self.options.__dataclass_fields__.items()}
        ignored = _MAY_CHANGE_ON_RESUME | self.may_change_on_resume
        processes = (theirs.options.get("devices") or 1) * (theirs.options.get("num_nodes") or 1)
        if processes != self.options.num_processes:
            raise InputError(
                f"--devices x --num_nodes: the run to resume was started with {processes} processes, "
                f"got {self.options.num_processes}; --init_from starts a new run from its weights"
            )
        for name, mine in self.record().options.items():
            # an option added since: the run did what is its default, or what is noted
            before = theirs.options.get(name, self.before_options.get(name, defaults.get(name)))
            if isinstance(mine, list) and not isinstance(before, list):
                before = [before]  # the option took a single value then
            if name not in ignored and before != mine:
                raise InputError(
                    f"--{name}: the run to resume was started with {before!r}, got {mine!r}; "
                    f"--init_from starts a new run from its weights"
                )

    def watch_loss(self, loss: Tensor, where: Callable[[], str]) -> None:
        """Have the loss of a step, or of a part of it, looked at in `on_before_optimizer_step`.

        `where` describes its samples.
        """
        self._losses.append((loss.detach(), where))

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradient, which a loss scaler has divided by its scale; without a finite one there is no step.

        Losses and norms of all processes are read here at once: the one synchronization with the device of a step.

        Raises:
            NonFiniteError: on all processes, for more than `--skip_non_finite` losses or norms that are not finite. Not
                for a gradient that overflows with a loss scale above 1, which the scaler lowers then.
        """
        norms = clip_by_group(self.clipping_groups(), self.options.grad_clip)
        losses, self._losses = self._losses, []
        loss = torch.stack([one for one, _ in losses]).float().sum()  # not finite where one is not
        mine = ~torch.isfinite(torch.stack([loss, *(norm.to(loss) for norm in norms.values())]))
        everyones = self.trainer.strategy.reduce(mine.float(), reduce_op="sum")
        is_own_loss, is_loss, *is_norm = torch.cat([mine[:1].float(), everyones]).tolist()
        self.is_step_skipped = bool(is_loss or any(is_norm))
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if not self.is_step_skipped:
            self.log_norms(norms)
        elif scaler is not None and not is_loss and scaler.get_scale() > _MIN_LOSS_SCALE:
            self.skipped["by_scaler"] += 1
        else:
            bad = {f"gradient of {name}": norm for name, norm in norms.items() if not torch.isfinite(norm)}
            self._skip_or_stop(losses, bad, is_own=bool(is_own_loss or not is_loss))
        if self.is_step_skipped:
            optimizer.zero_grad(set_to_none=True)  # optimizers pass over parameters without gradient
        can_skip = {"non_finite": self.options.skip_non_finite > 0, "by_scaler": scaler is not None}
        self.log_dict({f"train/skipped_{name}": float(self.skipped[name]) for name, can in can_skip.items() if can})

    def _skip_or_stop(
        self, losses: Sequence[tuple[Tensor, Callable[[], str]]], gradients: Mapping[str, Tensor], *, is_own: bool
    ) -> None:
        """`is_own`: samples of this process are to blame, or nobody knows whose."""
        limit, bad = self.options.skip_non_finite, [one for one in losses if not torch.isfinite(one[0])]
        values = [*(("loss", one) for one, _ in bad), *gradients.items(), ("loss", torch.tensor(torch.nan))]
        what, value = values[0]
        samples = "; ".join(where() for _, where in bad or losses) if is_own else "samples of another process"
        found = f"step {self.global_step}: expected a finite {what}, got {value.item()} for {samples}"
        if self.skipped["non_finite"] >= limit:
            raise NonFiniteError(f"{found} (--skip_non_finite {limit}: no more may be skipped)")
        self.skipped["non_finite"] += 1
        if is_own:
            tqdm.write(f"{found}: skipped, {self.skipped['non_finite']} of at most {limit}")

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
