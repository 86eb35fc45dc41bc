"""Checkpoints of radiance fields: what they record, and how their models come back."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.scene import PosedScene
from geometry import InputError, require
from models.nerf.renderer import NearFar
from models.nerf.samplers import RendererSpec
from models.nerf.scene_box import SceneBox
from models.nerf.vggt_nerf import VGGTNeRF
from training.backbone import VGGTRecord, load_recorded_backbone
from training.checkpoint import Checkpoint, CheckpointKind, CheckpointRecord, load_strictly, read_checkpoint

_MOVED = 0.01
"""Of the mean distance of cameras from their middle: more than what other digits of the same file are."""


@dataclass(frozen=True, kw_only=True)
class NerfRecord(CheckpointRecord):
    """All that is needed to rebuild the model of a checkpoint."""

    task: str
    """`general`, `scene_field` or `finetune`."""
    renderer: RendererSpec
    vggt: VGGTRecord
    trained_on: dict[str, list[int]]
    """View numbers that were training targets, by scan; for a fine-tuned model those of its general model too."""
    vggt_before: tuple[VGGTRecord, ...] = ()
    """Other backbones that its first weights (`--init_from`) were trained with, the earliest first."""
    validated_on: dict[str, list[int]] = field(default_factory=dict)
    """View numbers of validation that training did without, by scan: those that `--val_views` kept of a fine-tuning."""
    centers: dict[int, list[float]] = field(default_factory=dict)
    """Of a fine-tuned model: where the cameras of its training views are, world, scene units."""

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "NerfRecord":
        """See `CheckpointRecord`."""
        before = tuple(_vggt_record(one) for one in plain.get("vggt_before", ()))
        vggt = {"vggt": _vggt_record(plain["vggt"]), "vggt_before": before}
        return cls(**{**plain, "renderer": RendererSpec.from_plain(plain["renderer"]), **vggt})


def _vggt_record(plain: dict[str, Any]) -> VGGTRecord:
    lists: dict[str, Any] = {name: tuple(plain[name]) for name in ("layers", "heads") if name in plain}
    return VGGTRecord(**plain | lists)


def _build(
    record: NerfRecord,
    vggt_ckpt: str = "",
    near_far: NearFar | None = None,
    samples: Mapping[str, int | None] | None = None,
    vggt_image_size: int | None = None,
    background: float | None = None,
) -> VGGTNeRF:
    """`vggt_ckpt`: where the backbone lies now, or another one for a network that reads no tokens.

    `near_far`, `samples` (see `RendererSpec.with_samples`), `vggt_image_size`, `background`: if not as trained.
    """
    spec = replace(
        record.renderer.with_samples(samples or {}),
        near_far=near_far or record.renderer.near_far,
        background=record.renderer.background if background is None else background,
    )
    is_open, was_open = (one.near_far == "open" for one in (spec, record.renderer))
    require(
        is_open == was_open or not getattr(spec.config, "scene_field", 0),
        f"--near_far {spec.near_far}: the field of this scene was learned with --near_far {record.renderer.near_far}",
    )
    network = spec.build()
    vggt, _ = load_recorded_backbone(
        record.vggt,
        vggt_ckpt,
        wants_depth=network.reads_depth,
        image_size=vggt_image_size,
        may_differ=not network.reads_tokens,
    )
    return VGGTNeRF(vggt, network)


def camera_centers(scene: PosedScene) -> dict[int, list[float]]:
    """Of the training views, world, scene units: what `require_same_scene` knows a scene by."""
    return {view: scene.frames[view].center.tolist() for view in scene.train_views}


def require_same_scene(trained: Mapping[int, list[float]], scene: PosedScene, path: Path) -> None:
    """Refuse a scene other than the one that a model was fine-tuned on, though it may be called the same.

    `trained`: the record's `centers`; `path`: of the checkpoint.

    Raises:
        InputError: when none of the training views of then is there, or one of their cameras is not where it was, by
            more than 1 % of their mean distance from the middle.
    """
    if not trained:  # a general model, or a checkpoint of before
        return
    kept = [view for view in trained if view in scene.frames]
    then = torch.tensor(list(trained.values()))
    size = (then - then.mean(0)).norm(dim=-1).mean().item()
    away = [math.dist(scene.frames[view].center.tolist(), trained[view]) for view in kept]
    moved = not kept or max(away) > max(_MOVED * size, 1e-9)
    require(
        not moved,
        f"checkpoint {path}: expected the scene that it was fine-tuned on, got a scene {scene.name} whose "
        f"cameras are elsewhere: {scene.frames[next(iter(scene.frames))].image_path.parent}",
    )


_WRITTEN_BY = "train_general.py or train_finetune.py"
NERF = CheckpointKind("vggt_nerf", _WRITTEN_BY, NerfRecord, _build)
SCENE_FIELD = CheckpointKind("vggt_nerf_scene_field", _WRITTEN_BY, NerfRecord, _build)
"""The general model that a field of a scene learns from, and beside it the field."""


def read_nerf_checkpoint(path: Path) -> Checkpoint[NerfRecord, VGGTNeRF]:
    """A checkpoint that can be rendered; see `read_checkpoint`.

    Raises:
        InputError: besides, for a fine-tuning whose scene field is still being learned.
    """
    checkpoint = read_checkpoint(path, NERF, SCENE_FIELD)
    if checkpoint.kind is SCENE_FIELD:
        raise InputError(
            f"checkpoint {path}: expected a radiance field, got the first part of a fine-tuning with --scene_field; "
            "train_finetune.py --ckpt goes on with it"
        )
    return checkpoint


def load_model(path: Path, vggt_ckpt: str = "") -> tuple[VGGTNeRF, NerfRecord]:
    """A trained model ready to render, on the CPU, and the record of how it came about.

    `vggt_ckpt`: where the backbone lies now, if not where it was found.
    """
    checkpoint = read_nerf_checkpoint(path)
    return checkpoint.network(vggt_ckpt=vggt_ckpt), checkpoint.record


def with_new_parts(model: VGGTNeRF, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a model that was told less of VGGT for one that is told more, see `Renderer.with_new_parts`."""
    prefix = "network."
    known = {key.removeprefix(prefix): value for key, value in weights.items()}
    return {f"{prefix}{key}": value for key, value in model.network.with_new_parts(known).items()}


def load_general_weights(model: VGGTNeRF, start: Checkpoint[NerfRecord, VGGTNeRF]) -> None:
    """The weights of a general model for one of a single scene, whose own parts stay as they are.

    Raises:
        InputError: naming keys that are missing, unexpected or of another shape.
    """
    own = model.state_dict()
    parts = tuple(f"{name}." for name, part in model.named_modules() if isinstance(part, SceneBox))
    weights = {**{key: own[key] for key in own if key.startswith(parts)}, **start.weights}
    load_strictly(model, weights, f"checkpoint {start.path}")
