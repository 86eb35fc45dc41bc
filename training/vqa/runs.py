"""What train_vqa.py does: train and export, export only, or merge."""

import sys
from pathlib import Path

import pytorch_lightning as pl
import torch

from geometry import require
from models.vggt import WeightIdentity
from models.vqa.weights import save_weights
from training.endings import has_finished
from training.files import staged_file, staged_folder
from training.launch import require_one_process, resolved
from training.trainer import fit
from training.vqa.build import build_data, build_task, load_vggt_of
from training.vqa.checkpoint import load_vqa
from training.vqa.options import VQAOptions


def train_run(options: VQAOptions) -> pl.Trainer:
    """Train to the end; what was trained lies in the run's folder under its name."""
    options = resolved(options)
    vggt, record = load_vggt_of(options, options.config)
    data = build_data(options, vggt, options.config_for(vggt.channels))
    task = build_task(options, vggt, record, data)
    trainer = fit(options, task, data)
    if trainer.is_global_zero and has_finished(trainer):
        last = options.run_dir / "checkpoints" / "last.ckpt"
        _export(options, str(last), options.run_dir / f"{options.expname}.safetensors")
    return trainer


def export_run(options: VQAOptions) -> None:
    """What was trained of `--init_from` as a file."""
    require_one_process("--export")
    _export(options, options.init_from, Path(options.export))


def merge_run(options: VQAOptions) -> None:
    """The language model of `--init_from` with its adapters in its weights, as a folder for transformers."""
    require_one_process("--merge")
    folder = Path(options.merge)
    require(
        not folder.exists() or (folder.is_dir() and not any(folder.iterdir())),
        f"--merge {folder}: expected a new or an empty folder, got one with files; transformers would read them, too",
    )
    loaded = load_vqa(options.init_from, options.language_model, dtype=getattr(torch, options.language_dtype))
    with staged_folder(folder) as staging:
        loaded.network.language.save_merged(staging)
    sys.stdout.write(f"wrote {options.merge}: the language model with merged adapters\n")


def _export(options: VQAOptions, source: str, path: Path) -> None:
    loaded = load_vqa(source, options.language_model)
    vggt = WeightIdentity(loaded.vggt.source, loaded.vggt.sha256)
    with staged_file(path, "--export") as partial:
        save_weights(
            partial,
            loaded.network,
            vggt,
            loaded.vggt.image_size,
            dtype=getattr(torch, options.export_dtype),
            about={"options": loaded.options},
        )
    sys.stdout.write(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB, {options.export_dtype})\n")
