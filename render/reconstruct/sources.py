"""A folder of photographs or a video -> prepared images: upright, RGB, of a bounded size, without what does not help.

Left out, named and counted: what cannot be read, shows nothing, shows the same as another or is blurred. Everything
else that a reconstruction may suffer from becomes a warning. The same source gives the same files.
"""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from data.image_io import UnreadableFileError
from data.problems import counted, shortened
from geometry import InputError, require
from render.reconstruct.image_motion import moved
from render.reconstruct.photo_files import PHOTO_EXTENSIONS, large_photos, read_photo, within
from render.reconstruct.photo_quality import Look, blurred, look_at, mostly_blurred, mostly_soft, repeated
from render.reconstruct.types import Photo, PhotoSet
from render.reconstruct.video_frames import SPACING, VIDEO_EXTENSIONS, choose, frames, survey
from training.files import staged_folder

MAX_SIDE = 640
MAX_IMAGES = 100
_MIN_IMAGES = 3
"""Two give no view to check the others by. Who needs more of them says so."""
_MAX_FILES = 3000
"""More files in a folder are thinned out before any is read."""
_ENOUGH = 12
"""Blurred images are left out when so many others remain, and they are at most a quarter. Chosen by hand."""
_STANDSTILL = 0.02
"""Way of a video, as a share of the long side, below which nothing can be reconstructed."""
_FAR_APART = 0.25
"""Motion between neighboring frames, as a share of the long side, above which little of them overlaps."""
_MAX_STEM = 60
_JPEG = {"format": "JPEG", "quality": 95, "subsampling": 0}


@dataclass(frozen=True)
class Candidate:
    """A prepared image on its way into the set."""

    file: Path
    """Under a provisional name."""
    stem: str
    source: str
    look: Look
    height: int
    width: int
    focal: float | None = None
    turned: bool = False
    taken: str | None = None


def prepare(
    source: Path,
    folder: Path,
    *,
    max_side: int = MAX_SIDE,
    max_images: int = MAX_IMAGES,
    min_images: int = _MIN_IMAGES,
) -> PhotoSet:
    """Prepare the photographs of a folder, or frames of a video, in a new `folder`.

    A folder without photographs of its own that has a folder `images`, or one video, stands for that. Order: time of
    exposure where EXIF says it for all, else names with numbers by value ("IMG_9" before "IMG_10"), which are kept
    where they sort in that order. Images become JPEG files with a long side of at most `max_side`; of more than
    `max_images` those are taken that are evenly spaced in what they show. Fewer than `min_images` are refused, if the
    names tell already before any is read.

    Raises:
        InputError: naming the source, when it cannot be reconstructed from; nothing is written then.
    """
    least = max(min_images, _MIN_IMAGES)
    require(max_images >= least, f"--max_images: expected at least {least}, got {max_images}")
    require(max_side >= 64, f"--max_side: expected at least 64 pixels, got {max_side}")
    require(source.exists(), f"{source}: expected a folder of photographs or a video, got none")
    blocked = folder.is_dir() and any(folder.iterdir())
    require(not blocked, f"{folder}: expected an empty folder or a new name, got one that holds files")
    with staged_folder(folder) as staging, large_photos():
        warnings: list[str] = []
        source = _inside(source)
        is_video = not source.is_dir()
        read = _read_video if is_video else _read_folder
        candidates = read(source, staging, max_side, max_images, least, warnings)
        candidates = _without_useless(source, candidates, least, warnings)
        if len(candidates) > max_images:
            candidates = _thinned(candidates, max_images, warnings)
        _warn_of_the_rest(candidates, warnings)
        photos = _named(candidates, staging)
    return PhotoSet(folder, photos, is_video, tuple(warnings))


def natural_order(name: str) -> tuple[list[tuple[int, int | str]], str]:
    """Sort key: runs of digits count by value, letters without case; the name itself where that is all the same."""
    parts = re.split(r"(\d+)", unicodedata.normalize("NFKC", Path(name).stem).casefold())
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts if part], name


def file_names(stems: Sequence[str]) -> list[str]:
    """Unique names, ascending, in the given order: the stems where they are that already, else with a number before.

    Only letters, digits, ".", "-" and "_" remain: the text files of COLMAP separate their fields by spaces.
    """
    clean = [re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", stem))[:_MAX_STEM].lstrip(".") for stem in stems]
    names = [f"{stem or '_'}.jpg" for stem in clean]
    if names == sorted(names) and len({name.casefold() for name in names}) == len(names):
        return names
    digits = len(str(len(names) - 1))
    return [f"{index:0{digits}d}_{name}" for index, name in enumerate(names)]


def _read_folder(
    source: Path, staging: Path, max_side: int, max_images: int, least: int, warnings: list[str]
) -> list[Candidate]:
    files = _photo_files(source, warnings)
    require(len(files) >= least, f"{source}: expected at least {least} photographs, got {len(files)}")
    if len(files) > max(_MAX_FILES, max_images):
        step = -(-len(files) // max(_MAX_FILES, max_images))
        warnings.append(f"{len(files)} photographs: every {step}th is looked at")
        files = files[::step]

    def prepared(numbered: tuple[int, Path]) -> Candidate | UnreadableFileError:
        number, path = numbered
        try:
            photo = read_photo(path, max_side)
        except UnreadableFileError as error:
            return error
        extras = {"focal": photo.focal, "turned": photo.turned, "taken": photo.taken}
        return _candidate(staging, number, path.stem, path.name, photo.image, **extras)

    results: list[Candidate | UnreadableFileError] = []
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:  # decoding releases the interpreter's lock
        work = pool.map(prepared, enumerate(files))
        results += tqdm(work, total=len(files), unit="image", desc="prepare photographs", leave=False)
    candidates = [result for result in results if isinstance(result, Candidate)]
    unreadable = [str(result).replace(f"{source}{os.sep}", "") for result in results if isinstance(result, InputError)]
    listed = f"{len(unreadable)} of {len(files)} photographs cannot be read: {shortened(unreadable)}"
    require(len(candidates) > 0, f"{source}: expected photographs, but {listed}")
    if unreadable:
        warnings.append(f"left out: {listed}")
    if all(candidate.taken for candidate in candidates):
        candidates.sort(key=lambda candidate: (str(candidate.taken), natural_order(candidate.source)))
    return candidates


def _inside(source: Path) -> Path:
    """The folder `images` or the only video of a folder without photographs, else the source."""
    if not source.is_dir() or any(path.suffix.lower() in PHOTO_EXTENSIONS for path in _entries(source)):
        return source
    videos = [path for path in _entries(source) if path.suffix.lower() in VIDEO_EXTENSIONS]
    if (source / "images").is_dir():
        return source / "images"
    return videos[0] if len(videos) == 1 else source


def _entries(source: Path) -> list[Path]:
    """Hidden ones are none."""
    try:
        return [path for path in source.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{source}: expected a folder that can be read, got {error.strerror}") from None


def _photo_files(source: Path, warnings: list[str]) -> list[Path]:
    """In natural order of their names."""
    entries = _entries(source)
    files = [path for path in entries if path.suffix.lower() in PHOTO_EXTENSIONS and path.is_file()]
    kinds = Counter(
        "folder" if path.is_dir() else f"{path.suffix.lower() or path.name} file"
        for path in sorted(set(entries) - set(files))
    )
    others = ", ".join(counted(number, kind) for kind, number in kinds.items())
    known = " ".join(sorted(PHOTO_EXTENSIONS))
    require(len(files) > 0, f"{source}: expected photographs ({known}), got {others or 'an empty folder'}")
    if others:
        warnings.append(f"ignored, because they are no photographs: {others}")
    return sorted(files, key=lambda path: natural_order(path.name))


def _read_video(
    source: Path, staging: Path, max_side: int, max_images: int, least: int, warnings: list[str]
) -> list[Candidate]:
    kind = source.suffix.lower()
    hint = "one photograph" if kind in PHOTO_EXTENSIONS else "a file"
    known = " ".join(sorted(VIDEO_EXTENSIONS))
    require(kind in VIDEO_EXTENSIONS, f"{source}: expected a folder of photographs or a video ({known}), got {hint}")
    course = survey(source)
    if course.decoded < 0.9 * course.announced:
        warnings.append(f"the video breaks off: {course.decoded} of {course.announced} frames can be decoded")
    count = len(course.indices)
    require(count >= least, f"{source}: expected a video of at least {least} frames, got one of {count}")
    way = float(course.content[-1])
    require(
        way >= _STANDSTILL,
        f"{source}: expected a video whose camera moves past things with texture, got one in which the picture moves "
        f"by {way:.1%} of its long side",
    )
    positions = choose(course.content, course.sharpness, max_images)
    spacing = way / max(len(positions) - 1, 1)
    if spacing > _FAR_APART:
        warnings.append(
            f"neighboring frames are {spacing:.0%} of the picture apart, of a wanted {SPACING:.0%}: "
            f"more than {max_images} images, or a shorter video, would overlap better"
        )
    chosen = [int(course.indices[position]) for position in positions]
    bar = tqdm(frames(source, chosen), total=len(chosen), unit="frame", desc="read frames", leave=False)
    return [
        _candidate(
            staging,
            number,
            f"frame_{frame.index:06d}",
            f"{int(frame.seconds // 60)}:{frame.seconds % 60:05.2f}",
            within(frame.image, max_side),
        )
        for number, frame in enumerate(bar)
    ]


def _candidate(
    staging: Path,
    number: int,
    stem: str,
    source: str,
    image: UInt8[np.ndarray, "height width 3"],
    focal: float | None = None,
    turned: bool = False,
    taken: str | None = None,
) -> Candidate:
    file = staging / f".{number}"
    try:
        Image.fromarray(image).save(file, **_JPEG)
    except OSError as error:
        raise InputError(f"{staging.parent}: expected room for images, got: {error.strerror or error}") from None
    height, width = image.shape[:2]
    return Candidate(file, stem, source, look_at(image), height, width, focal, turned, taken)


def _without_useless(source: Path, candidates: list[Candidate], least: int, warnings: list[str]) -> list[Candidate]:
    """Without blank, repeated and, if enough others remain, blurred ones.

    Raises:
        InputError: when fewer than `least` remain, all show the same, or most are blurred.
    """
    before, said = len(candidates), len(warnings)
    blank = {index for index, candidate in enumerate(candidates) if candidate.look.blank}
    candidates = _left_out(candidates, blank, "black or of one color", warnings)
    if candidates:
        same = repeated([candidate.look for candidate in candidates])
        one = len(candidates) >= _MIN_IMAGES and len(same) == len(candidates) - 1
        require(not one, f"{source}: expected images from different places, but all {before} show the same")
        partner = {index: candidates[other].source for index, other in same.items()}
        candidates = _left_out(candidates, partner, "the same as another", warnings, lambda index: partner[index])
    reasons = "".join(f"; {line}" for line in warnings[said:])
    require(
        len(candidates) >= least,
        f"{source}: expected at least {least} images that differ, got {len(candidates)}{reasons}",
    )
    looks = [candidate.look for candidate in candidates]
    hopeless = mostly_blurred(looks)
    require(not hopeless, f"{source}: expected sharp images, but most of the {len(looks)} are badly blurred")
    if mostly_soft(looks):
        warnings.append(f"most of the {len(looks)} images are soft: the finest details of the scene will be missing")
    worst = blurred(looks)
    if worst and len(worst) <= len(looks) // 4 and len(looks) - len(worst) >= _ENOUGH:
        return _left_out(candidates, worst, "blurred", warnings)
    if worst:
        names = shortened([candidates[index].source for index in worst])
        warnings.append(f"{len(worst)} of {len(looks)} images are blurred and used, because few others remain: {names}")
    return candidates


def _left_out(
    candidates: list[Candidate],
    positions: Iterable[int],
    why: str,
    warnings: list[str],
    partner: Callable[[int], str] | None = None,
) -> list[Candidate]:
    out = sorted(positions)
    if not out:
        return candidates
    names = [candidates[index].source + (f" = {partner(index)}" if partner else "") for index in out]
    warnings.append(f"left out: {len(out)} of {len(candidates)} images are {why}: {shortened(names)}")
    for index in out:
        candidates[index].file.unlink()
    return [candidate for index, candidate in enumerate(candidates) if index not in set(out)]


def _thinned(candidates: list[Candidate], most: int, warnings: list[str]) -> list[Candidate]:
    """Evenly spaced in content; photographs too far apart to be followed count as equally far."""
    content = np.zeros(len(candidates))
    for index in range(1, len(candidates)):
        content[index] = content[index - 1] + _step(candidates[index - 1].look, candidates[index].look)
    sharp = np.array([candidate.look.sharpness for candidate in candidates])
    chosen = set(choose(content, sharp, most, least=most))
    for index, candidate in enumerate(candidates):
        if index not in chosen:
            candidate.file.unlink()
    warnings.append(f"{len(chosen)} of {len(candidates)} images are used, evenly spaced in what they show")
    return [candidate for index, candidate in enumerate(candidates) if index in chosen]


def _step(first: Look, second: Look) -> float:
    motion = moved(first.small, second.small) if first.small.shape == second.small.shape else None
    return 0.1 if motion is None else min(motion, 0.1)


def _warn_of_the_rest(candidates: Sequence[Candidate], warnings: list[str]) -> None:
    """Of everything that stays in the set and may disturb."""
    turned = sum(candidate.turned for candidate in candidates)
    if turned:
        warnings.append(f"{turned} of {len(candidates)} images were turned or mirrored as their EXIF orientation says")
    sizes = Counter(f"{candidate.width} x {candidate.height}" for candidate in candidates)
    if len(sizes) > 1:
        listed = shortened([f"{number} of {size}" for size, number in sizes.most_common()])
        warnings.append(f"images of mixed sizes or orientations: {listed}")
    for exposure in ("very dark", "overexposed"):
        names = [candidate.source for candidate in candidates if candidate.look.exposure == exposure]
        if names:
            warnings.append(f"{len(names)} of {len(candidates)} images are {exposure}: {shortened(names)}")


def _named(candidates: Sequence[Candidate], staging: Path) -> tuple[Photo, ...]:
    """Give the files their names."""
    names = file_names([candidate.stem for candidate in candidates])
    for name, candidate in zip(names, candidates, strict=True):
        candidate.file.rename(staging / name)
    return tuple(
        Photo(name, candidate.source, candidate.height, candidate.width, candidate.focal)
        for name, candidate in zip(names, candidates, strict=True)
    )
