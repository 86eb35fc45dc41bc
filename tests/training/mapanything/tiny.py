"""A MapAnything of a few thousand weights, trained for a few steps on tiny scenes."""

import json
from pathlib import Path
from typing import Any

from training.mapanything.options import MapAnythingOptions

SIZES: dict[str, Any] = {
    "patch_size": 8,
    "embed_dim": 16,
    "image_encoder": "vit",
    "pos_embed_grid": 5,
    "encoder_blocks": 1,
    "encoder_heads": 2,
    "encoder_mlp": "mlp",
    "sharing_dim": 16,
    "blocks": 4,
    "heads": 2,
    "mlp": "mlp",
    "taps": [1, 2],
    "init_values": 1.0,
    "dense_encoder_dims": [8],
    "global_encoder_dims": [8],
    "dpt_feature_dim": 8,
    "dpt_layer_dims": [8, 8, 8, 8],
    "pose_hidden": 16,
    "scale_hidden": 8,
}
IMAGES_ONLY = {"reference_view_marked": False, "takes_geometry": False, "predicts_scale": False}


def write_sizes(folder: Path, **changes: Any) -> Path:
    """The JSON file of the tiny network."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "sizes.json"
    path.write_text(json.dumps(SIZES | changes))
    return path


def tiny_options(datadir: Path, base: Path, **changes: Any) -> MapAnythingOptions:
    """A run of a few fast steps on the CPU; 40x32 images, two groups per step."""
    values: dict[str, Any] = {
        "model_config": str(write_sizes(base)),
        "dataset_name": ("dtu",),
        "datadir": (str(datadir),),
        "basedir": str(base / "runs"),
        "expname": "a",
        "image_size": 40,
        "aspect": (0.8,),
        "n_views": (2, 3),
        "max_img_per_gpu": 6,
        "eval_views": 3,
        "len_train": (1000,),
        "lrate": 1e-3,
        "lrate_final": 1e-5,
        "max_steps": 2,
        "val_every": 100,
        "save_every": 100,
        "num_val": 1,
        "num_workers": 0,
        "accelerator": "cpu",
        "log_every": 1,
    }
    return MapAnythingOptions(**(values | changes))
