"""DTU scans in MVSNet's / MVSNeRF's layout -> `PosedScene`. Scene unit: millimeter, as in the files.

    Cameras/train/%08d_cam.txt                    K for a quarter of the image size; or, without train/:
    Cameras/%08d_cam.txt                          K for the 1600x1200 originals (640x512 images: half, then cropped)
    Cameras/pair.txt                              optional, else MVSNet's from data/lists
    Rectified/{scan}_train/rect_VVV_L_r5000.png   VVV = view + 1, L = lighting; the folder may also be named {scan}
    Depths/{scan}/depth_map_%04d.pfm              optional, or Depths/{scan}_train; image size or the uncropped original
    masks/{scan}/%03d.png                         optional
    lists/{train,val,test}.txt                    optional

Whatever views, lightings, depths and masks are there are used. An image counts as missing if another lighting of the
scan has the view, or if the view has a camera and neighbors and the scan has most such views. IDR / NeuS folders are
recognized (data/readers/idr.py).
"""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.image_io import UnreadableFileError, first_image_size, read_depth_pfm
from data.readers.idr import find_idr_scans, read_idr
from data.readers.mvs_camera import check_principal_point, read_mvs_camera
from data.readers.splits import (
    Report,
    Split,
    choose_scans,
    dtu_view_lists,
    file_names,
    missing_views,
    own_or_shipped_lists,
    present_only,
    raise_problem,
    read_each,
    shipped_path,
    split_views,
)
from data.scene import Frame, PosedScene
from data.view_selection.neighbors import complete_neighbors, read_pairs
from geometry import InputError, Traits, check_camera
from geometry.conversions import intrinsics_from_integer_centers

_IMAGE_NAME = re.compile(r"rect_(\d{3})_(\d+)_r5000\.png")
_CAMERA_NAME = re.compile(r"(\d{8})_cam\.txt")
EVALUATED_LIGHT = 3
"""Of the seven lightings, the one that MVSNeRF and all after it evaluate with."""
_MILLIMETER = 1e-3
"""Meters; the scene unit."""
_ORIGINAL_WIDTH = 1600
"""Pixels of the photographs that the cameras without a train/ folder are for."""


@dataclass(frozen=True)
class _Camera:
    w2c: Float[Tensor, "4 4"]
    intrinsics: Float[Tensor, "3 3"]
    near: float
    far: float


@dataclass(frozen=True)
class _Root:
    """What all scans of a root share."""

    folder: Path
    pairs: dict[int, tuple[int, ...]]
    posed: frozenset[int]
    """Views with a camera file."""
    cameras: dict[tuple[int, int, int], _Camera] = field(default_factory=dict)
    """By view, image height and width: DTU has one rig, so cameras serve every scan."""

    def camera(self, view: int, height: int, width: int) -> _Camera:
        key = (view, height, width)
        if key not in self.cameras:
            self.cameras[key] = _read_camera(self.folder / "Cameras", view, height, width)
        return self.cameras[key]


def read_dtu(
    datadir: Path,
    *,
    split: Split,
    scans: tuple[str, ...] | None = None,
    report: Report = raise_problem,
) -> list[PosedScene]:
    """One scene per scan and lighting, named `scan24/light3`.

    All lightings for train and all; for val and test, as in MVSNeRF, the one that is evaluated: number 3, or the first
    one of a scan without it.

    Raises:
        InputError: for an unknown scan, and (unless `report` collects) for a missing image, a missing or impossible
            camera or a wrong scale of the intrinsics.
    """
    idr_scans = find_idr_scans(datadir)
    folders = find_dtu_scans(datadir)
    if not folders and not idr_scans:
        raise InputError(f"{datadir}: expected Rectified/{{scan}}_train/rect_*_r5000.png or image/ and cameras.npz")
    lists = own_or_shipped_lists(datadir, "dtu")
    chosen = choose_scans(datadir, [*folders, *idr_scans], split, scans, lists)
    is_evaluation = split in ("val", "test")
    in_idr = [scan for scan in chosen if scan in idr_scans]
    idr = read_each(in_idr, lambda scan: [read_idr(idr_scans[scan], scan, report)], report)
    if not folders:
        return idr
    root = _Root(datadir, _read_pairs(datadir, report), _posed_views(datadir / "Cameras"))

    def read(scan: str) -> list[PosedScene]:
        return _read_scan(root, scan, folders[scan], report, evaluated_only=is_evaluation)

    return idr + read_each([scan for scan in chosen if scan in folders], read, report)


def find_dtu_and_idr_scans(datadir: Path) -> dict[str, Path]:
    """Scan name -> folder, in either layout."""
    return find_dtu_scans(datadir) | find_idr_scans(datadir)


def find_dtu_scans(datadir: Path) -> dict[str, Path]:
    """Scan name -> its image folder, for folders with at least one image; `{scan}_train` before `{scan}`."""
    folders: dict[str, Path] = {}
    for folder in sorted(datadir.glob("Rectified/*"), key=lambda path: (not path.name.endswith("_train"), path.name)):
        scan = folder.name.removesuffix("_train")
        if scan not in folders and any(_IMAGE_NAME.fullmatch(path.name) for path in folder.glob("rect_*")):
            folders[scan] = folder
    return folders


def read_dtu_depth(frame: Frame) -> Float[np.ndarray, "height width"]:
    """Depth map at the frame's size; one of 2.5 W x 2.34375 H, as in the originals, is halved and cropped.

    Raises:
        InputError: for any other size.
    """
    depth = read_depth_pfm(frame.depth_path)
    size = (frame.height, frame.width)
    original = (round(frame.height * 1200 / 512), round(frame.width * 1600 / 640))
    if depth.shape == original:
        top, left = _crop_offset(*size)
        depth = depth[::2, ::2][top : top + frame.height, left : left + frame.width]
    if depth.shape != size:
        raise UnreadableFileError(
            f"{frame.depth_path}: expected a depth map of {frame.width}x{frame.height} or {original[1]}x{original[0]} "
            f"(width x height), got {depth.shape[1]}x{depth.shape[0]}"
        )
    return depth


def _read_pairs(datadir: Path, report: Report) -> dict[int, tuple[int, ...]]:
    own = datadir / "Cameras" / "pair.txt"
    return read_pairs(own if own.is_file() else shipped_path("dtu_pairs"), report)


def _posed_views(folder: Path) -> frozenset[int]:
    """Views with a camera file, of those that `_read_camera` reads."""
    names = file_names(folder / "train") or file_names(folder)
    return frozenset(int(match[1]) for name in names if (match := _CAMERA_NAME.fullmatch(name)))


def _read_scan(root: _Root, scan: str, folder: Path, report: Report, *, evaluated_only: bool) -> list[PosedScene]:
    by_light: dict[int, dict[int, Path]] = {}
    for path in sorted(folder.iterdir()):
        match = _IMAGE_NAME.fullmatch(path.name)
        if match:
            by_light.setdefault(int(match[2]), {})[int(match[1]) - 1] = path
    evaluated = EVALUATED_LIGHT if EVALUATED_LIGHT in by_light else min(by_light)
    of_scan = frozenset().union(*by_light.values())  # all lightings split alike, whatever one of them lacks
    known = of_scan.union(missing_views(root.posed & root.pairs.keys(), of_scan))
    scenes = []
    for light in [evaluated] if evaluated_only else sorted(by_light):
        for view in missing_views(known, by_light[light]):
            report(InputError(f"{folder / f'rect_{view + 1:03d}_{light}_r5000.png'}: expected an image, got none"))
        try:
            scene = _read_scene(root, scan, light, by_light[light], of_scan, report)
        except InputError as error:
            report(error)
            continue
        scenes.append(replace(scene, is_evaluated=light == evaluated))
    return scenes


def _read_scene(
    root: _Root, scan: str, light: int, images: dict[int, Path], of_scan: frozenset[int], report: Report
) -> PosedScene:
    depths = _numbered_files(root.folder, (f"Depths/{scan}", f"Depths/{scan}_train"), "depth_map_{:04d}.pfm", images)
    masks = _numbered_files(root.folder, (f"masks/{scan}",), "{:03d}.png", images)
    height, width = first_image_size(images.values())
    frames = {}
    for view, path in images.items():
        try:
            camera = root.camera(view, height, width)
        except InputError as error:
            report(error)
            continue
        frames[view] = Frame(
            view_id=view,
            image_path=path,
            w2c=camera.w2c,
            intrinsics=camera.intrinsics,
            height=height,
            width=width,
            near=camera.near,
            far=camera.far,
            depth_path=depths.get(view),
            mask_path=masks.get(view),
        )
    train, held_out = split_views(sorted(of_scan), *dtu_view_lists())
    return PosedScene(
        name=f"{scan}/light{light}",
        scan=scan,
        frames=frames,
        neighbors=complete_neighbors({view: frame.center for view, frame in frames.items()}, root.pairs),
        train_views=present_only(train, frames),
        held_out_views=present_only(held_out, frames),
        read_depth=read_dtu_depth if depths else None,
        traits=Traits(meters=_MILLIMETER),
    )


def _numbered_files(root: Path, folders: tuple[str, ...], pattern: str, views: dict[int, Path]) -> dict[int, Path]:
    """View -> its file in the first of the folders that has it, for the files that are there."""
    files: dict[int, Path] = {}
    for folder in reversed(folders):
        names = file_names(root / folder)
        files |= {view: root / folder / pattern.format(view) for view in views if pattern.format(view) in names}
    return files


def _read_camera(folder: Path, view: int, height: int, width: int) -> _Camera:
    is_quarter = (folder / "train").is_dir()
    path = folder / "train" / f"{view:08d}_cam.txt" if is_quarter else folder / f"{view:08d}_cam.txt"
    camera = read_mvs_camera(path)
    where = str(path)
    if is_quarter:
        scale, (top, left) = 4.0, (0, 0)
    else:
        scale, (top, left) = _scale_and_crop_of_original(height, width, where)
    intrinsics = camera.intrinsics.clone()
    intrinsics[:2] *= scale
    intrinsics[:2, 2] -= torch.tensor([left, top], dtype=intrinsics.dtype)
    check_camera(camera.w2c, intrinsics, where)
    check_principal_point(intrinsics, height, width, where)
    near, far = camera.depth_range
    return _Camera(camera.w2c.float(), intrinsics_from_integer_centers(intrinsics).float(), near, far)


def _scale_and_crop_of_original(height: int, width: int, where: str) -> tuple[float, tuple[int, int]]:
    """From the 1600x1200 original to the image: scale, and the (top, left) of the crop after it."""
    if width * 3 == height * 4:
        return width / _ORIGINAL_WIDTH, (0, 0)
    if width * 4 == height * 5:
        return 0.5 * width / 640, _crop_offset(height, width)
    raise InputError(
        f"{where}: expected images of 1600x1200 or 640x512 (width x height) or in their proportion for cameras "
        f"without a train/ folder, got {width}x{height}"
    )


def _crop_offset(height: int, width: int) -> tuple[int, int]:
    """(top, left) of the image in the halved original: rows 44 to 556 and columns 80 to 720 for 640x512."""
    return round(height * 44 / 512), round(width * 80 / 640)
