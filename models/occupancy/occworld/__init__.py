"""OccWorld (Zheng et al. 2024): a tokenizer of occupancy, a transformer over its codes, by the released names."""

from models.occupancy.occworld.config import OccWorldConfig
from models.occupancy.occworld.network import OccWorld

__all__ = ["OccWorld", "OccWorldConfig"]
