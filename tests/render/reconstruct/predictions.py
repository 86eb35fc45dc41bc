"""What a VGGT would say: given cameras, with the same flat depth for every photograph."""

import torch
from jaxtyping import Float
from torch import Tensor

from geometry import Cameras
from render.reconstruct.chunk_alignment import PredictedView
from render.reconstruct.types import PhotoSet
from render.reconstruct.vggt_prediction import Prediction

ROWS, COLS = 18, 24


def prediction(photos: PhotoSet, w2c: Float[Tensor, "view 4 4"], focal: float) -> Prediction:
    """These cameras with a flat wall four units in front of each."""
    views = []
    for photo, pose in zip(photos.photos, w2c, strict=True):
        intrinsics = torch.tensor([[focal, 0, photo.width / 2], [0, focal, photo.height / 2], [0, 0, 1]])
        camera = Cameras(pose.float(), intrinsics, photo.height, photo.width)
        depth = torch.full((ROWS, COLS), 4.0)
        views.append(
            PredictedView(photo.name, camera, torch.full((3, ROWS, COLS), 0.5), depth, 2 * torch.ones_like(depth))
        )
    return Prediction(tuple(views))
