"""Virtual KITTI 2 -> `PosedScene`: one scene per drive, variant and camera. Scene unit: meter.

    Scene01/clone/frames/rgb/Camera_0/rgb_00000.jpg
    Scene01/clone/frames/depth/Camera_0/depth_00000.png    16 bits, centimeters; the folder is optional
    Scene01/clone/extrinsic.txt       header, then: frame, camera, 4x4 camera from world (OpenCV axes) row by row
    Scene01/clone/intrinsic.txt       header, then: frame, camera, fx, fy, cx, cy for integer pixel centers

Scans are named `Scene01/clone/Camera_0`; `--scans Scene01` takes all below. Drives, not variants, are divided into
training and validation. Depth beyond 80 m counts as unknown (docs/vggt.md, "Frames of a group").

A copy of the data set may be incomplete: frames without image or camera and drives without camera files are left out,
counted and said in one line; a frame without a depth map stays, its depth is unknown.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.image_io import first_image_size, read_uint16
from data.lazy import LazyMapping
from data.problems import LeftOut, Report, raise_problem
from data.readers.splits import Split, choose_scans, own_or_shipped_lists, scans_below, split_views
from data.scene import Frame, PosedScene
from data.view_selection.neighbors import most_similar
from geometry import InputError, Traits, check_camera
from geometry.conversions import intrinsics_from_integer_centers
from geometry.plain_files import plain_file

MAX_DEPTH = 80.0
"""Meters; farther depth is unknown, as upstream (docs/vggt.md, "Frames of a group")."""
NEAR = 1.0
"""Meters of camera z; chosen by hand, no file says."""
CENTIMETERS = 100.0
"""Per meter; depth files hold centimeters."""
_CAMERA_FOLDER = re.compile(r"Camera_(\d+)")
_IMAGE_NAME = re.compile(r"rgb_(\d{5})\.jpg")


@dataclass(frozen=True)
class _Drive:
    """What one camera saw, in arrays."""

    scan: str
    view_ids: tuple[int, ...]
    """Frame numbers."""
    images: tuple[Path, ...]
    depths: tuple[Path | None, ...]
    w2c: Float[Tensor, "view 4 4"]
    intrinsics: Float[Tensor, "view 3 3"]
    """Pixel centers at +0.5."""

    def frame(self, view_id: int) -> Frame:
        row = self.view_ids.index(view_id)
        height, width = self._image_size
        return Frame(
            view_id=view_id,
            image_path=self.images[row],
            w2c=self.w2c[row],
            intrinsics=self.intrinsics[row],
            height=height,
            width=width,
            near=NEAR,
            far=MAX_DEPTH,
            depth_path=self.depths[row],
        )

    def neighbors(self, view_id: int) -> tuple[int, ...]:
        """All other views, most similar first."""
        row = self.view_ids.index(view_id)
        return tuple(self.view_ids[other] for other in most_similar(self.w2c, row))

    def scene(self) -> PosedScene:
        """Frames are made when they are looked at."""
        train, held_out = split_views(self.view_ids)
        return PosedScene(
            name=self.scan,
            scan=self.scan,
            frames=LazyMapping(self.view_ids, self.frame),
            neighbors=LazyMapping(self.view_ids, self.neighbors),
            train_views=train,
            held_out_views=held_out,
            read_depth=read_vkitti_depth if any(self.depths) else None,
            is_video=True,
            traits=Traits(meters=1.0, is_synthetic=True),
        )

    @cached_property
    def _image_size(self) -> tuple[int, int]:
        return first_image_size(self.images)


def read_vkitti(
    datadir: Path,
    *,
    split: Split,
    scans: tuple[str, ...] | None = None,
    report: Report = raise_problem,
) -> list[PosedScene]:
    """One scene per camera folder.

    What cannot be used is left out and handed to `report`.

    Raises:
        InputError: for an unknown scan, and (unless `report` collects) for what is missing.
    """
    folders = find_vkitti_scans(datadir)
    if not folders:
        raise InputError(f"{datadir}: expected Scene*/*/frames/rgb/Camera_*/rgb_00000.jpg, got none")
    present = list(folders)
    if scans is None:
        drives = list(dict.fromkeys(scan.partition("/")[0] for scan in present))
        chosen_drives = choose_scans(datadir, drives, split, None, own_or_shipped_lists(datadir, "vkitti"))
        chosen = scans_below(present, chosen_drives)
    else:
        chosen = choose_scans(datadir, present, split, scans_below(present, scans), {})
    drives = [drive for scan in chosen if (drive := _read_drive(scan, folders[scan], report)) and drive.view_ids]
    return [drive.scene() for drive in drives]


def find_vkitti_scans(datadir: Path) -> dict[str, Path]:
    """Scan name -> its folder of images."""
    found = sorted(datadir.glob("*/*/frames/rgb/Camera_*"))
    folders = [path for path in found if path.is_dir() and _CAMERA_FOLDER.fullmatch(path.name)]
    return {f"{path.parents[3].name}/{path.parents[2].name}/{path.name}": path for path in folders}


def read_vkitti_depth(frame: Frame) -> Float[np.ndarray, "height width"]:
    """Meters; beyond 80 m unknown.

    Raises:
        InputError: for a missing or broken file.
    """
    depth = read_uint16(frame.depth_path).astype(np.float32) / CENTIMETERS
    depth[depth > MAX_DEPTH] = 0
    return depth


def _read_drive(scan: str, folder: Path, report: Report) -> _Drive | None:
    variant, camera = folder.parents[2], int(folder.name.removeprefix("Camera_"))
    images = {int(match[1]): path for path in folder.iterdir() if (match := _IMAGE_NAME.fullmatch(path.name))}
    if not images:
        report(LeftOut("drives without images", f"{folder}: expected images rgb_00000.jpg, got none"))
        return None
    try:
        extrinsics = _read_table(variant / "extrinsic.txt", camera, 16)
        lenses = _read_table(variant / "intrinsic.txt", camera, 4)
    except InputError as error:
        report(LeftOut("drives without readable camera files", str(error)))
        return None
    rows = []
    for view in sorted({*images, *extrinsics}):
        try:
            rows.append((view, *_camera(view, images, extrinsics, lenses, folder, variant)))
        except InputError as error:
            report(LeftOut("frames without image or possible camera", str(error)))
    views = tuple(view for view, _, _ in rows)
    return _Drive(
        scan=scan,
        view_ids=views,
        images=tuple(images[view] for view in views),
        depths=_depth_files(folder.parents[1] / "depth" / folder.name, views, report),
        w2c=torch.stack([w2c for _, w2c, _ in rows]).float() if rows else torch.zeros(0, 4, 4),
        intrinsics=torch.stack([intrinsics for _, _, intrinsics in rows]).float() if rows else torch.zeros(0, 3, 3),
    )


def _depth_files(folder: Path, views: Sequence[int], report: Report) -> tuple[Path | None, ...]:
    """Depth map of each view; None where there is none. Without the folder the drive has no depth at all."""
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    files = [folder / f"depth_{view:05d}.png" for view in views]
    for file in files if present else ():
        if file.name not in present:
            report(LeftOut("depth maps", f"{file}: expected an image file, got none"))
    return tuple(file if file.name in present else None for file in files)


def _camera(
    view: int,
    images: dict[int, Path],
    extrinsics: dict[int, Sequence[float]],
    lenses: dict[int, Sequence[float]],
    folder: Path,
    variant: Path,
) -> tuple[Float[Tensor, "4 4"], Float[Tensor, "3 3"]]:
    if view not in images:
        raise InputError(f"{folder / f'rgb_{view:05d}.jpg'}: expected an image, as extrinsic.txt lists it, got none")
    for name, table in (("extrinsic.txt", extrinsics), ("intrinsic.txt", lenses)):
        if view not in table:
            raise InputError(f"{variant / name}: expected a line for frame {view} of {folder.name}, got none")
    w2c = torch.tensor(extrinsics[view], dtype=torch.float64).reshape(4, 4)
    focal_x, focal_y, center_x, center_y = lenses[view]
    intrinsics = torch.tensor([[focal_x, 0, center_x], [0, focal_y, center_y], [0, 0, 1]], dtype=torch.float64)
    check_camera(w2c, intrinsics, f"{variant} frame {view} of {folder.name}")
    return w2c, intrinsics_from_integer_centers(intrinsics)


def _read_table(path: Path, camera: int, num_values: int) -> dict[int, list[float]]:
    """Frame number -> values, of the lines of one camera."""
    try:
        lines = [line.split() for line in plain_file(path).read_text().splitlines()[1:] if line.strip()]
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{path}: expected a camera file, got none") from None
    table = {}
    for number, line in enumerate(lines, start=2):
        try:
            frame, of_camera, *values = int(line[0]), int(line[1]), *map(float, line[2:])
        except (ValueError, IndexError):
            raise InputError(f"{path} line {number}: expected numbers, got {' '.join(line)[:60]!r}") from None
        if len(values) != num_values:
            raise InputError(f"{path} line {number}: expected {num_values + 2} numbers, got {len(line)}")
        if of_camera == camera:
            table[frame] = values
    return table
