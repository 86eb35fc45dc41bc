"""Which frames of a video to reconstruct from: sharp ones, evenly spaced in what they show instead of in time."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from geometry import InputError
from render.reconstruct.image_motion import ContentPath
from render.reconstruct.photo_quality import sharpness, small_gray

_EXTENSIONS = ".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .mts .m2ts .3gp .wmv .gif"
VIDEO_EXTENSIONS = frozenset(_EXTENSIONS.split(" "))
SPACING = 0.06
"""Wanted motion between chosen frames, as a share of the long side."""
_MIN_FRAMES = 20
_MAX_ANALYZED = 1200
"""Frames in which motion is measured; of longer videos every nth."""
_WINDOW = 0.4
"""Half the width of the window in which the sharpest frame is taken, as a share of the spacing."""


@dataclass(frozen=True)
class Frame:
    """A decoded frame."""

    index: int
    seconds: float
    image: UInt8[np.ndarray, "height width 3"]
    """Upright, RGB, of the video's size."""


@dataclass(frozen=True)
class Course:
    """What a video shows over time, for its analyzed frames."""

    indices: np.ndarray
    content: np.ndarray
    """`ContentPath.length`."""
    sharpness: np.ndarray
    decoded: int
    """Frames up to the end, or to where decoding failed."""
    announced: int
    """Frames by the file's header; 0: not said."""


def frames(path: Path, wanted: Sequence[int] | None = None, every: int = 1) -> Iterator[Frame]:
    """The wanted ones (ascending), or every nth, in order. Phones' rotation is applied, also of variable frame rates.

    Raises:
        InputError: when nothing can be decoded.
    """
    capture = _open(path)
    remaining = None if wanted is None else list(wanted)
    index = -1
    try:
        while (remaining is None or remaining) and capture.grab():
            index += 1
            if index % every if remaining is None else index != remaining[0]:
                continue
            seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            whole, image = capture.retrieve()
            if whole:
                yield Frame(index, seconds, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
            if remaining is not None:
                remaining.pop(0)
    finally:
        capture.release()


def survey(path: Path) -> Course:
    """Decode the whole video once, and measure motion and sharpness at 320 pixels.

    Raises:
        InputError: for a file that is no video, or of which nothing can be decoded.
    """
    capture = _open(path)
    announced = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
    capture.release()
    every = max(-(-announced // _MAX_ANALYZED), 1)
    way = ContentPath()
    found: list[tuple[int, float, float]] = []
    with tqdm(total=announced or None, unit="frame", desc="look through video", leave=False) as bar:
        for frame in frames(path, every=every):
            small = small_gray(cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY))
            found.append((frame.index, way.add(small), sharpness(small)))
            bar.update(frame.index + 1 - bar.n)
    if not found:
        raise InputError(f"{path}: expected a video, got a file of which no frame can be decoded")
    indices, content, sharp = (np.array(column) for column in zip(*found, strict=True))
    return Course(indices.astype(int), content, sharp, decoded=int(indices[-1]) + every, announced=announced)


def choose(content: np.ndarray, sharp: np.ndarray, most: int, least: int = _MIN_FRAMES) -> list[int]:
    """Positions, ascending, of images evenly spaced in content, each the sharpest near its place.

    So many that neighbors are `SPACING` apart, between `least` and `most`. Where nothing moves, nothing is taken.
    """
    length = float(content[-1] - content[0])
    number = min(max(round(length / SPACING) + 1, least), most, len(content))
    places = np.linspace(content[0], content[-1], number)
    half = _WINDOW * length / max(number - 1, 1)
    chosen: list[int] = []
    for place in places:
        distance = np.abs(content - place)
        near = np.flatnonzero(distance <= max(half, distance.min()))
        near = near[near > chosen[-1]] if chosen else near
        if len(near):
            chosen.append(int(near[np.argmax(sharp[near])]))
    return chosen


def _open(path: Path) -> cv2.VideoCapture:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # silent: what fails is said in one sentence
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    finally:
        cv2.utils.logging.setLogLevel(level)
    if not capture.isOpened():
        raise InputError(f"{path}: expected a video, got a file that cannot be read as one")
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    return capture
