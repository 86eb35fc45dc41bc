"""Weights -> a MapAnything network, strictly: every key must be there, with its shape; their licence is said.

A source is a `.safetensors`, `.pt` or `.bin` file (sizes in `<stem>.json` beside it or from the shapes), a folder with
one such file, a hub id like `facebook/map-anything`, or `random:CONFIG.json[:SEED]`.
"""

import dataclasses
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import torch

from geometry.errors import require
from models.config_checks import read_json
from models.mapanything.config import VIT_ENCODER, MapAnythingConfig, config_of_weights
from models.mapanything.network import MapAnything
from models.vggt.weights import (
    WeightIdentity,
    file_sha256,
    hollow,
    locate_weights,
    random_source,
    read_tensors,
    require_fitting_weights,
    tensors_sha256,
    weight_shapes,
)

LICENCES = {
    "facebook/map-anything": "CC BY-NC 4.0: not for commercial use",
    "facebook/map-anything-apache": "Apache License 2.0",
}
"""Of the released weights, as their model cards state."""
_ALIASES = (
    (re.compile(r"dpt_feature_head\.input_process\.(\d)\.1\.weight"), 1),
    (re.compile(r"dpt_feature_head\.scratch\.layer_rn\.(\d)\.weight"), 1),
)
"""Names under which upstream's modules hold `scratch.layer<k>_rn` again; which one a file has depends on the writer."""
_UNUSED = re.compile(r"encoder\.model\.(mask_token|norm\..*)")
"""Of DINOv2, without a part in what is computed."""


class LoadedMapAnything(NamedTuple):
    """A network in evaluation mode and where its weights come from."""

    model: MapAnything
    identity: WeightIdentity
    licence: str | None
    """Of released weights; None where it is not known."""


def load_mapanything(source: str | Path) -> LoadedMapAnything:
    """The network of a source, float32 on the CPU; a known licence is written to stderr.

    Raises:
        InputError: for a missing, unexpected or wrongly shaped tensor, an unreadable file, or a pickle that holds more
            than plain data.
    """
    name = str(source)
    if name.startswith("random:"):
        return _random(name)
    path, config_file = locate_weights(name)
    shapes = weight_shapes(path)
    stored = stored_names(shapes)
    renamed = {ours: shapes[theirs] for ours, theirs in stored.items()}
    config = config_of_weights(renamed, _own_config(config_file))
    model = hollow(lambda: MapAnything(config), f"weights {path}")
    require_fitting_weights(path, renamed, model.state_dict())
    tensors = read_tensors(path, list(stored.values()))
    model.load_state_dict({ours: tensors[theirs] for ours, theirs in stored.items()}, assign=True)
    licence = LICENCES.get(name)
    if licence is not None:
        sys.stderr.write(f"weights {name}: {licence}\n")
    return LoadedMapAnything(model.eval(), WeightIdentity(name, file_sha256(path)), licence)


def start_from_dinov2(model: MapAnything, source: str | Path) -> WeightIdentity:
    """Give the image encoder the weights of a DINOv2 (Oquab et al. 2023), in its authors' names of tensors.

    Blocks after those of the encoder become the first ones of the attention over views, as Keetha et al. 2025 start
    them; without any that attention stays as it is.

    Raises:
        InputError: for a network with another image encoder, or a tensor that is missing, unexpected or wrongly shaped.
    """
    config = model.config
    require(
        config.image_encoder == VIT_ENCODER,
        f"DINOv2 weights {source}: expected a network with image_encoder {VIT_ENCODER}, got {config.image_encoder}",
    )
    path, _ = locate_weights(str(source))
    shapes = weight_shapes(path)
    ours = {_name_of_dinov2(name, config.encoder_blocks): name for name in shapes}
    ours = {name: stored for name, stored in ours.items() if not _UNUSED.fullmatch(name)}
    shared = {match[0] for name in ours if (match := re.match(r"info_sharing\.self_attention_blocks\.\d+\.", name))}
    parts = ("encoder.model.", *shared)
    expected = {name: value for name, value in model.state_dict().items() if name.startswith(parts)}
    require_fitting_weights(path, {name: shapes[stored] for name, stored in ours.items()}, expected)
    tensors = read_tensors(path, list(ours.values()))
    model.load_state_dict({name: tensors[stored] for name, stored in ours.items()}, strict=False)
    return WeightIdentity(str(source), file_sha256(path))


def _name_of_dinov2(name: str, encoder_blocks: int) -> str:
    """Ours of a tensor of a DINOv2."""
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    if match is None or int(match[1]) < encoder_blocks:
        return f"encoder.model.{name}"
    return f"info_sharing.self_attention_blocks.{int(match[1]) - encoder_blocks}.{match[2]}"


def stored_names(names: Collection[str]) -> dict[str, str]:
    """Our name of each tensor -> its name in the file; of several names of one tensor the plain one."""
    found: dict[str, str] = {}
    for name in names:
        ours = name
        for pattern, offset in _ALIASES:
            if match := pattern.fullmatch(name):
                ours = f"dpt_feature_head.scratch.layer{int(match[1]) + offset}_rn.weight"
        if _UNUSED.fullmatch(name) or (ours != name and ours in names):
            continue
        found.setdefault(ours, name)
    return found


def _own_config(path: Path | None) -> MapAnythingConfig | None:
    """None for a configuration of upstream's, whose sizes the shapes say as well."""
    if path is None:
        return None
    raw = read_json(path)
    names = {field.name for field in dataclasses.fields(MapAnythingConfig)}
    return MapAnythingConfig.read(raw) if names & raw.keys() else None


def _random(name: str) -> LoadedMapAnything:
    """The initial values of a network, the same for the same seed."""
    path, seed = random_source(name)
    config = MapAnythingConfig.read(path)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(int(seed))
        model = MapAnything(config).eval()
    return LoadedMapAnything(model, WeightIdentity(name, tensors_sha256(model.state_dict())), None)
