"""VGGT: our own implementation of the network, its weights, and the frozen feature extractor the tracks build on."""

from models.vggt.cache import FeatureCache
from models.vggt.config import VGGTConfig
from models.vggt.frozen import FrozenFeatures, FrozenVGGT
from models.vggt.vggt import VGGT, VGGTOutput
from models.vggt.weights import LoadedVGGT, WeightIdentity, load_vggt

__all__ = [
    "VGGT",
    "FeatureCache",
    "FrozenFeatures",
    "FrozenVGGT",
    "LoadedVGGT",
    "VGGTConfig",
    "VGGTOutput",
    "WeightIdentity",
    "load_vggt",
]
