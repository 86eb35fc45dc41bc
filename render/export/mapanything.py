"""A scene reconstructed by MapAnything, as the products of `render.export` take it."""

from collections.abc import Sequence

import torch

from geometry import Cameras
from models.mapanything.inference import Scene, View
from render.export.renderings import Renderings


def inferred_views(names: Sequence[str], views: Sequence[View], scene: Scene) -> Renderings:
    """Cameras, masked depth and colors of a scene, in the frame of its first view.

    Confidence c of the network (above 1) becomes 1 - 1 / c, which is in [0, 1) and has the same order.
    """
    confidence = scene.reconstruction.confidence
    known = [one[one > 0] for one in scene.depth]
    far = torch.stack([one.max() if len(one) else one.new_ones(()) for one in known])
    sure = torch.ones_like(scene.depth) if confidence is None else 1 - 1 / confidence[0].clamp_min(1)
    return Renderings(
        names=tuple(names),
        cameras=Cameras(scene.w2c.float(), scene.intrinsics.float(), *scene.depth.shape[1:]),
        depth=scene.depth.float(),
        colors=torch.stack([view.image for view in views]).permute(0, 2, 3, 1).float(),
        confidence=sure.float(),
        near=torch.stack([one.min() if len(one) else one.new_zeros(()) for one in known]).float(),
        far=far.float(),
        scene_far=far.float(),
    )
