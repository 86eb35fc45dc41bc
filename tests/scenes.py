"""Small posed scenes in memory, for tests of geometry and models."""

import torch
from torch import Tensor

from geometry import Cameras, SceneBatch, Views, pixel_centers


def ring_cameras(num_views: int, height: int = 24, width: int = 32, radius: float = 3.0) -> Cameras:
    """Cameras on an arc, all looking at the origin; one leading axis."""
    angles = torch.linspace(-0.4, 0.4, num_views)
    w2c = torch.eye(4).repeat(num_views, 1, 1)
    w2c[:, 0, 0], w2c[:, 0, 2] = angles.cos(), angles.sin()
    w2c[:, 2, 0], w2c[:, 2, 2] = -angles.sin(), angles.cos()
    w2c[:, 2, 3] = radius
    intrinsics = torch.tensor([[1.2 * width, 0, width / 2 + 1], [0, 1.1 * width, height / 2 - 1], [0, 0, 1.0]])
    return Cameras(w2c, intrinsics.repeat(num_views, 1, 1), height, width)


def random_views(num_views: int, seed: int = 0, height: int = 24, width: int = 32) -> Views:
    """Noise images with plausible cameras; one leading axis."""
    generator = torch.Generator().manual_seed(seed)
    return Views(
        images=torch.rand(num_views, 3, height, width, generator=generator),
        cameras=ring_cameras(num_views, height, width),
        near=torch.full((num_views,), 2.0),
        far=torch.full((num_views,), 4.0),
        ids=torch.arange(num_views),
        depth=2.5 + torch.rand(num_views, height, width, generator=generator),
    )


def random_batch(batch: int = 1, num_sources: int = 3, **size: int) -> SceneBatch:
    """A batch of noise scenes."""
    items = []
    for index in range(batch):
        views = random_views(num_sources + 1, seed=index, **size)
        seed = torch.tensor(index + 5)
        items.append(SceneBatch(views[:num_sources], views[num_sources:], (f"scene{index}",), seed))
    return SceneBatch.stack(items)


def rigid_motion(seed: int = 0) -> Tensor:
    """A random rotation and translation, 4x4."""
    generator = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator))
    rotation = rotation * torch.linalg.det(rotation).sign()
    motion = torch.eye(4)
    motion[:3, :3], motion[:3, 3] = rotation, torch.randn(3, generator=generator)
    return motion


def slanted_plane_depth(cameras: Cameras) -> Tensor:
    """Camera z of a slanted plane through the origin; all of `ring_cameras` see it."""
    normal = torch.nn.functional.normalize(torch.tensor([0.2, 0.3, 1.0]), dim=0)
    pixels = pixel_centers(cameras.height, cameras.width, cameras.w2c).expand(len(cameras.w2c), -1, 2)
    ones = torch.ones(pixels.shape[:2])
    rays = cameras.rays(pixels, ones[:, 0], ones[:, 0])
    t = -(rays.origins @ normal) / (rays.directions @ normal)
    return (t * rays.cos_optical).unflatten(-1, (cameras.height, cameras.width))
