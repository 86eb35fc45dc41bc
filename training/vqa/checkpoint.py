"""Checkpoints of train_vqa.py: what was trained, and the names and hashes of what was not."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from geometry import InputError
from models.vggt import WeightIdentity
from models.vggt.frozen import FROZEN_HEADS
from models.vqa.config import VQAConfig
from models.vqa.language import load_language
from models.vqa.network import SceneQA
from models.vqa.weights import load_network, located, require_same_base
from training.backbone import VGGTRecord
from training.checkpoint import CheckpointKind, CheckpointRecord, read_checkpoint


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


def _build(record: VQARecord, *, language: str = "", dtype: torch.dtype = torch.float32) -> SceneQA:
    """`language`: where the base of the language model lies now."""
    base = load_language(language or record.language, dtype=dtype)
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
    path = Path(source)
    if path.suffix == ".ckpt":
        checkpoint = read_checkpoint(path, VQA_TRAINING)
        network = checkpoint.network(language=language, dtype=dtype)
        return LoadedVQA(network, checkpoint.record.vggt, checkpoint.record.options)
    if path.suffix != ".safetensors":
        raise InputError(f"{source}: expected a .ckpt or .safetensors file of train_vqa.py, got another name")
    network, found = load_network(path, language, dtype=dtype)
    visual = found.config.visual
    source = located(found.vggt.name, path)
    heads = FROZEN_HEADS if visual.has_points else ()
    vggt = VGGTRecord(source, source, found.vggt.sha256, visual.layers, found.image_size, heads)
    return LoadedVQA(network, vggt, found.about.get("options", {}))
