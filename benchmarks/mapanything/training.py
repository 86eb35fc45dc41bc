"""Runs of `train_mapanything.py`: one per seed, side by side; and one that is killed and goes on."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from training.cli import parse_options
from training.mapanything.build import build_data, build_task
from training.mapanything.options import MapAnythingOptions
from training.mapanything.runs import train_run
from training.trainer import fit

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "mapanything" / "rooms_proof.txt"
_KILLED_AT, _SAVED_AT, _STEPS = 6, 4, 9
"""Steps of the run that is killed: when, its last checkpoint, in all."""


def arguments(datadirs: Sequence[Path], basedir: Path, seed: int, steps: int, *more: object) -> list[str]:
    """Of the command line, beside the config."""
    words = ["--config", CONFIG, "--basedir", basedir, "--expname", f"seed{seed}", "--seed", seed]
    words += ["--max_steps", steps, "--accelerator", "cpu", "--datadir", *datadirs, *more]
    return [str(word) for word in words]


def train(datadirs: Sequence[Path], basedir: Path, seeds: Sequence[int], steps: int, more: Sequence[str]) -> list[Path]:
    """Weights of every seed. Runs that are finished are kept, those that were stopped go on.

    Raises:
        SystemExit: where one fails.
    """
    started, weights = [], []
    for seed in seeds:
        folder = basedir / f"seed{seed}"
        weights.append(folder / f"seed{seed}.safetensors")
        if weights[-1].is_file():
            continue
        words = arguments(datadirs, basedir, seed, steps, *more)
        last = folder / "checkpoints" / "last.ckpt"
        words += ["--ckpt", str(last)] if last.is_file() else []
        if len(seeds) == 1:
            train_run(parse_options(MapAnythingOptions, "", words))
            continue
        # one thread each: more of them wait for each other
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        started.append(subprocess.Popen([sys.executable, "train_mapanything.py", *words], cwd=ROOT, env=environment))
    if any([run.wait() for run in started]):
        raise SystemExit(1)
    return weights


class _Losses(pl.Callback):
    """Objective of every step as it is, not as it is logged."""

    def __init__(self, kills_at: int | None = None) -> None:
        self.kills_at = kills_at
        self.values: dict[int, float] = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: object, batch_idx: int
    ) -> None:
        self.values[trainer.global_step] = float(outputs["loss"])
        if trainer.global_step == self.kills_at:
            os.kill(os.getpid(), signal.SIGKILL)


def _run(words: list[str], kills_at: int | None = None) -> dict[int, float]:
    torch.set_num_threads(1)
    options = parse_options(MapAnythingOptions, "", words)
    task = build_task(options)
    losses = _Losses(kills_at)
    fit(options, task, build_data(options, task.network[0].patch_size), callbacks=(losses,))
    return losses.values


def resumed_losses(datadirs: Sequence[Path], basedir: Path) -> dict[str, Any]:
    """Steps whose loss differs in any bit between a run and one that was killed (SIGKILL) and resumed."""
    few = ("--save_every", _SAVED_AT, "--num_val", 1, "--val_every", _STEPS, "--eval_inputs", "images")

    def words(name: str) -> list[str]:
        return arguments(datadirs, basedir / name, 0, _STEPS, *few)

    whole = _run(words("whole"))
    process = multiprocessing.get_context("forkserver").Process(target=_run, args=(words("killed"), _KILLED_AT))
    process.start()
    process.join()
    last = basedir / "killed" / "seed0" / "checkpoints" / "last.ckpt"
    resumed = _run([*words("killed"), "--ckpt", str(last)])
    different = [step for step, loss in resumed.items() if loss != whole[step]]
    return {
        "exit_status": process.exitcode,
        "compared": len(resumed),
        "different": len(different) if process.exitcode == -signal.SIGKILL and resumed else len(whole),
    }
