"""All networks of the task by name, built from plain values and loaded strictly."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from geometry import InputError, require
from geometry.voxels import EgoGrid
from models.config_checks import build, read_json, require_known_keys, section
from models.occupancy.aligned import AlignedConfig, AlignedForecaster
from models.occupancy.bottleneck import BottleneckConfig, SimpleForecaster, SixDofForecaster
from models.occupancy.occworld import OccWorld, OccWorldConfig
from models.vggt.weights import (
    WeightIdentity,
    file_sha256,
    hollow,
    read_tensors,
    require_fitting_weights,
    weight_shapes,
)

ALIGNED, OCCWORLD, SIMPLE, SIXDOF = "aligned", "occworld", "simple", "sixdof"
MODELS = (ALIGNED, OCCWORLD, SIMPLE, SIXDOF)

Sizes = AlignedConfig | BottleneckConfig | OccWorldConfig
_SIZES: dict[str, type[AlignedConfig] | type[BottleneckConfig] | type[OccWorldConfig]] = {
    ALIGNED: AlignedConfig,
    OCCWORLD: OccWorldConfig,
    SIMPLE: BottleneckConfig,
    SIXDOF: BottleneckConfig,
}


@dataclass(frozen=True)
class NetworkPlan:
    """Everything that a network is built from; as JSON beside its weights."""

    model: str
    """One of `MODELS`."""
    sizes: Sizes
    space: EgoGrid
    """Of the grids it was trained on, which it predicts."""
    free_class: int = 0
    """Of the labels."""
    num_classes: int = 2
    """Of the labels: 2 is empty and occupied."""
    history: int = 4
    future: int = 6
    """Frames it was trained with."""
    skip: int = 1
    """Every so manieth frame of a recording."""

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        others = {name: getattr(self, name) for name in ("free_class", "num_classes", "history", "future", "skip")}
        sizes = json.loads(json.dumps(asdict(self.sizes)))
        return {"model": self.model, "sizes": sizes, "space": self.space.record(), **others}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], where: str = "network") -> "NetworkPlan":
        """Inverse of `plain`.

        Raises:
            InputError: for missing or unknown entries.
        """
        values = section(plain, where)
        require_known_keys(values, {item.name for item in fields(cls)}, where)
        missing = [name for name in ("model", "sizes", "space") if name not in values]
        require(not missing, f"{where}: expected an entry {', '.join(missing)}, got none")
        model = values.pop("model")
        require(model in MODELS, f"{where}: expected model to be one of {', '.join(MODELS)}, got {model!r}")
        sizes = sizes_of(model, values.pop("sizes"), f"{where}.sizes")
        for name in sorted(values.keys() - {"space"}):
            require(type(values[name]) is int, f"{where}.{name}: expected a whole number, got {values[name]!r}")
        return cls(model=model, sizes=sizes, space=EgoGrid.from_record(values.pop("space")), **values)


def sizes_of(model: str, plain: Mapping[str, Any], where: str) -> Sizes:
    """Sizes of a model from JSON values.

    Raises:
        InputError: for unknown entries and impossible values.
    """
    kind = _SIZES[model]
    if kind is OccWorldConfig:
        return OccWorldConfig.from_plain(dict(plain))
    hints = get_type_hints(kind)
    known = section(plain, where)
    require_known_keys(known, hints, where)
    missing = [item.name for item in fields(kind) if item.default is MISSING and item.name not in known]
    require(not missing, f"{where}: expected an entry {', '.join(missing)}, got none")
    return build(kind, known, where)


def build_network(plan: NetworkPlan) -> nn.Module:
    """With its initial weights."""
    if isinstance(plan.sizes, AlignedConfig):
        return AlignedForecaster(plan.sizes, plan.space)
    if isinstance(plan.sizes, OccWorldConfig):
        return OccWorld(plan.sizes)
    return (SimpleForecaster if plan.model == SIMPLE else SixDofForecaster)(plan.sizes, plan.space)


class LoadedNetwork(NamedTuple):
    """In evaluation mode, on the CPU."""

    network: nn.Module
    plan: NetworkPlan
    identity: WeightIdentity


def load_network(path: str | Path) -> LoadedNetwork:
    """From a .safetensors file with the JSON of `save_network` beside it.

    Raises:
        InputError: for a missing file, or weights that are not exactly those of the sizes.
    """
    path = Path(path)
    require(path.suffix == ".safetensors", f"weights {path}: expected a .safetensors file")
    require(path.is_file(), f"weights {path}: expected a file, got nothing there")
    sizes = path.with_suffix(".json")
    plan = NetworkPlan.from_plain(read_json(sizes), str(sizes))
    shapes = weight_shapes(path)
    require_fitting_weights(path, shapes, hollow(lambda: build_network(plan), str(sizes)).state_dict())
    network = build_network(plan)
    network.load_state_dict(read_tensors(path, list(shapes)))
    return LoadedNetwork(network.eval(), plan, WeightIdentity(str(path), file_sha256(path)))


def load_forecaster(path: str | Path) -> LoadedNetwork:
    """The same, of networks that `forward(ForecastInputs)` forecasts with: all but OccWorld.

    Raises:
        InputError: for another one, see `load_network`.
    """
    loaded = load_network(path)
    if loaded.plan.model == OCCWORLD:
        raise InputError(f"weights {path}: expected {ALIGNED}, {SIMPLE} or {SIXDOF}, got {OCCWORLD}")
    return loaded


def save_network(
    network: nn.Module, plan: NetworkPlan, weights: Path, sizes: Path, metadata: Mapping[str, str]
) -> None:
    """Weights as safetensors (float32), what they are of as JSON."""
    tensors: dict[str, Tensor] = {
        name: value.detach().cpu().to(torch.float32).contiguous().clone()
        for name, value in network.state_dict().items()
    }
    save_file(tensors, weights, metadata={"format": "pt", **metadata})
    sizes.write_text(json.dumps(plan.plain(), indent=2) + "\n")
