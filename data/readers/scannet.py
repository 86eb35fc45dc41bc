"""ScanNet scans as its sensor files are exported (Dai et al. 2017) -> `PosedScene`, meters.

    {scan}/color/%06d.jpg          any number of digits
    {scan}/pose/%06d.txt           4x4, camera to world; infinite where tracking was lost
    {scan}/intrinsic/%06d.txt      3x3 or 4x4 of each photograph, or intrinsic_color.txt for all; centers at integers
    {scan}/depth/%06d.png          optional, 16 bits, millimeters, 0 = unknown, of any size

`datadir` holds such folders or is one.
"""

import functools
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float

from data.image_io import first_image_size, read_uint16
from data.problems import LeftOut
from data.readers.splits import (
    Report,
    Split,
    choose_scans,
    file_names,
    folders_with,
    own_or_shipped_lists,
    present_only,
    raise_problem,
    read_each,
    split_views,
)
from data.scene import Frame, PosedScene
from data.view_selection.neighbors import NeighborsByCenter
from geometry import InputError, check_camera, possible_cameras, rigid_inverse
from geometry.conversions import intrinsics_from_integer_centers
from geometry.plain_files import plain_file

NEAR, FAR = 0.1, 10.0
"""Camera z in meters that matters in a room; the sensor measures 0.4 to 4 m well. Chosen by hand."""
_SUFFIXES = (".jpg", ".jpeg", ".png")
_SHARED_INTRINSICS = "intrinsic_color.txt"


def read_scannet(
    datadir: Path, *, split: Split, scans: tuple[str, ...] | None = None, report: Report = raise_problem
) -> list[PosedScene]:
    """One scene per folder, named after it; every 8th view is held out. Photographs without pose are left out.

    Raises:
        InputError: for an unknown scan, and (unless `report` collects) for a photograph without pose or intrinsics.
    """
    folders = find_scannet_scans(datadir)
    if not folders:
        raise InputError(f"{datadir}: expected color/ and pose/, or folders that have them, got neither")
    chosen = choose_scans(datadir, list(folders), split, scans, own_or_shipped_lists(datadir, "scannet"))
    return read_each(chosen, lambda scan: [_read_scene(folders[scan], scan, report)], report)


def find_scannet_scans(datadir: Path) -> dict[str, Path]:
    """Scan name -> folder."""
    return {name: folder for name, folder in folders_with(datadir, "color").items() if (folder / "pose").is_dir()}


def _read_scene(folder: Path, scan: str, report: Report) -> PosedScene:
    images = {
        int(path.stem): path
        for path in sorted((folder / "color").iterdir())
        if path.suffix.lower() in _SUFFIXES and path.stem.isdecimal()
    }
    if not images:
        raise InputError(f"{folder / 'color'}: expected images named like 000000.jpg, got none")
    size = first_image_size(images.values())
    depths = file_names(folder / "depth")
    frames = {}
    cameras = _cameras(folder, images)  # a scan has thousands
    for view, camera in cameras.items():
        if isinstance(camera, InputError):
            report(camera)
            continue
        depth = f"{images[view].stem}.png"
        frames[view] = Frame(
            view_id=view,
            image_path=images[view],
            w2c=camera[0],
            intrinsics=camera[1],
            height=size[0],
            width=size[1],
            near=NEAR,
            far=FAR,
            depth_path=folder / "depth" / depth if depth in depths else None,
        )
    train, held_out = split_views(sorted(images))
    return PosedScene(
        name=scan,
        scan=scan,
        frames=frames,
        neighbors=NeighborsByCenter({view: frame.center for view, frame in frames.items()}),
        train_views=present_only(train, frames),
        held_out_views=present_only(held_out, frames),
        read_depth=_read_depth if any(frame.depth_path for frame in frames.values()) else None,
        is_video=True,
    )


def _cameras(folder: Path, images: Mapping[int, Path]) -> dict[int, tuple[torch.Tensor, torch.Tensor] | InputError]:
    """World to camera and intrinsics of each photograph, in the order of their numbers, or why it has none."""
    found: dict[int, tuple[torch.Tensor, torch.Tensor] | InputError] = {}
    read = functools.cache(_matrix)
    shared = folder / "intrinsic" / _SHARED_INTRINSICS
    own = file_names(folder / "intrinsic")
    for view in sorted(images):
        name = f"{images[view].stem}.txt"
        try:
            pose = _pose(folder / "pose" / name)
            path = folder / "intrinsic" / name if name in own else shared
            intrinsics = read(path)
            if intrinsics.shape not in ((3, 3), (4, 4)):
                raise InputError(f"{path}: expected 3x3 or 4x4 numbers, got {'x'.join(map(str, intrinsics.shape))}")
            found[view] = pose, intrinsics_from_integer_centers(intrinsics[:3, :3])
        except InputError as error:
            found[view] = error
    _check(folder, images, found)
    return found


def _pose(path: Path) -> Float[torch.Tensor, "4 4"]:
    """Camera to world."""
    pose = _matrix(path)
    if pose.shape != (4, 4):
        raise InputError(f"{path}: expected 4x4 numbers, got {'x'.join(map(str, pose.shape))}")
    if not pose.isfinite().all():
        raise LeftOut("photographs without pose", f"{path}: expected finite numbers, got a pose that was lost")
    return pose


def _check(
    folder: Path, images: Mapping[int, Path], found: dict[int, tuple[torch.Tensor, torch.Tensor] | InputError]
) -> None:
    """Camera to world becomes world to camera, all at once; those that look wrong get their error one by one."""
    cameras = {view: camera for view, camera in found.items() if not isinstance(camera, InputError)}
    if not cameras:
        return
    w2c = rigid_inverse(torch.stack([pose for pose, _ in cameras.values()]))
    intrinsics = torch.stack([matrix for _, matrix in cameras.values()])
    is_right = possible_cameras(w2c, intrinsics)
    for row, view in enumerate(cameras):
        try:
            if not is_right[row]:
                check_camera(w2c[row], intrinsics[row], str(folder / "pose" / f"{images[view].stem}.txt"))
            found[view] = w2c[row].float(), intrinsics[row].float()
        except InputError as error:
            found[view] = error


def _matrix(path: Path) -> Float[torch.Tensor, "rows cols"]:
    try:
        lines = plain_file(path).read_text().splitlines()
        values = np.array([[float(word) for word in line.split()] for line in lines if line.strip()], ndmin=2)
    except FileNotFoundError:
        raise InputError(f"{path}: expected a matrix, got no file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a matrix, got other text ({error})") from None
    return torch.from_numpy(values)


def _read_depth(frame: Frame) -> Float[np.ndarray, "height width"]:
    """Camera z at the size of the photograph (nearest)."""
    depth = read_uint16(frame.depth_path).astype(np.float32) / 1000
    if depth.shape == (frame.height, frame.width):
        return depth
    return cv2.resize(depth, (frame.width, frame.height), interpolation=cv2.INTER_NEAREST_EXACT)
