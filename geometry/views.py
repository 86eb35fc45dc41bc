"""Posed images, and the batches that go from the loaders to the losses."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from geometry.cameras import Cameras
from geometry.tensor_struct import TensorStruct


@dataclass(frozen=True)
class Views(TensorStruct):
    """Posed images of one scene each."""

    HOST_FIELDS = frozenset({"ids"})

    images: Float[Tensor, "*batch view 3 height width"]
    """RGB in [0, 1], never normalized outside a network."""
    cameras: Cameras
    near: Float[Tensor, "*batch view"]
    """Nearest camera z that matters, scene units."""
    far: Float[Tensor, "*batch view"]
    ids: Int[Tensor, "*batch view"]
    """View numbers as the data set counts them."""
    depth: Float[Tensor, "*batch view height width"] | None = None
    """Camera z in scene units; 0 = unknown."""
    mask: Bool[Tensor, "*batch view height width"] | None = None
    """Pixels of the object, where the data set has such masks."""
    no_surface: Bool[Tensor, "*batch view height width"] | None = None
    """Pixels that are known to show nothing that has a depth, such as sky."""


@dataclass(frozen=True)
class Traits:
    """What the lengths and the depth of a scene are like."""

    meters: float | None = None
    """Meters per scene unit; None: the unit is unknown, as of structure from motion."""
    is_synthetic: bool = False
    """Depth is rendered: it has no noise, and where it is unknown there is nothing."""


@dataclass(frozen=True)
class SceneBatch(TensorStruct):
    """What a loader yields and a training step gets: source views to look at, target views to reproduce."""

    HOST_FIELDS = frozenset({"seeds"})

    source: Views
    target: Views
    names: tuple[str, ...]
    """One per scene, unique within the data set (scan and lighting, for example)."""
    seeds: Int[Tensor, "*batch"]
    """All random choices made for a scene in a step derive from this number."""


@dataclass(frozen=True)
class FrameBatch(TensorStruct):
    """What VGGT trains on: groups of frames of one scene each, with their true cameras and depth."""

    HOST_FIELDS = frozenset({"seeds"})

    views: Views
    """Sides are multiples of the patch size; loaders always give depth (0 = unknown) and `no_surface`."""
    names: tuple[str, ...]
    """One per group: data set and sequence."""
    seeds: Int[Tensor, "*batch"]
    """All random choices made for a group derive from this number."""
    traits: tuple[Traits, ...]
    """One per group: of its scene."""
