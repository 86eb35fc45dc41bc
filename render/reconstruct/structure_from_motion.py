"""Structure from motion by COLMAP, in this process: photographs alone -> cameras and points (`--poses colmap`).

Incremental mapping (Schoenberger and Frahm 2016) first; where that leaves too many photographs without a camera, other
attempts follow, and the model with the most photographs counts.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from data.colmap_library import pycolmap
from data.problems import shortened
from geometry import InputError, require
from render.reconstruct.matching import MatchingOptions, matched_database, quiet
from render.reconstruct.model_checks import check_model, keep_connected, match_agreement
from render.reconstruct.overlap import Overlap, measure_overlap, why_nothing_registered
from render.reconstruct.types import PhotoSet, Solution

MIN_PHOTOS = 3
"""Two leave the focal length open and no view to check the others by."""
ENOUGH_REGISTERED = 0.9
"""Of the photographs: no further attempt then."""


Mapper = Literal["incremental", "global"]


@dataclass(frozen=True)
class Attempt:
    """One way to run COLMAP."""

    name: str
    mapper: Mapper
    matching: MatchingOptions = field(default_factory=MatchingOptions)


_MORE_FEATURES = MatchingOptions(max_features=8192, peak_threshold=0.002, max_ratio=0.85)

ATTEMPTS = (
    Attempt("incremental mapping", "incremental"),
    Attempt("global mapping", "global"),
    Attempt("incremental mapping of more features", "incremental", _MORE_FEATURES),
    Attempt("global mapping of more features", "global", _MORE_FEATURES),
)
"""Where both mappers place the same photographs they are equally exact. The global one (GLOMAP, Pan et al. 2024) needs
no pair of photographs with a wide baseline to begin with, so that it manages frames of a car that drives ahead."""


def solve(photos: PhotoSet, work: Path, *, seed: int = 0, num_threads: int = -1) -> Solution:
    """Cameras and sparse points of the photographs; the world is the mapper's, see `orientation.upright`.

    The same photographs and seed give the same result on one thread; several may add in another order, or start from
    another pair. Features and matches are kept in `work` and found again by a later call.

    Args:
        photos: at least 3.
        work: folder for intermediate results; is made when it is absent.
        seed: of RANSAC and of the mapper.
        num_threads: -1: as many as there are cores.

    Raises:
        InputError: naming numbers and what to do, when no camera or only a degenerate model comes out.
    """
    count = len(photos.photos)
    require(count >= MIN_PHOTOS, f"cameras are found from at least {MIN_PHOTOS} photographs, got {count}")
    best: list[pycolmap.Reconstruction] = []
    used, matches = ATTEMPTS[0], work
    overlap = Overlap(count, 0.0, 0, 0)
    for attempt in ATTEMPTS:
        database = matched_database(photos, work, attempt.matching, seed=seed, num_threads=num_threads)
        if attempt is ATTEMPTS[0]:
            overlap = measure_overlap(photos, database)
            require(not overlap.only_turned, why_nothing_registered(overlap))
        models = _map(photos, database, work, attempt, seed=seed, num_threads=num_threads)
        if models and (not best or models[0].num_reg_images() > best[0].num_reg_images()):
            best, used, matches = models, attempt, database
        if best and best[0].num_reg_images() >= ENOUGH_REGISTERED * count:
            break
    if not best or best[0].num_reg_images() < MIN_PHOTOS:
        raise InputError(why_nothing_registered(overlap))
    model = best[0]
    registered = {image.name for image in model.images.values() if image.has_pose}
    unregistered = tuple(photo.name for photo in photos.photos if photo.name not in registered)
    doubts = check_model(model, photos, match_agreement(model, matches))
    warnings = [*_attempt_warning(used), *_other_models(best[1:], registered), *doubts]
    if unregistered:
        warnings.insert(
            0, f"{len(unregistered)} of {count} photographs have no camera: {shortened(list(unregistered))}"
        )
    return Solution(model, "colmap", unregistered, model.compute_mean_reprojection_error(), warnings=tuple(warnings))


def _map(
    photos: PhotoSet, database: Path, work: Path, attempt: Attempt, *, seed: int, num_threads: int
) -> list[pycolmap.Reconstruction]:
    """All models, the one with most photographs first; of equal ones that with the smallest reprojection error."""
    folder = work / "models"
    folder.mkdir(parents=True, exist_ok=True)
    pycolmap.set_random_seed(seed)
    # the global mapper does not say how far it is
    count = len(photos.photos) if attempt.mapper == "incremental" else None
    with quiet(), tqdm(total=count, desc=attempt.name, unit="image", leave=False) as bar:
        if attempt.mapper == "incremental":
            incremental = pycolmap.IncrementalPipelineOptions()
            incremental.num_threads, incremental.random_seed, incremental.min_model_size = num_threads, seed, MIN_PHOTOS
            models = pycolmap.incremental_mapping(
                database,
                photos.folder,
                folder,
                incremental,
                initial_image_pair_callback=lambda: bar.update(2),
                next_image_callback=lambda: bar.update(1),
            )
        else:
            glomap = pycolmap.GlobalPipelineOptions()
            glomap.num_threads, glomap.random_seed, glomap.min_model_size = num_threads, seed, MIN_PHOTOS
            models = pycolmap.global_mapping(database, photos.folder, folder, glomap)
    for model in models.values():
        keep_connected(model)
    return sorted(models.values(), key=lambda model: (-model.num_reg_images(), model.compute_mean_reprojection_error()))


def _attempt_warning(attempt: Attempt) -> list[str]:
    if attempt is ATTEMPTS[0]:
        return []
    return [f"most cameras were found by {attempt.name} only: overlap or baselines are small"]


def _other_models(others: list[pycolmap.Reconstruction], registered: set[str]) -> list[str]:
    """Parts that do not hang together with the largest model."""
    sentences = []
    for model in others:
        names = sorted({image.name for image in model.images.values() if image.has_pose} - registered)
        if len(names) >= MIN_PHOTOS:
            sentences.append(
                f"{len(names)} photographs form a scene of their own without a link to the largest: {shortened(names)}"
            )
    return sentences
