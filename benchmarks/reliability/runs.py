"""Tiny trainings of every task, started in processes that have imported everything already."""

import json
import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch import Tensor

from data.procedural.generate import generate
from data.procedural.writers import GeneratorSettings

ROOT = Path(__file__).parents[2]
STEPS, _SAVE_EVERY, _VAL_EVERY = 7, 2, 4
"""Of every run: seven optimizer steps, last.ckpt after each second, validation after the fourth, also a saved one."""
_NAME = "run"
_DENSE = {"intermediate_layer_idx": [0, 0, 1, 1], "features": 8, "out_channels": [8, 8, 8, 8]}
_VGGT = {
    "aggregator": {
        "img_size": 28,
        "patch_size": 14,
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "num_register_tokens": 1,
        "patch_embed": "conv",
    },
    "camera_head": {"trunk_depth": 1, "num_heads": 2},
    "depth_head": _DENSE,
    "point_head": None,
    "track_head": None,
}
_MAPANYTHING = {
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
_EVERY_RUN = f"--expname {_NAME} --save_every {_SAVE_EVERY} --val_every {_VAL_EVERY} --log_every 1 --num_workers 0"
_EVERY_RUN += " --num_val 1 --accelerator cpu"
_NERF = "--dataset_name dtu --datadir {dtu} --rays_per_step 16 --warmup_steps 2"
_FINETUNING = "--scans scan2 --init_from {general} --N_guided 2 --residual_channels 2 --residual_resolution 8"
_MULTI_VIEW = "--dataset_name dtu --datadir {dtu} --n_views 2 3 --max_img_per_gpu 6 --eval_views 3 --len_train 1000"
_MULTI_VIEW += f" --aspect 0.8 --lrate 1e-3 --max_steps {STEPS}"
RUNS = {
    "general": f"train_general.py {_NERF} --vggt_ckpt random:{{vggt}} --depth_prior --vggt_image_size 0 "
    f"--sampler guided --N_guided 2 --sweep_planes 12 --n_views 2 3 --feature_channels 8 --hidden 8 --fused 8 "
    f"--max_steps {STEPS}",
    "finetuning": f"train_finetune.py {_NERF} {_FINETUNING} --max_steps {STEPS}",
    "field": f"train_finetune.py {_NERF} {_FINETUNING} --scene_field 8 --scene_field_steps 4 --max_steps {STEPS}",
    "vggt": f"train_vggt.py {_MULTI_VIEW} --vggt_config {{vggt}} --image_size 56 --ema 0.9",
    "mapanything": f"train_mapanything.py {_MULTI_VIEW} --model_config {{mapanything}} --image_size 40",
    "occupancy": "train_occupancy.py --grid_min -16 -16 -2 --grid_max 16 16 14 --voxel 4 4 4 --history 2 --future 2 "
    "--num_worlds 6 --num_val_worlds 2 --batch_size 2 --width 8 --levels 1 --steps_per_window 1 --lrate 1e-3 "
    f"--warmup_steps 1 --aug_flip 0.5 --keep_every 0 --max_steps {STEPS}",
    "vqa": "train_vqa.py --dataset_name rooms_qa --datadir - --image_size 32 --max_views 3 --rooms 4 --val_rooms 1 "
    f"--vggt_ckpt {ROOT / 'ckpts/vggt_nano.safetensors'} --vggt_layers 0 3 --language_model tiny "
    "--language_dtype float32 --max_length 128 --latents 8 --perceiver_width 16 --perceiver_layers 1 "
    "--perceiver_heads 2 --perceiver_ffn 16 --geometry_tokens 3 --lora_rank 2 --samples_per_update 4 "
    f"--view_dropout 0.3 --max_new_tokens 3 --max_steps {STEPS}",
}
"""Name -> script and arguments; words in braces are files. `field`: of the fine-tuning that fits a field first."""
NEED_GENERAL = ("finetuning", "field")
"""Trainings that start from the general model."""
PRELOADED = ("train_general", "train_finetune", "train_vggt", "train_mapanything", "train_occupancy", "train_vqa")
_NOT_COMPARED = ("loops", "callbacks", "pytorch-lightning_version")
"""Of a checkpoint: positions that belong to the process, paths."""


@dataclass(frozen=True)
class Run:
    """A training that was or will be started."""

    words: tuple[str, ...]
    """Script and arguments."""
    base: Path

    @property
    def folder(self) -> Path:
        """Of the run."""
        return self.base / _NAME

    @property
    def last(self) -> Path:
        """Its newest checkpoint."""
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def log(self) -> Path:
        """Everything that it printed."""
        return self.base / "log.txt"

    def resume_words(self) -> list[str]:
        """What a user types after the run was stopped: its command with `--ckpt`, once there is a checkpoint."""
        return [*self.words, *(["--ckpt", str(self.last)] if self.last.is_file() else [])]


def prepare(folder: Path) -> dict[str, str]:
    """Data and configurations that the runs read, made once."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = GeneratorSettings(layout="dtu", width=40, height=32, views=20, seed=1, lights=1, first_scan=2)
    generate(folder / "dtu", settings, 3, workers=1)
    for name, sizes in (("vggt", _VGGT), ("mapanything", _MAPANYTHING)):
        (folder / f"{name}.json").write_text(json.dumps(sizes))
    files = {"dtu": folder / "dtu", "vggt": folder / "vggt.json", "mapanything": folder / "mapanything.json"}
    return {name: str(path) for name, path in files.items()}


def run_of(name: str, files: dict[str, str], base: Path) -> Run:
    """The training of that name below `base`."""
    return Run((*RUNS[name].format(**files).split(), *_EVERY_RUN.split(), "--basedir", str(base)), base)


def start(run: Run, words: Sequence[str], before: Callable[..., None] | None = None, *arguments: Any) -> BaseProcess:
    """A process with the command; `before(*arguments)` runs in it first. All that is printed goes to the run's log."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", *PRELOADED])
    run.base.mkdir(parents=True, exist_ok=True)
    process = context.Process(target=_child, args=(list(words), str(run.log), before, arguments))
    process.start()
    return process


def finish(run: Run) -> int:
    """Go on as a user would until the run has ended; the last exit status."""
    process = start(run, run.resume_words())
    process.join()
    return process.exitcode or 0


def _child(words: list[str], log: str, before: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server of processes ignores it
    os.chdir(ROOT)
    torch.set_num_threads(1)
    if before is not None:
        before(*arguments)
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


def differences(one: Run, other: Run) -> list[str]:
    """Names of what differs in any bit: weights, optimizer, schedule, best checkpoint, metrics, pictures."""
    found = []
    for name in ("last.ckpt", "best.ckpt"):
        first, second = (torch.load(run.last.with_name(name), weights_only=True) for run in (one, other))
        keys = sorted((first.keys() | second.keys()) - {*_NOT_COMPARED})
        found += [
            f"{name}: {key}"
            for key in keys
            if not _is_record(first, key) and not _same(first.get(key), second.get(key))
        ]
    metrics = logged_metrics(one.folder), logged_metrics(other.folder)
    names = sorted(metrics[0].keys() | metrics[1].keys())
    found += [
        f"metric {tag} of step {step}"
        for tag, step in names
        if metrics[0].get((tag, step)) != metrics[1].get((tag, step))
    ]
    pictures = [{path.name: path.read_bytes() for path in run.folder.glob("validation/*")} for run in (one, other)]
    names = sorted(pictures[0].keys() | pictures[1].keys())
    return found + [f"picture {name}" for name in names if pictures[0].get(name) != pictures[1].get(name)]


def logged_metrics(folder: Path) -> dict[tuple[str, int], frozenset[bytes]]:
    """Every different value that all processes of a run have logged, by name and step; one each if they agree."""
    found: dict[tuple[str, int], set[bytes]] = {}
    for path in sorted(folder.rglob("events.out.tfevents.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.HasField("tensor") and value.metadata.plugin_data.plugin_name in ("", "scalars"):
                    found.setdefault((value.tag, event.step), set()).add(value.tensor.SerializeToString())
    return {name: frozenset(values) for name, values in found.items()}


def _is_record(contents: dict[str, Any], key: str) -> bool:
    """Options and commit, which name the folder."""
    return isinstance(contents.get(key), dict) and "commit" in contents[key]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and bytes(_raw(one)) == bytes(_raw(other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _raw(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
