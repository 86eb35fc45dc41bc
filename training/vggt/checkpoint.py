"""VGGT's own checkpoints: what they record, how a network starts from weights, how finished weights are exported."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from geometry import InputError
from models.lora import merged_state
from models.vggt import VGGT, VGGTConfig, load_vggt
from models.vggt.weights import WeightIdentity, file_sha256
from training.checkpoint import CheckpointKind, CheckpointRecord, load_strictly, read_checkpoint
from training.files import staged_file, write_json

EMA_KEY = "weight_average"


@dataclass(frozen=True, kw_only=True)
class VGGTTrainingRecord(CheckpointRecord):
    """All that is needed to rebuild the network of a checkpoint."""

    config: dict[str, Any]
    """Sizes of the network, as `VGGTConfig.read` takes them."""
    start: str
    """Where its first weights came from."""
    start_sha256: str

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "VGGTTrainingRecord":
        """See `CheckpointRecord`."""
        record = cls(**plain)
        record.options["lora_alpha"]  # KeyError for options that are not those of train_vggt.py
        return record


def _build(record: VGGTTrainingRecord) -> VGGT:
    return VGGT(VGGTConfig.read(record.config))


VGGT_TRAINING = CheckpointKind("vggt_training", "train_vggt.py", VGGTTrainingRecord, _build)


def plain_config(config: VGGTConfig) -> dict[str, Any]:
    """JSON values that `VGGTConfig.read` turns into the same sizes."""
    return json.loads(json.dumps(asdict(config)))


def load_weights(source: str, heads: Sequence[str] | None = None) -> tuple[VGGT, WeightIdentity]:
    """A network from a checkpoint of train_vggt.py, or from any source `load_vggt` knows.

    It has the named heads (None: all there are). Of a checkpoint the averaged weights are taken if it has them, and
    low-rank changes are merged.
    """
    if Path(source).suffix == ".ckpt":
        return _load_checkpoint(Path(source), heads)
    return load_vggt(source, heads=heads)


def _load_checkpoint(path: Path, heads: Sequence[str] | None) -> tuple[VGGT, WeightIdentity]:
    checkpoint = read_checkpoint(path, VGGT_TRAINING)
    record = checkpoint.record
    config = VGGTConfig.read(record.config)
    config = config if heads is None else config.with_heads(list(heads))
    parts = {"aggregator", *(f"{head}_head" for head in config.heads)}
    averaged = checkpoint.contents.get(EMA_KEY, {})
    weights = merged_state(checkpoint.weights | averaged, record.options["lora_alpha"])
    weights = {key: value for key, value in weights.items() if key.split(".", 1)[0] in parts}
    model = VGGT(config)
    load_strictly(model, weights, f"checkpoint {path}")
    return model.eval(), WeightIdentity(str(path), file_sha256(path))


def export_weights(
    state: dict[str, Tensor], config: VGGTConfig, path: Path, *, dtype: str, metadata: dict[str, str] | None = None
) -> None:
    """Write `path` (.safetensors) and beside it the sizes (`<stem>.json`), as `load_vggt` finds them.

    `dtype` names the stored numbers; `load_vggt` makes float32 of them. Each file appears whole or not at all.
    """
    stored = getattr(torch, dtype)
    tensors = {key: value.detach().cpu().to(stored).contiguous().clone() for key, value in state.items()}
    wrong = [key for key, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if wrong:
        raise InputError(f"--export_dtype {dtype}: expected finite numbers in {path}, got others in {wrong[:3]}")
    with staged_file(path, "--export") as weights, staged_file(path.with_suffix(".json"), "--export") as sizes:
        mode = weights.stat().st_mode
        save_file(tensors, weights, metadata={"format": "pt", **(metadata or {})})
        weights.chmod(mode)  # safetensors writes files that nobody else may read
        write_json(sizes, plain_config(config))
