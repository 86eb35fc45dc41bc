"""VGGT's own depth and confidence of photographs, as the products take them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from geometry import Cameras
from render.export.renderings import Renderings
from render.reconstruct.vggt_prediction import Prediction


def predicted_views(names: Sequence[str], prediction: Prediction) -> Renderings:
    """The prediction in the size of its maps; smaller maps have rows or columns of unknown depth at their ends.

    Confidence c of VGGT (above 1) becomes 1 - 1 / c, which is in [0, 1) and has the same order.
    """
    height = max(view.depth.shape[0] for view in prediction.views)
    width = max(view.depth.shape[1] for view in prediction.views)

    def padded(values: Float[Tensor, "*channel rows cols"]) -> Float[Tensor, "*channel height width"]:
        return F.pad(values, (0, width - values.shape[-1], 0, height - values.shape[-2]))

    cameras = [view.map_camera for view in prediction.views]
    depth = torch.stack([padded(view.depth.clamp_min(0)) for view in prediction.views]).float()
    confidence = torch.stack([padded(1 - 1 / view.confidence.clamp_min(1)) for view in prediction.views]).float()
    known = [one[one > 0] for one in depth]
    far = torch.stack([one.max() if len(one) else one.new_ones(()) for one in known])
    return Renderings(
        names=tuple(names),
        cameras=Cameras(
            w2c=torch.stack([camera.w2c for camera in cameras]).float(),
            intrinsics=torch.stack([camera.intrinsics for camera in cameras]).float(),
            height=height,
            width=width,
        ),
        depth=depth,
        colors=torch.stack([padded(view.image) for view in prediction.views]).permute(0, 2, 3, 1).float(),
        confidence=confidence,
        near=torch.stack([one.min() if len(one) else one.new_zeros(()) for one in known]),
        far=far,
        scene_far=far,
    )
