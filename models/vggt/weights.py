"""Weights -> a VGGT network, strictly: every key of every wanted part must be there, with its shape.

A source is a `.safetensors` or `.pt` file (with its sizes in `<stem>.json` beside it, or VGGT-1B's), a folder in hub
layout, a hub id like `facebook/VGGT-1B`, or `random:CONFIG.json[:SEED]`.
"""

import hashlib
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from geometry.errors import InputError
from models.vggt.config import HEADS, VGGTConfig
from models.vggt.vggt import VGGT

PARTS = ("aggregator", *(f"{name}_head" for name in HEADS))
WEIGHT_FILES = ("model.safetensors", "model.pt")
CONFIG_FILE = "config.json"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SHOWN = 3
"""Keys that an error message names."""


class WeightIdentity(NamedTuple):
    """Which weights a result was computed with."""

    name: str
    """The source as given."""
    sha256: str
    """Of the weight file; of the tensors' bytes in key order for random weights."""


class LoadedVGGT(NamedTuple):
    """A network in evaluation mode and where its weights come from."""

    model: VGGT
    identity: WeightIdentity


def load_vggt(source: str | Path, *, heads: Sequence[str] | None = None) -> LoadedVGGT:
    """The network with the heads named (None: all it has; empty: the aggregator alone), float32 on the CPU.

    Weights of heads that are not wanted are neither read nor kept. Anything else that does not fit - a missing,
    unexpected or wrongly shaped tensor, an unreadable file, a pickle holding more than tensors - is an `InputError`.
    """
    name = str(source)
    if name.startswith("random:"):
        return _random(name, heads)
    weights, config_file = _locate(name)
    config = VGGTConfig() if config_file is None else VGGTConfig.read(config_file)
    config = config if heads is None else config.with_heads(list(heads))
    with torch.device("meta"):
        model = VGGT(config)
    read = _read_safetensors if weights.suffix == ".safetensors" else _read_pickle
    tensors = read(weights, model.state_dict())
    model.load_state_dict(tensors, assign=True)
    return LoadedVGGT(model.eval(), WeightIdentity(name, file_sha256(weights)))


def _random(name: str, heads: Sequence[str] | None) -> LoadedVGGT:
    """`random:CONFIG.json[:SEED]`: the initial values of a network, the same for the same seed and heads."""
    path, _, seed = name.removeprefix("random:").rpartition(":")
    if not path or not seed.isdecimal():
        path, seed = name.removeprefix("random:"), "0"
    config = VGGTConfig.read(path)
    config = config if heads is None else config.with_heads(list(heads))
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(int(seed))  # torch.manual_seed would reseed every accelerator too
        model = VGGT(config).eval()
    digest = hashlib.sha256()
    for _, tensor in sorted(model.state_dict().items()):
        digest.update(tensor.numpy().tobytes())
    return LoadedVGGT(model, WeightIdentity(name, digest.hexdigest()))


def _locate(source: str) -> tuple[Path, Path | None]:
    """Weight file and, where there is one, configuration file of a source."""
    path = Path(source)
    if path.is_dir():
        weights = next((path / file for file in WEIGHT_FILES if (path / file).is_file()), None)
        if weights is None:
            raise InputError(f"folder {path} holds no weights, expected {' or '.join(WEIGHT_FILES)}")
        config = path / CONFIG_FILE
        return weights, config if config.is_file() else None
    if path.is_file():
        if path.suffix not in (".safetensors", ".pt"):
            raise InputError(f"weights {path} must be a .safetensors or .pt file, got {path.suffix or 'no suffix'!r}")
        config = path.with_suffix(".json")
        return path, config if config.is_file() else None
    if path.suffix in (".safetensors", ".pt") or not _HUB_ID.fullmatch(source):
        raise InputError(f"weights {source} not found: no such file or folder, and not a hub id (owner/name)")
    return _download(source)


def _download(repository: str) -> tuple[Path, Path | None]:
    """Weight file and configuration of a hub repository, from its cache or the network."""
    found: dict[str, Path] = {}
    for file in (CONFIG_FILE, *WEIGHT_FILES):
        try:
            found[file] = Path(hf_hub_download(repository, file))
        except LocalEntryNotFoundError as error:
            raise InputError(f"weights {repository} are neither in the hub's cache nor reachable online") from error
        except EntryNotFoundError:
            continue
        except Exception as error:  # any error of the hub's client or of the connection
            raise InputError(f"weights {repository} cannot be fetched from the hub: {_first_line(error)}") from error
        if file in WEIGHT_FILES:
            return found[file], found.get(CONFIG_FILE)
    raise InputError(f"hub repository {repository} holds no weights, expected {' or '.join(WEIGHT_FILES)}")


def _read_safetensors(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The expected tensors of a safetensors file; others are not read from disk."""
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            _check_keys(path, shapes, expected)
            return {key: _as_float32(path, key, file.get_tensor(key)) for key in expected}
    except (SafetensorError, OSError) as error:
        raise InputError(f"weights {path} cannot be read as safetensors: {_first_line(error)}") from error


def _read_pickle(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The expected tensors of a file written by `torch.save`; code in it is refused, not run."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise InputError(f"weights {path} hold more than tensors, or no pickle: {_first_line(error)}") from error
    except Exception as error:  # a broken pickle can end in any of them
        raise InputError(f"weights {path} cannot be read: {_first_line(error)}") from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"weights {path} must be a flat mapping from key to tensor, got {type(content).__name__}")
    _check_keys(path, {key: tuple(value.shape) for key, value in content.items()}, expected)
    return {key: _as_float32(path, key, content[key]).clone() for key in expected}


def _check_keys(path: Path, shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, Tensor]) -> None:
    """Refuse anything but the expected keys and, by design, keys of known parts that are not wanted."""
    wanted_parts = {key.split(".", 1)[0] for key in expected}
    relevant = {key for key in shapes if key.split(".", 1)[0] in wanted_parts}
    unknown = {key for key in shapes if key.split(".", 1)[0] not in PARTS}
    problems = {
        "missing": sorted(set(expected) - relevant),
        "unexpected": sorted((relevant - set(expected)) | unknown),
        "wrongly shaped": [
            f"{key} (expected {tuple(expected[key].shape)}, got {shapes[key]})"
            for key in sorted(relevant & set(expected))
            if shapes[key] != tuple(expected[key].shape)
        ],
    }
    found = [
        f"{len(keys)} {kind}: {', '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''}"
        for kind, keys in problems.items()
        if keys
    ]
    if found:
        raise InputError(f"weights {path} do not fit the network, {'; '.join(found)}")


def _as_float32(path: Path, key: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        raise InputError(f"weights {path}: {key} must be floating point, got {tensor.dtype}")
    return tensor.float()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
