"""Structure from motion by COLMAP, in this process: photographs alone -> cameras and points (`--poses colmap`).

Schoenberger and Frahm 2016. Every attempt looks laxer or harder than the one before; the model with the most
photographs counts.
"""

from dataclasses import dataclass, field
from pathlib import Path

import pycolmap
from tqdm import tqdm

from data.problems import shortened
from geometry import InputError, require
from render.reconstruct.matching import MatchingOptions, matched_database, quiet
from render.reconstruct.model_checks import check_model, why_nothing_registered
from render.reconstruct.types import PhotoSet, Solution

MIN_PHOTOS = 3
"""Two leave the focal length open and no view to check the others by."""
ENOUGH_REGISTERED = 0.9
"""Of the photographs: no further attempt then."""


@dataclass(frozen=True)
class Attempt:
    """One way to run COLMAP's incremental mapper."""

    name: str
    matching: MatchingOptions = field(default_factory=MatchingOptions)
    min_angle: float = 16.0
    """Degrees between the rays of the first pair of photographs, as a median over its points."""
    min_first_inliers: int = 100
    """Matches of that pair."""
    min_inliers: int = 30
    """Points that a further photograph is placed by."""


ATTEMPTS = (
    Attempt("standard"),
    Attempt("small baselines", min_angle=4.0, min_first_inliers=50, min_inliers=15),
    Attempt(
        "more features",
        MatchingOptions(peak_threshold=0.002, affine=True, max_ratio=0.85),
        min_angle=4.0,
        min_first_inliers=40,
        min_inliers=15,
    ),
)
"""Angle and inliers of the first are COLMAP's defaults."""


def solve(photos: PhotoSet, work: Path, *, seed: int = 0, num_threads: int = -1) -> Solution:
    """Cameras and sparse points of the photographs; the world is the mapper's, see `orientation.upright`.

    The same photographs, seed and number of threads give the same result. Features and matches are kept in `work` and
    found again by a later call.

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
    used, databases = ATTEMPTS[0], []
    for attempt in ATTEMPTS:
        database = matched_database(photos, work, attempt.matching, seed=seed, num_threads=num_threads)
        databases.append(database)
        models = _map(photos, database, work, attempt, seed=seed, num_threads=num_threads)
        if models and (not best or models[0].num_reg_images() > best[0].num_reg_images()):
            best, used = models, attempt
        if best and best[0].num_reg_images() >= ENOUGH_REGISTERED * count:
            break
    if not best or best[0].num_reg_images() < MIN_PHOTOS:
        raise InputError(why_nothing_registered(photos, databases[0]))
    model = best[0]
    registered = {image.name for image in model.images.values() if image.has_pose}
    unregistered = tuple(photo.name for photo in photos.photos if photo.name not in registered)
    warnings = [*_attempt_warning(used), *_other_models(best[1:], registered), *check_model(model, photos)]
    if unregistered:
        warnings.insert(
            0, f"{len(unregistered)} of {count} photographs have no camera: {shortened(list(unregistered))}"
        )
    return Solution(model, "colmap", unregistered, model.compute_mean_reprojection_error(), warnings=tuple(warnings))


def _map(
    photos: PhotoSet, database: Path, work: Path, attempt: Attempt, *, seed: int, num_threads: int
) -> list[pycolmap.Reconstruction]:
    """All models, the one with most photographs first; fewest reprojection error among equals."""
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads, options.random_seed = num_threads, seed
    options.min_model_size = MIN_PHOTOS
    options.mapper.init_min_tri_angle = attempt.min_angle
    options.mapper.init_min_num_inliers = attempt.min_first_inliers
    options.mapper.abs_pose_min_num_inliers = attempt.min_inliers
    folder = work / "models"
    folder.mkdir(parents=True, exist_ok=True)
    pycolmap.set_random_seed(seed)
    with (
        quiet(),
        tqdm(total=len(photos.photos), desc=f"place cameras ({attempt.name})", unit="image", leave=False) as bar,
    ):
        models = pycolmap.incremental_mapping(
            database, photos.folder, folder, options, next_image_callback=lambda: bar.update(1)
        )
    return sorted(models.values(), key=lambda model: (-model.num_reg_images(), model.compute_mean_reprojection_error()))


def _attempt_warning(attempt: Attempt) -> list[str]:
    if attempt is ATTEMPTS[0]:
        return []
    return [f"cameras were found only with laxer options ({attempt.name}): overlap or parallax is small"]


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
