"""Weights -> a VGGT network, strictly: every key of every wanted part must be there, with its shape.

A source is a `.safetensors`, `.pt` or `.bin` file (with its sizes in `<stem>.json` beside it, else VGGT-1B's with the
heads it has), a folder with one such file (plain, or of the hub's cache), a hub id like `facebook/VGGT-1B`, or
`random:CONFIG.json[:SEED]`. Pickles may be training checkpoints of upstream, whose weights are their entry "model".
"""

import hashlib
import pickle
import re
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from huggingface_hub import hf_hub_download, list_repo_files, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from geometry.errors import InputError, require
from geometry.plain_files import is_inflated, plain_file
from models.config_checks import read_json
from models.vggt.config import HEADS, VGGTConfig
from models.vggt.vggt import VGGT

Network = TypeVar("Network", bound=nn.Module)
PARTS = ("aggregator", *(f"{name}_head" for name in HEADS))
WEIGHT_FILES = ("model.safetensors", "model.pt")
"""Preferred names, in this order."""
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".bin")
CONFIG_FILE = "config.json"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_TRAINING_ENTRY = "model"
"""Of upstream's training checkpoints; optimizer, scaler and counters lie beside it."""
_WRAPPER = "module."
"""Before every key of a network that was saved inside torch's DistributedDataParallel."""
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
    unexpected or wrongly shaped tensor, an unreadable file, a pickle holding more than plain data - is an `InputError`.

    Raises:
        InputError: see above; a `MissingHeadError` for a head that the weights do not have.
    """
    name = str(source)
    if name.startswith("random:"):
        return _random(name, heads)
    weights, config = _sized(name)
    config = config if heads is None else config.with_heads(list(heads))
    model = hollow(lambda: VGGT(config), f"weights {weights}")
    model.load_state_dict(_read(weights, model.state_dict()), assign=True)
    return LoadedVGGT(model.eval(), WeightIdentity(name, file_sha256(weights)))


def hollow(build: Callable[[], Network], where: str) -> Network:
    """A network on torch's meta device, to compare its sizes with a file's before any memory is taken for them.

    Raises:
        InputError: for sizes that no tensor has: of more than 64 bits, or such a product.
    """
    try:
        with torch.device("meta"):
            return build()
    except (TypeError, RuntimeError, OverflowError, ArithmeticError) as error:
        raise InputError(f"{where}: expected sizes of a network, got impossible ones: {_first_line(error)}") from error


def available_heads(source: str | Path) -> tuple[str, ...]:
    """Heads that the weights of a source have, without reading these.

    Raises:
        InputError: see `load_vggt`.
    """
    name = str(source)
    return (VGGTConfig.read(random_source(name)[0]) if name.startswith("random:") else _sized(name)[1]).heads


def _sized(source: str) -> tuple[Path, VGGTConfig]:
    """Weight file and sizes of a source; without a file of sizes VGGT-1B's, with the heads there are weights of."""
    weights, config_file = locate_weights(source)
    if config_file is not None:
        if "model_name" in (raw := read_json(config_file)):
            raise InputError(f"weights {weights}: expected a VGGT's, got {raw['model_name']}'s ({config_file})")
        return weights, VGGTConfig.read(raw)
    config = VGGTConfig()
    parts = {key.split(".", 1)[0] for key in weight_shapes(weights)}
    return weights, config.with_heads([head for head in config.heads if f"{head}_head" in parts])


def _random(name: str, heads: Sequence[str] | None) -> LoadedVGGT:
    """`random:CONFIG.json[:SEED]`: the initial values of a network, the same for the same seed and heads."""
    path, seed = random_source(name)
    config = VGGTConfig.read(path)
    config = config if heads is None else config.with_heads(list(heads))
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(int(seed))  # torch.manual_seed would reseed every accelerator too
        model = VGGT(config).eval()
    return LoadedVGGT(model, WeightIdentity(name, tensors_sha256(model.state_dict())))


def random_source(name: str) -> tuple[str, str]:
    """Configuration file and seed of `random:CONFIG.json[:SEED]`."""
    path, _, seed = name.removeprefix("random:").rpartition(":")
    return (path, seed) if path and seed.isdecimal() else (name.removeprefix("random:"), "0")


def locate_weights(source: str) -> tuple[Path, Path | None]:
    """Weight file and, where there is one, configuration file of a source; a hub id is fetched.

    Raises:
        InputError: for anything else.
    """
    path = Path(source)
    if path.is_dir():
        return _in_folder(path, f"folder {path}")
    if path.is_file():
        if path.suffix not in WEIGHT_SUFFIXES:
            raise InputError(
                f"weights {path} must be a {' or '.join(WEIGHT_SUFFIXES)} file, got {path.suffix or 'no suffix'!r}"
            )
        config = path.with_suffix(".json")
        return path, config if config.is_file() else None
    if path.suffix in WEIGHT_SUFFIXES or not _HUB_ID.fullmatch(source):
        raise InputError(f"weights {source} not found: no such file or folder, and not a hub id (owner/name)")
    return _download(source)


def _in_folder(folder: Path, where: str) -> tuple[Path, Path | None]:
    """Weight file and configuration in a folder, or in the snapshot that a folder of the hub's cache holds."""
    snapshots, main = folder / "snapshots", folder / "refs" / "main"
    if main.is_file():
        folders = [snapshots / main.read_text().strip()]
    else:
        folders = sorted(snapshots.iterdir()) if snapshots.is_dir() else [folder]
    files = [path for one in folders if one.is_dir() for path in sorted(one.iterdir()) if path.is_file()]
    weights = folder / _only_weights([str(path.relative_to(folder)) for path in files], where)
    configs = (weights.with_suffix(".json"), weights.with_name(CONFIG_FILE))
    return weights, next((path for path in configs if path.is_file()), None)


def _only_weights(files: Sequence[str], where: str) -> str:
    """The one weight file among names; one of `WEIGHT_FILES` is taken before others."""
    for preferred in WEIGHT_FILES:
        if [Path(file).name for file in files].count(preferred) == 1:
            return next(file for file in files if Path(file).name == preferred)
    found = sorted(file for file in files if Path(file).suffix in WEIGHT_SUFFIXES)
    if len(found) > 1:
        raise InputError(f"{where} holds {len(found)} weight files, expected one: {', '.join(found)}")
    if not found:
        raise InputError(f"{where} holds no weights, expected one {' or '.join(WEIGHT_SUFFIXES)} file")
    return found[0]


def _download(repository: str) -> tuple[Path, Path | None]:
    """Weight file and configuration of a hub repository, from its cache or the network."""
    where = f"hub repository {repository}"
    try:
        for file in WEIGHT_FILES:
            if (weights := _fetched(repository, file)) is not None:
                return weights, _fetched(repository, CONFIG_FILE)
        chosen = _only_weights(list_repo_files(repository), where)
        weights = Path(hf_hub_download(repository, chosen))
        sizes = Path(chosen).with_suffix(".json")
        return weights, _fetched(repository, str(sizes)) or _fetched(repository, CONFIG_FILE)
    except InputError:
        raise
    except GatedRepoError as error:
        raise InputError(
            f"weights {repository} are gated: accept their terms on https://huggingface.co/{repository} and log in "
            "with `hf auth login`, or give a file that you downloaded there"
        ) from error
    except Exception as error:  # any error of the hub's client or of the connection
        try:
            folder = Path(snapshot_download(repository, local_files_only=True))
        except Exception:
            is_offline = isinstance(error, LocalEntryNotFoundError)
            reason = f"cannot be fetched from the hub: {_first_line(error)}"
            reason = "are neither in the hub's cache nor reachable online" if is_offline else reason
            raise InputError(f"weights {repository} {reason}") from error
        return _in_folder(folder, f"{where} in the cache, as the hub cannot be reached,")


def _fetched(repository: str, file: str) -> Path | None:
    """A file of a hub repository; None where it has none of that name."""
    try:
        return Path(hf_hub_download(repository, file))
    except LocalEntryNotFoundError:
        raise
    except EntryNotFoundError:
        return None


def weight_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a weight file, by name.

    Raises:
        InputError: for a file that cannot be read.
    """
    if path.suffix != ".safetensors":
        return {key: tuple(value.shape) for key, value in _unpickled(path).items()}
    try:
        with safe_open(plain_file(path), framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"weights {path} cannot be read as safetensors: {_first_line(error)}") from error


def read_tensors(path: Path, names: Collection[str]) -> dict[str, Tensor]:
    """Tensors of a weight file as float32; others of a safetensors file are not read. Code in a pickle is not run.

    Raises:
        InputError: for a file that cannot be read, or integers.
    """
    if path.suffix != ".safetensors":
        content = _unpickled(path)
        return {key: _as_float32(path, key, content[key]).clone() for key in names}
    try:
        with safe_open(plain_file(path), framework="pt") as file:
            return {key: _as_float32(path, key, file.get_tensor(key)) for key in names}
    except (SafetensorError, OSError) as error:
        raise InputError(f"weights {path} cannot be read as safetensors: {_first_line(error)}") from error


def _unpickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a pickle by key: of a state dict, or of the entry "model" of a training checkpoint."""
    try:
        is_archive = zipfile.is_zipfile(plain_file(path))
        require(not (is_archive and is_inflated(path)), "its parts are compressed, as torch writes none")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except pickle.UnpicklingError as error:
        reason = _first_line(error)
        raise InputError(
            f"weights {path} hold more than tensors and plain values, or are no pickle: {reason} If you trust the "
            f"file, extract the weights once: content = torch.load({str(path)!r}, weights_only=False); "
            'torch.save(content.get("model", content), "weights.pt")'
        ) from error
    except Exception as error:  # a broken pickle can end in any of them
        raise InputError(f"weights {path} cannot be read: {_first_line(error)}") from error
    if isinstance(content, Mapping) and isinstance(content.get(_TRAINING_ENTRY), Mapping):
        content = content[_TRAINING_ENTRY]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        entries = f" with {', '.join(map(str, list(content)[:_SHOWN]))}" if isinstance(content, Mapping) else ""
        raise InputError(
            f"weights {path} must be a flat mapping from key to tensor, or have one as entry {_TRAINING_ENTRY!r}, "
            f"got {type(content).__name__}{entries}"
        )
    wrapped = content and all(key.startswith(_WRAPPER) for key in content)
    return {key.removeprefix(_WRAPPER) if wrapped else key: value for key, value in content.items()}


def _read(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The expected tensors; keys of known parts that are not wanted are passed over by design, others are refused."""
    shapes = weight_shapes(path)
    wanted_parts = {key.split(".", 1)[0] for key in expected}
    relevant = {key: shape for key, shape in shapes.items() if key.split(".", 1)[0] in wanted_parts}
    unknown = [key for key in shapes if key.split(".", 1)[0] not in PARTS]
    require_fitting_weights(path, relevant, expected, unknown)
    return read_tensors(path, list(expected))


def require_fitting_weights(
    path: Path, shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, Tensor], unknown: Sequence[str] = ()
) -> None:
    """Refuse anything but the expected keys and shapes.

    Raises:
        InputError: with the first few keys that are missing, unexpected (`unknown` ones too) or wrongly shaped.
    """
    problems = {
        "missing": sorted(set(expected) - set(shapes)),
        "unexpected": sorted((set(shapes) - set(expected)) | set(unknown)),
        "wrongly shaped": [
            f"{key} (expected {tuple(expected[key].shape)}, got {shapes[key]})"
            for key in sorted(set(shapes) & set(expected))
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


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """Hex digest of the bytes of tensors in the order of their names."""
    digest = hashlib.sha256()
    for _, tensor in sorted(state.items()):
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
