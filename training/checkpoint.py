"""Checkpoints: kinds by task, atomic writing, and reading that never runs code from the file.

A task makes one `CheckpointKind` for each kind of checkpoint it writes; this file names none of them.
"""

import os
import pickle
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor, nn

from geometry import InputError

_WEIGHTS_PREFIX = "model."
"""Lightning's, for the attribute of the task that holds the network."""


@dataclass(frozen=True, kw_only=True)
class CheckpointRecord:
    """What a checkpoint says about itself; a task adds all that is needed to build its network again."""

    options: dict[str, Any]
    """The resolved options of the run."""
    commit: str

    def to_plain(self) -> dict[str, Any]:
        """Dicts, lists, strings and numbers only, as `torch.load(weights_only=True)` demands."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "CheckpointRecord":
        """The inverse of `to_plain`; KeyError or TypeError for a record of another version."""
        return cls(**plain)


Record = TypeVar("Record", bound=CheckpointRecord)
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class CheckpointKind(Generic[Record, Network]):
    """A kind of checkpoint: how it is recognized, and how its network is built."""

    key: str
    """Of the record in the file."""
    written_by: str
    """The script, for error messages."""
    record: type[Record]
    build: Callable[..., Network]
    """The network of a record, weights not loaded; further arguments are the task's own."""


@dataclass(frozen=True)
class Checkpoint(Generic[Record, Network]):
    """A checkpoint file, read once."""

    path: Path
    kind: CheckpointKind[Record, Network]
    record: Record
    contents: dict[str, Any]
    """All of the file: weights, optimizer, schedule, position in the data."""

    @property
    def weights(self) -> dict[str, Tensor]:
        """Of the network, by the names of its own state dict."""
        return {
            name.removeprefix(_WEIGHTS_PREFIX): tensor
            for name, tensor in self.contents["state_dict"].items()
            if name.startswith(_WEIGHTS_PREFIX)
        }

    def network(self, **how: Any) -> Network:
        """The network with its weights, ready to be used, on the CPU; `how`: see `CheckpointKind.build`.

        Raises:
            InputError: when the weights are not those of the record.
        """
        network = self.kind.build(self.record, **how)
        load_strictly(network, self.weights, f"checkpoint {self.path}")
        return network.eval()


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to disk, then renames: a file under its final name is always whole."""

    def __init__(self, resumed: Checkpoint[Any, Any] | None = None) -> None:
        """`resumed`: the checkpoint that the run goes on from, so that it is not read again; kept until loaded."""
        super().__init__()
        self._resumed = resumed

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
        resumed, self._resumed = self._resumed, None
        if resumed is not None and resumed.path == Path(path):
            return resumed.contents
        return _plain_contents(Path(path))


def read_checkpoint(path: Path, *kinds: CheckpointKind[Record, Network]) -> Checkpoint[Record, Network]:
    """A checkpoint of one of the kinds, on the CPU. Code inside the file is never executed.

    Raises:
        InputError: when the file is missing, damaged, holds anything but plain data, is of no such kind, or has a
            record of another version.
    """
    contents = _plain_contents(path)
    kind = next((kind for kind in kinds if kind.key in contents), None)
    if kind is None or "state_dict" not in contents:
        scripts = " or ".join(dict.fromkeys(kind.written_by for kind in kinds))
        raise InputError(f"checkpoint {path}: expected one written by {scripts}")
    try:
        record = cast(Record, kind.record.from_plain(contents[kind.key]))
    except (KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"checkpoint {path}: expected a record of this version, got one without or with other {reason}"
        ) from None
    return Checkpoint(path, kind, record, contents)


def load_strictly(network: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Copy weights into a network that has exactly these.

    Raises:
        InputError: naming keys that are missing, unexpected or of another shape.
    """
    own = network.state_dict()
    wrong = sorted(own.keys() ^ weights.keys())
    wrong += [key for key in sorted(own.keys() & weights.keys()) if own[key].shape != weights[key].shape]
    if wrong:
        count = len(wrong)
        raise InputError(f"{where}: expected the weights of this architecture, got {count} that differ: {wrong[:3]}")
    network.load_state_dict(weights)


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


def _plain_contents(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"checkpoint {path}: expected a file, got nothing there")
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(f"checkpoint {path}: expected tensors and plain values, got other pickled objects") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"checkpoint {path}: expected a whole checkpoint, got a damaged file ({error})") from None
    if not isinstance(contents, dict):
        raise InputError(f"checkpoint {path}: expected the contents of a checkpoint, got a {type(contents).__name__}")
    return contents
