"""Checkpoints: kinds by task, atomic writing, and reading that never runs code from the file.

A task makes one `CheckpointKind` for each kind of checkpoint it writes; this file names none of them.
"""

import os
import pickle
import shutil
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor, nn

from data.problems import announce
from geometry import InputError
from geometry.plain_files import is_inflated

LAST = "last.ckpt"
EMA_KEY = "weight_average"
"""Of the averaged weights in a checkpoint of a run that has them, see `WeightAverage`."""
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


_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, IndexError)
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
        """Of the network, by the names of its own state dict; the averaged ones where there are any.

        A run that is resumed goes on with those of its last step, which the trainer loads.
        """
        own = {
            name.removeprefix(_WEIGHTS_PREFIX): tensor
            for name, tensor in self.contents["state_dict"].items()
            if name.startswith(_WEIGHTS_PREFIX)
        }
        return own | self.contents.get(EMA_KEY, {})

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
        path = None if resumed is None else resumed.path.resolve()
        is_previous = path is not None and path.name == previous(path.with_name(LAST)).name
        self._damaged = path.with_name(LAST) if path is not None and is_previous else None
        """The last.ckpt that was passed over, until it is replaced."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Replace `path` in one step; the last.ckpt before it stays under another name (`previous`).

        Raises:
            InputError: when it cannot be written; then `path` is as it was.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if path.resolve() == self._damaged:  # it would take the place of the whole one
                self._damaged = None
            else:
                _keep_previous(path)
            partial.replace(path)
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            if isinstance(error, RuntimeError) and "inline_container" not in str(error):
                raise
            reason = getattr(error, "strerror", None) or "no space"  # torch's writer does not say why
            stays = "; the one before it is whole: --ckpt goes on with it" if path.is_file() else ""
            raise InputError(f"{path}: expected space and the right to write, got {reason}{stays}") from None

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Plain data only, whatever Lightning asks for."""
        resumed, self._resumed = self._resumed, None
        if resumed is not None and resumed.path == Path(path):
            return resumed.contents
        return _plain_contents(Path(path))


def previous(path: Path) -> Path:
    """Where the last.ckpt lies that was replaced by `path`."""
    return path.with_name(f"{path.name}.previous")


def read_checkpoint(path: Path, *kinds: CheckpointKind[Record, Network]) -> Checkpoint[Record, Network]:
    """A checkpoint of one of the kinds, on the CPU. Code inside the file is never executed.

    In place of a last.ckpt that is damaged the one before it is read, with a warning.

    Raises:
        InputError: when the file is missing, damaged, holds anything but plain data, is of no such kind, or has a
            record of another version.
    """
    try:
        contents = _plain_contents(path)
    except DamagedCheckpointError as error:
        if not previous(path).is_file():
            raise
        announce(f"warning: {error}; the one before it is taken: {previous(path)}")
        path = previous(path)
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


class DamagedCheckpointError(InputError):
    """A file that is no whole checkpoint."""


def _keep_previous(path: Path) -> None:
    """A second name for the last.ckpt that is about to be replaced; where there are no hard links, a copy."""
    if path.name != LAST or not path.is_file():
        return
    name = previous(path).with_name(f"{previous(path).name}.partial")
    name.unlink(missing_ok=True)
    try:
        os.link(path, name)
    except OSError:
        shutil.copyfile(path, name)
    name.replace(previous(path))


def _require_whole(path: Path) -> None:
    """Compare all bytes with their checksums, which `torch.load` does not.

    Raises:
        DamagedCheckpointError: naming the first part that differs.
    """
    if not zipfile.is_zipfile(path):
        return  # of an old torch, or none at all
    if is_inflated(path):
        raise DamagedCheckpointError(f"checkpoint {path}: expected parts as torch writes them, got compressed ones")
    with zipfile.ZipFile(path) as file:
        part = file.testzip()
    if part is not None:
        raise DamagedCheckpointError(f"checkpoint {path}: expected a whole file, got one whose {part} is damaged")


def _plain_contents(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"checkpoint {path}: expected a file, got nothing there")
    try:
        _require_whole(path)
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise DamagedCheckpointError(
            f"checkpoint {path}: expected tensors and plain values, got other pickled objects"
        ) from None
    except InputError:
        raise
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, *_ZIP_ERRORS) as error:
        reason = str(error).partition(". ")[0] or "nothing in it"
        raise DamagedCheckpointError(
            f"checkpoint {path}: expected a whole checkpoint, got a damaged file ({reason})"
        ) from None
    if not isinstance(contents, dict):
        raise InputError(f"checkpoint {path}: expected the contents of a checkpoint, got a {type(contents).__name__}")
    return contents
