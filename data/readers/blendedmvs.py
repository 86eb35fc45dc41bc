"""BlendedMVS scenes (MVSNet's text layout, either resolution) -> `PosedScene`. Scene unit: as in the files.

    {scan}/blended_images/%08d.jpg          `*_masked.jpg` is ignored
    {scan}/cams/%08d_cam.txt                K for the images' size
    {scan}/cams/pair.txt                    optional
    {scan}/rendered_depth_maps/%08d.pfm     optional, the images' size

`datadir` holds such folders or is one. Other data in this layout (Tanks and Temples exports) reads the same way.
"""

import re
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from data.image_io import first_image_size, read_depth_pfm
from data.readers.mvs_camera import check_principal_point, read_mvs_camera
from data.readers.splits import (
    Report,
    Split,
    choose_scans,
    file_names,
    folders_with,
    missing_views,
    own_or_shipped_lists,
    present_only,
    raise_problem,
    read_each,
    split_views,
)
from data.scene import Frame, PosedScene
from data.view_selection.neighbors import complete_neighbors, read_pairs
from geometry import InputError, check_camera
from geometry.conversions import intrinsics_from_integer_centers

_IMAGES = "blended_images"
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def read_blendedmvs(
    datadir: Path,
    *,
    split: Split,
    scans: tuple[str, ...] | None = None,
    report: Report = raise_problem,
) -> list[PosedScene]:
    """One scene per folder, named after it; every 8th view is held out.

    Raises:
        InputError: for an unknown scan, and (unless `report` collects) for a view without an image or a camera.
    """
    folders = find_blendedmvs_scans(datadir)
    if not folders:
        raise InputError(f"{datadir}: expected {_IMAGES}/ and cams/, or folders that have them, got neither")
    chosen = choose_scans(datadir, list(folders), split, scans, own_or_shipped_lists(datadir, "blendedmvs"))
    return read_each(chosen, lambda scan: [_read_scene(folders[scan], scan, report)], report)


def find_blendedmvs_scans(datadir: Path) -> dict[str, Path]:
    """Scan name -> folder."""
    return folders_with(datadir, _IMAGES)


def read_blendedmvs_depth(frame: Frame) -> Float[np.ndarray, "height width"]:
    """The rendered depth map as it is."""
    return read_depth_pfm(frame.depth_path)


def _read_scene(folder: Path, scan: str, report: Report) -> PosedScene:
    images = {
        int(path.stem): path
        for path in sorted((folder / _IMAGES).iterdir())
        if path.suffix.lower() in _IMAGE_SUFFIXES and path.stem.isdecimal()
    }
    if not images:
        raise InputError(f"{folder / _IMAGES}: expected images named like 00000000.jpg, got none")
    cams, depths = file_names(folder / "cams"), file_names(folder / "rendered_depth_maps")
    pairs = read_pairs(folder / "cams" / "pair.txt", report) if "pair.txt" in cams else {}
    height, width = first_image_size(images.values())
    posed = {int(match[1]) for name in cams if (match := re.fullmatch(r"(\d{8})_cam\.txt", name))}
    for view in sorted({*pairs, *missing_views(posed, images)} - images.keys()):
        report(InputError(f"{folder / _IMAGES / f'{view:08d}.jpg'}: expected an image, got none"))
    frames = {}
    for view in sorted(images):
        depth = f"{view:08d}.pfm"
        depth_path = folder / "rendered_depth_maps" / depth if depth in depths else None
        try:
            frames[view] = _read_frame(folder, view, images[view], depth_path, height, width)
        except InputError as error:
            report(error)
    train, held_out = split_views(sorted({*pairs, *images}))
    return PosedScene(
        name=scan,
        scan=scan,
        frames=frames,
        neighbors=complete_neighbors({view: frame.center for view, frame in frames.items()}, pairs),
        train_views=present_only(train, frames),
        held_out_views=present_only(held_out, frames),
        read_depth=read_blendedmvs_depth if any(frame.depth_path for frame in frames.values()) else None,
    )


def _read_frame(folder: Path, view: int, image_path: Path, depth_path: Path | None, height: int, width: int) -> Frame:
    path = folder / "cams" / f"{view:08d}_cam.txt"
    camera = read_mvs_camera(path)
    check_camera(camera.w2c, camera.intrinsics, str(path))
    check_principal_point(camera.intrinsics, height, width, str(path))
    near, far = camera.depth_range
    return Frame(
        view_id=view,
        image_path=image_path,
        w2c=camera.w2c.to(torch.float32),
        intrinsics=intrinsics_from_integer_centers(camera.intrinsics).to(torch.float32),
        height=height,
        width=width,
        near=near,
        far=far,
        depth_path=depth_path,
    )
