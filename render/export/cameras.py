"""Cameras of photographs as a COLMAP model and as transforms.json, at the resolution of the files."""

import os
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
from data.point_cloud import ColoredPoints
from geometry import Cameras, InputError, rigid_inverse, sample_at_pixels
from training.files import write_json

_MAX_SKEW_PIXELS = 0.1
"""Shift of the border of an image by the skew that neither format has; chosen by hand."""
_SAME_CAMERA = 1e-4
"""Relative difference of focal lengths and principal points up to which images share a camera."""
_OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
"""OpenCV axes (y down, z forward) <-> OpenGL axes (y up, z backward)."""


@dataclass(frozen=True)
class PhotoCameras:
    """Cameras of image files, which may differ in size."""

    folder: Path
    """Holds all images."""
    names: tuple[str, ...]
    """Of the files in `folder`, with / between folders."""
    cameras: tuple[Cameras, ...]
    """Without a batch axis, for the files as they are."""

    def __post_init__(self) -> None:
        """Refuse a skew that would be lost.

        Raises:
            InputError: naming the image.
        """
        for name, camera in zip(self.names, self.cameras, strict=True):
            skew, focal = camera.intrinsics[0, 1].item(), camera.intrinsics[1, 1].item()
            if abs(skew) / focal * camera.height / 2 > _MAX_SKEW_PIXELS:
                raise InputError(f"cameras: expected pixels without skew for COLMAP, got {skew:.3g} for {name}")


def write_cameras(
    folder: Path,
    final: Path,
    photos: PhotoCameras,
    *,
    points: ColoredPoints | None = None,
    seen_in: DepthMaps | None = None,
    is_text: bool = False,
) -> dict[str, Any]:
    """Write `sparse/0` and `transforms.json` into `folder`, which will be `final`.

    Names in the COLMAP model are those below the photographs' common folder; paths in `transforms.json` are relative to
    `final`. A point is observed by a photograph where the depth that `seen_in` has for it is that of the point.
    """
    model = colmap_model(photos, points, seen_in)
    write_model(model, folder / "sparse" / "0", text=is_text)
    write_json(folder / "transforms.json", transforms(photos, final))
    return {
        "images": len(photos.names),
        "cameras": model.num_cameras(),
        "points": model.num_points3D(),
        "image_folder": str(photos.folder),
    }


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


def transforms(photos: PhotoCameras, folder: Path) -> dict[str, Any]:
    """As nerfstudio and instant-ngp read it: OpenGL c2w, intrinsics per frame, paths relative to `folder`."""
    frames = []
    for name, camera in zip(photos.names, photos.cameras, strict=True):
        path = os.path.relpath(photos.folder / name, folder)
        k = camera.intrinsics.double()
        frames.append(
            {
                "file_path": Path(path).as_posix(),
                "w": camera.width,
                "h": camera.height,
                "fl_x": k[0, 0].item(),
                "fl_y": k[1, 1].item(),
                "cx": k[0, 2].item(),
                "cy": k[1, 2].item(),
                "transform_matrix": (rigid_inverse(camera.w2c.double()) @ _OPENGL).tolist(),
            }
        )
    return {"camera_model": "OPENCV", "frames": frames}


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
