"""What train_vggt.py does: train and export, or export only."""

from pathlib import Path

import pytorch_lightning as pl

from models.vggt import VGGTConfig
from training.trainer import fit
from training.vggt_build import build_vggt_data, build_vggt_task
from training.vggt_checkpoint import export_weights, load_weights
from training.vggt_options import VGGTOptions


def train_run(options: VGGTOptions) -> pl.Trainer:
    """Train to the end; the finished weights lie in the run's folder under its name."""
    task = build_vggt_task(options)
    data = build_vggt_data(options, task.model.config.aggregator.patch_size)
    trainer = fit(options, task, data)
    if trainer.is_global_zero and trainer.state.finished:
        path = options.run_dir / f"{options.expname}.safetensors"
        _export(options, task.plain_state(), task.model.config, path, task.commit)
    return trainer


def export_run(options: VGGTOptions) -> None:
    """Weights of `--init_from` as a file for `load_vggt`."""
    model, identity = load_weights(options.init_from)
    _export(options, model.state_dict(), model.config, Path(options.export), identity.sha256)


def _export(options: VGGTOptions, state: dict, config: VGGTConfig, path: Path, origin: str) -> None:
    export_weights(state, config, path, dtype=options.export_dtype, metadata={"origin": origin})
    size = path.stat().st_size / 1e6
    print(f"wrote {path} ({size:.1f} MB, {options.export_dtype}) and {path.with_suffix('.json').name}")  # noqa: T201
