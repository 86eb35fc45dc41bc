"""What train_vggt.py does: train and export, or export only."""

import sys
from pathlib import Path

import pytorch_lightning as pl

from training.endings import has_finished
from training.launch import require_one_process, resolved
from training.trainer import fit
from training.vggt.build import build_vggt_data, build_vggt_task, require_size_for_tracks
from training.vggt.checkpoint import export_weights, load_weights
from training.vggt.options import VGGTOptions


def train_run(options: VGGTOptions) -> pl.Trainer:
    """Train to the end; the finished weights lie in the run's folder under its name."""
    options = resolved(options)
    task = build_vggt_task(options)
    require_size_for_tracks(options, task.model.config)
    data = build_vggt_data(options, task.model.config.aggregator.patch_size)
    trainer = fit(options, task, data)
    if trainer.is_global_zero and has_finished(trainer):
        last = options.run_dir / "checkpoints" / "last.ckpt"
        _export(options, str(last), options.run_dir / f"{options.expname}.safetensors")
    return trainer


def export_run(options: VGGTOptions) -> None:
    """Weights of `--init_from` as a file for `load_vggt`."""
    require_one_process("--export")
    _export(options, options.init_from, Path(options.export))


def _export(options: VGGTOptions, source: str, path: Path) -> None:
    model, identity = load_weights(source)
    metadata = {"exported_from": identity.sha256}
    export_weights(model.state_dict(), model.config, path, dtype=options.export_dtype, metadata=metadata)
    size = path.stat().st_size / 1e6
    sys.stdout.write(f"wrote {path} ({size:.1f} MB, {options.export_dtype}) and {path.with_suffix('.json').name}\n")
