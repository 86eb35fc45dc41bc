"""Cameras and photographs as one folder: a COLMAP model and a transforms.json beside the images they name."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.colmap_library import pycolmap
from data.colmap_model import add_image, pinhole_camera, write_model
from data.depth_fusion import DEPTH_TOLERANCE, DepthMaps
from data.image_io import read_image, write_image
from data.point_cloud import ColoredPoints, write_ply
from data.scene import PosedScene
from geometry import Cameras, InputError, rigid_inverse, sample_at_pixels
from training.files import write_json

_MAX_SKEW_PIXELS = 0.1
"""Shift of the border of an image by the skew that neither format has; chosen by hand."""
_SAME_CAMERA = 1e-4
"""Relative difference of focal lengths and principal points up to which images share a camera."""
_OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
"""OpenCV axes (y down, z forward) <-> OpenGL axes (y up, z backward)."""
_IMAGES, _POINTS = "images", "points.ply"
_LOSSY = (".jpg", ".jpeg")


@dataclass(frozen=True)
class PhotoCameras:
    """Photographs, which may differ in size, with their pinhole cameras."""

    names: tuple[str, ...]
    """Unique, relative, with / between folders."""
    cameras: tuple[Cameras, ...]
    """Without a batch axis, for the photographs as they are written."""
    write: Callable[[int, Path], object]
    """Writes the photograph of that number as that file."""

    def __post_init__(self) -> None:
        """Refuse a skew that would be lost.

        Raises:
            InputError: naming the image.
        """
        for name, camera in zip(self.names, self.cameras, strict=True):
            skew, focal = camera.intrinsics[0, 1].item(), camera.intrinsics[1, 1].item()
            if abs(skew) / focal * camera.height / 2 > _MAX_SKEW_PIXELS:
                raise InputError(f"cameras: expected pixels without skew for COLMAP, got {skew:.3g} for {name}")


def of_scene(scene: PosedScene, view_ids: Sequence[int]) -> PhotoCameras:
    """Views at the size of their files, whatever size the scene resizes them to.

    Files that are pinhole images as they are will be copied; others, such as those of a lens with distortion, are
    written as the scene sees them, as JPEG if they are that, else as PNG.
    """
    frames = [scene.frames[view] for view in view_ids]
    is_copied = [_is_as_on_disk(scene, view) for view in view_ids]
    names = [
        name if copied or Path(name).suffix.lower() in _LOSSY else f"{name}.png"
        for name, copied in zip(names_in([frame.image_path for frame in frames]), is_copied, strict=True)
    ]

    def write(index: int, path: Path) -> None:
        if is_copied[index]:
            shutil.copyfile(frames[index].image_path, path)
        else:
            write_image(path, scene.image(view_ids[index]))

    cameras = tuple(Cameras(frame.w2c, frame.intrinsics, frame.height, frame.width) for frame in frames)
    return PhotoCameras(tuple(names), cameras, write)


def of_files(paths: Sequence[Path], cameras: Sequence[Cameras]) -> PhotoCameras:
    """Files with cameras for them as they are."""
    return PhotoCameras(names_in(paths), tuple(cameras), lambda index, path: shutil.copyfile(paths[index], path))


def write_cameras(
    folder: Path,
    photos: PhotoCameras,
    *,
    points: ColoredPoints | None = None,
    seen_in: DepthMaps | None = None,
    is_text: bool = False,
) -> dict[str, Any]:
    """Write `images/*`, `sparse/0`, `transforms.json` and, with points, `points.ply` into `folder`.

    A point is observed by a photograph where the depth that `seen_in` has for it is that of the point.
    """
    for index, name in enumerate(photos.names):
        path = folder / _IMAGES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        photos.write(index, path)
    model = colmap_model(photos, points, seen_in)
    write_model(model, folder / "sparse" / "0", text=is_text)
    if points is not None:
        write_ply(folder / _POINTS, points)
    write_json(folder / "transforms.json", transforms(photos, has_points=points is not None))
    return {"images": len(photos.names), "cameras": model.num_cameras(), "points": model.num_points3D()}


def colmap_model(
    photos: PhotoCameras, points: ColoredPoints | None = None, seen_in: DepthMaps | None = None
) -> pycolmap.Reconstruction:
    """PINHOLE cameras, shared by images with the same intrinsics, and points with their projections as observations."""
    model = pycolmap.Reconstruction()
    shared = _shared(photos.cameras)
    visible = np.zeros((len(photos.names), 0), bool)
    if points is not None and seen_in is not None:
        visible = _visible(seen_in, points.points_world).numpy()
    rows = np.where(visible, np.cumsum(visible, axis=1) - 1, -1)
    for index, (name, camera) in enumerate(zip(photos.names, photos.cameras, strict=True)):
        pixels = None
        if points is not None:
            pixels = camera.project(points.points_world).pixels.double().numpy()[visible[index]]
        pinhole = pinhole_camera(camera.intrinsics, camera.height, camera.width, shared[index] + 1)
        add_image(model, index + 1, name, camera.w2c, pinhole, pixels)
    if points is not None:
        colors = points.colors.numpy()
        for number, place in enumerate(points.points_world.double().numpy()):
            track = pycolmap.Track()
            for index in visible[:, number].nonzero()[0].tolist():
                track.add_element(index + 1, int(rows[index, number]))
            model.add_point3D(place, track, colors[number])
    return model


def transforms(photos: PhotoCameras, *, has_points: bool) -> dict[str, Any]:
    """As nerfstudio and instant-ngp read it: OpenGL c2w, intrinsics per frame, paths relative to the file."""
    frames = []
    for name, camera in zip(photos.names, photos.cameras, strict=True):
        k = camera.intrinsics.double()
        frames.append(
            {
                "file_path": f"{_IMAGES}/{name}",
                "w": camera.width,
                "h": camera.height,
                "fl_x": k[0, 0].item(),
                "fl_y": k[1, 1].item(),
                "cx": k[0, 2].item(),
                "cy": k[1, 2].item(),
                "transform_matrix": (rigid_inverse(camera.w2c.double()) @ _OPENGL).tolist(),
            }
        )
    return {"camera_model": "OPENCV", **({"ply_file_path": _POINTS} if has_points else {}), "frames": frames}


def names_in(paths: Sequence[Path]) -> tuple[str, ...]:
    """Of files below the deepest folder that all of them are in, with / between folders."""
    shared = set(paths[0].parents).intersection(*(path.parents for path in paths))
    folder = max(shared, key=lambda folder: len(folder.parts))
    return tuple(path.relative_to(folder).as_posix() for path in paths)


def _is_as_on_disk(scene: PosedScene, view: int) -> bool:
    """Whether the scene takes the file of a view as it is."""
    if scene.read_image is None:
        return True
    background = 255 if scene.white_background else 0
    return np.array_equal(scene.image(view), read_image(scene.frames[view].image_path, background))


def _shared(cameras: tuple[Cameras, ...]) -> list[int]:
    """For every camera the first one with the same intrinsics and size."""
    first: list[int] = []
    for index, camera in enumerate(cameras):
        alike = (other for other in dict.fromkeys(first) if _is_same(cameras[other], camera))
        first.append(next(alike, index))
    return first


def _is_same(one: Cameras, other: Cameras) -> bool:
    difference = (one.intrinsics - other.intrinsics).abs().max().item()
    is_same_size = (one.height, one.width) == (other.height, other.width)
    return is_same_size and difference <= _SAME_CAMERA * one.intrinsics[0, 0].item()


def _visible(maps: DepthMaps, points: Float[Tensor, "point 3"]) -> torch.Tensor:
    """Whether a view's depth at a point's projection is the point's: view x point."""
    height, width = maps.depth.shape[1:]
    seen = maps.cameras.project(points.expand(len(maps.depth), -1, -1))
    found = sample_at_pixels(maps.depth[:, None], seen.pixels, height, width)[..., 0]
    return seen.visible & ((found - seen.depth).abs() < DEPTH_TOLERANCE * seen.depth)
