"""VGGT's own checkpoints: what they record, how a network starts from weights, how finished weights are exported."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor

from geometry import InputError
from models.lora import merged_state
from models.vggt import VGGT, VGGTConfig
from models.vggt.backbones import load_licensed_vggt
from models.vggt.vggt import build_head
from models.vggt.weights import WeightIdentity, available_heads, file_sha256
from training.backbone import announce_license
from training.checkpoint import CheckpointKind, CheckpointRecord, load_strictly, read_checkpoint
from training.files import staged_file, write_json


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


def load_weights(
    source: str, heads: Sequence[str] | None = None, new_heads: Sequence[str] = (), seed: int = 0
) -> tuple[VGGT, WeightIdentity]:
    """A network from a checkpoint of train_vggt.py, or from any source `load_vggt` knows.

    It has the named heads (None: all there are). Of a checkpoint the averaged weights are taken if it has them, and
    low-rank changes are merged. `new_heads`, some of `heads`, start from fresh weights, the same for the same `seed`.

    Raises:
        InputError: naming a new head that the weights have already; a `MissingHeadError` for one that they lack.
    """
    known = heads if heads is None else [head for head in heads if head not in new_heads]
    if Path(source).suffix == ".ckpt":
        model, identity = _load_checkpoint(Path(source), known, new_heads)
    else:
        if new_heads:
            _require_new(source, available_heads(source), new_heads)
        loaded = load_licensed_vggt(source, heads=known)
        announce_license(loaded)
        model, identity = cast("VGGT", loaded.model), loaded.identity
    if not new_heads:
        return model, identity
    model = _with_new_heads(model, new_heads, seed)
    return model, identity._replace(name=f"{identity.name} + fresh {', '.join(new_heads)}:{seed}")


def _require_new(source: str | Path, present: Sequence[str], new_heads: Sequence[str]) -> None:
    there = [head for head in new_heads if head in present]
    if there:
        raise InputError(f"--new_heads {' '.join(there)}: {source} has weights of that already")


def _with_new_heads(model: VGGT, names: Sequence[str], seed: int) -> VGGT:
    """The network and further heads with initial values; nothing else is drawn or copied."""
    with torch.device("meta"):
        grown = VGGT(model.config.adding_heads(list(names)))
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        fresh = {f"{name}_head": build_head(grown.config, name) for name in names}
    drawn = {f"{part}.{key}": value for part, head in fresh.items() for key, value in head.state_dict().items()}
    grown.load_state_dict(model.state_dict() | drawn, assign=True)
    return grown.eval()


def _load_checkpoint(path: Path, heads: Sequence[str] | None, new_heads: Sequence[str]) -> tuple[VGGT, WeightIdentity]:
    checkpoint = read_checkpoint(path, VGGT_TRAINING)
    record = checkpoint.record
    config = VGGTConfig.read(record.config)
    _require_new(path, config.heads, new_heads)
    config = config if heads is None else config.with_heads(list(heads))
    parts = {"aggregator", *(f"{head}_head" for head in config.heads)}
    weights = merged_state(checkpoint.weights, record.options["lora_alpha"])
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
