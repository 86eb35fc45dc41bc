"""Weight files of what was trained: a `.safetensors` whose metadata say all that is needed to build the network again.

Tensors are `visual.*` (statistics and codes), `perceiver.*`, `geometry.*` and `adapter.*` (peft's names after that).
The base of the language model and VGGT are named with their hashes and found elsewhere.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from geometry.errors import InputError, require
from geometry.plain_json import parse_json
from models.config_checks import section
from models.vggt.weights import WeightIdentity, file_sha256
from models.vqa.config import PerceiverConfig, VQAConfig
from models.vqa.language import ADAPTER, load_language
from models.vqa.network import SceneQA

_FORMAT = "vqa-1"
_PARTS = ("visual", "perceiver", "geometry")
BESIDE = "beside:"
"""Of a language model or VGGT that lies in the same folder as the weight file, such as beside:vqa_rooms.lm."""


@dataclass(frozen=True)
class VQAWeights:
    """What a weight file says about itself."""

    config: VQAConfig
    language: WeightIdentity
    vggt: WeightIdentity
    image_size: int
    """Pixels of the long side that VGGT works at."""
    about: dict[str, Any]
    """Of the run: options, commit."""


def trained_state(network: SceneQA) -> dict[str, Tensor]:
    """Everything that is not VGGT or the base of the language model."""
    state = {}
    for part in _PARTS:
        module = getattr(network, part)
        if module is not None:
            state |= {f"{part}.{key}": value for key, value in module.state_dict().items()}
    state |= {f"{ADAPTER}.{key}": value for key, value in network.language.adapter_state().items()}
    return state


def load_trained_state(network: SceneQA, state: dict[str, Tensor], where: str) -> None:
    """Strictly.

    Raises:
        InputError: naming keys that are missing, unexpected or of another shape.
    """
    own = trained_state(network)
    wrong = sorted(own.keys() ^ state.keys())
    wrong += [key for key in sorted(own.keys() & state.keys()) if own[key].shape != state[key].shape]
    if wrong:
        raise InputError(
            f"{where}: expected the weights of this configuration, got {len(wrong)} that differ: {wrong[:3]}"
        )
    for part in _PARTS:
        module = getattr(network, part)
        if module is not None:
            module.load_state_dict(_below(state, part))
    network.language.load_adapters(_below(state, ADAPTER), where)


def save_weights(
    path: Path,
    network: SceneQA,
    vggt: WeightIdentity,
    image_size: int,
    *,
    dtype: torch.dtype = torch.float32,
    about: dict[str, Any] | None = None,
) -> None:
    """Write a weight file; statistics stay float32.

    Raises:
        InputError: for numbers that are not finite in `dtype`.
    """
    tensors = {}
    for key, value in trained_state(network).items():
        stored = torch.float32 if key.startswith("visual.") and key.endswith((".mean", ".std")) else dtype
        tensors[key] = value.detach().cpu().to(stored).contiguous().clone()
    wrong = [key for key, value in tensors.items() if not bool(torch.isfinite(value).all())]
    require(not wrong, f"{path}: expected finite numbers in {dtype}, got others in {wrong[:3]}")
    metadata = {
        "format": _FORMAT,
        "config": json.dumps(network.config.to_plain()),
        "language": json.dumps(network.language.identity._asdict()),
        "vggt": json.dumps(vggt._asdict()),
        "image_size": str(image_size),
        "about": json.dumps(about or {}),
    }
    mode = path.stat().st_mode if path.exists() else None
    save_file(tensors, path, metadata=metadata)
    if mode is not None:
        path.chmod(mode)  # safetensors writes files that nobody else may read


def read_weights(path: Path) -> tuple[VQAWeights, dict[str, Tensor]]:
    """What a file says and its tensors, float32.

    Raises:
        InputError: for a file that is missing, damaged or of another kind.
    """
    require(path.is_file(), f"weights {path}: expected a file, got nothing there")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"weights {path}: expected a whole .safetensors file, got {error}") from None
    require(metadata.get("format") == _FORMAT, f"weights {path}: expected those of train_vqa.py, got others")
    try:
        found = VQAWeights(
            config=VQAConfig.from_plain(section(parse_json(metadata["config"]), "config"), "config"),
            language=_identity(metadata["language"]),
            vggt=_identity(metadata["vggt"]),
            image_size=int(metadata["image_size"]),
            about=section(parse_json(metadata["about"]), "about"),
        )
        require(found.image_size > 0, f"image_size: expected pixels, got {found.image_size}")
    except InputError as error:
        raise InputError(f"weights {path}: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"weights {path}: expected the metadata of this version, got none or other: {error}") from None
    return found, tensors


def _identity(plain: str) -> WeightIdentity:
    values = section(parse_json(plain), "identity of weights")
    require(
        all(isinstance(value, str) for value in values.values()), f"identity of weights: expected texts, got {plain}"
    )
    return WeightIdentity(**values)


def load_network(path: Path, language: str = "", *, dtype: torch.dtype = torch.float32) -> tuple[SceneQA, VQAWeights]:
    """A network ready to answer, on the CPU; `language` is where its base lies if not where it was in training.

    Raises:
        InputError: for another base than it was trained on, and weights that do not fit.
    """
    found, tensors = read_weights(path)
    source = language or located(found.language.name, path)
    base = load_language(source, dtype=dtype)
    require_same_base(found.language, base.identity, f"weights {path}")
    network = SceneQA(found.config, base)
    load_trained_state(network, tensors, f"weights {path}")
    return network.eval(), found


def located(name: str, path: Path) -> str:
    """Where something that a weight file names lies: beside the file, or as named."""
    return str(path.parent / name.removeprefix(BESIDE)) if name.startswith(BESIDE) else name


def require_same_base(theirs: WeightIdentity, ours: WeightIdentity, where: str) -> None:
    """Refuse adapters of another base: they would change weights that they were not trained beside.

    Raises:
        InputError: naming both.
    """
    require(
        theirs.sha256 == ours.sha256,
        f"{where}: trained on language model {theirs.name} ({theirs.sha256[:8]}), got {ours.name} ({ours.sha256[:8]})",
    )


def load_published_perceiver(path: Path, network: nn.Module) -> str:
    """Copy a projector of the published training guide's names into a network's Perceiver; returns the file's hash.

    Raises:
        InputError: when it is not of the size that the network's configuration asks for.
    """
    require(path.is_file(), f"projector {path}: expected a .safetensors file, got nothing there")
    try:
        with safe_open(path, "pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"projector {path}: expected a whole .safetensors file, got {error}") from None
    own = network.state_dict()
    wrong = sorted((own.keys() ^ state.keys()) - {"output_rms"})
    wrong += [key for key in sorted(own.keys() & state.keys()) if own[key].shape != state[key].shape]
    if wrong:
        raise InputError(
            f"projector {path}: expected the sizes of --perceiver, got {len(wrong)} that differ: {wrong[:3]}"
        )
    network.load_state_dict(own | state)
    return file_sha256(path)


def perceiver_config_of(state: dict[str, Tensor], num_heads: int) -> PerceiverConfig:
    """Sizes of published weights; the number of heads is not in them."""
    layers = {key.split(".")[1] for key in state if key.startswith("layers.")}
    latents, width = state["latents"].shape
    return PerceiverConfig(
        width=width,
        num_latents=latents,
        num_layers=len(layers),
        num_heads=num_heads,
        ffn_dim=state["layers.0.mlp.0.weight"].shape[0],
        is_scaled=False,
    )


def _below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) + 1 :]: value for key, value in state.items() if key.startswith(f"{prefix}.")}
