"""What the field of a scene shows in a target view, to compare the colors of the source views with.

Where a plane of the sweep is wrong, or a source view is occluded, the color there is that of something else. The field
is too coarse to be shown, but fine enough to notice that.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from geometry import Cameras, TensorStruct
from models.nerf.guided.plane_sweep import SweptPixels, sample_swept, view_weights


@dataclass(frozen=True)
class SceneColors(TensorStruct):
    """A target view as the field of the scene shows it, and source views of the same coarseness."""

    rgb: Float[Tensor, "batch 3 rows cols"]
    sources: Float[Tensor, "batch view 3 source_rows source_cols"]

    @classmethod
    def of(
        cls,
        rgb: Float[Tensor, "batch 3 rows cols"],
        target: Cameras,
        images: Float[Tensor, "batch view 3 height width"],
        source: Cameras,
    ) -> "SceneColors":
        """`rgb` covers the target's image; the sources' pixels get as large: detail must not count as a difference."""
        shrink = min(1.0, target.median_focal * rgb.shape[-1] / target.width / source.median_focal)
        size = [max(1, round(side * shrink)) for side in images.shape[-2:]]
        return cls(rgb, F.interpolate(images.flatten(0, 1), size, mode="area").unflatten(0, images.shape[:2]))

    def color_mismatch(
        self, swept: SweptPixels, shown: Float[Tensor, "batch ray 3"]
    ) -> Float[Tensor, "batch view ray plane"]:
        """Squared difference, mean over channels, of the sources' colors from what the rays are known to show."""
        return (sample_swept(self.sources, swept) - shown.transpose(1, 2)[:, None, ..., None]).square().mean(2)

    def mean_color_mismatch(
        self, swept: SweptPixels, shown: Float[Tensor, "batch ray 3"]
    ) -> Float[Tensor, "batch ray plane"]:
        """Weighted mean over the views, see `view_weights`; 0 where no view is used."""
        weights = view_weights(swept)
        return (self.color_mismatch(swept, shown) * weights).sum(1) / weights.sum(1).clamp_min(1e-6)
