"""LLFF forward-facing scenes -> `PosedScene`. Scene unit and world frame: as in `poses_bounds.npy`.

    {scan}/poses_bounds.npy               one row per image, in the order of the sorted image names
    {scan}/images_8, images_4, images     the most reduced of these folders is used, unless `llff_factor` names one

`datadir` holds such folders or is one.
"""

import math
import re
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.image_io import first_image_size
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
from data.untrusted_files import read_array
from data.view_selection.neighbors import complete_neighbors
from geometry import InputError, check_camera, require
from geometry.conversions import cameras_from_llff

_POSES = "poses_bounds.npy"
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
_NEAR_FACTOR, _FAR_FACTOR = 0.8, 1.2
"""On the nearest and farthest bound of all images, whose points are sparse; chosen by hand."""
_ASPECT_TOLERANCE = 0.02
"""Relative: reduced images have whole numbers of pixels, turned ones are off by far more."""


def read_llff(
    datadir: Path,
    *,
    split: Split,
    scans: tuple[str, ...] | None = None,
    report: Report = raise_problem,
    options: ReaderOptions | None = None,
) -> list[PosedScene]:
    """Every scene there is, for every split: LLFF is divided by views, not by scenes.

    View ids are positions among the sorted image names. Every 8th is held out, or those that MVSNeRF lists for a scene
    of that name (`view_split` mvsnerf), if all that it lists are there.

    Raises:
        InputError: for an unknown scan, a folder of images that is not there, a number of images other than that of the
            poses, or an impossible camera.
    """
    options = options or ReaderOptions()
    return read_divided_by_views(
        datadir,
        find_llff_scans(datadir),
        f"{_POSES} and images/, or folders that have them",
        scans,
        report,
        lambda folder, scan: _read_scene(folder, scan, report, options),
    )


def find_llff_scans(datadir: Path) -> dict[str, Path]:
    """Scan name -> folder."""
    return folders_with(datadir, _POSES)


def _read_scene(folder: Path, scan: str, report: Report, options: ReaderOptions) -> PosedScene:
    images = _image_files(folder, options.llff_factor)
    poses = _load_poses(folder / _POSES, len(images))
    height, width = first_image_size(images)
    original_height, original_width = poses[0, 4].item(), poses[0, 9].item()
    if not abs(width / height * original_height / original_width - 1) < _ASPECT_TOLERANCE:
        raise InputError(
            f"{images[0]}: expected the proportions of {original_width:g}x{original_height:g} as in {_POSES}, "
            f"got {width}x{height}: intrinsics are for another image size?"
        )
    all_w2c, all_intrinsics, bounds = cameras_from_llff(poses, height, width)
    near, far = _NEAR_FACTOR * bounds.min().item(), _FAR_FACTOR * bounds.max().item()
    if not 0 < near < far < float("inf"):
        raise InputError(f"{folder / _POSES}: expected 0 < near < far, got near {near:g} and far {far:g}")
    frames = {}
    for view, (path, w2c, intrinsics) in enumerate(zip(images, all_w2c, all_intrinsics, strict=True)):
        try:
            check_camera(w2c, intrinsics, f"{folder / _POSES} row {view} ({path.name})")
        except InputError as error:
            report(error)
            continue
        frames[view] = Frame(view, path, w2c.float(), intrinsics.float(), height, width, near, far)
    train, held_out = mvsnerf_views("llff", scan) if options.view_split == "mvsnerf" else ((), ())
    is_listed = bool(train) and frames.keys() >= {*train, *held_out}
    if not is_listed:
        train, held_out = split_views(range(len(images)))
    return PosedScene(
        name=scan,
        scan=scan,
        frames=frames,
        neighbors=complete_neighbors({view: frame.center for view, frame in frames.items()}),
        train_views=present_only(train, frames),
        held_out_views=present_only(held_out, frames),
        view_split="mvsnerf" if is_listed else "own",
        resized_to=options.llff_size[::-1] or None,
    )


def _image_files(folder: Path, factor: int | None) -> list[Path]:
    """Images of the folder for that factor; None: of the most reduced, the largest n of images_n, else images."""
    reduced = {int(match[1]): path for path in folder.iterdir() if (match := re.fullmatch(r"images_(\d+)", path.name))}
    if factor is None:
        chosen = reduced[max(reduced)] if reduced else folder / "images"
    else:
        chosen = folder / ("images" if factor == 1 else f"images_{factor}")
        if not chosen.is_dir():
            found = ", ".join(sorted(path.name for path in folder.glob("images*") if path.is_dir())) or "none"
            raise InputError(f"--llff_factor {factor}: expected the folder {chosen}, got only: {found}")
    if not chosen.is_dir():
        raise InputError(f"{folder}: expected a folder images, images_4 or images_8, got none")
    images = [path for path in sorted(chosen.iterdir()) if path.suffix.lower() in _IMAGE_SUFFIXES]
    if not images:
        raise InputError(f"{chosen}: expected images, got none")
    return images


def _load_poses(path: Path, num_images: int) -> Float[Tensor, "view 17"]:
    poses = read_array(path)
    if poses.shape != (num_images, 17):
        raise InputError(f"{path}: expected {num_images} rows of 17, one per image, got shape {poses.shape}")
    require(poses.dtype.kind in "fiu", f"{path}: expected numbers, got {poses.dtype}")
    found = torch.from_numpy(poses.astype(np.float64))
    height, width = found[0, [4, 9]].tolist()
    require(0 < height < math.inf and 0 < width < math.inf, f"{path}: expected a size, got {width:g}x{height:g}")
    return found
