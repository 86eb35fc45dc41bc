"""Files of questions -> records, and back: the JSON of the VGGT-Qwen3 training guide (docs/scene_qa.md, "Records").

Everything that is wrong with an entry is reported with file, line and key; the entry is then left out, and counted.
"""

import glob
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.image_io import image_size, is_file, write_bytes
from data.problems import LeftOut, Report, raise_problem
from data.scene_qa.json_lines import Entry, read_entries, word
from data.scene_qa.types import HISTOGRAM_BINS, QARecord, ViewGeometry
from geometry import InputError
from geometry.plain_files import plain_file
from geometry.plain_json import parse_json

RECORD_KEYS = ("data", "samples")
"""Of an object around the records."""
RAW_FOLDER = Path("data/raw")
"""Where image paths are looked for in the end."""
_GEOMETRY_SIZES = {"R": 9, "t": 3, "K": 9, "depth_hist": HISTOGRAM_BINS}
_OPTIONAL_SIZES = {"depth_range": 2, "image_size": 2}
_ROTATION_TOLERANCE = 0.02
"""Of R times its transpose, by which the poses of scanners are off; chosen by hand."""


def read_records(
    patterns: Sequence[str | Path], report: Report = raise_problem, *, wants_images: bool = True
) -> list[QARecord]:
    """Records of all files; a path with `*` stands for all files that it fits, in the order of their names.

    `wants_images` False: image files need not exist (text alone is evaluated).

    Raises:
        InputError: for a file that cannot be read, or a pattern without file. Entries go to `report` as `LeftOut`.
    """
    seen: dict[str, str] = {}
    records = []
    for path in expanded(patterns):
        for number, entry in enumerate(read_entries(path, RECORD_KEYS), start=1):
            record = _usable(path, number, entry, seen, report, wants_images=wants_images)
            if record is not None:
                records.append(record)
    return records


def expanded(patterns: Sequence[str | Path]) -> list[Path]:
    """Files that patterns stand for.

    Raises:
        InputError: for one that stands for none.
    """
    paths: list[Path] = []
    for pattern in patterns:
        found = sorted(glob.glob(str(pattern), recursive=True)) if glob.has_magic(str(pattern)) else [str(pattern)]
        if not found or not Path(found[0]).is_file():
            raise InputError(f"{pattern}: expected a file of records, got none")
        paths += map(Path, found)
    return paths


def action_text(action: Mapping[str, Any]) -> str:
    """An action as a model is to write it: keys in their order, ", " and ": " between, other scripts as they are."""
    return json.dumps(action, ensure_ascii=False, separators=(", ", ": "))


def write_records(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines, whole or not at all."""
    write_bytes(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def geometry_json(geometry: ViewGeometry, decimals: int = 6) -> dict[str, Any]:
    """As `geom_token` holds it."""

    def rows(tensor: Tensor) -> list[list[float]]:
        return [[round(value, decimals) for value in row] for row in tensor.flatten(1).double().tolist()]

    return {
        "R": rows(geometry.rotations),
        "t": rows(geometry.translations),
        "K": rows(geometry.intrinsics),
        "depth_hist": rows(geometry.depth_histogram),
        "depth_range": rows(geometry.depth_range),
        "image_size": rows(geometry.image_size),
    }


class _Place:
    """Where an entry stands, for what is reported about it; whole files may be one line."""

    def __init__(self, path: Path, line: int, number: int) -> None:
        self.path, self.line, self.number = path, line, number

    def problem(self, kind: str, key: str, message: str) -> LeftOut:
        return LeftOut(kind, f"{self.path}, line {self.line}, {key}: {message} (entry {self.number})")


def _usable(
    path: Path, number: int, entry: Entry, seen: dict[str, str], report: Report, *, wants_images: bool
) -> QARecord | None:
    place = _Place(path, entry.line, number)
    problems: list[LeftOut] = []
    if not isinstance(entry.value, dict):
        report(place.problem("entries that are no objects", "record", f"expected an object, got {_shown(entry.value)}"))
        return None
    record = _record(place, entry.value, problems, wants_images=wants_images)
    if record.id and record.id in seen:
        problems.append(
            place.problem(
                "records with the id of another",
                "question_id",
                f"expected an id of its own, got {record.id!r} as in {seen[record.id]}",
            )
        )
    seen.setdefault(record.id, f"{path}, line {entry.line}")
    for problem in problems:
        report(problem)
    return None if problems else record


def _record(place: _Place, row: dict[str, Any], problems: list[LeftOut], *, wants_images: bool) -> QARecord:
    images = _images(place, row, problems, wants_images=wants_images)
    answers, action = _answers(place, row, problems)
    question, key = _first_text(row, "question", "instruction")
    if not question:
        problems.append(place.problem("records without question", key, f"expected text, got {_shown(row.get(key))}"))
    scene = word(row.get("scene_id"))
    _check_scene(place, scene, images, problems)
    return QARecord(
        images=tuple(images),
        question=question,
        answers=answers,
        action=action,
        geometry=_geometry(place, row.get("geom_token"), images, problems),
        task=word(row.get("task")) or "qa",
        scene=scene,
        id=word(row.get("question_id")),
        situation=word(row.get("situation")),
        evidence=tuple(row["evidence"]) if _is_numbers(row.get("evidence")) else (),
    )


def _is_numbers(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, int) for one in value)


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _first_text(row: dict[str, Any], *keys: str) -> tuple[str, str]:
    key = next((key for key in keys if row.get(key) is not None), keys[0])
    value = row.get(key)
    return (" ".join(value.split()), key) if isinstance(value, str) else ("", key)


def _images(place: _Place, row: dict[str, Any], problems: list[LeftOut], *, wants_images: bool) -> list[Path]:
    names = row.get("images")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        problems.append(
            place.problem("records without images", "images", f"expected a list of paths, got {_shown(names)}")
        )
        return []
    found = []
    for name in names:
        path = _found(place.path.parent, name)
        if path is None and wants_images:
            tried = f"{name}, {place.path.parent / name}, {RAW_FOLDER / name}"
            problems.append(
                place.problem("records with missing images", "images", f"expected a file, got none: {tried}")
            )
        found.append(path or Path(name))
    return found


def _found(folder: Path, name: str) -> Path | None:
    return next((path for path in (Path(name), folder / name, RAW_FOLDER / name) if _is_file(path)), None)


@lru_cache(maxsize=65536)
def _is_file(path: Path) -> bool:
    return is_file(path)


def _answers(
    place: _Place, row: dict[str, Any], problems: list[LeftOut]
) -> tuple[tuple[str, ...], dict[str, Any] | None]:
    """References, and the action where the answer is one."""
    key = "action_json" if row.get("action_json") is not None else "answers" if "answers" in row else "answer"
    value = row.get(key)
    if isinstance(value, dict) and value:
        return (action_text(value),), value
    if key == "action_json":
        problems.append(place.problem("records without answer", key, f"expected an object, got {_shown(value)}"))
        return (), None
    values = value if isinstance(value, list) else [value]
    texts = [_answer_text(one) for one in values]
    if not texts or not all(texts):
        problems.append(
            place.problem("records without answer", key, f"expected text or a list of texts, got {_shown(value)}")
        )
    return tuple(text for text in texts if text), None


def _answer_text(value: object) -> str:
    """Text, a number as text, or the text of one of SQA3D's answers."""
    if isinstance(value, dict):
        return _answer_text(value.get("answer"))
    if isinstance(value, float):
        return f"{value:g}"
    return word(value)


def _check_scene(place: _Place, scene: str, images: Sequence[Path], problems: list[LeftOut]) -> None:
    """An image whose path names a scene, but another one."""
    if not scene or not any(letter.isdigit() for letter in scene):
        return
    for image in images:
        named = _scene_names(scene).findall(str(image))
        if named and scene not in named:
            problems.append(
                place.problem(
                    "records with an image of another scene",
                    "images",
                    f"expected an image of scene_id {scene}, got one of {named[-1]}: {image}",
                )
            )
            return


@lru_cache(maxsize=4096)
def _scene_names(scene: str) -> re.Pattern[str]:
    """Names that differ in digits only."""
    return re.compile(r"(?<![A-Za-z0-9])" + re.sub(r"\d", r"\\d", re.escape(scene)) + r"(?![A-Za-z0-9])")


def _geometry(place: _Place, token: object, images: Sequence[Path], problems: list[LeftOut]) -> ViewGeometry | None:
    if token is None:
        return None
    try:
        if isinstance(token, str):
            return _geometry_file(place.path.parent / token, tuple(images))
        return parsed_geometry(token, images)
    except InputError as error:
        problems.append(place.problem("records with wrong geometry", "geom_token", str(error)))
        return None


@lru_cache(maxsize=4096)
def _geometry_file(path: Path, images: tuple[Path, ...]) -> ViewGeometry:
    """Many questions share the views of a scene."""
    try:
        return parsed_geometry(parse_json(plain_file(path).read_text()), images)
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"expected a JSON file of geometry, got: {error}") from None


def parsed_geometry(token: object, images: Sequence[Path]) -> ViewGeometry:
    """`geom_token` -> geometry; the size of an image is read from its file where it is not given.

    Raises:
        InputError: naming the key, for missing ones, other lengths than the views have, or numbers that are not finite.
    """
    if not isinstance(token, dict):
        raise InputError(f"expected an object with {', '.join(_GEOMETRY_SIZES)}, got {_shown(token)}")
    values = {key: _matrix(token, key, size, len(images)) for key, size in _GEOMETRY_SIZES.items()}
    more = {key: _matrix(token, key, size, len(images)) for key, size in _OPTIONAL_SIZES.items() if key in token}
    if "image_size" not in more:
        more["image_size"] = torch.tensor([image_size(path)[::-1] for path in images], dtype=torch.float32)
    _check_numbers(values | more)
    return ViewGeometry(
        rotations=values["R"].view(-1, 3, 3),
        translations=values["t"],
        intrinsics=values["K"].view(-1, 3, 3),
        image_size=more["image_size"],
        depth_histogram=values["depth_hist"],
        depth_range=more.get("depth_range", torch.zeros(len(images), 2)),
    )


def _check_numbers(values: Mapping[str, Tensor]) -> None:
    """Refuse what is no camera: a network would divide by it, or learn from it."""
    rotations = values["R"].view(-1, 3, 3)
    off = (rotations @ rotations.mT - torch.eye(3)).abs().flatten(1).amax(1)
    low, high = values.get("depth_range", torch.zeros(1, 2)).unbind(-1)
    right = {
        "R: expected rotations": (off < _ROTATION_TOLERANCE) & (torch.linalg.det(rotations) > 0),
        "K: expected focal lengths above 0": (values["K"][:, [0, 4]] > 0).all(1),
        "depth_hist: expected shares of 0 or more": (values["depth_hist"] >= 0).all(1),
        "depth_range: expected two depths of 0 or more, the least first": (low >= 0) & (low <= high),
        "image_size: expected a width and a height above 0": (values["image_size"] > 0).all(1),
    }
    for what, is_right in right.items():
        if not bool(is_right.all()):
            raise InputError(f"{what}, got others in view {int((~is_right).nonzero()[0]) + 1}")


def _matrix(token: Mapping[str, Any], key: str, size: int, num_views: int) -> Tensor:
    """`num_views` rows of `size` numbers; rows that are 3 x 3 count as 9."""
    rows = token.get(key)
    try:
        matrix = torch.tensor(rows, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{key}: expected {num_views} rows of {size} numbers, got {_shown(rows)}") from None
    got = matrix.flatten(1).shape if matrix.ndim > 1 else matrix.shape
    if tuple(got) != (num_views, size):
        raise InputError(f"{key}: expected {num_views} rows (one per image) of {size} numbers, got {tuple(got)}")
    matrix = matrix.flatten(1).float()
    if not matrix.isfinite().all():
        raise InputError(f"{key}: expected finite numbers, got {_shown(rows)}")
    return matrix
