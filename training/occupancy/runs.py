"""What train_occupancy.py does: train, keep what is worth keeping, export."""

import shutil
import sys
import warnings

import pytorch_lightning as pl

from data.problems import announce
from training.endings import has_finished
from training.launch import resolved
from training.occupancy.build import build_data, build_task, resumed_options
from training.occupancy.checkpoint import export_weights, load_weights
from training.occupancy.kept import kept_checkpoints
from training.occupancy.options import OccupancyOptions
from training.trainer import fit


def train_run(options: OccupancyOptions) -> pl.Trainer:
    """Train to the end, or until SIGTERM; finished weights lie in the run's folder under its name."""
    options = resolved(resumed_options(options))
    data = build_data(options)
    task = build_task(options, data)
    if not task.has_validation:
        announce("no validation windows: training goes on without, best.ckpt is the last one")
        warnings.filterwarnings("ignore", ".*across ranks is zero.*")  # Lightning's, on the same
    steps = data.steps_per_epoch(options.num_processes)
    trainer = fit(options, task, data, kept_checkpoints(options, steps))
    if trainer.is_global_zero and has_finished(trainer):
        _finish(options, has_validation=task.has_validation)
    return trainer


def _finish(options: OccupancyOptions, *, has_validation: bool) -> None:
    folder = options.run_dir / "checkpoints"
    if not has_validation:
        partial = folder / "best.ckpt.partial"
        shutil.copyfile(folder / "last.ckpt", partial)
        partial.replace(folder / "best.ckpt")
    path = options.run_dir / f"{options.expname}.safetensors"
    export_weights(load_weights(str(folder / "last.ckpt")), path)
    sys.stdout.write(f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB) and {path.with_suffix('.json').name}\n")
