"""Which way cameras are found, and what is said about the choice."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from geometry import InputError
from render.loading import usable_device
from render.photos.options import MIN_CAMERAS, PhotosOptions
from render.reconstruct import structure_from_motion, vggt_cameras
from render.reconstruct.types import PhotoSet, Solution

ENOUGH = 0.6
"""Share of the photographs with a camera below which `--poses auto` has VGGT try as well."""
_ADVICE = (
    "VGGT finds cameras of photographs that overlap less: give its weights with --vggt_ckpt, such as facebook/VGGT-1B "
    "(those that ship are too small for photographs)"
)
Solver = Callable[[], Solution]


def find_cameras(photos: PhotoSet, work: Path, options: PhotosOptions) -> Solution:
    """The cameras of photographs as `--poses` says: colmap, vggt or auto; `work` is a folder for what that needs.

    Raises:
        InputError: when too few photographs get a camera.
    """

    def by_motion() -> Solution:
        return structure_from_motion.solve(photos, work / "colmap", seed=options.seed)

    def by_vggt() -> Solution:
        return vggt_cameras.solve(
            *(photos, work / "vggt", options.vggt_ckpt),
            refine=not options.no_refine,
            camera_matches=options.camera_matches,
            device=usable_device(options.device),
            seed=options.seed,
        )

    ways = {"colmap": by_motion, "vggt": by_vggt}
    if options.poses in ways:
        found = ways[options.poses]()
    else:
        found = automatic(by_motion, by_vggt if options.vggt_ckpt else None, len(photos.photos))
    return with_enough(found, len(photos.photos))


def automatic(by_motion: Solver, by_vggt: Solver | None, count: int) -> Solution:
    """Structure from motion, then VGGT (None: without weights for it) when fewer than 60 % of `count` get a camera.

    The one with more cameras is taken. Its warnings say what was tried, and why.

    Raises:
        InputError: when both fail.
    """
    found, why = _tried(by_motion, "structure from motion", count)
    if found is not None and count_registered(found) >= ENOUGH * count:
        return found
    if by_vggt is None:
        why = f"{why}; {_ADVICE}"
    else:
        other, then = _tried(by_vggt, "VGGT", count)
        why = f"{why}, so VGGT was tried: {then}"
        if other is not None and (found is None or count_registered(other) > count_registered(found)):
            found = other
    if found is None:
        raise InputError(why)
    return replace(found, warnings=(why, *found.warnings))


def with_enough(found: Solution, count: int) -> Solution:
    """The solution itself.

    Raises:
        InputError: when too few photographs have a camera to hold one out and render it from others.
    """
    registered = count_registered(found)
    if registered < MIN_CAMERAS:
        said = f" ({found.warnings[0]})" if found.warnings else ""
        raise InputError(
            f"expected {MIN_CAMERAS} or more photographs with a camera, got {registered} of {count}{said}; take more "
            "of the same place, each with most of what the one before shows"
        )
    return found


def count_registered(solution: Solution) -> int:
    """Photographs with a camera."""
    return len(solution.model.reg_image_ids())


def _tried(solve: Solver, name: str, count: int) -> tuple[Solution | None, str]:
    """What a way finds, and a sentence about it."""
    try:
        found = solve()
    except InputError as error:
        return None, f"{name} failed: {error}"
    return found, f"{name} found cameras of {count_registered(found)} of {count} photographs"
