"""What goes in and what comes out of every way to find the cameras of photographs."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from data.colmap_library import pycolmap

Poses = Literal["colmap", "vggt", "model"]
"""Where cameras are from: structure from motion, VGGT, or a model that came with the photographs."""


@dataclass(frozen=True)
class Photo:
    """One photograph, prepared: upright, RGB, not larger than asked for."""

    name: str
    """Of its file in `PhotoSet.folder`."""
    source: str
    """What the user calls it: a file name, or a time in a video."""
    height: int
    width: int
    focal: float | None = None
    """Pixels of the prepared image, from EXIF; None: not said."""


@dataclass(frozen=True)
class PhotoSet:
    """Photographs of one scene in the order in which they were taken, as far as that is known."""

    folder: Path
    photos: tuple[Photo, ...]
    is_video: bool
    """Neighbors in order see the same things."""
    warnings: tuple[str, ...] = ()
    """One sentence each: what was left out or turned, and why."""


@dataclass(frozen=True)
class Solution:
    """Cameras of a photo set, with points where there are any."""

    model: pycolmap.Reconstruction
    """Images are named as the photos are. Any camera model of COLMAP; scene units, COLMAP's world."""
    poses: Poses
    unregistered: tuple[str, ...] = ()
    """Names of the photos without a camera."""
    reprojection_px: float | None = None
    """Mean over the observations, pixels of the prepared images; None without points."""
    measures: dict[str, float] = field(default_factory=dict)
    """Of the method: for VGGT the alignment residual, the spread of focal lengths and the confidence."""
    warnings: tuple[str, ...] = ()
