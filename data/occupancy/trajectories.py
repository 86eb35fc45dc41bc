"""Paths of drones and rovers through a scene: survey lines, an orbit, a random drive, or a file.

Every path is a list of poses of 13 numbers (geometry/body_poses.py) at a fixed period; velocities are those of the step
that led into a frame, the first frame's those of the step out of it.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.occupancy.sessions import parse_pose
from geometry.body_poses import quaternion_of, relative_to, rotation_about_z, rotation_of, stored_quaternion
from geometry.errors import InputError, require
from geometry.plain_files import plain_file
from geometry.plain_json import parse_json

PATTERNS = ("survey", "orbit", "random")
_TURN_TRIES = 24
"""Headings tried before a random drive turns on the spot."""
_MAX_LINES = 100_000
"""Of a survey: more is a world in another unit, or a slip in --spacing."""
_CORNER_STEPS = 6
"""Frames of the turn between two survey lines."""


def with_velocities(
    positions: Float[Tensor, "frame 3"], rotations: Float[Tensor, "frame 3 3"], period: float
) -> Float[Tensor, "frame 13"]:
    """Poses with velocities by finite differences over `period` seconds, world frame."""
    poses = torch.cat([positions, quaternion_of(rotations), positions.new_zeros(len(positions), 6)], dim=-1)
    if len(poses) > 1:
        poses[1:, 7:10] = (positions[1:] - positions[:-1]) / period
        turned = relative_to(poses[:-1], poses[1:])[:, 3:7]  # in the body frame, where the axis of the turn is the same
        half = turned[:, 1:].norm(dim=-1, keepdim=True)
        angle = 2 * torch.atan2(half, turned[:, :1])
        axis = turned[:, 1:] / half.clamp(min=1e-12)
        poses[1:, 10:13] = (rotations[:-1] @ (axis * angle / period)[..., None])[..., 0]
        poses[0, 7:] = poses[1, 7:]
    return poses


def _level(positions: np.ndarray, yaws: np.ndarray, period: float) -> Float[Tensor, "frame 13"]:
    return with_velocities(torch.from_numpy(positions), rotation_about_z(torch.from_numpy(yaws)), period)


def _along(waypoints: np.ndarray, step: float, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Places every `step` meters on the line through the waypoints, and the heading there; from its end on anew."""
    legs = np.diff(waypoints, axis=0)
    lengths = np.linalg.norm(legs, axis=-1)
    ends = np.concatenate([[0.0], np.cumsum(lengths)])
    at = np.arange(frames) * step % max(ends[-1], step)
    places = np.stack([np.interp(at, ends, waypoints[:, axis]) for axis in range(2)], axis=-1)
    leg = np.clip(np.searchsorted(ends, at, side="right") - 1, 0, len(legs) - 1)
    return places, np.arctan2(legs[leg, 1], legs[leg, 0])


def survey(
    bounds: Float[np.ndarray, "2 2"], frames: int, *, step: float, spacing: float, z: float, period: float
) -> Float[Tensor, "frame 13"]:
    """Parallel lines over the bounds (least and greatest x y), `spacing` meters apart, back and forth along x."""
    (x0, y0), (x1, y1) = bounds
    require(
        bool(y1 - y0 <= _MAX_LINES * spacing),
        f"--spacing {spacing:g}: expected at most {_MAX_LINES} survey lines over {y1 - y0:g} m",
    )
    rows = np.arange(y0, max(y1, y0 + 1e-6), spacing)
    ends = [[(x0, y), (x1, y)] if number % 2 == 0 else [(x1, y), (x0, y)] for number, y in enumerate(rows)]
    waypoints = np.array([point for line in ends for point in line], dtype=np.float64)
    places, yaws = _along(waypoints, step, frames)
    yaws = np.unwrap(yaws)
    kernel = np.ones(min(_CORNER_STEPS, frames)) / min(_CORNER_STEPS, frames)
    padded = np.concatenate([np.full(len(kernel) - 1, yaws[0]), yaws])
    yaws = np.convolve(padded, kernel, mode="valid")  # corners are turned into over several frames
    return _level(np.concatenate([places, np.full((frames, 1), z)], axis=-1), yaws, period)


def orbit(
    bounds: Float[np.ndarray, "2 2"], frames: int, *, step: float, z: float, period: float, faces_center: bool
) -> Float[Tensor, "frame 13"]:
    """A circle about the middle of the bounds that touches the nearer sides, counterclockwise.

    `faces_center`: looks inwards, as a drone that photographs does; else ahead.
    """
    middle = bounds.mean(axis=0)
    radius = max(float((bounds[1] - bounds[0]).min()) / 2, step)
    angle = np.arange(frames) * step / radius
    places = middle + radius * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    yaws = angle + (math.pi if faces_center else math.pi / 2)
    return _level(np.concatenate([places, np.full((frames, 1), z)], axis=-1), yaws, period)


def random_drive(
    bounds: Float[np.ndarray, "2 2"],
    starts: Float[np.ndarray, "start 2"],
    frames: int,
    is_free: Callable[[Float[np.ndarray, "3"]], bool],
    *,
    step: float,
    z: float,
    period: float,
    seed: int,
) -> Float[Tensor, "frame 13"]:
    """Bends that change slowly, from the first free one of `starts`, inside the bounds, out of what `is_free` denies.

    Raises:
        InputError: where no free place to start is found.
    """
    random = np.random.default_rng(seed)
    place = next((start for start in starts if is_free(np.array([*start, z]))), None)
    if place is None:
        raise InputError(f"--trajectory random: expected a free place at {z:g} m within {bounds.tolist()}, found none")
    yaw, turn = random.uniform(-math.pi, math.pi), 0.0
    places, yaws = [], []
    for _ in range(frames):
        places.append([*place, z])
        yaws.append(yaw)
        turn = float(np.clip(turn + random.normal(0, 0.05), -0.2, 0.2))
        spreads = np.linspace(0.15, math.pi, _TURN_TRIES // 2)
        offsets = [turn, *(sign * spread for spread in spreads for sign in (1, -1))]
        for offset in offsets:
            ahead = place + step * np.array([math.cos(yaw + offset), math.sin(yaw + offset)])
            if bool((ahead >= bounds[0]).all() and (ahead <= bounds[1]).all()) and is_free(np.array([*ahead, z])):
                place, yaw = ahead, yaw + offset
                break
        else:
            yaw += 0.5
    return _level(np.array(places), np.array(yaws), period)


def read_trajectory(path: Path, period: float) -> Float[Tensor, "frame 13"]:
    """Poses of a file: JSON, or a line of numbers per frame.

    JSON: a list (or {frames: [...]}) of poses as in a session's files, of {pose_13d: ...}, or of 4x4 body-to-world
    matrices (also as `T4x4` or `transform_matrix`). Text: 3 numbers (position, heading along the path), 7 (and the
    quaternion, w first), 12 or 16 (a matrix by rows) or 13. Velocities that are missing are finite differences.

    Raises:
        InputError: naming file and frame.
    """
    try:
        text = plain_file(path).read_text()
        entries = parse_json(text) if path.suffix == ".json" else _lines(text)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    entries = entries.get("frames", entries) if isinstance(entries, dict) else entries
    require(isinstance(entries, list) and len(entries) > 0, f"{path}: expected a list of poses, got none")
    numbers = [_numbers(entry, f"{path}, frame {number}") for number, entry in enumerate(entries)]
    lengths = sorted({len(row) for row in numbers})
    require(len(lengths) == 1, f"{path}: expected poses of one kind, got lengths {lengths}")
    poses = _with_all(torch.tensor(numbers, dtype=torch.float64), period, str(path))
    require(bool(poses.isfinite().all()), f"{path}: expected poses within the range of numbers, got one far beyond")
    return poses


def _with_all(poses: Float[Tensor, "frame number"], period: float, where: str) -> Float[Tensor, "frame 13"]:
    """With what 3 or 7 numbers leave out."""
    if poses.shape[1] == 3:
        steps = torch.diff(poses, dim=0, append=2 * poses[-1:] - poses[-2:-1]) if len(poses) > 1 else poses[:1]
        return with_velocities(poses, rotation_about_z(torch.atan2(steps[:, 1], steps[:, 0])), period)
    poses[:, 3:7] = stored_quaternion(poses[:, 3:7], where)
    if poses.shape[1] == 7:
        return with_velocities(poses[:, :3], rotation_of(poses[:, 3:7]), period)
    return poses


def _lines(text: str) -> list[list[float]]:
    rows = [line.split("#")[0].replace(",", " ").split() for line in text.splitlines()]
    return [[float(word) for word in row] for row in rows if row]


def _numbers(entry: object, where: str) -> list[float]:
    """3, 7 or 13 numbers of one pose."""
    if isinstance(entry, dict):
        matrix = next((entry[name] for name in ("T4x4", "transform_matrix", "matrix") if name in entry), None)
        if matrix is None:
            return parse_pose(entry, where)
        entry = matrix
    try:
        values = np.array(entry, dtype=np.float64).ravel()
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: expected numbers, got {str(entry)[:80]}") from error
    require(
        len(values) in (3, 7, 12, 13, 16) and bool(np.isfinite(values).all()),
        f"{where}: expected 3, 7, 12, 13 or 16 finite numbers, got {len(values)}",
    )
    if len(values) not in (12, 16):
        return values.tolist()
    rows = torch.from_numpy(values.reshape(-1, 4))
    rotation = rows[:3, :3]
    require(
        bool(((rotation @ rotation.T - torch.eye(3, dtype=torch.float64)).abs().max() < 1e-3) & (rotation.det() > 0)),
        f"{where}: expected a rotation and a translation, got {values.tolist()}",
    )
    return [*rows[:3, 3].tolist(), *quaternion_of(rotation).tolist()]
