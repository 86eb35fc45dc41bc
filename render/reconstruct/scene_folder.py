"""A solution -> a scene that every other command reads: `--dataset_name colmap --datadir FOLDER`."""

import os
import tempfile
from pathlib import Path

from data.colmap_library import pycolmap
from data.colmap_model import posed_images, write_model
from geometry import InputError
from render.reconstruct.matching import quiet
from render.reconstruct.orientation import orient
from render.reconstruct.types import PhotoSet, Solution
from training.files import staged_folder

_JPEG_QUALITY = 95


def write_scene(solution: Solution, photos: PhotoSet, folder: Path) -> None:
    """Write `folder/images/*` and `folder/sparse/0`, all or nothing; `folder` must be absent or empty.

    Images lose the distortion of their lens, keep name and focal length, and are as large as they can be without blank
    pixels, so that a few pixels may be missing or added at the borders; photographs without a camera are left out. The
    model is COLMAP's binary one with PINHOLE cameras, points, tracks and the features moved along, in the upright world
    of `orientation`.

    Raises:
        InputError: when `folder` holds something or cannot be written, or no lens model fits a pinhole camera.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder}: expected an empty folder or a new name, got one that holds files")
    model = pycolmap.Reconstruction(solution.model)
    orient(model)
    names = [image.name for image in posed_images(model)]
    with staged_folder(folder) as staging, tempfile.TemporaryDirectory(dir=staging) as temporary, quiet():
        distorted, undistorted = Path(temporary) / "distorted", Path(temporary) / "undistorted"
        write_model(model, distorted)
        try:
            pycolmap.undistort_images(undistorted, distorted, photos.folder, names, jpeg_quality=_JPEG_QUALITY)
        except (ValueError, RuntimeError) as error:
            raise InputError(f"{photos.folder}: expected photographs that can be undistorted, got {error}") from None
        missing = [name for name in names if not (undistorted / "images" / name).is_file()]
        if missing:
            raise InputError(f"{photos.folder / missing[0]}: expected a photograph, got none that can be undistorted")
        os.replace(undistorted / "images", staging / "images")
        write_model(pycolmap.Reconstruction(undistorted / "sparse"), staging / "sparse" / "0")
