"""A VGGT of a few thousand weights, trained for a few steps on tiny scenes."""

import json
from pathlib import Path
from typing import Any

import torch

from geometry import FrameBatch, Traits
from tests.scenes import random_views
from training.checkpoint import read_checkpoint
from training.vggt.checkpoint import VGGT_TRAINING
from training.vggt.options import VGGTOptions

_DENSE = {"intermediate_layer_idx": [0, 0, 1, 1], "features": 8, "out_channels": [8, 8, 8, 8]}
_TRACK = {
    "iters": 2,
    "feature_extractor": {**_DENSE, "features": 8},
    "tracker": {"corr_levels": 2, "corr_radius": 1, "latent_dim": 8, "hidden_size": 16, "depth": 1, "max_scale": 40},
}
SIZES: dict[str, Any] = {
    "aggregator": {
        "img_size": 40,
        "patch_size": 8,
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "num_register_tokens": 1,
        "patch_embed": "conv",
    },
    "camera_head": {"trunk_depth": 1, "num_heads": 2},
    "depth_head": _DENSE,
    "point_head": _DENSE,
    "track_head": _TRACK,
}


def write_sizes(folder: Path) -> Path:
    """The JSON file of the tiny network."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "sizes.json"
    path.write_text(json.dumps(SIZES))
    return path


def tiny_options(datadir: Path, base: Path, **changes: Any) -> VGGTOptions:
    """A run of a few fast steps on the CPU; 40x32 images, two groups per step."""
    values: dict[str, Any] = {
        "vggt_config": str(write_sizes(base)),
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
        "expand_ratio": (3.0,),
        "lrate": 1e-3,
        "max_steps": 2,
        "val_every": 100,
        "save_every": 100,
        "num_val": 1,
        "num_workers": 0,
        "accelerator": "cpu",
        "log_every": 1,
    }
    return VGGTOptions(**(values | changes))


def frame_batch(groups: int, views: int = 3) -> FrameBatch:
    """Noise with cameras and depth, 40x32; the last group lacks most of its depth."""
    items = []
    for index in range(groups):
        one = random_views(views, seed=index, height=32, width=40)
        if index == groups - 1:
            one.depth[:, 12:] = 0
        items.append(FrameBatch(one, (f"scene{index}",), torch.tensor(index + 5), (Traits(),)))
    return FrameBatch.stack(items)


def contents_of(options: VGGTOptions, name: str = "last") -> dict[str, Any]:
    """A checkpoint of a run."""
    return read_checkpoint(options.run_dir / "checkpoints" / f"{name}.ckpt", VGGT_TRAINING).contents


def assert_same_tensors(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
