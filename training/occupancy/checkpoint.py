"""Checkpoints of train_occupancy.py: what they record, how networks start from weights, which one is the newest."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from geometry import InputError
from models.occupancy.networks import NetworkPlan, build_network, load_network, save_network
from models.vggt import WeightIdentity
from models.vggt.weights import file_sha256
from training.checkpoint import CheckpointKind, CheckpointRecord, load_strictly, read_checkpoint
from training.files import staged_file


@dataclass(frozen=True, kw_only=True)
class OccupancyRecord(CheckpointRecord):
    """All that is needed to rebuild the network of a checkpoint."""

    network: dict[str, Any]
    """`NetworkPlan.plain()`."""
    sessions: dict[str, list[str]]
    """Sessions, scenes or worlds of each split."""
    start: str
    """Where the first weights came from."""
    start_sha256: str

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "OccupancyRecord":
        """See `CheckpointRecord`."""
        record = cls(**plain)
        record.options["occ_threshold"]  # KeyError for options that are not those of train_occupancy.py
        return record

    @property
    def plan(self) -> NetworkPlan:
        """Of the network."""
        return NetworkPlan.from_plain(self.network, "network of the checkpoint")


def _build(record: OccupancyRecord) -> nn.Module:
    return build_network(record.plan)


OCCUPANCY_TRAINING = CheckpointKind("occupancy_training", "train_occupancy.py", OccupancyRecord, _build)


@dataclass(frozen=True)
class Loaded:
    """A network from a file, in evaluation mode on the CPU."""

    network: nn.Module
    plan: NetworkPlan
    identity: WeightIdentity


def load_weights(source: str) -> Loaded:
    """From a checkpoint of train_occupancy.py or a .safetensors file with its JSON.

    Raises:
        InputError: for another file, or weights that do not fit.
    """
    path = Path(source)
    if path.suffix == ".ckpt":
        checkpoint = read_checkpoint(path, OCCUPANCY_TRAINING)
        identity = WeightIdentity(source, file_sha256(path))
        return Loaded(checkpoint.network(), checkpoint.record.plan, identity)
    network, plan, identity = load_network(path)
    return Loaded(network, plan, identity)


def start_from(network: nn.Module, source: str, allowed: Sequence[str]) -> WeightIdentity:
    """Copy the weights of `source` into a network; only keys that begin with an `allowed` prefix may differ.

    Those keep their initial values.

    Raises:
        InputError: naming keys that are missing, unexpected or of another shape.
    """
    loaded = load_weights(source)
    theirs, own = loaded.network.state_dict(), network.state_dict()
    prefixes = tuple(allowed)

    def fits(name: str) -> bool:
        return name in theirs and name in own and theirs[name].shape == own[name].shape

    taken = {name: theirs[name] if fits(name) else value for name, value in own.items()}
    spared = {name for name in own.keys() | theirs.keys() if prefixes and name.startswith(prefixes)}
    compared = {name: value for name, value in theirs.items() if name not in spared}
    compared |= {name: own[name] for name in spared & own.keys()}
    load_strictly(network, compared, f"--init_from {source}")
    network.load_state_dict(taken)
    return loaded.identity


def newest_checkpoint(folder: Path) -> Path:
    """The checkpoint of a run that has made the most steps, by what is stored in it, not by its name or date.

    Files that are no whole checkpoint of this script are passed over, and stay where they are.

    Raises:
        InputError: when there is none.
    """
    found: list[tuple[int, str, Path]] = []
    for path in sorted(folder.glob("*.ckpt")):
        try:
            step = read_checkpoint(path, OCCUPANCY_TRAINING).contents["global_step"]
        except InputError:
            continue
        found.append((int(step), path.name, path))
    if not found:
        raise InputError(f"--resume: expected a checkpoint of the run in {folder}, got none")
    return max(found, key=lambda entry: (entry[0], entry[1] == "last.ckpt"))[2]


def export_weights(loaded: Loaded, path: Path) -> None:
    """Write `path` (.safetensors) and the JSON beside it."""
    with staged_file(path, "--basedir") as weights, staged_file(path.with_suffix(".json"), "--basedir") as sizes:
        mode = weights.stat().st_mode
        save_network(loaded.network, loaded.plan, weights, sizes, {"exported_from": loaded.identity.sha256})
        weights.chmod(mode)  # safetensors writes files that nobody else may read


def plain_sessions(names: dict[str, list[str]]) -> dict[str, list[str]]:
    """As a record holds them."""
    return {split: list(members) for split, members in names.items()}
