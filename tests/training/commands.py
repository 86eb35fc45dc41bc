"""The training scripts as a user runs them, on tiny data with a tiny backbone."""

import sys
from pathlib import Path

from tests.render.tiny import write_backbone
from training.options import RunOptions


def tiny_arguments(script: str, datadir: Path, basedir: Path, *more: str) -> list[str]:
    """A command that trains a few fast steps."""
    common = ["--dataset_name", "dtu", "--datadir", str(datadir), "--basedir", str(basedir)]
    common += ["--rays_per_step", "16", "--num_workers", "0"]
    common += [] if "--N_guided" in more else ["--N_samples", "4", "--N_importance", "2"]
    common += ["--accelerator", "cpu", "--warmup_steps", "2", "--num_val", "1", "--val_every", "100"]
    if script == "train_general.py":
        backbone = write_backbone(basedir.parent / "backbone.json")
        common += ["--vggt_ckpt", f"random:{backbone}", "--vggt_image_size", "0"]
        common += ["--feature_channels", "8", "--hidden", "8", "--fused", "8"]
    else:
        common += ["--residual_channels", "2", "--residual_resolution", "8"]
        common += ["--surface_views", "2"] if "--scene_field" in more and "--surfaces" not in more else []
    return [sys.executable, script, *common, *more]


def command_line(options: RunOptions) -> list[str]:
    """The same as arguments of the task's script; what is a default is left out."""
    arguments = []
    for name, value in vars(options).items():
        if value == getattr(type(options), name):
            continue
        if isinstance(value, bool):
            arguments.append(f"--{name}" if value else f"--no-{name}")
        else:
            arguments += [f"--{name}", *(str(one) for one in (value if isinstance(value, tuple) else (value,)))]
    return arguments
