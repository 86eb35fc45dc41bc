"""What photographs and cameras are between two commands: plain values in the log of stages, and a COLMAP model."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.colmap_model import read_model, write_model
from render.reconstruct.types import Photo, PhotoSet, Solution


def plain_photos(photos: PhotoSet) -> dict[str, Any]:
    """Everything but the folder, in which the prepared files lie."""
    return {
        "photos": [asdict(photo) for photo in photos.photos],
        "is_video": photos.is_video,
        "warnings": list(photos.warnings),
    }


def photos_from(plain: dict[str, Any], folder: Path) -> PhotoSet:
    """The photographs that `plain_photos` describes."""
    photos = tuple(Photo(**photo) for photo in plain["photos"])
    return PhotoSet(folder, photos, plain["is_video"], tuple(plain["warnings"]))


def keep_solution(solution: Solution, folder: Path) -> dict[str, Any]:
    """Its model goes into `folder`, the rest is returned."""
    write_model(solution.model, folder)
    return {
        "poses": solution.poses,
        "unregistered": list(solution.unregistered),
        "reprojection_px": solution.reprojection_px,
        "measures": dict(solution.measures),
        "warnings": list(solution.warnings),
    }


def solution_from(plain: dict[str, Any], folder: Path) -> Solution:
    """What `keep_solution` has kept."""
    return Solution(
        model=read_model(folder),
        poses=plain["poses"],
        unregistered=tuple(plain["unregistered"]),
        reprojection_px=plain["reprojection_px"],
        measures=plain["measures"],
        warnings=tuple(plain["warnings"]),
    )
