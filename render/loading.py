"""What evaluation and video start from: a checkpoint's model on a device, and scenes that it may be used on."""

import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from data.novel_view.dataset import Target
from data.readers.registry import announce_own_split, read_scenes
from data.readers.splits import Split
from data.scene import PosedScene
from geometry import InputError, require
from models.nerf.samplers import SAMPLE_COUNTS, SIZES_OF_MAPS, require_own_options
from models.nerf.vggt_nerf import VGGTNeRF
from models.vggt.weights import file_sha256
from render.options import RenderOptions
from training.allocator import keep_freed_memory
from training.backbone import VGGTRecord, record_of, replaced_backbone
from training.checkpoint import Checkpoint
from training.nerf.checkpoint import NerfRecord, require_same_scene
from training.precision import TRAINED, announce_slow, is_gpu, resolved_precision


def usable_device(name: str) -> torch.device:
    """`auto` (a GPU where there is one) or a name that torch knows.

    Raises:
        InputError: for a device that is unknown or not there.
    """
    if name == "auto":
        # an index alone means the accelerator with that index
        return torch.device(torch.cuda.current_device() if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # `meta` has tensors, but no numbers in them
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise InputError(f"--device: expected auto or a device of this machine, got {name!r} ({reason})") from None
    return device


def reset_peak_memory(device: torch.device) -> None:
    """Forget the peak of what ran before on a GPU; a process's own peak cannot be forgotten."""
    if is_gpu(device):
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mb(device: torch.device) -> float:
    """Most memory in use so far: tensors on a GPU (since the last reset), else the whole process."""
    if is_gpu(device):
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def load_for(
    options: RenderOptions,
    checkpoint: Checkpoint[NerfRecord, VGGTNeRF],
    device: torch.device,
    scenes: Sequence[PosedScene] = (),
) -> VGGTNeRF:
    """The checkpoint's model, ready to render `scenes` on `device` with the sample counts and bounds of the options.

    What a ray does not hit has the color that lies behind the scenes' images; without scenes, that of the training.

    Raises:
        InputError: for sample counts that its sampler does not have, scenes of both backgrounds, or another scene than
            the one that it was fine-tuned on.
    """
    for scene in scenes:
        require_same_scene(checkpoint.record.centers, scene, checkpoint.path)
    are_white = {scene.white_background for scene in scenes}
    require(len(are_white) <= 1, "--white_bkgd: expected one background for all scans, got white and black ones")
    keep_freed_memory()
    require_own_options(checkpoint.record.renderer.sampler, options, f"the model of {checkpoint.path}")
    counts = {name: getattr(options, name) for name in (*SAMPLE_COUNTS, *SIZES_OF_MAPS)}
    near_far = None if options.near_far == "trained" else options.near_far
    model = checkpoint.network(
        vggt_ckpt=options.vggt_ckpt,
        near_far=near_far,
        samples=counts,
        vggt_image_size=options.vggt_image_size,
        background=float(are_white.pop()) if are_white else None,
    )
    model.quality = options.quality
    replaced_backbone(checkpoint.record.vggt, _used_backbone(options, checkpoint, model))
    return model.to(device)


def precision_for(options: RenderOptions, record: NerfRecord, device: torch.device) -> str:
    """What `--precision` means for a checkpoint on a device; says so once where float32 would be faster."""
    asked = record.options.get("precision", "32-true") if options.precision == TRAINED else options.precision
    precision = resolved_precision(asked, device)
    announce_slow(precision, device)
    return precision


def _used_backbone(options: RenderOptions, checkpoint: Checkpoint[NerfRecord, VGGTNeRF], model: VGGTNeRF) -> VGGTRecord:
    trained = checkpoint.record.vggt
    size = trained.image_size if options.vggt_image_size is None else options.vggt_image_size
    return record_of(model.vggt, options.vggt_ckpt or trained.source, size)


def weight_identities(
    options: RenderOptions, checkpoint: Checkpoint[NerfRecord, VGGTNeRF], model: VGGTNeRF
) -> dict[str, Any]:
    """The `weights` entry of `metrics.json`: the checkpoint, the backbone in use, the one it was trained with."""
    path, record = checkpoint.path, checkpoint.record
    own = {"path": str(path), "sha256": file_sha256(path), "task": record.task, "commit": record.commit}
    return {
        "checkpoint": own,
        "vggt": asdict(_used_backbone(options, checkpoint, model)),
        "vggt_trained_with": asdict(record.vggt),
    }


def scenes_for(
    record: NerfRecord,
    options: RenderOptions,
    scans: tuple[str, ...],
    *,
    split: Split = "test",
    view_split: str | None = None,
) -> list[PosedScene]:
    """The scans named, under their evaluation lighting; by default those of the split, or the scene fine-tuned on.

    `view_split`: the protocol's; without, `--view_split`, else the one that the model was fine-tuned with.

    Raises:
        InputError: when there is no such data, it has no such views, or the model was fine-tuned on another scene.
    """
    asked = options.view_split
    require(
        view_split is None or asked in (None, view_split),
        f"--view_split {asked}: expected {view_split}, which the protocol says",
    )
    is_local = record.task == "finetune"
    reader = options.reader_options(view_split or (trained_view_split(record) if is_local else None))
    scans, split = (_own_scan(record, options, scans), "all") if is_local else (scans, split)
    scenes = read_scenes(
        options.dataset_name, options.datadir, split=split, scans=scans or None, evaluated_only=True, options=reader
    )
    announce_own_split(reader, scenes)
    if options.white_bkgd is None:
        return scenes
    return [replace(scene, white_background=options.white_bkgd) for scene in scenes]


def trained_view_split(record: NerfRecord) -> str:
    """The view split that a model was trained with."""
    return record.options.get("view_split") or "own"


def require_unseen(record: NerfRecord, targets: Sequence[Target]) -> None:
    """Refuse targets that a fine-tuning had as training views because its view split was another one.

    Raises:
        InputError: naming the views.
    """
    for target in targets if record.task == "finetune" else ():
        scene, trained = target.scene, trained_view_split(record)
        if scene.view_split != trained and target.view_id in record.trained_on.get(scene.scan, ()):
            raise InputError(
                f"scene {scene.name}, view {target.view_id}: expected a view that --ckpt was not fine-tuned on, got a "
                f"training view: it was fine-tuned with --view_split {trained}, this evaluation has "
                f"{scene.view_split}, which train_finetune.py takes too"
            )


def _own_scan(record: NerfRecord, options: RenderOptions, scans: tuple[str, ...]) -> tuple[str, ...]:
    """The scan that a model was fine-tuned on, when no other data are asked for."""
    dataset_name, own_dataset = options.dataset_name, record.options["dataset_name"]
    if dataset_name != own_dataset:
        raise InputError(
            f"--dataset_name: expected {own_dataset}, which --ckpt was fine-tuned on, got {dataset_name!r}"
        )
    own_scan = _scan_of(record, options.datadir)
    others = [scan for scan in scans if scan != own_scan]
    if others:
        raise InputError(f"--scans: expected only {own_scan}, which --ckpt was fine-tuned on, got {', '.join(others)}")
    return (own_scan,)


def _scan_of(record: NerfRecord, datadir: str) -> str:
    """The scan a model was fine-tuned on: the one named then, or the only one of its folder (or of `datadir` now)."""
    named = record.options["scans"]
    if named:
        return str(named[0])
    before = record.options["datadir"]
    # a folder of one scene may have another name by now: `require_same_scene` tells whether it is that scene
    root = before if Path(before).is_dir() and not record.centers else datadir
    found = _scans_in(record, root)
    if len(found) != 1 and Path(before).is_dir():
        root, found = before, _scans_in(record, before)
    require(len(found) == 1, f"--datadir {root}: expected the one scan that --ckpt was fine-tuned on, got {len(found)}")
    return found[0]


def _scans_in(record: NerfRecord, root: str) -> list[str]:
    scenes = read_scenes(record.options["dataset_name"], root, split="all", scans=None, evaluated_only=True)
    return sorted({scene.scan for scene in scenes})
