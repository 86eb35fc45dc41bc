"""What evaluation and video start from: a checkpoint's model on a device, and scenes that it may be used on."""

import resource
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from data.readers.registry import read_scenes
from data.readers.splits import Split
from data.scene import PosedScene
from geometry import InputError
from models.nerf.samplers import SAMPLE_COUNTS, SIZES_OF_MAPS, require_own_options
from models.nerf.vggt_nerf import VGGTNeRF
from models.vggt.weights import file_sha256
from render.options import RenderOptions
from training.allocator import keep_freed_memory
from training.backbone import VGGTRecord, record_of, replaced_backbone
from training.checkpoint import Checkpoint
from training.nerf.checkpoint import NerfRecord
from training.precision import TRAINED, resolved_precision, slow_precision_note


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
    if torch.empty(0, device=device).is_cuda:
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mb(device: torch.device) -> float:
    """Most memory in use so far: tensors on a GPU (since the last reset), else the whole process."""
    if torch.empty(0, device=device).is_cuda:
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def load_for(options: RenderOptions, checkpoint: Checkpoint[NerfRecord, VGGTNeRF], device: torch.device) -> VGGTNeRF:
    """The checkpoint's model, ready to render on `device` with the sample counts and bounds of the options.

    Raises:
        InputError: for sample counts that its sampler does not have.
    """
    keep_freed_memory()
    require_own_options(checkpoint.record.renderer.sampler, options, f"the model of {checkpoint.path}")
    counts = {name: getattr(options, name) for name in (*SAMPLE_COUNTS, *SIZES_OF_MAPS)}
    near_far = None if options.near_far == "trained" else options.near_far
    size = options.vggt_image_size
    model = checkpoint.network(vggt_ckpt=options.vggt_ckpt, near_far=near_far, samples=counts, vggt_image_size=size)
    replaced_backbone(checkpoint.record.vggt, _used_backbone(options, checkpoint, model))
    return model.to(device)


def precision_for(options: RenderOptions, record: NerfRecord, device: torch.device) -> str:
    """What `--precision` means for a checkpoint on a device; says so once where float32 would be faster."""
    asked = record.options.get("precision", "32-true") if options.precision == TRAINED else options.precision
    precision = resolved_precision(asked, device)
    note = slow_precision_note(precision, device)
    if note is not None:
        sys.stderr.write(f"{note}\n")
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
    record: NerfRecord, dataset_name: str, datadir: str, scans: tuple[str, ...], *, split: Split = "test"
) -> list[PosedScene]:
    """The scans named, under their evaluation lighting; by default those of the split, or the scene fine-tuned on.

    Raises:
        InputError: when there is no such data, or the model was fine-tuned on another scene.
    """
    if record.task != "finetune":
        return read_scenes(dataset_name, datadir, split=split, scans=scans or None, evaluated_only=True)
    own_dataset = record.options["dataset_name"]
    if dataset_name != own_dataset:
        raise InputError(
            f"--dataset_name: expected {own_dataset}, which --ckpt was fine-tuned on, got {dataset_name!r}"
        )
    own_scan = _scan_of(record, datadir)
    others = [scan for scan in scans if scan != own_scan]
    if others:
        raise InputError(f"--scans: expected only {own_scan}, which --ckpt was fine-tuned on, got {', '.join(others)}")
    return read_scenes(dataset_name, datadir, split="all", scans=(own_scan,), evaluated_only=True)


def _scan_of(record: NerfRecord, datadir: str) -> str:
    """The scan a model was fine-tuned on: the one named then, or the only one of its folder (or of `datadir` now)."""
    named = record.options["scans"]
    if named:
        return str(named[0])
    root = record.options["datadir"] if Path(record.options["datadir"]).is_dir() else datadir
    scenes = read_scenes(record.options["dataset_name"], root, split="all", scans=None, evaluated_only=True)
    found = sorted({scene.scan for scene in scenes})
    if len(found) != 1:
        raise InputError(f"--datadir {root}: expected the one scan that --ckpt was fine-tuned on, got {len(found)}")
    return found[0]
