"""Camera paths for videos: pure functions from posed views to as many cameras as wanted.

Every path follows the views: move, turn or scale the world and the path moves, turns and scales alike. Computed in
double precision; the result has the views' type.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from kornia.geometry.conversions import axis_angle_to_rotation_matrix, rotation_matrix_to_axis_angle
from torch import Tensor

from geometry import Cameras, InputError, TensorStruct, Views, rigid_inverse

_MAX_EXHAUSTIVE_VIEWS = 7
"""Rounds of 7 views: 720 orders are tried; of more views the nearest one comes next."""
_SPIRAL_TURNS = 2
"""Turns of the whole path, as NeRF renders LLFF's scenes."""
_SPIRAL_QUANTILE = 0.7
"""Of the views' offsets: radii of the spiral, as in MVSNeRF; larger ones leave the views behind."""
_FOCUS_MIX = 0.75
"""Share of 1 / far in the inverse distance looked at, as NeRF renders LLFF's scenes."""
_SURROUNDED_GAP = math.radians(120)
"""Largest gap between views seen from the middle that an orbit passes through; chosen by hand."""
_MAX_ELEVATION = math.radians(85)
"""Straight above, the direction that is up in the image would be undefined."""
_MIN_CONVERGENCE = 1e-4
"""Smallest eigenvalue of the mean projection across the axes: that of two axes 1.15 degrees apart. Chosen by hand."""
_MAX_KEYS = 7
"""Views that `auto` interpolates between, of those that it spreads over the capture: all orders of 7 are tried."""
_MIN_SHARE_AROUND = 0.9
"""Of the views of a closed capture, those that have in their image what all look at. Chosen by hand: a few views of
other things are common in captures of an object, and a camera that turns on the spot has none."""
_OPEN_LEG = 2.0
"""A round whose longest leg is so many times the mean of the others is flown there and back. Chosen by hand."""
_MIN_COMMON_UP = 0.2
"""Length of the mean of the images' ups below which they have no common one: they look down, or up, from all around."""
_UP_PRIOR = 0.01
"""Weight of the images' mean up against the rows' mean square, at most 1: decides only where rows hardly turn."""


@dataclass(frozen=True)
class CameraPath(TensorStruct):
    """The cameras of a video and the depth range to render them in."""

    cameras: Cameras
    near: Float[Tensor, " frame"]
    """Camera z, scene units."""
    far: Float[Tensor, " frame"]


PosedViews = Views | CameraPath
"""What a path follows: cameras with one leading axis, and their depth bounds."""


def camera_path(trajectory: str, views: PosedViews, frames: int) -> CameraPath:
    """The path of that name around `views` (one leading axis, at least one view), near and far those of all views.

    Raises:
        InputError: for fewer than one frame, or views that do not define such a path.
    """
    if frames < 1:
        raise InputError(f"--frames: expected 1 or more, got {frames}")
    cameras = TRAJECTORIES[trajectory](_held_alike(views), frames)
    return CameraPath(cameras, views.near.min().expand(frames), views.far.max().expand(frames))


def interpolate(views: PosedViews, frames: int) -> Cameras:
    """Through all the views' cameras in a short round and back to the first, which the first and last frame equal.

    Centers move on straight lines, rotations take the shortest way, every leg lasts equally long.
    """
    order = _short_round(views.cameras.centers)
    return _through(views.cameras[torch.tensor([*order, order[0]])], frames)


def _through(keys: Cameras, frames: int) -> Cameras:
    """From the first camera to the last in as many frames; see `interpolate`."""
    c2w = keys.c2w.double()
    position = torch.linspace(0, len(c2w) - 1, frames, dtype=torch.float64)
    leg = position.long().clamp(max=len(c2w) - 2)
    fraction = (position - leg)[:, None]
    rotation = c2w[leg, :3, :3]
    turn = rotation_matrix_to_axis_angle(rotation.mT @ c2w[leg + 1, :3, :3])
    rotation = rotation @ axis_angle_to_rotation_matrix(fraction * turn)
    centers = torch.lerp(c2w[leg, :3, 3], c2w[leg + 1, :3, 3], fraction)
    intrinsics = torch.lerp(keys.intrinsics[leg], keys.intrinsics[leg + 1], fraction[..., None].to(keys.intrinsics))
    between = rigid_inverse(_transform(rotation, centers)).to(keys.w2c)
    # a frame on a key is that camera to the last bit, not up to rounding
    is_key = (fraction == 0) | (fraction == 1)
    key = leg + (fraction[:, 0] == 1)
    w2c = torch.where(is_key[..., None], keys.w2c[key], between)
    return Cameras(w2c, intrinsics, keys.height, keys.width)


def spiral(views: PosedViews, frames: int) -> Cameras:
    """LLFF's spiral (Mildenhall et al. 2019): two turns about the mean camera, all looking at one point ahead of it.

    Radii are the 70 % quantile of the views' offsets along the mean camera's axes; the point is at the harmonic mix
    0.25 / near + 0.75 / far.

    Raises:
        InputError: when the views look in all directions, so that there is no mean one.
    """
    c2w = views.cameras.c2w.double()
    forward, down = c2w[:, :3, 2].mean(0), c2w[:, :3, 1].mean(0)
    if forward.norm() < 0.1 or torch.linalg.cross(forward, down).norm() < 0.01:
        raise InputError("--trajectory spiral: expected views that look in similar directions, got some all around")
    center = c2w[:, :3, 3].mean(0)
    mean = _looking(center[None], (center + forward)[None], -down)[0]
    offsets = (c2w[:, :3, 3] - center) @ mean[:3, :3]
    radii = offsets.abs().quantile(_SPIRAL_QUANTILE, dim=0)
    near, far = views.near.min().double(), views.far.max().double()
    focus = center + mean[:3, 2] / ((1 - _FOCUS_MIX) / near + _FOCUS_MIX / far)
    angle = torch.arange(frames, dtype=torch.float64) / frames * 2 * math.pi * _SPIRAL_TURNS
    offsets = torch.stack([angle.cos(), angle.sin(), (angle / _SPIRAL_TURNS).sin()], dim=-1) * radii
    return _with_mean_lens(views.cameras, _looking(center + offsets @ mean[:3, :3].T, focus[None], -down))


def orbit(views: PosedViews, frames: int) -> Cameras:
    """A circle around what the views look at, at their mean distance and elevation, looking at it.

    Where the views leave more than a third of the circle unseen, only the arc they cover, there and back.

    Raises:
        InputError: when the views' axes are parallel, so that they look at no common point.
    """
    c2w = views.cameras.c2w.double()
    center, up = _looked_at(c2w), upward(c2w)
    offsets = c2w[:, :3, 3] - center
    radius = offsets.norm(dim=-1)
    height = offsets @ up
    elevation = torch.asin((height / radius).clamp(-1, 1)).mean().clamp(-_MAX_ELEVATION, _MAX_ELEVATION)
    east = _horizontal_axis(c2w[0], up)
    north = torch.linalg.cross(up, east)
    azimuth = _swept(_azimuth(c2w, center), frames)
    around = azimuth.cos()[:, None] * east + azimuth.sin()[:, None] * north
    positions = center + radius.mean() * (elevation.cos() * around + elevation.sin() * up)
    return _with_mean_lens(views.cameras, _looking(positions, center[None], up))


def automatic(views: PosedViews, frames: int) -> Cameras:
    """The orbit of a closed capture, see `automatic_kind`, else an interpolation through views all over the capture.

    A round whose ends are far apart, as of a capture from one side, is not closed across what was not captured: the
    camera flies there and back.
    """
    if automatic_kind(views) == "orbit":
        return orbit(views, frames)
    spread = _spread(views.cameras.centers)
    order = _opened(views.cameras.centers[spread], _short_round(views.cameras.centers[spread]))
    return _through(views.cameras[torch.tensor(spread)[torch.tensor([*order, order[0]])]], frames)


def automatic_kind(views: PosedViews) -> str:
    """Which path `auto` is: `orbit` where the views surround what they look at, else `interpolate`.

    They surround it when the point nearest to all optical axes lies within the image of at least 90 % of the views, and
    no two neighbors around it (about the upward axis) are more than 120 degrees apart. The views of a room taken from
    its middle look away from that point, those of a camera array leave most of the circle unseen.
    """
    views = _held_alike(views)
    c2w = views.cameras.c2w.double()
    if not _converges(c2w):
        return "interpolate"
    center = _looked_at(c2w)
    is_around = views.cameras.map(Tensor.double).project(center.expand(len(c2w), 1, 3)).visible[:, 0]
    if is_around.double().mean() < _MIN_SHARE_AROUND:
        return "interpolate"
    azimuth = _azimuth(c2w, center)[is_around]
    return "orbit" if _widest_gap(azimuth)[1] <= _SURROUNDED_GAP else "interpolate"


TRAJECTORIES: dict[str, Callable[[PosedViews, int], Cameras]] = {
    "interpolate": interpolate,
    "spiral": spiral,
    "orbit": orbit,
    "auto": automatic,
}


def _held_alike(views: PosedViews) -> PosedViews:
    """The views with all cameras held as most are: those on their side, or upside down, turned by quarter turns.

    A scene of portrait and landscape photographs has one size of image, onto which some are turned; a path through them
    must not roll. Size and focal lengths stay.
    """
    cameras = views.cameras
    turns = _turned_by(cameras.w2c.double().mT)
    if not turns.any():
        return views
    height, width = cameras.height, cameras.width
    held = [cameras[index].turned(int(count)) for index, count in enumerate(turns)]
    held = [one.cropped((one.height - height) // 2, (one.width - width) // 2, height, width) for one in held]
    return replace(views, cameras=Cameras.stack(held))


def _turned_by(c2w: Float[Tensor, "view 4 4"]) -> Int64[Tensor, " view"]:
    """Quarter turns, 0 to 3, after which each camera is held as most are: the directions up in the image agree."""
    x, y = c2w[:, :3, 0], c2w[:, :3, 1]
    mean = -y.mean(0)
    if mean.norm() < _MIN_COMMON_UP:
        return torch.zeros(len(c2w), dtype=torch.int64)
    # how much each direction is up in the image after 0, 1, 2, 3 quarter turns; the best supported one counts
    shown = torch.stack([-y, x, y, -x]) @ torch.cat([mean[None], -y]).T
    turns = shown.argmax(0)
    turns = turns[:, int((turns == turns.mode(0).values).sum(0).argmax())]
    return (turns - turns.mode().values) % 4


def _short_round(centers: Float[Tensor, "view 3"]) -> list[int]:
    """An order of the points, first one first, whose closed round is short: the shortest for up to 7 points."""
    distance = torch.cdist(centers.double()[None], centers.double()[None])[0].tolist()
    rest = range(1, len(distance))
    if len(distance) > _MAX_EXHAUSTIVE_VIEWS:
        order, left = [0], set(rest)
        while left:
            order.append(min(left, key=lambda view: distance[order[-1]][view]))
            left.remove(order[-1])
        return order

    def length(others: tuple[int, ...]) -> float:
        stops = [0, *others, 0]
        # rounded, so that a round and its reverse stay tied and the first one wins wherever the world lies
        return round(sum(distance[a][b] for a, b in itertools.pairwise(stops)) / (max(map(max, distance)) or 1.0), 6)

    return [0, *min(itertools.permutations(rest), key=length)]


def _spread(centers: Float[Tensor, "view 3"]) -> list[int]:
    """At most 7 of the points, the first among them, each the farthest from those before it."""
    distance = torch.cdist(centers.double()[None], centers.double()[None])[0]
    chosen, nearest = [0], distance[0]
    while len(chosen) < min(_MAX_KEYS, len(centers)):
        # rounded, so that ties stay ties wherever the world lies
        farthest = int((nearest / distance.max().clamp_min(1e-300)).round(decimals=6).argmax())
        chosen.append(farthest)
        nearest = torch.minimum(nearest, distance[farthest])
    return chosen


def _opened(centers: Float[Tensor, "view 3"], order: list[int]) -> list[int]:
    """A round of the points in which no leg is much longer than the others: there and back where one would be."""
    stops = centers[torch.tensor([*order, order[0]])].double()
    legs = (stops[1:] - stops[:-1]).norm(dim=-1)
    longest = int(legs.argmax())
    if len(order) < 3 or legs[longest] * (len(order) - 1) <= _OPEN_LEG * (legs.sum() - legs[longest]):
        return order
    there = [*order[longest + 1 :], *order[: longest + 1]]
    return [*there, *there[-2:0:-1]]


def _across(c2w: Float[Tensor, "view 4 4"]) -> Float[Tensor, "view 3 3"]:
    """Projections onto the planes perpendicular to the optical axes."""
    axes = c2w[:, :3, 2]
    return torch.eye(3).to(c2w) - axes[:, :, None] * axes[:, None, :]


def _converges(c2w: Float[Tensor, "view 4 4"]) -> bool:
    """Whether the optical axes differ enough to have a nearest point."""
    return bool(torch.linalg.eigvalsh(_across(c2w).mean(0))[0] >= _MIN_CONVERGENCE)


def _azimuth(c2w: Float[Tensor, "view 4 4"], center: Float[Tensor, " 3"]) -> Float[Tensor, " view"]:
    """Of the views around the upward axis through `center`, from the first view's most horizontal axis on."""
    up = upward(c2w)
    east = _horizontal_axis(c2w[0], up)
    offsets = c2w[:, :3, 3] - center
    return torch.atan2(offsets @ torch.linalg.cross(up, east), offsets @ east)


def _looked_at(c2w: Float[Tensor, "view 4 4"]) -> Float[Tensor, " 3"]:
    """The point nearest to all optical axes (least squares)."""
    if not _converges(c2w):
        raise InputError(
            "--trajectory orbit: expected views that look at a common point, got parallel ones (try spiral)"
        )
    centers, across = c2w[:, :3, 3], _across(c2w)
    origin = centers.mean(0)
    return origin + torch.linalg.solve(across.mean(0), (across @ (centers - origin)[..., None]).mean(0))[:, 0]


def upward(c2w: Float[Tensor, "view 4 4"]) -> Float[Tensor, " 3"]:
    """The direction that the images' rows are most perpendicular to; where rows hardly turn, the images' mean up.

    Images on their side, or upside down, are turned as most are first: portrait and landscape may be mixed.
    """
    x, y = c2w[:, :3, 0], c2w[:, :3, 1]
    each, turns = torch.arange(len(c2w)), _turned_by(c2w)
    rows = torch.stack([x, y, -x, -y])[turns, each]
    ups = torch.stack([-y, x, y, -x])[turns, each]
    prior = torch.nn.functional.normalize(ups.mean(0), dim=0)
    up = torch.linalg.eigh(rows.mT @ rows / len(rows) - _UP_PRIOR * prior[:, None] * prior)[1][:, 0]
    return -up if up @ prior < 0 else up


def _horizontal_axis(c2w: Float[Tensor, "4 4"], up: Float[Tensor, " 3"]) -> Float[Tensor, " 3"]:
    """The axis of a camera that is most horizontal, made entirely so."""
    axes = c2w[:3, :3].T
    horizontal = axes - (axes @ up)[:, None] * up
    return torch.nn.functional.normalize(horizontal[horizontal.norm(dim=-1).argmax()], dim=0)


def _swept(azimuth: Float[Tensor, " view"], frames: int) -> Float[Tensor, " frame"]:
    """Azimuths of the frames: the whole circle from the first view's on, or to and fro over the arc of the views."""
    phase = torch.arange(frames, dtype=torch.float64) / frames * 2 * math.pi
    begin, gap = _widest_gap(azimuth)
    if gap <= _SURROUNDED_GAP:
        return azimuth[0] + phase
    return begin + (2 * math.pi - gap) * (1 - phase.cos()) / 2


def _widest_gap(azimuth: Float[Tensor, " view"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Where the widest gap between neighbors around the circle ends, and how wide it is, in radians."""
    ordered = azimuth.sort().values
    gaps = torch.cat([ordered[1:], ordered[:1] + 2 * math.pi]) - ordered
    widest = int(gaps.argmax())
    return ordered[(widest + 1) % len(ordered)], gaps[widest]


def _looking(
    centers: Float[Tensor, "frame 3"], aim: Float[Tensor, "#frame 3"], up: Float[Tensor, " 3"]
) -> Float[Tensor, "frame 4 4"]:
    """c2w of cameras at `centers` that look at `aim`, `up` showing upward in the image."""
    forward = torch.nn.functional.normalize(aim - centers, dim=-1)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up.expand_as(forward)), dim=-1)
    return _transform(torch.stack([right, torch.linalg.cross(forward, right), forward], dim=-1), centers)


def _transform(
    rotation: Float[Tensor, "frame 3 3"], translation: Float[Tensor, "frame 3"]
) -> Float[Tensor, "frame 4 4"]:
    last = torch.tensor([0.0, 0.0, 0.0, 1.0]).to(rotation).expand(len(rotation), 1, 4)
    return torch.cat([torch.cat([rotation, translation[..., None]], dim=-1), last], dim=-2)


def _with_mean_lens(cameras: Cameras, c2w: Float[Tensor, "frame 4 4"]) -> Cameras:
    """Cameras at `c2w` with the mean intrinsics of `cameras`."""
    w2c = rigid_inverse(c2w).to(cameras.w2c)
    return Cameras(w2c, cameras.intrinsics.mean(0).expand(len(w2c), 3, 3), cameras.height, cameras.width)
