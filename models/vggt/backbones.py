"""Which network stands behind `FrozenVGGT`: a VGGT, or a Depth Anything 3, told apart by their files.

A further one needs three things: `sizes` (`BackboneSizes`), a call that returns a `VGGTOutput` (tokens of the layers
asked for, depth, `pose_enc`), and a line in `load_network` that recognizes its configuration file.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from models.vggt.depth_anything import (
    DepthAnything3,
    DepthAnythingConfig,
    depth_anything_heads,
    is_depth_anything,
    weight_names,
)
from models.vggt.vggt import BackboneSizes, VGGTOutput
from models.vggt.weights import (
    WeightIdentity,
    file_sha256,
    hollow,
    load_vggt,
    locate_weights,
    random_source,
    read_tensors,
    require_fitting_weights,
    tensors_sha256,
    weight_shapes,
)

_PUBLISHED_VGGT = (14, 24, 2048)
"""Patch size, layers and channels of VGGT-1B."""
_VGGT_LICENSE = "CC BY-NC 4.0, no commercial use, unless they are VGGT-1B-Commercial's, which have terms of their own"


class MultiViewNetwork(Protocol):
    """What `FrozenVGGT` needs of a network, which is an `nn.Module` too."""

    @property
    def sizes(self) -> BackboneSizes:
        """Patch size, layers, channels, heads."""
        ...

    def __call__(self, images: Tensor, *, keep_layers: Collection[int], frames_chunk_size: int | None) -> VGGTOutput:
        """Images (batch view 3 height width), RGB in [0, 1], sides multiples of the patch -> predictions.

        Tokens are of the layers named, patches row-major behind `patch_start` others; cameras are camera from first
        view, depth is camera z in their unit.
        """
        ...


class LoadedNetwork(NamedTuple):
    """A network in evaluation mode, where its weights come from, and their license."""

    model: nn.Module
    identity: WeightIdentity
    license_terms: str
    """Of published weights; empty where nothing is known."""

    @property
    def sizes(self) -> BackboneSizes:
        """Of the network."""
        return cast("MultiViewNetwork", self.model).sizes


def load_licensed_vggt(source: str | Path, *, heads: Sequence[str] | None) -> LoadedNetwork:
    """`load_vggt`, with the license of what has the size of published weights."""
    model, identity = load_vggt(source, heads=heads)
    is_published = not str(source).startswith("random:") and tuple(model.sizes[:3]) == _PUBLISHED_VGGT
    return LoadedNetwork(model, identity, _VGGT_LICENSE if is_published else "")


def load_network(source: str | Path, *, heads: Sequence[str]) -> LoadedNetwork:
    """The network of a source with the heads named, float32 on the CPU.

    Sources are those of `load_vggt`; a `config.json` (or `<stem>.json`) with a `model_name` da3-... makes it a Depth
    Anything 3, such as the hub's `depth-anything/DA3-BASE`.

    Raises:
        InputError: for weights that do not fit, strictly; a `MissingHeadError` for a head that there is not.
    """
    name = str(source)
    if name.startswith("random:"):
        config_file: Path | None = Path(random_source(name)[0])
        weights = None
    else:
        weights, config_file = locate_weights(name)
    if is_depth_anything(config_file):
        return _load_depth_anything(name, weights, DepthAnythingConfig.read(cast("Path", config_file)), heads)
    return load_licensed_vggt(source, heads=heads)


def _load_depth_anything(
    source: str, weights: Path | None, config: DepthAnythingConfig, heads: Sequence[str]
) -> LoadedNetwork:
    heads = depth_anything_heads(config, heads)
    if weights is None:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(int(random_source(source)[1]))
            model = DepthAnything3(config, heads)
        return LoadedNetwork(model.eval(), WeightIdentity(source, tensors_sha256(model.state_dict())), "")
    model = hollow(lambda: DepthAnything3(config, heads), f"weights {weights}")
    expected = model.state_dict()
    shapes = weight_shapes(weights)
    names, unknown = weight_names(shapes, expected)
    require_fitting_weights(weights, {name: shapes[key] for name, key in names.items()}, expected, unknown)
    tensors = read_tensors(weights, list(names.values()))
    model.load_state_dict({name: tensors[key] for name, key in names.items()}, assign=True)
    return LoadedNetwork(model.eval(), WeightIdentity(source, file_sha256(weights)), config.license_terms)
