"""What train_general.py and train_finetune.py do."""

from collections.abc import Sequence

import pytorch_lightning as pl

from models.nerf.samplers import SAMPLERS
from training.endings import has_finished
from training.launch import resolved
from training.nerf.budget import planned
from training.nerf.build import (
    build_data,
    build_finetune_task,
    build_general_task,
    build_scene_field_task,
    read_finetune_start,
)
from training.nerf.loss_weights import with_loss_weights
from training.nerf.options import FinetuneOptions, GeneralOptions
from training.trainer import fit


def general_run(options: GeneralOptions) -> pl.Trainer:
    """Train across scenes."""
    options = resolved(options)
    data = build_data(options, is_per_scene=False)
    options = with_loss_weights(
        options,
        SAMPLERS[options.sampler],
        has_depth=data.has_depth,
        is_per_scene=False,
        is_depth_partial=data.is_depth_partial,
    )
    return fit(options, build_general_task(options, data.trained_on), data)


def finetune_run(options: FinetuneOptions, callbacks: Sequence[pl.Callback] = ()) -> pl.Trainer:
    """Train on one scene: with `--scene_field` first its field, then the rest. `callbacks` beside those of every run.

    Both parts write the run's last.ckpt; `--ckpt` goes on with the part that it is of.
    """
    options = resolved(options)
    data = build_data(options, is_per_scene=True)
    (scene,) = data.train_scenes.values()
    start = read_finetune_start(options)
    renderer = SAMPLERS[start.checkpoint.record.renderer.sampler]
    options = with_loss_weights(options, renderer, has_depth=data.has_depth, is_per_scene=True)
    options = planned(options, data, start)
    field = None
    if options.scene_field and start.is_before_the_field:
        task = build_scene_field_task(options, scene, start)
        task.validated_on = data.validated_on
        trainer = fit(options, task, data, callbacks)
        if not has_finished(trainer):
            return trainer
        field = task.field
    data.steps_before = options.steps_of_field
    task = build_finetune_task(options, scene, start, field)
    task.validated_on = data.validated_on
    return fit(options, task, data, callbacks, is_continued=field is not None)
