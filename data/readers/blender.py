"""NeRF-synthetic (Blender) scenes -> `PosedScene`. near 2, far 6, images composited over white.

    {scan}/transforms_{train,val,test}.json    camera_angle_x and, per frame, file_path and transform_matrix
    {scan}/train/r_0.png ...                   RGBA of any size

`datadir` holds such folders or is one. Training views are the train frames, numbered from 0; held-out views are the
val frames, or the test frames where there is no val file, numbered from 1000. With neither, every 8th train frame.
`ReaderOptions.view_split` chooses otherwise: `test`, the test frames; `mvsnerf`, frames of the train file alone.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from data.image_io import image_size, is_file
from data.readers.options import ReaderOptions
from data.readers.splits import (
    Report,
    Split,
    folders_with,
    mvsnerf_views,
    present_only,
    raise_problem,
    read_divided_by_views,
    split_views,
)
from data.scene import Frame, PosedScene
from data.view_selection.neighbors import complete_neighbors
from geometry import InputError, check_camera
from geometry.conversions import w2c_from_opengl_c2w
from geometry.plain_files import plain_file
from geometry.plain_json import parse_json

_TRAIN, _VAL, _TEST = (f"transforms_{split}.json" for split in ("train", "val", "test"))
_NEAR, _FAR = 2.0, 6.0
"""Camera z, scene units: NeRF's for these scenes (Mildenhall et al. 2020)."""
_FIRST_HELD_OUT = 1000
"""Number of the first held-out view: training views, at most 1000, are numbered from 0."""


def read_blender(
    datadir: Path,
    *,
    split: Split,
    scans: tuple[str, ...] | None = None,
    report: Report = raise_problem,
    options: ReaderOptions | None = None,
) -> list[PosedScene]:
    """Every scene there is, for every split: the data set is divided by views, not by scenes.

    Raises:
        InputError: for an unknown scan, `view_split` test without transforms_test.json, and (unless `report` collects)
            for a missing image or an impossible camera.
    """
    asked = (options or ReaderOptions()).view_split
    return read_divided_by_views(
        datadir,
        find_blender_scans(datadir),
        f"{_TRAIN}, or folders that have it",
        scans,
        report,
        lambda folder, scan: _read_scene(folder, scan, report, asked),
    )


def find_blender_scans(datadir: Path) -> dict[str, Path]:
    """Scan name -> folder."""
    return folders_with(datadir, _TRAIN)


def _read_scene(folder: Path, scan: str, report: Report, asked: str) -> PosedScene:
    frames = {frame.view_id: frame for frame in _read_frames(folder / _TRAIN, 0, report)}
    if max(frames, default=0) >= _FIRST_HELD_OUT:
        raise InputError(f"{folder / _TRAIN}: expected at most {_FIRST_HELD_OUT} training frames, got {len(frames)}")
    train, held_out = mvsnerf_views("blender", scan) if asked == "mvsnerf" else ((), ())
    is_listed = bool(train) and frames.keys() >= {*train, *held_out}
    if not is_listed:
        others = {frame.view_id: frame for frame in _held_out_frames(folder, report, asked)}
        whole = split_views(range(max(frames, default=-1) + 1))
        train, held_out = (tuple(frames), tuple(others)) if others else whole
        frames |= others
    return PosedScene(
        name=scan,
        scan=scan,
        frames=frames,
        neighbors=complete_neighbors({view: frame.center for view, frame in frames.items()}),
        train_views=present_only(train, frames),
        held_out_views=present_only(held_out, frames),
        white_background=True,
        view_split="own" if asked == "mvsnerf" and not is_listed else asked,
    )


def _held_out_frames(folder: Path, report: Report, asked: str) -> Iterator[Frame]:
    """Those of the val file, or else of the test file; of the test file alone if that is asked for."""
    names = (_TEST,) if asked == "test" else (_VAL, _TEST)
    found = [name for name in names if (folder / name).is_file()]
    if asked == "test" and not found:
        raise InputError(f"--view_split test: expected {folder / _TEST}, got none")
    return _read_frames(folder / found[0], _FIRST_HELD_OUT, report) if found else iter(())


def _read_frames(path: Path, first_id: int, report: Report) -> Iterator[Frame]:
    angle, entries = _load(path)
    size: tuple[int, int] | None = None
    for i, entry in enumerate(entries):
        try:
            image_path, c2w = _parse_entry(path, i, entry)
            # the size is the first image's; loading checks each
            size = size or image_size(image_path)
            w2c, intrinsics = _camera(c2w, angle, *size)
            check_camera(w2c, intrinsics, f"{path} frame {i} ({image_path.name})")
        except InputError as error:
            report(error)
            continue
        yield Frame(first_id + i, image_path, w2c.float(), intrinsics.float(), *size, _NEAR, _FAR)


def _camera(
    c2w_opengl: Float[Tensor, "4 4"], angle: float, height: int, width: int
) -> tuple[Float[Tensor, "4 4"], Float[Tensor, "3 3"]]:
    focal = 0.5 * width / math.tan(0.5 * angle)
    intrinsics = [[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]]
    return w2c_from_opengl_c2w(c2w_opengl), torch.tensor(intrinsics, dtype=c2w_opengl.dtype)


def _load(path: Path) -> tuple[float, list[dict[str, Any]]]:
    """(horizontal field of view in radians, frame entries)."""
    try:
        content = parse_json(plain_file(path).read_text())
        angle, entries = float(content["camera_angle_x"]), list(content["frames"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: expected JSON with camera_angle_x and frames, got {error!r}") from None
    if not 0 < angle < math.pi or not entries:
        raise InputError(
            f"{path}: expected 0 < camera_angle_x < pi and frames, got {angle:g} and {len(entries)} frames"
        )
    return angle, entries


def _parse_entry(path: Path, index: int, entry: dict[str, Any]) -> tuple[Path, Float[Tensor, "4 4"]]:
    try:
        image_path = path.parent / entry["file_path"]
        c2w = torch.tensor(entry["transform_matrix"], dtype=torch.float64).reshape(4, 4)
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise InputError(
            f"{path}: expected file_path and a 4x4 transform_matrix in frame {index}, got {entry}"
        ) from None
    image_path = image_path if image_path.suffix else image_path.with_suffix(".png")
    if not is_file(image_path):
        raise InputError(f"{image_path}: expected the image of frame {index} of {path.name}, got none")
    return image_path, c2w
