"""Checkpoints of train_vqa.py: what was trained, and the names and hashes of what was not."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geometry import InputError
from models.vggt import WeightIdentity
from models.vggt.frozen import FROZEN_HEADS
from models.vqa.config import VQAConfig
from models.vqa.language import ADAPTER, load_language
from models.vqa.network import SceneQA
from models.vqa.weights import (
    VQAWeights,
    load_network,
    load_trained_state,
    located,
    read_weights,
    require_same_base,
    trained_state,
)
from training.backbone import VGGTRecord
from training.checkpoint import Checkpoint, CheckpointKind, CheckpointRecord, load_strictly, read_checkpoint


@dataclass(frozen=True, kw_only=True)
class VQARecord(CheckpointRecord):
    """All that is needed to rebuild the network of a checkpoint."""

    config: dict[str, Any]
    """Of `VQAConfig`."""
    language: str
    """Where the frozen language model was found."""
    language_sha256: str
    vggt: VGGTRecord

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "VQARecord":
        """See `CheckpointRecord`."""
        vggt: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in plain["vggt"].items()
        }
        return cls(**{**plain, "vggt": VGGTRecord(**vggt)})


def _build(
    record: VQARecord, *, language: str = "", dtype: torch.dtype = torch.float32, is_hollow: bool = False
) -> SceneQA:
    """`language`: where the base of the language model lies now; `is_hollow`: see `load_language`."""
    base = load_language(language or record.language, dtype=dtype, is_hollow=is_hollow)
    theirs = WeightIdentity(record.language, record.language_sha256)
    require_same_base(theirs, base.identity, "checkpoint")
    return SceneQA(VQAConfig.from_plain(record.config, "config of the checkpoint"), base)


VQA_TRAINING = CheckpointKind("vqa_training", "train_vqa.py", VQARecord, _build)


@dataclass(frozen=True)
class LoadedVQA:
    """A network that answers, and the VGGT that it reads."""

    network: SceneQA
    vggt: VGGTRecord
    options: dict[str, Any]
    """Of the run."""


def load_vqa(source: str | Path, language: str = "", *, dtype: torch.dtype = torch.float32) -> LoadedVQA:
    """A network from a checkpoint of train_vqa.py or an exported weight file, on the CPU.

    `language`: where the base of its language model lies, if not where it was in training.

    Raises:
        InputError: for a file that is neither, and for another base or VGGT than in training.
    """
    path = _known(source)
    if path.suffix == ".ckpt":
        checkpoint = read_checkpoint(path, VQA_TRAINING)
        network = checkpoint.network(language=language, dtype=dtype)
        return LoadedVQA(network, checkpoint.record.vggt, checkpoint.record.options)
    network, found = load_network(path, language, dtype=dtype)
    return LoadedVQA(network, _vggt_record(found, path), found.about.get("options", {}))


@dataclass(frozen=True)
class StartVQA:
    """What was trained in another run, without its language model."""

    path: Path
    language: WeightIdentity
    """Where its base lies, and which it is."""
    vggt: VGGTRecord
    checkpoint: Checkpoint[VQARecord, SceneQA] | None
    """None: a weight file."""
    tensors: dict[str, Tensor]
    """Of the weight file, by the names of `models.vqa.weights.trained_state`."""

    def load_into(self, network: SceneQA, where: str, *, with_adapters: bool = True) -> None:
        """Strictly; a hollow network gets its weights from another process.

        `with_adapters` False: those of the network stay, whatever language model it has.

        Raises:
            InputError: for another base of the language model than in training, and for other sizes.
        """
        if with_adapters:
            require_same_base(self.language, network.language.identity, where)
        if network.language.is_hollow:
            return
        if with_adapters and self.checkpoint is not None:
            load_strictly(network, self.checkpoint.weights, where)
            return
        state = self.tensors if self.checkpoint is None else self.checkpoint.weights
        if not with_adapters:
            own = {key: value for key, value in trained_state(network).items() if key.startswith(f"{ADAPTER}.")}
            state = {key: value for key, value in state.items() if not key.startswith((f"{ADAPTER}.", "language."))}
            state |= own
        load_trained_state(network, state, where)


def read_start(source: str | Path) -> StartVQA:
    """Of a checkpoint of train_vqa.py or an exported weight file; nothing is built.

    Raises:
        InputError: for a file that is neither.
    """
    path = _known(source)
    if path.suffix == ".ckpt":
        checkpoint = read_checkpoint(path, VQA_TRAINING)
        record = checkpoint.record
        language = WeightIdentity(record.language, record.language_sha256)
        return StartVQA(path, language, record.vggt, checkpoint, {})
    found, tensors = read_weights(path)
    language = found.language._replace(name=located(found.language.name, path))
    return StartVQA(path, language, _vggt_record(found, path), None, tensors)


def _known(source: str | Path) -> Path:
    path = Path(source)
    if path.suffix not in (".ckpt", ".safetensors"):
        raise InputError(f"{source}: expected a .ckpt or .safetensors file of train_vqa.py, got another name")
    return path


def _vggt_record(found: VQAWeights, path: Path) -> VGGTRecord:
    visual = found.config.visual
    source = located(found.vggt.name, path)
    heads = FROZEN_HEADS if visual.has_points else ()
    return VGGTRecord(source, source, found.vggt.sha256, visual.layers, found.image_size, heads)
