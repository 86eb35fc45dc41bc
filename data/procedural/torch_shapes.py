"""The solids of `shapes` on torch tensors: approximate to a few hundredths of a millimeter (float32), any device.

`tests/data/multi_view/test_procedural_stream.py` compares every formula here with its exact float64 counterpart.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from data.procedural.shapes import Box, Ellipsoid, Frustum, Shape, Torus

TORUS_STEPS = 24
"""Of sphere tracing, all made by every ray: fewer than the exact tracer's 80, for speed."""
TORUS_TOLERANCE = 0.05
"""Millimeters from the surface at which a ray counts as a hit; float32 and 24 steps come no nearer everywhere."""
_TINY = 1e-12
"""Stands for 0 in a divisor; its inverse is finite in float32."""

Points = Float[Tensor, "ray 3"]


def intersect(shape: Shape, origin: Float[Tensor, "#ray 3"], direction: Float[Tensor, "#ray 3"]) -> Tensor:
    """Ray parameter (ray,) of the first hit in the solid's own frame, infinity for a miss."""
    return _INTERSECT[type(shape)](shape, origin, direction)


def normal(shape: Shape, point: Points) -> Points:
    """Outward unit normal at surface points."""
    return torch.nn.functional.normalize(_NORMAL[type(shape)](shape, point), dim=-1)


def _dot(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum(-1)


def _box(box: Box, origin: Tensor, direction: Tensor) -> Tensor:
    half = origin.new_tensor(box.half)
    inverse = 1 / torch.where(direction == 0, _TINY, direction)
    middle, reach = -origin * inverse, inverse.abs() * half
    enter, leave = (middle - reach).amax(-1), (middle + reach).amin(-1)
    return torch.where((enter < leave) & (enter > 0), enter, torch.inf)


def _box_normal(box: Box, point: Points) -> Points:
    relative = point / point.new_tensor(box.half)
    axis = relative.abs().argmax(-1, keepdim=True)
    return torch.zeros_like(point).scatter(-1, axis, relative.gather(-1, axis).sign())


def _ellipsoid(ellipsoid: Ellipsoid, origin: Tensor, direction: Tensor) -> Tensor:
    radii = origin.new_tensor(ellipsoid.radii)
    start, step = origin / radii, direction / radii
    a, b = _dot(step, step), _dot(start, step)
    # distance of the line from the center: b^2 - a c would lose its digits in float32
    nearest = start - (b / a)[..., None] * step
    room = 1 - _dot(nearest, nearest)
    t = (-b - (a * room.clamp_min(0)).sqrt()) / a
    return torch.where((room > 0) & (t > 0), t, torch.inf)


def _ellipsoid_normal(ellipsoid: Ellipsoid, point: Points) -> Points:
    return point / point.new_tensor(ellipsoid.radii).square()


def _frustum(frustum: Frustum, origin: Tensor, direction: Tensor) -> Tensor:
    middle, slope = _middle_and_slope(frustum)
    # start where the ray comes closest to the solid, so that squares stay small
    shift = -_dot(origin, direction) / _dot(direction, direction)
    (x, y, z), (u, v, w) = (origin + shift[..., None] * direction).unbind(-1), direction.unbind(-1)
    radius = middle + slope * z
    a = u * u + v * v - slope * slope * w * w
    b = x * u + y * v - slope * w * radius
    c = x * x + y * y - radius * radius
    a = torch.where(a.abs() < _TINY, _TINY, a)
    discriminant = b * b - a * c
    root = discriminant.clamp_min(0).sqrt()
    best = torch.full_like(shift, torch.inf)
    for t in ((-b - root) / a, (-b + root) / a):
        is_hit = (discriminant > 0) & (t + shift > 0) & ((z + t * w).abs() <= frustum.half_height)
        best = torch.minimum(best, torch.where(is_hit, t, torch.inf))
    for height, cap in ((-frustum.half_height, frustum.bottom), (frustum.half_height, frustum.top)):
        t = (height - z) / torch.where(w == 0, _TINY, w)
        is_hit = (t + shift > 0) & ((x + t * u).square() + (y + t * v).square() <= cap * cap)
        best = torch.minimum(best, torch.where(is_hit, t, torch.inf))
    return best + shift


def _frustum_normal(frustum: Frustum, point: Points) -> Points:
    middle, slope = _middle_and_slope(frustum)
    x, y, z = point.unbind(-1)
    side = torch.stack([x, y, -slope * (middle + slope * z)], dim=-1)
    cap = torch.stack([torch.zeros_like(z), torch.zeros_like(z), z.sign()], dim=-1)
    from_cap, from_side = (z.abs() - frustum.half_height).abs(), (torch.hypot(x, y) - middle - slope * z).abs()
    return torch.where((from_cap < from_side)[:, None], cap, side)


def _middle_and_slope(frustum: Frustum) -> tuple[float, float]:
    return (frustum.bottom + frustum.top) / 2, (frustum.top - frustum.bottom) / (2 * frustum.half_height)


def _torus(torus: Torus, origin: Tensor, direction: Tensor) -> Tensor:
    length = _dot(direction, direction).sqrt()
    origin, step = torch.broadcast_tensors(origin, direction / length[..., None])
    t = (-_dot(origin, step) - torus.bounding_radius).clamp_min(0)
    for _ in range(TORUS_STEPS):
        t = t + _torus_distance(torus, origin + t[..., None] * step)
    is_hit = (_torus_distance(torus, origin + t[..., None] * step).abs() < TORUS_TOLERANCE) & (t > 0)
    return torch.where(is_hit, t / length, torch.inf)


def _torus_distance(torus: Torus, point: Tensor) -> Tensor:
    across = torch.hypot(point[..., 0], point[..., 1]) - torus.major
    return torch.hypot(across, point[..., 2]) - torus.minor


def _torus_normal(torus: Torus, point: Points) -> Points:
    shrink = 1 - torus.major / torch.hypot(point[:, 0], point[:, 1])
    return torch.stack([point[:, 0] * shrink, point[:, 1] * shrink, point[:, 2]], dim=-1)


_INTERSECT = {Box: _box, Ellipsoid: _ellipsoid, Frustum: _frustum, Torus: _torus}
_NORMAL = {Box: _box_normal, Ellipsoid: _ellipsoid_normal, Frustum: _frustum_normal, Torus: _torus_normal}
