"""Checkpoints of train_mapanything.py: what they record, how a network starts, how weights are exported."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from geometry import InputError
from models.mapanything import MapAnything, MapAnythingConfig, load_mapanything
from models.mapanything.adapters import Reconstructor, VGGTReconstructor
from models.vggt import VGGT, VGGTConfig, WeightIdentity
from models.vggt.backbones import load_licensed_vggt
from models.vggt.weights import file_sha256
from training.backbone import announce_license
from training.checkpoint import CheckpointKind, CheckpointRecord, read_checkpoint
from training.files import staged_file, write_json

_HEADS = ("camera", "depth")
"""Of a VGGT that reconstructs."""
PI3_SIZES: dict[str, Any] = {"reference_view_marked": False, "takes_geometry": False, "predicts_scale": False}


@dataclass(frozen=True, kw_only=True)
class MapAnythingRecord(CheckpointRecord):
    """All that is needed to rebuild the network of a checkpoint."""

    model: str
    """`--model`."""
    config: dict[str, Any]
    """Sizes of the network."""
    start: str
    """Where its first weights came from."""
    start_sha256: str

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "MapAnythingRecord":
        """See `CheckpointRecord`."""
        record = cls(**plain)
        record.options["part_lrates"]  # KeyError for options that are not those of train_mapanything.py
        return record


def network_of_config(model: str, config: dict[str, Any] | str) -> nn.Module:
    """A network with random weights; an empty `config`: the released sizes."""
    if model == "vggt":
        sizes = VGGTConfig.read(config) if config else VGGTConfig()
        return VGGTReconstructor(VGGT(sizes.with_heads(list(_HEADS))))
    sizes = MapAnythingConfig.read(config) if config else MapAnythingConfig(**(PI3_SIZES if model == "pi3" else {}))
    if model == "pi3":
        for name, value in PI3_SIZES.items():
            if getattr(sizes, name) != value:
                raise InputError(f"--model_config: --model pi3 expects {name} {value}, got {getattr(sizes, name)}")
    return MapAnything(sizes)


def _build(record: MapAnythingRecord) -> nn.Module:
    return network_of_config(record.model, record.config)


MAPANYTHING_TRAINING = CheckpointKind("mapanything_training", "train_mapanything.py", MapAnythingRecord, _build)


def plain_sizes(network: nn.Module) -> dict[str, Any]:
    """JSON values that are read back to the same sizes."""
    config = network.network.config if isinstance(network, VGGTReconstructor) else cast(MapAnything, network).config
    return json.loads(json.dumps(asdict(config)))


def as_reconstructor(network: nn.Module) -> Reconstructor:
    """For type checkers: every network here is one."""
    assert isinstance(network, Reconstructor)
    return network


def load_weights(source: str, model: str) -> tuple[nn.Module, WeightIdentity]:
    """A network from a checkpoint of train_mapanything.py, or from any source that `--model` knows.

    Raises:
        InputError: for a checkpoint of another model, or weights that do not fit.
    """
    if Path(source).suffix == ".ckpt":
        checkpoint = read_checkpoint(Path(source), MAPANYTHING_TRAINING)
        if checkpoint.record.model != model:
            raise InputError(f"--model {model}: checkpoint {source} is of --model {checkpoint.record.model}")
        return checkpoint.network(), WeightIdentity(source, file_sha256(Path(source)))
    if model == "vggt":
        loaded_vggt = load_licensed_vggt(source, heads=_HEADS)
        announce_license(loaded_vggt)
        return VGGTReconstructor(cast("VGGT", loaded_vggt.model)), loaded_vggt.identity
    try:
        loaded = load_mapanything(source)
    except InputError as error:
        if model != "pi3":
            raise
        raise InputError(
            f"{error} (--model pi3 is our network in pi3's manner: pi3's own weights are not read)"
        ) from None
    marked = loaded.model.config.reference_view_marked
    if marked == (model == "pi3"):
        raise InputError(
            f"--model {model}: weights {source} are of a network {'with' if marked else 'without'} a reference view"
        )
    return loaded.model, loaded.identity


def read_reconstructor(source: str) -> Reconstructor:
    """Whatever network a checkpoint of train_mapanything.py or a source of `load_mapanything` holds.

    Raises:
        InputError: for weights that cannot be read.
    """
    if Path(source).suffix == ".ckpt":
        return as_reconstructor(read_checkpoint(Path(source), MAPANYTHING_TRAINING).network())
    return load_mapanything(source).model


def export_weights(network: nn.Module, path: Path, *, dtype: str, metadata: dict[str, str] | None = None) -> None:
    """Write `path` (.safetensors) and beside it the sizes, as `load_mapanything` and `load_vggt` find them.

    Raises:
        InputError: for numbers that are not finite in `dtype`.
    """
    plain = network.network if isinstance(network, VGGTReconstructor) else network
    stored = getattr(torch, dtype)
    tensors: dict[str, Tensor] = {
        key: value.detach().cpu().to(stored).contiguous().clone() for key, value in plain.state_dict().items()
    }
    wrong = [key for key, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if wrong:
        raise InputError(f"--export_dtype {dtype}: expected finite numbers in {path}, got others in {wrong[:3]}")
    with staged_file(path, "--export") as weights, staged_file(path.with_suffix(".json"), "--export") as sizes:
        mode = weights.stat().st_mode
        save_file(tensors, weights, metadata={"format": "pt", **(metadata or {})})
        weights.chmod(mode)  # safetensors writes files that nobody else may read
        write_json(sizes, plain_sizes(network))
