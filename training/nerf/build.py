"""Options of both radiance-field scripts -> data, model and task."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch

from data.novel_view.datamodule import SceneDataModule
from data.readers.registry import announce_own_split
from data.scene import PosedScene
from geometry import InputError, require
from models.nerf.guided.scene_field import SceneField
from models.nerf.renderer import NearFar
from models.nerf.samplers import SAMPLERS, SIZES_OF_MAPS, RendererSpec, require_own_options
from models.nerf.scene_box import SceneBox
from models.nerf.vggt_nerf import VGGTNeRF
from models.vggt.frozen import FrozenVGGT
from training.backbone import (
    VGGTRecord,
    load_backbone,
    load_recorded_backbone,
    replaced_backbone,
    require_same_backbone,
)
from training.checkpoint import Checkpoint, load_strictly, read_checkpoint
from training.nerf.checkpoint import (
    NERF,
    SCENE_FIELD,
    NerfRecord,
    camera_centers,
    load_general_weights,
    read_nerf_checkpoint,
    require_same_scene,
    with_new_parts,
)
from training.nerf.finetune import FinetuneTask, SceneFieldTask, box_of
from training.nerf.options import FinetuneOptions, GeneralOptions, TrainOptions
from training.nerf.task import GeneralTask

_TOKEN_CACHE_BYTES = 4 << 30
"""Of VGGT's tokens of one scene, which fine-tuning computes once per set of source views."""


def build_data(options: TrainOptions, *, is_per_scene: bool) -> SceneDataModule:
    """The data module that a run's options describe."""
    data = SceneDataModule(options.data_spec(is_per_scene=is_per_scene))
    for scene in data.train_scenes.values():
        if scene.white_background != options.white_bkgd:
            background = "white" if scene.white_background else "black"
            raise InputError(f"--white_bkgd {options.white_bkgd}: scene {scene.name} is composited over {background}")
    announce_own_split(options.reader_options(), data.train_scenes.values())
    require(
        not options.depth_loss or data.with_depth > 0,
        f"--depth_loss {options.depth_loss}: expected depth maps, got none for {len(data.train_targets)} targets",
    )
    data.try_loading()
    return data


def build_general_task(options: GeneralOptions, trained_on: dict[str, list[int]]) -> GeneralTask:
    """Model and task for training across scenes; takes weights from `--init_from` when given.

    `trained_on`: the training targets, for the record. A checkpoint to resume is read and compared first.
    """
    start = options.ckpt or options.init_from
    checkpoint = read_nerf_checkpoint(Path(start)) if start else None
    vggt, backbone = load_backbone(
        options.vggt_ckpt,
        options.vggt_image_size,
        wants_depth=options.wants_depth or options.near_far == "auto",
        layers=options.vggt_layers or None,
    )
    torch.manual_seed(options.seed)
    is_read = bool(options.vggt_layers) or SAMPLERS[options.sampler].has_default_layers
    layers, channels = (len(backbone.layers), vggt.channels) if is_read and vggt is not None else (0, 0)
    tokens = {"token_layers": layers, "token_channels": channels}
    spec = _spec(options.sampler, options, tokens)
    model = VGGTNeRF(vggt, spec.build())
    vggt_before = () if checkpoint is None else checkpoint.record.vggt_before
    if checkpoint is not None and not options.ckpt:
        before = checkpoint.record
        require(
            (before.task, before.renderer.sampler) == (GeneralTask.task, options.sampler),
            f"--init_from {start}: expected a general checkpoint with --sampler {options.sampler}, "
            f"got a {before.task} one with --sampler {before.renderer.sampler}",
        )
        if before.renderer.config.reads_tokens:
            require(
                model.network.reads_tokens,
                f"--vggt_layers: --init_from {start} was trained with tokens of layers {list(before.vggt.layers)}",
            )
            require_same_backbone(before.vggt, backbone, f"--init_from {options.init_from}")
        for name in ("fine_depth", "sample_volume"):
            had = getattr(before.renderer.config, name, False)
            require(
                getattr(options, name) or not had,
                f"--{name}: expected it beside --init_from {start}, which was trained with it",
            )
        is_told_depth = before.renderer.config.depth_prior
        require(
            options.depth_prior == is_told_depth,
            f"--depth_prior {options.depth_prior}: --init_from {start} was trained with --depth_prior {is_told_depth}",
        )
        load_strictly(model, with_new_parts(model, checkpoint.weights), f"checkpoint {start}")
        trained_on = merged_views(checkpoint.record.trained_on, trained_on)
        vggt_before += replaced_backbone(before.vggt, backbone, reads_tokens=model.network.reads_tokens)
    task = GeneralTask(options, model, spec, backbone, trained_on, vggt_before)
    if checkpoint is not None and options.ckpt:
        task.resume(checkpoint)
    return task


@dataclass(frozen=True)
class FinetuneStart:
    """What fine-tuning starts from: read once, for both of its parts."""

    checkpoint: Checkpoint[NerfRecord, VGGTNeRF]
    """Of a general model, or one of this run to go on from."""
    vggt: FrozenVGGT | None
    vggt_record: VGGTRecord
    vggt_before: tuple[VGGTRecord, ...] = ()
    """See `NerfRecord`."""

    @property
    def is_before_the_field(self) -> bool:
        """Whether the scene's own field has still to be learned, or is being learned."""
        return self.checkpoint.record.task != FinetuneTask.task


def read_finetune_start(options: FinetuneOptions) -> FinetuneStart:
    """The checkpoint of `--ckpt` or `--init_from`, and its backbone.

    Raises:
        InputError: for a checkpoint that cannot be fine-tuned, or options that its sampler does not have.
    """
    checkpoint = read_checkpoint(Path(options.ckpt or options.init_from), NERF, SCENE_FIELD)
    record = checkpoint.record
    if not options.ckpt and record.task != "general":
        raise InputError(f"--init_from {options.init_from}: expected a general checkpoint, got a {record.task} one")
    require_own_options(record.renderer.sampler, options, f"the model of {checkpoint.path}")
    if options.scene_field and not record.renderer.config.depth_prior:
        raise InputError(
            "--scene_field stands where VGGT's depth stood: expected a checkpoint trained with --depth_prior, "
            f"got {checkpoint.path}, which was not"
        )
    vggt, used = load_recorded_backbone(
        record.vggt,
        options.vggt_ckpt,
        wants_depth=options.near_far == "auto" or record.renderer.config.depth_prior,
        image_size=options.vggt_image_size,
        may_differ=not options.ckpt and not record.renderer.config.reads_tokens,
    )
    return FinetuneStart(checkpoint, vggt, used, record.vggt_before + replaced_backbone(record.vggt, used))


def build_scene_field_task(options: FinetuneOptions, scene: PosedScene, start: FinetuneStart) -> SceneFieldTask:
    """The first part of fine-tuning with `--scene_field`: the field, and the general model that it learns from."""
    record = start.checkpoint.record
    spec = _spec(record.renderer.sampler, options, asdict(record.renderer.config) | _given_sizes(options))
    model = VGGTNeRF(start.vggt, spec.build(), cache_bytes=_TOKEN_CACHE_BYTES)
    load_strictly(model, start.checkpoint.weights, f"checkpoint {start.checkpoint.path}")
    field = SceneField(options.scene_field, spec.background, is_open=spec.near_far == "open")
    field.set_bounds(*box_of(model, scene))
    about = (spec, start.vggt_record, _trained_on(record, scene), start.vggt_before)
    task = SceneFieldTask(options, model, *about, scene=scene, field=field)
    task.centers = camera_centers(scene)
    if options.ckpt:
        require_same_scene(record.centers, scene, start.checkpoint.path)
        task.resume(start.checkpoint)
    return task


def build_finetune_task(
    options: FinetuneOptions, scene: PosedScene, start: FinetuneStart, field: SceneField | None = None
) -> FinetuneTask:
    """Model and task for one scene, whose training cameras give the box of its grids.

    `field`: what the first part has learned, unless `--ckpt` goes on with the second.
    """
    record = start.checkpoint.record
    torch.manual_seed(options.seed)
    parts = ("residual_channels", "residual_resolution", *(("scene_field",) if options.scene_field else ()))
    own = {name: getattr(options, name) for name in parts} | _given_sizes(options)
    spec = _spec(record.renderer.sampler, options, asdict(record.renderer.config) | own)
    model = VGGTNeRF(start.vggt, spec.build(), cache_bytes=_TOKEN_CACHE_BYTES)
    task = FinetuneTask(options, model, spec, start.vggt_record, _trained_on(record, scene), start.vggt_before)
    task.centers = camera_centers(scene)
    if options.ckpt and field is None:
        require_same_scene(record.centers, scene, start.checkpoint.path)
        task.resume(start.checkpoint)
        load_strictly(model, start.checkpoint.weights, f"checkpoint {start.checkpoint.path}")
    else:
        load_general_weights(model, start.checkpoint)
    if field is not None:
        model.network.get_submodule("scene_field").load_state_dict(field.state_dict())
    box = box_of(model, scene)
    for part in model.modules():
        if isinstance(part, SceneBox):
            part.set_bounds(*box)
    return task


def _spec(sampler: str, options: TrainOptions, shapes: dict[str, Any]) -> RendererSpec:
    """A renderer of those shapes or else the options', with rays marched as the options say."""
    background, near_far = 1.0 if options.white_bkgd else 0.0, cast(NearFar, options.near_far)
    return RendererSpec.from_options(sampler, asdict(options) | shapes, background=background, near_far=near_far)


def _given_sizes(options: TrainOptions) -> dict[str, Any]:
    """Of feature maps, where they are not those of the general model."""
    sizes = {name: getattr(options, name) for name in SIZES_OF_MAPS}
    return {name: size for name, size in sizes.items() if size is not None}


def _trained_on(start: NerfRecord, scene: PosedScene) -> dict[str, list[int]]:
    return merged_views(start.trained_on, {scene.scan: sorted(scene.train_views)})


def merged_views(one: dict[str, list[int]], other: dict[str, list[int]]) -> dict[str, list[int]]:
    """Union of view numbers by scan."""
    return {scan: sorted({*one.get(scan, ()), *other.get(scan, ())}) for scan in sorted({*one, *other})}
