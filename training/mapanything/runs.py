"""What train_mapanything.py does: train and export, or export only."""

import sys
from pathlib import Path

import pytorch_lightning as pl

from training.endings import has_finished
from training.launch import require_one_process, resolved
from training.mapanything.build import build_data, build_task
from training.mapanything.checkpoint import export_weights, load_weights
from training.mapanything.options import MapAnythingOptions
from training.trainer import fit


def train_run(options: MapAnythingOptions) -> pl.Trainer:
    """Train to the end; the finished weights lie in the run's folder under its name."""
    options = resolved(options)
    task = build_task(options)
    data = build_data(options, task.network[0].patch_size)
    trainer = fit(options, task, data)
    if trainer.is_global_zero and has_finished(trainer):
        last = options.run_dir / "checkpoints" / "last.ckpt"
        _export(options, str(last), options.run_dir / f"{options.expname}.safetensors")
    return trainer


def export_run(options: MapAnythingOptions) -> None:
    """Weights of `--init_from` as a file for `--model_ckpt`."""
    require_one_process("--export")
    _export(options, options.init_from, Path(options.export))


def _export(options: MapAnythingOptions, source: str, path: Path) -> None:
    network, identity = load_weights(source, options.model)
    export_weights(network, path, dtype=options.export_dtype, metadata={"exported_from": identity.sha256})
    size = path.stat().st_size / 1e6
    sys.stdout.write(f"wrote {path} ({size:.1f} MB, {options.export_dtype}) and {path.with_suffix('.json').name}\n")
