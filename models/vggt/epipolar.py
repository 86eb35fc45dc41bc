"""Two-view geometry: fundamental matrices and the distance of a pair of points from agreeing with them."""

import torch
from jaxtyping import Float
from torch import Tensor

from geometry.cameras import Cameras
from geometry.precision import full_precision


@full_precision
def fundamental_matrices(cameras: Cameras) -> Float[Tensor, "view 3 3"]:
    """F of the first view and every view: x_view^T F x_first = 0 for pixels x = (x, y, 1) of one point.

    F = K_view^-T [t]_x R K_first^-1 (Hartley and Zisserman 2004, eq. 9.2), `w2c` = [R | t] being camera from first
    camera. Zero for views without a baseline.
    """
    t_x, t_y, t_z = cameras.w2c[:, :3, 3].double().unbind(-1)
    zero = torch.zeros_like(t_x)
    cross = torch.stack([zero, -t_z, t_y, t_z, zero, -t_x, -t_y, t_x, zero], dim=-1).unflatten(-1, (3, 3))
    inverse = torch.linalg.inv(cameras.intrinsics.double())
    matrices = inverse.mT @ cross @ cameras.w2c[:, :3, :3].double() @ inverse[:1]
    return matrices.to(cameras.w2c)


def sampson_distance(
    fundamental: Float[Tensor, "view 3 3"],
    first: Float[Tensor, "point 2"],
    other: Float[Tensor, "*draw view point 2"],
) -> Float[Tensor, "*draw view point"]:
    """First-order distance in pixels from satisfying the epipolar equation (eq. 11.9); 0 where F is 0."""
    first_h = torch.cat([first, torch.ones_like(first[..., :1])], dim=-1)
    other_h = torch.cat([other, torch.ones_like(other[..., :1])], dim=-1)
    lines = first_h @ fundamental.mT  # view point 3
    lines_back = other_h @ fundamental
    residual = (lines * other_h).sum(-1).abs()
    gradient = lines[..., :2].square().sum(-1) + lines_back[..., :2].square().sum(-1)
    return residual / gradient.sqrt().clamp(min=torch.finfo(residual.dtype).tiny)
