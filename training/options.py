"""Options: one frozen dataclass per script, one line of help per field. Here what every training script understands."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any

from geometry import InputError, require
from training.precision import AUTO, PRECISIONS

_IN_NAMES = ("scans", "dataset_name")
"""Options that the name of a run may name, where a script has them."""
_LONGEST_NAME = 255
"""Bytes of a folder's name on Linux and macOS."""


def option(default: Any, description: str, **argument: Any) -> Any:
    """A dataclass field that becomes a command-line option; `argument` goes to `add_argument`.

    `aliases`: older names, which keep working on the command line and in txt configs. `is_positional`: see
    `training.cli.parse_options`.
    """
    return field(default=default, metadata={"help": description, **argument})


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What every training script understands: the run, its length, its optimizer, its machine."""

    expname: str = option(
        "experiment",
        "name of the run; its folder is <basedir>/<expname>. {scans} and {dataset_name} stand for these options, "
        "several joined by -, all where no scan is named",
    )
    basedir: str = option("runs", "folder of all runs")
    num_epochs: int = option(1, "epochs; an epoch sees every training target once")
    max_steps: int = option(-1, "stop after this many optimizer steps; -1: --num_epochs decides")
    lrate: float = option(5e-4, "peak learning rate of Adam")
    lrate_final: float = option(5e-5, "learning rate at the end of the cosine decay")
    grad_clip: float = option(1.0, "largest norm of the gradient; larger ones are scaled down")
    save_every: int = option(500, "optimizer steps between writes of last.ckpt")
    val_every: int = option(500, "optimizer steps between validations")
    num_val: int = option(8, "validation images, spread evenly over the validation views")
    log_every: int = option(20, "optimizer steps between logged scalars")
    ckpt: str = option("", "checkpoint to resume exactly: weights, optimizer, schedule, position in the data")
    init_from: str = option("", "checkpoint to start from with its weights only; not read again when --ckpt resumes")
    seed: int = option(0, "all randomness derives from it")
    num_workers: int = option(4, "processes that load images")
    devices: int | None = option(
        None, "processes / GPUs per node; not given: 1, or as many as the launcher (torchrun, srun, ...) has started"
    )
    num_nodes: int | None = option(None, "nodes; not given: as many as the launcher runs on")
    accelerator: str = option("auto", "Lightning accelerator: auto, cpu, gpu, ...")
    strategy: str = option("auto", "Lightning strategy: auto, ddp, ...")
    precision: str = option(
        "32-true", "Lightning precision: 32-true, bf16-mixed, 16-mixed, or auto (bf16-mixed where a GPU computes it)"
    )
    skip_non_finite: int = option(
        0, "steps with a loss or gradient that is not finite to skip at most; one more stops the run"
    )

    def __post_init__(self) -> None:
        """Refuse what cannot work or contradicts itself, by name; fill in the name of the run.

        Raises:
            InputError: naming the option or both options.
        """
        object.__setattr__(self, "expname", self._named_run())  # frozen; every copy of the options has the whole name
        self._require_at_least(1, "num_epochs", "save_every", "val_every", "num_val", "log_every")
        self._require_at_least(1, *(name for name in ("devices", "num_nodes") if getattr(self, name) is not None))
        self._require_at_least(0, "lrate_final", "num_workers", "skip_non_finite")
        self._require_positive("lrate", "grad_clip")
        require(
            self.max_steps == -1 or self.max_steps >= 1,
            f"--max_steps: expected -1 or more than 0, got {self.max_steps}",
        )
        require(
            self.lrate_final <= self.lrate, f"--lrate_final {self.lrate_final}: expected at most --lrate {self.lrate}"
        )
        require(0 <= self.seed < 2**63, f"--seed: expected 0 to 2^63 - 1, got {self.seed}")
        require(
            self.precision in (*PRECISIONS, AUTO),
            f"--precision: expected one of {', '.join((*PRECISIONS, AUTO))}, got {self.precision!r}",
        )
        require(
            _is_folder_name(self.expname),
            f"--expname: expected a plain folder name of at most {_LONGEST_NAME} bytes, got {self.expname!r}",
        )

    def _named_run(self) -> str:
        """`--expname` with its placeholders filled in.

        Raises:
            InputError: for an unknown placeholder, or braces that are none.
        """
        try:
            parts = list(Formatter().parse(self.expname))
        except ValueError as error:
            raise InputError(f"--expname {self.expname!r}: expected placeholders in braces, got {error}") from None
        known = [name for name in _IN_NAMES if hasattr(self, name)]
        name = ""
        for literal, placeholder, form, conversion in parts:
            name += literal
            if placeholder is None:
                continue
            require(
                placeholder in known and not form and not conversion,
                f"--expname {self.expname!r}: expected placeholders among {known}, got {placeholder!r}",
            )
            value = getattr(self, placeholder)
            entries = (value,) if isinstance(value, str) else value
            name += "-".join(entries).replace("/", "_") or "all"
        return name

    def _require_at_least(self, minimum: int, *names: str) -> None:
        for name in names:
            wanted = "0 or more" if minimum == 0 else f"at least {minimum}"
            value = getattr(self, name)
            require(minimum <= value < math.inf, f"--{name}: expected {wanted}, got {value}")

    def _require_positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            require(0 < value < math.inf, f"--{name}: expected a positive number, got {value}")

    def _require_range(self, name: str, minimum: float | int, what: str) -> None:
        """One number, or a low and a high one."""
        values = getattr(self, name)
        require(
            len(values) in (1, 2) and values[0] >= minimum and values[-1] >= values[0],
            f"--{name}: expected one number or a range low high, {what}, got {list(values)}",
        )

    @property
    def lightning_strategy(self) -> Any:
        """The strategy passed to Lightning."""
        return self.strategy

    @property
    def num_processes(self) -> int:
        """Of the whole run; see `training.launch.resolved` for what a launcher has started."""
        return (self.devices or 1) * (self.num_nodes or 1)

    @property
    def run_dir(self) -> Path:
        """Everything the run writes is below it."""
        return Path(self.basedir) / self.expname


def _is_folder_name(name: str) -> bool:
    """Whether a run's folder can be called that, one level below the folder of all runs."""
    is_plain = name.isprintable() and not set(name) & set("/\\{}")
    return is_plain and name.strip(". ") != "" and len(name.encode()) <= _LONGEST_NAME
