"""Options of both radiance-field scripts -> data, model and task."""

from dataclasses import asdict
from pathlib import Path

import torch

from data.novel_view.datamodule import SceneDataModule
from data.scene import PosedScene
from geometry import InputError
from models.nerf.nerf_config import Marching, NerfConfig
from models.nerf.scene_box import SceneBox
from models.nerf.vggt_nerf import VGGTNeRF
from training.backbone import load_backbone, load_recorded_backbone, require_same_backbone
from training.checkpoint import load_strictly
from training.nerf.checkpoint import load_general_weights, read_nerf_checkpoint
from training.nerf.finetune import FinetuneTask, box_of
from training.nerf.options import FinetuneOptions, GeneralOptions, TrainOptions
from training.nerf.task import NerfTask

_TOKEN_CACHE_BYTES = 4 << 30


def _marching(options: TrainOptions) -> Marching:
    background = 1.0 if options.white_bkgd else 0.0
    return Marching(options.N_samples, options.N_importance, background, options.near_far, options.N_guided)


def build_data(options: TrainOptions, *, is_per_scene: bool) -> SceneDataModule:
    """The data module that a run's options describe."""
    data = SceneDataModule(options.data_spec(is_per_scene=is_per_scene))
    for scene in data.train_scenes.values():
        if scene.white_background != options.white_bkgd:
            background = "white" if scene.white_background else "black"
            raise InputError(f"--white_bkgd {options.white_bkgd}: scene {scene.name} is composited over {background}")
    data.try_loading()
    return data


def build_general_task(options: GeneralOptions, trained_on: dict[str, list[int]]) -> NerfTask:
    """Model and task for training across scenes; takes weights from `--init_from` when given.

    `trained_on`: the training targets, for the record. A checkpoint to resume is read and compared first.
    """
    start = options.ckpt or options.init_from
    checkpoint = read_nerf_checkpoint(Path(start)) if start else None
    wants_depth = options.depth_prior or options.near_far == "auto"
    vggt, record = load_backbone(options.vggt_ckpt, options.vggt_image_size, wants_depth=wants_depth)
    torch.manual_seed(options.seed)
    is_guided = options.sampler == "guided"
    config = NerfConfig(
        token_layers=0 if is_guided else len(record.layers),
        token_channels=0 if is_guided or vggt is None else vggt.channels,
        feature_channels=options.feature_channels,
        hidden=options.hidden,
        fused=options.fused,
        depth_prior=options.depth_prior,
        sampler=options.sampler,
        sweep_planes=options.sweep_planes,
    )
    model = VGGTNeRF(vggt, config, _marching(options))
    if options.init_from:
        require_same_backbone(checkpoint.record.vggt, record, f"--init_from {options.init_from}")
        load_strictly(model, checkpoint.weights, f"checkpoint {start}")
        trained_on = merged_views(checkpoint.record.trained_on, trained_on)
    task = NerfTask(options, model, record, trained_on)
    if options.ckpt:
        task.resume(checkpoint)
    return task


def build_finetune_task(options: FinetuneOptions, scene: PosedScene) -> FinetuneTask:
    """Model and task for one scene, whose training cameras give the box of its grids."""
    checkpoint = read_nerf_checkpoint(Path(options.ckpt or options.init_from))
    start = checkpoint.record
    vggt = load_recorded_backbone(start.vggt, options.vggt_ckpt, wants_depth=options.near_far == "auto")
    torch.manual_seed(options.seed)
    config = NerfConfig(
        **{
            **asdict(start.network),
            "residual_channels": options.residual_channels,
            "residual_resolution": options.residual_resolution,
            "scene_field": options.scene_field,
        }
    )
    if options.scene_field and not (config.sampler == "guided" and config.depth_prior):
        raise InputError(
            "--scene_field joins the sweep of the guided sampler in the place of VGGT's depth: expected a checkpoint "
            f"trained with --sampler guided --depth_prior, got {config.sampler}, depth prior {config.depth_prior}"
        )
    model = VGGTNeRF(vggt, config, _marching(options), cache_bytes=_TOKEN_CACHE_BYTES)
    if options.init_from:
        if start.task != "general":
            raise InputError(f"--init_from {options.init_from}: expected a general checkpoint, got a {start.task} one")
        load_general_weights(model, checkpoint)
    else:
        load_strictly(model, checkpoint.weights, f"checkpoint {options.ckpt}")
    box = box_of(model, scene)
    for part in model.modules():
        if isinstance(part, SceneBox):
            part.place(*box)
    trained_on = merged_views(start.trained_on, {scene.scan: sorted(scene.train_views)})
    task = FinetuneTask(options, model, start.vggt, trained_on, scene)
    if options.ckpt:
        task.resume(checkpoint)
    return task


def merged_views(one: dict[str, list[int]], other: dict[str, list[int]]) -> dict[str, list[int]]:
    """Union of view numbers by scan."""
    return {scan: sorted({*one.get(scan, ()), *other.get(scan, ())}) for scan in sorted({*one, *other})}
