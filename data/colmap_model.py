"""COLMAP's sparse models on disk, and its cameras, poses and points as ours. Everything goes through pycolmap.

A model is a folder with cameras, images and points3D, as `.bin` or `.txt`; COLMAP 4 adds rigs and frames. Conventions
(https://colmap.github.io/format.html): the pose of an image takes the world to the camera, x right, y down, z forward;
the center of the top-left pixel is (0.5, 0.5). Both are ours, so that nothing is shifted or flipped here.
"""

import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from data.colmap_library import pycolmap
from geometry import InputError, require
from geometry.cameras import MAX_ROTATION_ERROR

PINHOLE_MODELS = ("PINHOLE", "SIMPLE_PINHOLE")
_PARTS = ("cameras", "images", "points3D")
_PARTS_SINCE_4 = ("rigs", "frames")
_FOLDERS = ("sparse/0", "sparse", "colmap/sparse/0", "colmap/sparse")
"""Where a scene's folder has its model; the first that is there counts."""
_REASON_LENGTH = 200
"""Characters of an error of pycolmap that are shown."""
_NUMBER = struct.Struct("<Q")
_CAMERA = struct.Struct("<IiQQ")
"""Id, model, width, height; the parameters follow."""
_IMAGE = struct.Struct("<I7dI")
"""Id, pose, camera; name, number of observations and these follow."""
_OBSERVATION = struct.Struct("<ddQ")
_POINT = struct.Struct("<Q3d3Bd")
"""Id, position, color, error; the length of the track and its elements follow."""
_TRACK_ELEMENT = struct.Struct("<II")
_RIG = struct.Struct("<II")
"""Id and number of sensors; the reference sensor and the others with their poses follow."""
_SENSOR = struct.Struct("<iI")
_FRAME = struct.Struct("<II7dI")
"""Id, rig, pose, number of images; these follow."""
_FRAME_DATA = struct.Struct("<iIQ")


class ModelPoints(NamedTuple):
    """Sparse points of a model."""

    ids: Int[np.ndarray, " point"]
    points_world: Float[np.ndarray, "point 3"]
    """Scene units."""
    colors: UInt8[np.ndarray, "point 3"]
    errors: Float[np.ndarray, " point"]
    """Mean reprojection error in pixels as the file says; negative: not said."""
    track_lengths: Int[np.ndarray, " point"]
    """Number of images that observe it."""


class Observations(NamedTuple):
    """Where one image sees points of its model."""

    point_ids: Int[np.ndarray, " observation"]
    pixels: Float[np.ndarray, "observation 2"]
    """(x, y) as measured, in pixels of the camera's size, lens distortion included."""


def find_model(scene: Path) -> Path | None:
    """Where a scene has its model: `sparse/0`, `sparse`, `colmap/sparse/0` or `colmap/sparse`; None: nowhere."""
    present = (scene / folder for folder in _FOLDERS)
    return next((folder for folder in present if any(_files(folder, "cameras"))), None)


def read_model(folder: Path) -> pycolmap.Reconstruction:
    """A text or binary model of any version of COLMAP; binary where a folder has both, as COLMAP does.

    Raises:
        InputError: for a missing, cut off or otherwise damaged file, or a model without an image that has a pose.
    """
    folder = Path(folder)
    missing = [part for part in _PARTS if not any(_files(folder, part))]
    if missing:
        raise InputError(
            f"{folder}: expected a COLMAP model (cameras, images, points3D as .bin or .txt), got none of "
            f"{', '.join(missing)}"
        )
    if (folder / "cameras.bin").is_file():
        for part in (*_PARTS, *_PARTS_SINCE_4):
            _require_whole(folder / f"{part}.bin")
    try:
        model = pycolmap.Reconstruction(folder)
    except (ValueError, IndexError, KeyError, RuntimeError, MemoryError, OSError) as error:
        reason = " ".join(str(error).split()).rpartition("] ")[2][:_REASON_LENGTH]
        raise InputError(f"{folder}: expected a complete COLMAP model, got a damaged one ({reason})") from None
    require(
        any(image.has_pose for image in model.images.values()),
        f"{folder}: expected at least one image with a pose, got {model.num_images()} images and none with one",
    )
    return model


def write_model(model: pycolmap.Reconstruction, folder: Path, *, text: bool = False) -> None:
    """Write a model, binary unless `text`; folders are made, files of another model there are replaced.

    Raises:
        InputError: for a folder that cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            (model.write_text if text else model.write_binary)(temporary)
            for part in (*_PARTS_SINCE_4, *_PARTS):
                for old in _files(folder, part):
                    old.unlink()
            for path in sorted(Path(temporary).iterdir()):
                path.replace(folder / path.name)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{folder}: expected a folder that can be written to, got: {error}") from None


def posed_images(model: pycolmap.Reconstruction) -> list[pycolmap.Image]:
    """Images that have a pose, sorted by name."""
    return sorted((image for image in model.images.values() if image.has_pose), key=lambda image: image.name)


def image_w2c(image: pycolmap.Image) -> Float[Tensor, "4 4"]:
    """World to camera of an image that has a pose, double precision; rigs and frames are multiplied out.

    NaN for a quaternion that is not of length 1, such as 0 0 0 0, which pycolmap takes for no rotation.
    """
    matrix, pose = torch.eye(4, dtype=torch.float64), image.cam_from_world()
    matrix[:3] = torch.from_numpy(pose.matrix())
    if not abs(np.linalg.norm(pose.rotation.quat) - 1) < MAX_ROTATION_ERROR:
        matrix[:3, :3] = torch.nan
    return matrix


def pose_of(w2c: Float[Tensor, "4 4"]) -> pycolmap.Rigid3d:
    """The inverse of `image_w2c`."""
    matrix = w2c.detach().double().cpu().numpy()
    return pycolmap.Rigid3d(pycolmap.Rotation3d(matrix[:3, :3]), matrix[:3, 3])


def pinhole_intrinsics(camera: pycolmap.Camera) -> Float[Tensor, "3 3"]:
    """K of a camera without distortion, for images of its width and height, double precision.

    Raises:
        InputError: for any other camera model than PINHOLE and SIMPLE_PINHOLE.
    """
    require(
        camera.model_name in PINHOLE_MODELS,
        f"camera {camera.camera_id}: expected one of {', '.join(PINHOLE_MODELS)}, got {camera.model_name}",
    )
    return torch.from_numpy(camera.calibration_matrix())


def pinhole_camera(
    intrinsics: Float[Tensor, "3 3"], height: int, width: int, camera_id: int = pycolmap.INVALID_CAMERA_ID
) -> pycolmap.Camera:
    """The PINHOLE camera with this K, whose skew is dropped: COLMAP's cameras have none."""
    matrix = intrinsics.detach().double().cpu()
    params = [matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]]
    return pycolmap.Camera(
        camera_id=camera_id, model="PINHOLE", width=width, height=height, params=[float(value) for value in params]
    )


def add_image(
    model: pycolmap.Reconstruction,
    image_id: int,
    name: str,
    w2c: Float[Tensor, "4 4"],
    camera: pycolmap.Camera,
    pixels: Float[np.ndarray, "observation 2"] | None = None,
) -> None:
    """Put an image with its pose into a model; its camera too, if the model has none of that id.

    `pixels`: where it sees things, so that `Reconstruction.add_point3D` finds them by their rows.
    """
    if not model.exists_camera(camera.camera_id):
        model.add_camera_with_trivial_rig(camera)
    image = pycolmap.Image(name=name, camera_id=camera.camera_id, image_id=image_id)
    if pixels is not None:
        image.points2D = pycolmap.Point2DList([pycolmap.Point2D(np.asarray(pixel, np.float64)) for pixel in pixels])
    model.add_image_with_trivial_frame(image, pose_of(w2c))


def model_points(model: pycolmap.Reconstruction) -> ModelPoints:
    """All points, in the order of their ids."""
    points = sorted(model.points3D.items())
    return ModelPoints(
        ids=np.array([point_id for point_id, _ in points], np.int64),
        points_world=np.array([point.xyz for _, point in points], np.float64).reshape(-1, 3),
        colors=np.array([point.color for _, point in points], np.uint8).reshape(-1, 3),
        errors=np.array([point.error for _, point in points], np.float64),
        track_lengths=np.array([point.track.length() for _, point in points], np.int64),
    )


def observations(image: pycolmap.Image) -> Observations:
    """Of the points that are in the model; features without a point are left out."""
    seen = [(point.point3D_id, point.xy) for point in image.points2D if point.has_point3D()]
    return Observations(
        point_ids=np.array([point_id for point_id, _ in seen], np.int64),
        pixels=np.array([pixel for _, pixel in seen], np.float64).reshape(-1, 2),
    )


def _files(folder: Path, part: str) -> Iterator[Path]:
    return (path for path in (folder / f"{part}.bin", folder / f"{part}.txt") if path.is_file())


def _require_whole(path: Path) -> None:
    """pycolmap reads on behind the end of a binary file: it would return whatever lay in memory."""
    if not path.is_file():
        return
    content = path.read_bytes()
    try:
        (count,) = _NUMBER.unpack_from(content)
        length = _END_OF[path.stem](content, count)
    except (struct.error, ValueError, IndexError, OverflowError, RuntimeError):
        length = -1
    if length != len(content):
        raise InputError(f"{path}: expected a complete binary file of COLMAP, got one cut off or damaged")


def _end_of_cameras(content: bytes, count: int) -> int:
    at = _NUMBER.size
    for _ in range(count):
        model = _CAMERA.unpack_from(content, at)[1]
        example = pycolmap.Camera.create_from_model_id(1, pycolmap.CameraModelId(model), 1.0, 1, 1)
        at += _CAMERA.size + 8 * len(example.params)
    return at


def _end_of_images(content: bytes, count: int) -> int:
    at = _NUMBER.size
    for _ in range(count):
        at = content.index(b"\0", at + _IMAGE.size) + 1
        at += _NUMBER.size + _OBSERVATION.size * _NUMBER.unpack_from(content, at)[0]
    return at


def _end_of_points(content: bytes, count: int) -> int:
    at = _NUMBER.size
    for _ in range(count):
        at += _POINT.size
        at += _NUMBER.size + _TRACK_ELEMENT.size * _NUMBER.unpack_from(content, at)[0]
    return at


def _end_of_rigs(content: bytes, count: int) -> int:
    at = _NUMBER.size
    for _ in range(count):
        sensors = _RIG.unpack_from(content, at)[1]
        at += _RIG.size + _SENSOR.size * min(sensors, 1)
        for _ in range(sensors - 1):
            at += _SENSOR.size + 1
            at += 7 * 8 if content[at - 1] else 0
    return at


def _end_of_frames(content: bytes, count: int) -> int:
    at = _NUMBER.size
    for _ in range(count):
        at += _FRAME.size + _FRAME_DATA.size * _FRAME.unpack_from(content, at)[-1]
    return at


_END_OF: dict[str, Callable[[bytes, int], int]] = {
    "cameras": _end_of_cameras,
    "images": _end_of_images,
    "points3D": _end_of_points,
    "rigs": _end_of_rigs,
    "frames": _end_of_frames,
}
"""Length of a complete binary file, from the counts in it."""
