"""What a VGGT would say that is right up to noise: cameras turned and moved, focal lengths off, depth of the truth."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from geometry import Cameras, rigid_inverse
from render.reconstruct.chunk_alignment import PredictedView
from render.reconstruct.types import PhotoSet
from render.reconstruct.vggt_prediction import Prediction

ROWS, COLS = 18, 24


def noisy(w2c: Float[Tensor, "view 4 4"], *, degrees: float, shift: float, seed: int = 0) -> Float[Tensor, "view 4 4"]:
    """Every camera turned by `degrees` about its own axis, and moved by about `shift` times the extent of all."""
    generator = torch.Generator().manual_seed(seed)
    count = len(w2c)
    axis = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    axis = axis / axis.norm(dim=-1, keepdim=True)
    x, y, z = (math.radians(degrees) * axis).unbind(-1)
    zero = torch.zeros_like(x)
    turn = torch.linalg.matrix_exp(torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3)))
    centers = rigid_inverse(w2c.double())[:, :3, 3]
    extent = (centers - centers.mean(0)).norm(dim=-1).mean()
    centers = centers + shift * extent * torch.randn(count, 3, generator=generator, dtype=torch.float64) / 3**0.5
    moved = w2c.double().clone()
    moved[:, :3, :3] = turn @ moved[:, :3, :3]
    moved[:, :3, 3] = -(moved[:, :3, :3] @ centers[..., None])[..., 0]
    return moved


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
