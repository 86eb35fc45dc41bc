"""Checkpoints: what they record, how they are written so that a crash cannot spoil them, how they are read."""

import os
import pickle
import subprocess
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from geometry import InputError
from models.nerf.nerf_config import Marching, NearFar, NerfConfig
from models.nerf.scene_box import SceneBox
from models.nerf.vggt_nerf import VGGTNeRF
from training.backbone import VGGTRecord, load_recorded_backbone

_KEY = "vggt_nerf"
VGGT_KEY = "vggt_training"
_WRITERS = {_KEY: "train_general.py or train_finetune.py", VGGT_KEY: "train_vggt.py"}
WEIGHTS_PREFIX = "model."


@dataclass(frozen=True)
class CheckpointRecord:
    """All that is needed to rebuild the model of a checkpoint, as plain values inside it."""

    task: str
    """`general` or `finetune`."""
    network: NerfConfig
    marching: Marching
    vggt: VGGTRecord
    options: dict[str, Any]
    """The resolved options of the run."""
    commit: str
    trained_on: dict[str, list[int]]
    """View numbers that were training targets, by scan; for a fine-tuned model those of its general model too."""

    def to_plain(self) -> dict[str, Any]:
        """Dicts, lists, strings and numbers only, as `torch.load(weights_only=True)` demands."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "CheckpointRecord":
        """The inverse of `to_plain`."""
        vggt = dict(plain["vggt"])
        vggt |= {name: tuple(vggt[name]) for name in ("layers", "heads") if name in vggt}
        return cls(
            task=plain["task"],
            network=NerfConfig(**plain["network"]),
            marching=Marching(**plain["marching"]),
            vggt=VGGTRecord(**vggt),
            options=plain["options"],
            commit=plain["commit"],
            trained_on=plain["trained_on"],
        )


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to disk, then renames: a file under its final name is always whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Replace `path` in one step."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Plain data only, whatever Lightning asks for."""
        return read_checkpoint(Path(path), kind=None)


def read_checkpoint(path: Path, kind: str | None = _KEY) -> dict[str, Any]:
    """Contents of a checkpoint of this project, on the CPU. Code inside the file is never executed.

    `kind` is the key of the record it must hold: a radiance field's, `VGGT_KEY`, or None for either.

    Raises:
        InputError: when the file is missing, damaged, holds anything but plain data, or is not one of ours.
    """
    if not path.is_file():
        raise InputError(f"checkpoint {path}: expected a file, got nothing there")
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(f"checkpoint {path}: expected tensors and plain values, got other pickled objects") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"checkpoint {path}: expected a whole checkpoint, got a damaged file ({error})") from None
    wanted = _WRITERS if kind is None else {kind: _WRITERS[kind]}
    if not isinstance(contents, dict) or not wanted.keys() & contents.keys() or "state_dict" not in contents:
        raise InputError(f"checkpoint {path}: expected one written by {' or '.join(wanted.values())}")
    return contents


def record_of(contents: dict[str, Any]) -> CheckpointRecord:
    """The record inside the contents of a checkpoint.

    Raises:
        InputError: when it is incomplete or of another version.
    """
    try:
        return CheckpointRecord.from_plain(contents[_KEY])
    except (KeyError, TypeError) as error:
        raise InputError(
            f"checkpoint: expected a record of this version, got one without or with other {error}"
        ) from None


def add_record(contents: dict[str, Any], record: CheckpointRecord) -> None:
    """Put a record into the contents of a checkpoint."""
    contents[_KEY] = record.to_plain()


def load_network_weights(model: VGGTNeRF, contents: dict[str, Any], *, may_lack_scene_parts: bool = False) -> None:
    """Copy the radiance field's weights out of a checkpoint, strictly.

    `may_lack_scene_parts`: the model has parts of one scene that a general checkpoint cannot have; they stay as they
    are.

    Raises:
        InputError: naming keys that are missing, unexpected or of another shape.
    """
    weights = {
        key.removeprefix(WEIGHTS_PREFIX): tensor
        for key, tensor in contents["state_dict"].items()
        if key.startswith(WEIGHTS_PREFIX)
    }
    own = model.state_dict()
    if may_lack_scene_parts:
        parts = tuple(f"{name}." for name, part in model.named_modules() if isinstance(part, SceneBox))
        weights = {**{key: own[key] for key in own if key.startswith(parts)}, **weights}
    wrong = sorted(own.keys() ^ weights.keys())
    wrong += [key for key in sorted(own.keys() & weights.keys()) if own[key].shape != weights[key].shape]
    if wrong:
        raise InputError(
            f"checkpoint: expected the weights of this architecture, got {len(wrong)} that differ: {wrong[:3]}"
        )
    model.load_state_dict(weights)


def load_model(path: Path, vggt_ckpt: str = "", near_far: NearFar | None = None) -> tuple[VGGTNeRF, CheckpointRecord]:
    """A trained model ready to render, on the CPU, and the record of how it came about.

    `near_far`: where rays start and end; None = as trained.
    """
    contents = read_checkpoint(path)
    record = record_of(contents)
    marching = replace(record.marching, near_far=near_far or record.marching.near_far)
    vggt = load_recorded_backbone(record.vggt, vggt_ckpt, wants_depth=marching.near_far == "auto")
    model = VGGTNeRF(vggt, record.network, marching)
    load_network_weights(model, contents)
    return model.eval(), record


def current_commit() -> str:
    """The commit of this working tree, with `+changes` when files differ from it; `unknown` outside git."""
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True)
        status = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=folder, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")
