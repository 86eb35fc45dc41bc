"""Runs of a few steps on procedural worlds of 8 x 8 x 4 voxels."""

from pathlib import Path
from typing import Any

from training.occupancy.options import OccupancyOptions

OCCWORLD = {
    "tokenizer": {
        "num_classes": 2,
        "expansion": 2,
        "heights": 4,
        "width": 8,
        "multipliers": [1, 1],
        "blocks": 1,
        "attention_sizes": [],
        "plane": 8,
        "z_channels": 8,
        "num_codes": 16,
        "code_channels": 8,
    },
    "transformer": {"frames": 4, "channels": [8, 8], "pose_layers": 1, "temporal_layers": 1, "heads": 2},
    "pose_channels": 8,
}


def tiny_options(base: Path, **changes: Any) -> OccupancyOptions:
    """Two windows per step, two validation worlds."""
    values: dict[str, Any] = {
        "basedir": str(base),
        "expname": "a",
        "grid_min": (-16.0, -16.0, -2.0),
        "grid_max": (16.0, 16.0, 14.0),
        "voxel": (4.0, 4.0, 4.0),
        "history": 2,
        "future": 2,
        "num_worlds": 6,
        "num_val_worlds": 2,
        "batch_size": 2,
        "width": 8,
        "levels": 1,
        "steps_per_window": 1,
        "lrate": 1e-3,
        "warmup_steps": 1,
        "max_steps": 2,
        "save_every": 100,
        "val_every": 100,
        "keep_every": 0,
        "num_workers": 0,
        "accelerator": "cpu",
        "log_every": 1,
    }
    return OccupancyOptions(**(values | changes))
