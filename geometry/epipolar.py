"""Two-view geometry: fundamental matrices and the distance of a pair of points from agreeing with them."""

import torch
from jaxtyping import Float
from torch import Tensor

from geometry.cameras import Cameras, rigid_inverse
from geometry.precision import full_precision


@full_precision
def fundamental_matrix(first: Cameras, second: Cameras) -> Float[Tensor, "*batch 3 3"]:
    """F with x_second^T F x_first = 0 for the pixels x = (x, y, 1) of one point in both images.

    F = K_second^-T [t]_x R K_first^-1 (Hartley and Zisserman 2004, eq. 9.2), [R | t] taking points from the first
    camera's frame to the second's. K = I and t = (1, 0, 0) without rotation: x_second^T F x_first = y_first - y_second.
    Leading axes broadcast; zero for cameras at one place. Computed in double precision.
    """
    relative = second.w2c.double() @ rigid_inverse(first.w2c.double())
    t_x, t_y, t_z = relative[..., :3, 3].unbind(-1)
    zero = torch.zeros_like(t_x)
    cross = torch.stack([zero, -t_z, t_y, t_z, zero, -t_x, -t_y, t_x, zero], dim=-1).unflatten(-1, (3, 3))
    back_first, back_second = (torch.linalg.inv(cameras.intrinsics.double()) for cameras in (first, second))
    return (back_second.mT @ cross @ relative[..., :3, :3] @ back_first).to(second.w2c)


def sampson_distance(
    fundamental: Float[Tensor, "*batch 3 3"],
    first: Float[Tensor, "*#batch point 2"],
    second: Float[Tensor, "*draw_and_batch point 2"],
) -> Float[Tensor, "*draw_and_batch point"]:
    """First-order distance in pixels from satisfying the epipolar equation (Hartley and Zisserman 2004, eq. 11.9).

    |x2^T F x1| / sqrt((F x1)_x^2 + (F x1)_y^2 + (F^T x2)_x^2 + (F^T x2)_y^2), the root of their cost. Where rows
    correspond, two rows off are 2 / sqrt(2) = 1.414 pixels: both points move by one.
    0 where F is 0. Further leading axes of `second` hold alternatives for one and the same `first`.
    """
    first_h = torch.cat([first, torch.ones_like(first[..., :1])], dim=-1)
    second_h = torch.cat([second, torch.ones_like(second[..., :1])], dim=-1)
    lines = first_h @ fundamental.mT
    lines_back = second_h @ fundamental
    residual = (lines * second_h).sum(-1).abs()
    gradient = lines[..., :2].square().sum(-1) + lines_back[..., :2].square().sum(-1)
    return residual / gradient.sqrt().clamp(min=torch.finfo(residual.dtype).tiny)
