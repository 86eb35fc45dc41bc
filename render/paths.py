"""Camera path files: written by the viewer's editor, rendered by `render.video --path`. Described in docs/viewer.md.

A JSON object: `cameras`, a list of poses; `frames`, how many frames a smooth curve through them has (without it, the
cameras are the frames); `closed`; `fps`; `width` and `height` in pixels. nerfstudio's `camera_path.json` is read too.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from kornia.geometry.conversions import quaternion_to_rotation_matrix, rotation_matrix_to_quaternion
from torch import Tensor

from geometry import Cameras, InputError, check_camera, require, rigid_inverse
from geometry.conversions import w2c_from_opengl_c2w
from geometry.plain_files import plain_file
from geometry.plain_json import parse_json
from training.files import staged_file, write_json

_MAX_SIDE = 16384
"""Pixels: H.264 has no larger pictures."""
_MAX_FRAMES = 1_000_000


@dataclass(frozen=True)
class PathFile:
    """What a camera path file holds."""

    cameras: Cameras
    """One leading axis, at least one camera."""
    near: Float[Tensor, " camera"] | None = None
    """Camera z, scene units; None: not said. So `far`."""
    far: Float[Tensor, " camera"] | None = None
    frames: int | None = None
    """Frames of a smooth curve through the cameras; None: the cameras are the frames."""
    closed: bool = False
    """The curve returns to the first camera; its last frame is the one before that, so that a video can repeat."""
    fps: float | int | None = None


@dataclass(frozen=True)
class Frames:
    """The cameras of a path, one per frame."""

    cameras: Cameras
    near: Float[Tensor, " frame"] | None
    far: Float[Tensor, " frame"] | None


def frames_of(path: PathFile, frames: int | None = None) -> Frames:
    """The cameras of every frame; `frames` (None: as the file says) of a smooth curve through the path's cameras.

    The curve is a cubic spline in the centers and in the unit quaternions (Catmull and Rom 1974), normalized; lenses
    and bounds change linearly. It takes equally long from each camera to the next, so that cameras close together make
    it slow. It is the same curve in a world that is moved, turned or scaled.
    """
    count = path.frames if frames is None else frames
    if count is None:
        return Frames(path.cameras, path.near, path.far)
    keys = len(path.cameras.w2c)
    legs = keys if path.closed else keys - 1
    # a closed curve ends one frame before it would be at its beginning again
    ends = count if path.closed else max(count - 1, 1)
    position = torch.arange(count, dtype=torch.float64) / ends * legs
    first = position.long().clamp(max=max(legs - 1, 0))
    fraction = position - first
    c2w = path.cameras.c2w.double()
    centers = _spline(c2w[:, :3, 3], first, fraction, path.closed)
    turns = _aligned(rotation_matrix_to_quaternion(c2w[:, :3, :3].contiguous()))
    turned_back = path.closed and bool((turns[0] @ turns[-1]) < 0)
    quaternions = torch.nn.functional.normalize(_spline(turns, first, fraction, path.closed, turned_back), dim=-1)
    moved = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    moved[:, :3, :3], moved[:, :3, 3] = quaternion_to_rotation_matrix(quaternions), centers
    following = (first + 1) % keys if path.closed else (first + 1).clamp(max=keys - 1)

    def between(values: Tensor) -> Tensor:
        weight = fraction.reshape(-1, *[1] * (values.ndim - 1)).to(values)
        return torch.lerp(values[first], values[following], weight)

    cameras = Cameras(
        rigid_inverse(moved).to(path.cameras.w2c),
        between(path.cameras.intrinsics),
        path.cameras.height,
        path.cameras.width,
    )
    near, far = (None if bound is None else between(bound) for bound in (path.near, path.far))
    return Frames(cameras, near, far)


def write_path(file: Path, path: PathFile, option: str = "--path") -> None:
    """Write a file that `read_path` reads back.

    Raises:
        InputError: naming the `option`, when the file cannot be written.
    """
    with staged_file(file, option) as partial:
        write_json(partial, plain_path(path))


def plain_path(path: PathFile) -> dict[str, Any]:
    """The content of a camera path file."""
    cameras = [
        {"c2w": c2w.tolist(), "intrinsics": intrinsics.tolist()}
        for c2w, intrinsics in zip(path.cameras.c2w.double(), path.cameras.intrinsics.double(), strict=True)
    ]
    for name, bound in (("near", path.near), ("far", path.far)):
        if bound is not None:
            for camera, value in zip(cameras, bound.tolist(), strict=True):
                camera[name] = value
    header = {"width": path.cameras.width, "height": path.cameras.height, "closed": path.closed}
    optional = {"fps": path.fps, "frames": path.frames}
    return {**header, **{name: value for name, value in optional.items() if value is not None}, "cameras": cameras}


def read_path(file: Path, size: tuple[int, int]) -> PathFile:
    """A camera path file; `size`: (height, width) of its images where it does not say.

    Raises:
        InputError: naming the file and the entry.
    """
    try:
        plain = parse_json(plain_file(file).read_text())
    except OSError as error:
        raise InputError(f"--path {file}: expected a file, got {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"--path {file}: expected JSON, got {error}") from None
    require(isinstance(plain, dict), f"--path {file}: expected a JSON object, got a {type(plain).__name__}")
    if "camera_path" in plain:
        plain = _of_nerfstudio(file, plain)
    return _checked(file, plain, size)


def _checked(file: Path, plain: dict[str, Any], size: tuple[int, int]) -> PathFile:
    known = {"cameras", "width", "height", "closed", "fps", "frames"}
    unknown = sorted(set(plain) - known)
    require(not unknown, f"--path {file}: expected entries among {sorted(known)}, got {unknown}")
    height, width = (
        _number(file, plain, name, other, least=1, most=_MAX_SIDE, whole=True)
        for name, other in zip(("height", "width"), size, strict=True)
    )
    require(isinstance(plain.get("closed", False), bool), f"--path {file}, closed: expected true or false")
    entries = plain.get("cameras")
    require(isinstance(entries, list) and len(entries) > 0, f"--path {file}, cameras: expected a list of cameras")
    w2c, intrinsics = zip(
        *(_camera(f"--path {file}, camera {index}", entry, height, width) for index, entry in enumerate(entries)),
        strict=True,
    )
    fps = _number(file, plain, "fps", None, least=0.1, most=1000)
    frames = _number(file, plain, "frames", None, least=1, most=_MAX_FRAMES, whole=True)
    near, far = (_bounds(file, entries, name) for name in ("near", "far"))
    require((near is None) == (far is None), f"--path {file}: expected near and far, got one of them")
    if near is not None and far is not None:
        require(bool((near < far).all()), f"--path {file}: expected near below far in every camera")
    cameras = Cameras(torch.stack(w2c).float(), torch.stack(intrinsics).float(), height, width)
    return PathFile(cameras, near, far, frames, plain.get("closed", False), fps)


def _camera(where: str, entry: Any, height: int, width: int) -> tuple[Tensor, Tensor]:
    """World to camera and intrinsics, double precision."""
    require(isinstance(entry, dict), f"{where}: expected an object, got a {type(entry).__name__}")
    known = {"c2w", "intrinsics", "vertical_fov", "near", "far"}
    require(set(entry) <= known, f"{where}: expected entries among {sorted(known)}, got {sorted(set(entry) - known)}")
    c2w = _matrix(f"{where}, c2w", entry.get("c2w"), 4)
    require(
        ("intrinsics" in entry) != ("vertical_fov" in entry), f"{where}: expected one of intrinsics and vertical_fov"
    )
    if "intrinsics" in entry:
        intrinsics = _matrix(f"{where}, intrinsics", entry["intrinsics"], 3)
    else:
        fov = entry["vertical_fov"]
        is_angle = isinstance(fov, int | float) and not isinstance(fov, bool) and 0 < fov < 180
        require(is_angle, f"{where}, vertical_fov: expected degrees between 0 and 180, got {fov!r}")
        intrinsics = intrinsics_of_fov(math.radians(fov), height, width).double()
    require(c2w[3].tolist() == [0, 0, 0, 1], f"{where}, c2w: expected the last row 0 0 0 1, got {c2w[3].tolist()}")
    w2c = rigid_inverse(c2w)
    check_camera(w2c, intrinsics, where)
    return w2c, intrinsics


def intrinsics_of_fov(vertical_fov: float, height: int, width: int) -> Float[Tensor, "3 3"]:
    """Square pixels, the principal point in the middle; `vertical_fov` in radians: f = height / 2 / tan(fov / 2)."""
    focal = height / 2 / math.tan(vertical_fov / 2)
    return torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])


def _matrix(where: str, rows: Any, side: int) -> Float[Tensor, "side side"]:
    try:
        matrix = torch.tensor(rows, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        matrix = torch.empty(0)
    require(matrix.shape == (side, side), f"{where}: expected {side} x {side} numbers, got {str(rows)[:80]}")
    return matrix


def _number(
    file: Path,
    plain: dict[str, Any],
    name: str,
    default: int | None,
    *,
    least: int | float,
    most: int | float = sys.float_info.max,
    whole: bool = False,
) -> Any:
    """An int or a float, or None where there is none."""
    value = plain.get(name, default)
    if value is None:
        return None
    is_number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    what = f"a{' whole' if whole else ''} number of at least {least}" + (f", at most {most}" if most < 1e9 else "")
    require(is_number and least <= value <= most, f"--path {file}, {name}: expected {what}, got {str(value)[:80]}")
    return value


def _bounds(file: Path, entries: Sequence[dict[str, Any]], name: str) -> Float[Tensor, " camera"] | None:
    values = [_number(file, entry, name, None, least=0) for entry in entries]
    if all(value is None for value in values):
        return None
    require(None not in values and 0 not in values, f"--path {file}, {name}: expected a positive one in every camera")
    return torch.tensor(values, dtype=torch.float32)


def _of_nerfstudio(file: Path, plain: dict[str, Any]) -> dict[str, Any]:
    """The entries of nerfstudio's camera_path.json (one pose per frame, OpenGL axes, row by row) as ours."""
    kind = plain.get("camera_type", "perspective")
    require(kind == "perspective", f"--path {file}, camera_type: expected perspective, got {kind!r}")
    cameras = []
    for index, entry in enumerate(plain["camera_path"] if isinstance(plain["camera_path"], list) else ()):
        where = f"--path {file}, camera_path {index}"
        require(isinstance(entry, dict), f"{where}: expected an object, got a {type(entry).__name__}")
        rows = entry.get("camera_to_world")
        if isinstance(rows, list) and len(rows) == 16:
            rows = [rows[start : start + 4] for start in range(0, 16, 4)]
        c2w = _matrix(f"{where}, camera_to_world", rows, 4)
        cameras.append({"c2w": rigid_inverse(w2c_from_opengl_c2w(c2w)).tolist(), "vertical_fov": entry.get("fov")})
    names = {"width": "render_width", "height": "render_height", "fps": "fps"}
    return {"cameras": cameras, **{name: plain[theirs] for name, theirs in names.items() if theirs in plain}}


def _aligned(quaternions: Float[Tensor, "key 4"]) -> Float[Tensor, "key 4"]:
    """The same rotations (q and -q are one), each on the side of the one before it."""
    signs = torch.where((quaternions[1:] * quaternions[:-1]).sum(-1) < 0, -1.0, 1.0).to(quaternions)
    return quaternions * torch.cat([signs.new_ones(1), signs]).cumprod(0)[:, None]


def _spline(
    keys: Float[Tensor, "key channel"],
    first: Tensor,
    fraction: Float[Tensor, " frame"],
    closed: bool,
    turned_back: bool = False,
) -> Float[Tensor, "frame channel"]:
    """Catmull and Rom's curve at `fraction` of the leg behind key `first`.

    `turned_back`: a round ends on the other side of the sphere of quaternions than it began.
    """
    if len(keys) == 1:
        return keys.expand(len(first), -1)
    if closed:
        side = -1.0 if turned_back else 1.0
        padded = torch.cat([side * keys[-1:], keys, side * keys[:2]])
    else:
        padded = torch.cat([2 * keys[:1] - keys[1:2], keys, 2 * keys[-1:] - keys[-2:-1]])
    before, start, end, after = (padded[first + offset] for offset in range(4))
    t = fraction[:, None]
    return 0.5 * (
        2 * start
        + (end - before) * t
        + (2 * before - 5 * start + 4 * end - after) * t**2
        + (3 * start - before - 3 * end + after) * t**3
    )
