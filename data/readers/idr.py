"""One scan in the IDR / NeuS layout: `image/*.png`, `cameras.npz` (or `cameras_sphere.npz`), optional `mask/*.png`.

`world_mat_i` is the projection K [R | t] of image i, pixel centers at integers; `scale_mat_i`, where present, maps the
unit sphere around the object to the world. near and far enclose that sphere. Without it the scan must be in DTU's
millimeters (cameras 300 to 1500 from the point they look at), and DTU's 425 to 905 mm apply.
A mask may be smaller than its image if it has the same aspect.
"""

import math
import re
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.image_io import image_size
from data.readers.mvs_camera import check_principal_point
from data.readers.splits import Report, dtu_view_lists, missing_views, present_only, split_views
from data.scene import Frame, PosedScene
from data.untrusted_files import read_archive
from data.view_selection.neighbors import complete_neighbors
from geometry import InputError, Traits, check_camera, look_at_point, require, rigid_inverse
from geometry.conversions import camera_from_projection, intrinsics_from_integer_centers

_CAMERA_FILES = ("cameras.npz", "cameras_sphere.npz")
_DTU_METERS = 1e-3
_MATRIX_BYTES = 4096
"""Of one in the archive, with room for any type."""
_DTU_RANGE = (425.0, 905.0)
"""Millimeters of camera z: near and far in MVSNet's camera files of DTU."""
_DTU_DISTANCES = (300.0, 1500.0)
"""Millimeters, around the rig's 609: a scan in another unit lies outside. Chosen by hand."""
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def find_idr_scans(datadir: Path) -> dict[str, Path]:
    """Scan name (folder name) -> folder: `datadir` itself or the folders in it that have `image/` and a camera file."""
    candidates = [datadir, *sorted(path for path in datadir.iterdir() if path.is_dir())]
    found = [path for path in candidates if (path / "image").is_dir() and _camera_file(path).is_file()]
    return {path.resolve().name: path for path in found}


def read_idr(folder: Path, scan: str, report: Report) -> PosedScene:
    """One scene; view ids are the numbers in the image names.

    Raises:
        InputError: for an unreadable camera file, or no known unit; per view through `report`.
    """
    matrices = _load_matrices(_camera_file(folder))
    posed: dict[int, tuple[Path, tuple[int, int], Tensor, Tensor]] = {}
    images = _numbered_images(folder / "image")
    known = {int(name.removeprefix("world_mat_")) for name in matrices if re.fullmatch(r"world_mat_\d+", name)}
    for view in missing_views(known, images):
        report(InputError(f"{folder / 'image'}: expected an image for world_mat_{view} of the camera file, got none"))
    for view, path in images.items():
        try:
            size = image_size(path)
            posed[view] = (path, size, *_camera(matrices, view, size, f"{_camera_file(folder)} for {path.name}"))
        except InputError as error:
            report(error)
    if not posed:
        raise InputError(f"{folder / 'image'}: expected numbered images with cameras, got none")
    masks = {view: path for view, path in _numbered_images(folder / "mask").items() if view in posed}
    frames = {}
    for view, (path, (height, width), w2c, intrinsics) in posed.items():
        near, far = _depth_range(matrices.get(f"scale_mat_{view}"), w2c, [one[2] for one in posed.values()], folder)
        frames[view] = Frame(
            view_id=view,
            image_path=path,
            w2c=w2c.float(),
            intrinsics=intrinsics.float(),
            height=height,
            width=width,
            near=near,
            far=far,
            mask_path=masks.get(view),
        )
    train, held_out = split_views(sorted(images), *dtu_view_lists())
    return PosedScene(
        name=scan,
        scan=scan,
        frames=frames,
        neighbors=complete_neighbors({view: frame.center for view, frame in frames.items()}),
        train_views=present_only(train, frames),
        held_out_views=present_only(held_out, frames),
        traits=Traits(None if any(name.startswith("scale_mat_") for name in matrices) else _DTU_METERS),
    )


def _camera_file(folder: Path) -> Path:
    return next((folder / name for name in _CAMERA_FILES if (folder / name).is_file()), folder / _CAMERA_FILES[0])


def _load_matrices(path: Path) -> dict[str, Float[Tensor, "4 4"]]:
    try:
        found = read_archive(path, most=_MATRIX_BYTES)
        matrices = {name: torch.from_numpy(array.astype(np.float64)) for name, array in found.items()}
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: expected an npz archive of matrices, got an unreadable one ({error})") from None
    wrong = [name for name, matrix in matrices.items() if matrix.shape != (4, 4)]
    if wrong:
        raise InputError(f"{path}: expected 4x4 matrices, got {wrong[0]} of shape {tuple(matrices[wrong[0]].shape)}")
    return matrices


def _numbered_images(folder: Path) -> dict[int, Path]:
    if not folder.is_dir():
        return {}
    images = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in _IMAGE_SUFFIXES]
    unnumbered = [path for path in images if not path.stem.isdecimal()]
    if unnumbered:
        raise InputError(f"{unnumbered[0]}: expected a number as image name, as in 000003.png")
    return {int(path.stem): path for path in images}


def _camera(
    matrices: dict[str, Tensor], view: int, size: tuple[int, int], where: str
) -> tuple[Float[Tensor, "4 4"], Float[Tensor, "3 3"]]:
    projection = matrices.get(f"world_mat_{view}")
    if projection is None:
        raise InputError(f"{where}: expected an entry world_mat_{view}, got none")
    if not torch.isfinite(projection).all():
        raise InputError(f"{where}: expected finite camera matrices, got NaN or infinity")
    w2c, intrinsics = camera_from_projection(projection[:3])
    check_camera(w2c, intrinsics, where)
    check_principal_point(intrinsics, *size, where)
    return w2c, intrinsics_from_integer_centers(intrinsics)


def _depth_range(
    sphere: Float[Tensor, "4 4"] | None, w2c: Float[Tensor, "4 4"], all_w2c: list[Tensor], folder: Path
) -> tuple[float, float]:
    if sphere is not None:
        center, radius = sphere[:3, 3], sphere[0, 0].item()
        depth = (w2c[2, :3] @ center + w2c[2, 3]).item()
        near, far = max(depth - radius, 0.05 * (depth + radius)), depth + radius
        require(
            0 < near < far < math.inf, f"{folder}: expected a sphere before the camera, got depths {near:g} to {far:g}"
        )
        return near, far
    stacked = torch.stack(all_w2c)
    distances = (rigid_inverse(stacked)[:, :3, 3] - look_at_point(stacked)).norm(dim=-1)
    typical = distances.median().item()
    low, high = _DTU_DISTANCES
    if not low < typical < high:
        raise InputError(
            f"{folder}: expected scale_mat_i in the camera file, or DTU's millimeters with cameras {low:g} to {high:g} "
            f"from what they look at, got {typical:.4g}"
        )
    return _DTU_RANGE
