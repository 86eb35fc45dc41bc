"""Options of train_vggt.py -> network, task and data."""

from dataclasses import replace
from pathlib import Path

import torch

from data.multi_view.datamodule import FrameDataModule, build_evaluation_data, build_frame_data
from data.problems import announce
from geometry import InputError, require
from models.vggt import VGGT, VGGTConfig, WeightIdentity
from models.vggt.config import MissingHeadError
from training.checkpoint import read_checkpoint
from training.vggt.checkpoint import VGGT_TRAINING, load_weights
from training.vggt.options import VGGTOptions
from training.vggt.task import VGGTTask


def build_vggt_task(options: VGGTOptions) -> VGGTTask:
    """Network with the heads that are trained, and its task.

    The weights come from `--init_from`, else `--vggt_ckpt`, else they are random in the sizes of `--vggt_config`. A
    run to resume gets the sizes of its record; its weights are loaded by the trainer.
    """
    torch.manual_seed(options.seed)  # of random weights, and of low-rank changes to given ones
    heads = options.trained_heads
    if options.ckpt:
        checkpoint = read_checkpoint(Path(options.ckpt), VGGT_TRAINING)
        start = WeightIdentity(checkpoint.record.start, checkpoint.record.start_sha256)
        task = VGGTTask(options, VGGT_TRAINING.build(checkpoint.record), start)
        task.resume(checkpoint)
        return task
    source = options.init_from or options.vggt_ckpt
    if source:
        try:
            model, start = load_weights(source, heads, options.new_heads, options.seed)
        except MissingHeadError as error:
            raise InputError(f"{source}: {error}; --new_heads starts one from fresh weights") from None
        if options.new_heads:
            announce(f"new heads, fresh weights of seed {options.seed}: {', '.join(options.new_heads)}")
        return VGGTTask(options, model, start)
    config = VGGTConfig.read(options.vggt_config) if options.vggt_config else VGGTConfig()
    start = WeightIdentity(f"random:{options.vggt_config or 'VGGT-1B'}:{options.seed}", "")
    return VGGTTask(options, VGGT(config.with_heads(heads)), start)


def build_vggt_data(options: VGGTOptions, patch_size: int) -> FrameDataModule:
    """Training mixture and validation groups.

    One sample of each is read at once, so that broken files stop a run before it leaves anything.
    """
    data = build_frame_data(options.data_spec(patch_size, needs_depth=options.needs_depth))
    data.train_frames()[data.sampler().keys_of(0)[0]]
    data.val_frames()[data.val_keys[0]]
    return data


def require_size_for_tracks(options: VGGTOptions, config: VGGTConfig) -> None:
    """Refuse images whose flattest form is too small for the track head, which training may draw at any step.

    Raises:
        InputError: naming --image_size and --aspect.
    """
    if config.track_head is None:
        return
    low, high = options.aspect_range
    shape = options.batch_shape(config.aggregator.patch_size)
    height, width = min((shape.size(aspect) for aspect in shape.aspect), key=min)
    require(
        min(height, width) >= config.track_head.smallest_image,
        f"--image_size {options.image_size} --aspect {low:g} {high:g}: expected images of at least "
        f"{config.track_head.smallest_image} pixels along each side for the track head, got down to "
        f"{width}x{height} (width x height)",
    )


def build_vggt_evaluation(options: VGGTOptions, patch_size: int) -> FrameDataModule:
    """Groups of the test scans, or of `--scans`, that `--eval_protocol` chooses."""
    groups = options.max_groups or None
    spec = options.data_spec(patch_size, needs_depth=options.needs_depth)
    return build_evaluation_data(replace(spec, num_val=groups))
