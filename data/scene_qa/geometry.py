"""Depth maps and cameras of views -> the geometry that a record carries."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from data.scene import PosedScene
from data.scene_qa.types import HISTOGRAM_BINS, ViewGeometry
from geometry import rigid_inverse


def depth_histogram(depth: Float[np.ndarray, "height width"]) -> tuple[np.ndarray, tuple[float, float]]:
    """Shares (16,) of the valid depths (above 0) in equal bins between the least and the greatest, and these two.

    All zero where there is no valid depth; where all are equal, all are in the first bin.
    """
    valid = depth[np.isfinite(depth) & (depth > 0)].astype(np.float64)
    if not valid.size:
        return np.zeros(HISTOGRAM_BINS), (0.0, 0.0)
    low, high = float(valid.min()), float(valid.max())
    if low == high:
        return np.eye(HISTOGRAM_BINS)[0], (low, high)
    counts, _ = np.histogram(valid, bins=HISTOGRAM_BINS, range=(low, high))
    return counts / valid.size, (low, high)


def depth_histograms(
    depths: Sequence[Float[np.ndarray, "_ _"]] | Float[np.ndarray, "view height width"],
) -> tuple[Float[np.ndarray, "view 16"], Float[np.ndarray, "view 2"]]:
    """`depth_histogram` of each view."""
    found = [depth_histogram(depth) for depth in depths]
    return np.stack([shares for shares, _ in found]), np.array([limits for _, limits in found])


def scene_geometry(scene: PosedScene, view_ids: Sequence[int], meters_per_unit: float = 1.0) -> ViewGeometry:
    """Geometry of some views of any posed scene; histograms where they have depth maps.

    Lengths are meters if the data set's unit times `meters_per_unit` is one.
    """
    frames = [scene.frames[view] for view in view_ids]
    c2w = rigid_inverse(torch.stack([frame.w2c for frame in frames]).double())
    nothing = np.zeros((1, 1))
    histogram, limits = depth_histograms([scene.depth(view) if scene.has_depth(view) else nothing for view in view_ids])
    return ViewGeometry(
        rotations=c2w[:, :3, :3].float(),
        translations=(c2w[:, :3, 3] * meters_per_unit).float(),
        intrinsics=torch.stack([frame.intrinsics for frame in frames]).float(),
        image_size=torch.tensor([[frame.width, frame.height] for frame in frames], dtype=torch.float32),
        depth_histogram=torch.from_numpy(histogram).float(),
        depth_range=torch.from_numpy(limits * meters_per_unit).float(),
    )
