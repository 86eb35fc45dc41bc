"""MapAnything: metric reconstruction from images and whatever geometry is known (Keetha et al. 2025)."""

from models.mapanything.config import MapAnythingConfig
from models.mapanything.inputs import GeometricInputs
from models.mapanything.network import MapAnything
from models.mapanything.output import Reconstruction
from models.mapanything.weights import LoadedMapAnything, load_mapanything

__all__ = [
    "GeometricInputs",
    "LoadedMapAnything",
    "MapAnything",
    "MapAnythingConfig",
    "Reconstruction",
    "load_mapanything",
]
