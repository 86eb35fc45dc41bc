"""Options of train_mapanything.py -> network, task and data."""

from dataclasses import replace
from pathlib import Path

import torch

from data.multi_view.datamodule import FrameDataModule, build_evaluation_data, build_frame_data
from models.mapanything import MapAnything
from models.mapanything.weights import start_from_dinov2
from models.vggt import WeightIdentity
from training.checkpoint import read_checkpoint
from training.mapanything.checkpoint import MAPANYTHING_TRAINING, load_weights, network_of_config
from training.mapanything.options import MapAnythingOptions
from training.mapanything.task import MapAnythingTask


def build_task(options: MapAnythingOptions) -> MapAnythingTask:
    """Network and task.

    The weights come from `--init_from`, else `--model_ckpt`, else they are random in the sizes of `--model_config`, but
    for what `--dinov2_ckpt` gives. A run to resume gets the sizes of its record; its weights are loaded by the trainer.
    """
    torch.manual_seed(options.seed)
    if options.ckpt:
        checkpoint = read_checkpoint(Path(options.ckpt), MAPANYTHING_TRAINING)
        start = WeightIdentity(checkpoint.record.start, checkpoint.record.start_sha256)
        task = MapAnythingTask(options, MAPANYTHING_TRAINING.build(checkpoint.record), start)
        task.resume(checkpoint)
        return task
    source = options.init_from or options.model_ckpt
    if source:
        return MapAnythingTask(options, *load_weights(source, options.model))
    start = WeightIdentity(f"random:{options.model_config or options.model}:{options.seed}", "")
    network = network_of_config(options.model, options.model_config)
    if options.dinov2_ckpt:
        assert isinstance(network, MapAnything)
        start = start_from_dinov2(network, options.dinov2_ckpt)
    return MapAnythingTask(options, network, start)


def build_data(options: MapAnythingOptions, patch_size: int) -> FrameDataModule:
    """Training mixture and validation groups.

    One sample of each is read at once, so that broken files stop a run before it leaves anything.
    """
    data = build_frame_data(options.data_spec(patch_size, needs_depth=True))
    data.train_frames()[data.sampler().keys_of(0)[0]]
    data.val_frames()[data.val_keys[0]]
    return data


def build_evaluation(options: MapAnythingOptions, patch_size: int) -> FrameDataModule:
    """Groups of the test scans, or of `--scans`, that `--eval_protocol` chooses."""
    spec = options.data_spec(patch_size, needs_depth=True)
    return build_evaluation_data(replace(spec, num_val=options.max_groups or None))
