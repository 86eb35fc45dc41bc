"""A toy of all parts, trained for a few steps on rendered rooms of 32x32 pixels."""

from pathlib import Path
from typing import Any

from training.vqa.options import VQAOptions


def tiny_options(base: Path, **changes: Any) -> VQAOptions:
    """A run of a few fast steps on the CPU; four samples per step."""
    values: dict[str, Any] = {
        "basedir": str(base / "runs"),
        "expname": "a",
        "dataset_name": ("rooms_qa", "rooms_captions"),
        "datadir": ("-", "-"),
        "weights": (0.5, 0.5),
        "image_size": 32,
        "max_views": 3,
        "rooms": 6,
        "val_rooms": 2,
        "token_cache": str(base / "tokens"),
        "vggt_ckpt": "ckpts/vggt_nano.safetensors",
        "vggt_layers": (0, 3),
        "image_stem": True,
        "language_model": "tiny",
        "language_dtype": "float32",
        "max_length": 128,
        "latents": 8,
        "perceiver_width": 16,
        "perceiver_layers": 1,
        "perceiver_heads": 2,
        "perceiver_ffn": 16,
        "geometry_tokens": 3,
        "lora_rank": 2,
        "samples_per_update": 4,
        "spelling_weight": 1.0,
        "lrate": 1e-2,
        "projector_lrate": 1e-2,
        "warmup_fraction": 0.0,
        "max_steps": 2,
        "save_every": 100,
        "val_every": 100,
        "num_val": 4,
        "num_workers": 0,
        "accelerator": "cpu",
        "log_every": 1,
        "max_new_tokens": 3,
    }
    return VQAOptions(**(values | changes))
