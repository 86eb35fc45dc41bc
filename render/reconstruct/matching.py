"""Photographs -> a COLMAP database of SIFT features and geometrically verified matches between pairs of them.

A database is built under another name and renamed when it is complete; its name carries a fingerprint of the images and
options, so that a later run with the same ones finds it and one with others does not.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from data.colmap_library import pycolmap
from geometry import require
from render.reconstruct.types import Photo, PhotoSet
from training.files import staged_file

EXHAUSTIVE_BELOW = 20
"""Photographs: of so many every pair is matched, 190 of them in about 5 seconds on one core."""
_NEIGHBORS = 5
"""In larger sets, pairs with the next so many in order, as COLMAP's sequential matcher."""
_SIMILAR = 10
"""In larger sets, further pairs per photograph: those with the most similar features (closing loops)."""
_COARSE_FEATURES = 200
"""Of the largest scale, that similarity is judged by; Wu 2013, section 3, takes 100 of larger images."""
_FOCAL_GUESS = 1.2
"""In long sides, where EXIF says nothing, as COLMAP."""
_MAX_RATIO = 0.8
"""Lowe's ratio, as COLMAP's own matcher."""
_CHUNK_IMAGES, _CHUNK_PAIRS = 8, 200
"""Between updates of the progress bar."""


@dataclass(frozen=True)
class MatchingOptions:
    """What is looked for in the photographs."""

    max_features: int = 4096
    """Per photograph, the largest; ones of 640 pixels have 450 to 5600 (median of a set). More take longer to match and
    are no more exact."""
    peak_threshold: float = 0.02 / 3
    """SIFT's contrast, of images in [0, 1]; lower finds more features in dark or soft images."""
    affine: bool = False
    """Affine shapes and domain-size pooling (Dong and Soatto 2015): for strong changes of view; about 10x slower."""
    max_ratio: float = _MAX_RATIO
    """Of the distances to the nearest and second nearest descriptor."""


@contextmanager
def quiet() -> Iterator[None]:
    """Silence pycolmap's log: it calls a set without a solution an error; real ones are exceptions."""
    before = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = int(pycolmap.logging.FATAL)
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = before


def matched_database(photos: PhotoSet, work: Path, options: MatchingOptions, *, seed: int, num_threads: int) -> Path:
    """The database of these photographs in folder `work`: an earlier run's where it is complete, else a new one.

    The images' rows are in the order of the photographs. Photographs of equal size and equal focal length share a
    camera: SIMPLE_RADIAL, with the focal length as a prior where EXIF said it.

    Raises:
        InputError: when `work` cannot be written.
    """
    path = work / f"matches_{_fingerprint(photos, options, seed)}.db"
    if path.is_file():
        return path
    with staged_file(path, "the folder for intermediate results") as partial, quiet():
        for leftover in work.glob(f"{partial.name}*"):
            leftover.unlink()
        _extract(photos, partial, options, num_threads)
        _match(photos, partial, options, seed, num_threads)
    return path


def _fingerprint(photos: PhotoSet, options: MatchingOptions, seed: int) -> str:
    parts = hashlib.sha256(repr((pycolmap.__version__, photos.is_video, options, seed)).encode())
    for photo in photos.photos:
        parts.update(repr(photo).encode())
        parts.update((photos.folder / photo.name).read_bytes())
    return parts.hexdigest()[:12]


def _extract(photos: PhotoSet, database: Path, options: MatchingOptions, num_threads: int) -> None:
    _write_cameras_and_images(photos, database)
    settings = pycolmap.FeatureExtractionOptions()
    settings.num_threads = num_threads
    settings.sift.max_num_features = options.max_features
    settings.sift.peak_threshold = options.peak_threshold
    settings.sift.estimate_affine_shape = settings.sift.domain_size_pooling = options.affine
    names = [photo.name for photo in photos.photos]
    with tqdm(total=len(names), desc="find features", unit="image", leave=False) as bar:
        for start in range(0, len(names), _CHUNK_IMAGES):
            chunk = names[start : start + _CHUNK_IMAGES]
            pycolmap.extract_features(database, photos.folder, chunk, extraction_options=settings)
            bar.update(len(chunk))
    with pycolmap.Database.open(database) as opened:
        for image in opened.read_all_images():
            require(opened.exists_keypoints(image.image_id), f"{image.name}: expected an image that COLMAP reads")


def _write_cameras_and_images(photos: PhotoSet, database: Path) -> None:
    """Before features are found, so that their numbers do not depend on which thread is faster."""
    cameras: dict[tuple[int, int, float | None], pycolmap.Camera] = {}
    with pycolmap.Database.open(database) as opened:
        for photo in photos.photos:
            lens = photo.height, photo.width, None if photo.focal is None else round(photo.focal, 1)
            if lens not in cameras:
                cameras[lens] = _camera(photo)
                cameras[lens].camera_id = opened.write_camera(cameras[lens])
                rig = pycolmap.Rig()
                rig.add_ref_sensor(cameras[lens].sensor_id)
                opened.write_rig(rig)
            image = pycolmap.Image(name=photo.name, camera_id=cameras[lens].camera_id)
            image.image_id = opened.write_image(image)
            frame = pycolmap.Frame()
            frame.rig_id = cameras[lens].camera_id  # both count from 1
            frame.add_data_id(image.data_id)
            opened.write_frame(frame)


def _camera(photo: Photo) -> pycolmap.Camera:
    focal = _FOCAL_GUESS * max(photo.height, photo.width) if photo.focal is None else photo.focal
    camera = pycolmap.Camera.create_from_model_id(
        pycolmap.INVALID_CAMERA_ID, pycolmap.CameraModelId.SIMPLE_RADIAL, focal, photo.width, photo.height
    )
    camera.has_prior_focal_length = photo.focal is not None
    return camera


def _match(photos: PhotoSet, database: Path, options: MatchingOptions, seed: int, num_threads: int) -> None:
    names = [photo.name for photo in photos.photos]
    pairs = _pairs(names, database)
    settings, verification = pycolmap.FeatureMatchingOptions(), pycolmap.TwoViewGeometryOptions()
    settings.num_threads = num_threads
    settings.sift.max_ratio = options.max_ratio
    verification.ransac.random_seed = seed
    pairing = pycolmap.ImportedPairingOptions()
    listed = database.with_suffix(".pairs.txt")
    try:
        with tqdm(total=len(pairs), desc="match", unit="pair", leave=False) as bar:
            for start in range(0, len(pairs), _CHUNK_PAIRS):
                chunk = pairs[start : start + _CHUNK_PAIRS]
                listed.write_text("".join(f"{names[i]} {names[j]}\n" for i, j in chunk))
                pairing.match_list_path = listed
                pycolmap.match_image_pairs(database, settings, pairing, verification)
                bar.update(len(chunk))
    finally:
        listed.unlink(missing_ok=True)


def _pairs(names: list[str], database: Path) -> list[tuple[int, int]]:
    """All pairs of few photographs; of many the neighbors in order and those that look alike."""
    if len(names) <= EXHAUSTIVE_BELOW:
        return list(combinations(range(len(names)), 2))
    near = {(i, i + step) for i in range(len(names)) for step in range(1, _NEIGHBORS + 1) if i + step < len(names)}
    return sorted(near | similar_pairs([_coarse_descriptors(database, name) for name in names], _SIMILAR))


def _coarse_descriptors(database: Path, name: str) -> Float[Tensor, "feature 128"]:
    """Unit descriptors of the features with the largest scale."""
    with pycolmap.Database.open(database) as opened:
        image = opened.read_image_with_name(name).image_id
        keypoints, descriptors = opened.read_keypoints(image), opened.read_descriptors(image)
    data = np.asarray(descriptors.data if hasattr(descriptors, "data") else descriptors)
    scale = np.hypot(keypoints[:, 2], keypoints[:, 4]) if len(keypoints) else np.zeros(0)
    largest = np.argsort(-scale, kind="stable")[:_COARSE_FEATURES]
    return torch.nn.functional.normalize(torch.from_numpy(data[largest].astype(np.float32)), dim=-1)


def similar_pairs(descriptors: list[Float[Tensor, "_ 128"]], count: int) -> set[tuple[int, int]]:
    """For each image the `count` others with the most mutual matches (preemptive matching, Wu 2013), as (i, j), i < j.

    A pair without any match is none.
    """
    matches = torch.zeros(len(descriptors), len(descriptors))
    for i, j in combinations(range(len(descriptors)), 2):
        matches[i, j] = matches[j, i] = _mutual_matches(descriptors[i], descriptors[j])
    best = matches.topk(min(count, len(descriptors) - 1), dim=1)
    return {
        (min(i, j), max(i, j))
        for i in range(len(descriptors))
        for j, found in zip(best.indices[i].tolist(), best.values[i].tolist(), strict=True)
        if found > 0
    }


def _mutual_matches(first: Tensor, second: Tensor) -> int:
    """Features that are each other's nearest and pass Lowe's ratio test."""
    if min(len(first), len(second)) < 2:
        return 0
    similarity = first @ second.mT
    nearest = similarity.topk(2, dim=1)
    distance = (2 - 2 * nearest.values).clamp(min=0).sqrt()
    back = similarity.argmax(0)[nearest.indices[:, 0]]
    is_mutual = back == torch.arange(len(first))
    return int((is_mutual & (distance[:, 0] < _MAX_RATIO * distance[:, 1])).sum())
