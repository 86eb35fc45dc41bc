"""Actions as JSON: what counts as one, and how far one is from the right one."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from data.scene_qa.records import action_text
from data.scene_qa.types import QARecord
from geometry import InputError, require
from models.vqa.constrained import Constraint, Fixed, Form, FreeText, Number
from models.vqa.network import SceneQA
from training.vqa.metrics import join

PLACE_ANCHOR = "place_anchor"
KEYS = ("action", "scene", "center", "normal", "extent")
IOU_LEVELS = (0.25, 0.5)
"""Least overlap at which a box counts as found."""
_MIN_LENGTH = 1e-6
"""Of a normal; a shorter one has no direction."""

_LONGEST_SCENE = 64
"""Bytes of a scene's name that a constrained answer can write."""

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class AnchorAction:
    """Where an anchor goes."""

    scene: str
    center: Vector
    """Meters."""
    normal: Vector
    """Of length 1."""
    extent: Vector
    """Sides, meters, 0 or more."""


def action_form() -> Form:
    """Actions as `data.scene_qa.records.action_text` lays them out; `parse_action` reads every text of this form."""
    return Form(
        [
            Fixed(f'{{"action": "{PLACE_ANCHOR}", "scene": "'.encode()),
            FreeText(_LONGEST_SCENE),
            Fixed(b'", "center": ['),
            *_vector_form(Number()),
            Fixed(b'], "normal": ['),
            *_vector_form(Number(begins=True), Number(), Number(ends_nonzero=True)),
            Fixed(b'], "extent": ['),
            *_vector_form(Number(is_signed=False)),
            Fixed(b"]}"),
        ]
    )


def _vector_form(*numbers: Number) -> list[Fixed | Number]:
    x, y, z = numbers * (3 // len(numbers))
    return [x, Fixed(b", "), y, Fixed(b", "), z]


def action_constraint(network: SceneQA) -> Constraint:
    """Lets a network write nothing but actions."""
    prompts = network.prompts
    return Constraint(action_form(), network.language.codec, (prompts.terminator, *prompts.stops))


def require_room(max_new_tokens: int) -> None:
    """Refuse constrained answers that could be cut off before they end.

    Raises:
        InputError: naming how many tokens the longest has, terminator included.
    """
    longest = action_form().longest + 1
    require(
        max_new_tokens >= longest,
        f"--constrained: expected --max_new_tokens of at least {longest}, the longest action, got {max_new_tokens}",
    )


def parse_action(text: str) -> AnchorAction:
    """Strict reading of one JSON object, without anything around it.

    Raises:
        InputError: for other text, unknown, missing or repeated keys, other types, numbers that are not finite,
            negative sides, a normal without direction.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refused)
    except ValueError as error:  # InputError is one
        raise InputError(f"expected an action as JSON, got: {error}") from None
    return checked_action(value)


def checked_action(value: Any) -> AnchorAction:
    """An action out of parsed JSON.

    Raises:
        InputError: as `parse_action`.
    """
    require(isinstance(value, dict), f"expected an object, got {value!r}")
    require(set(value) == set(KEYS), f"expected the keys {', '.join(KEYS)}, got {', '.join(map(str, value))}")
    require(value["action"] == PLACE_ANCHOR, f"action: expected {PLACE_ANCHOR!r}, got {value['action']!r}")
    require(isinstance(value["scene"], str), f"scene: expected text, got {value['scene']!r}")
    center, normal, extent = (_vector(key, value[key]) for key in ("center", "normal", "extent"))
    length = math.hypot(*normal)
    require(length > _MIN_LENGTH, f"normal: expected a direction, got {value['normal']}")
    require(min(extent) >= 0, f"extent: expected sides of 0 or more, got {value['extent']}")
    x, y, z = normal
    return AnchorAction(value["scene"], center, (x / length, y / length, z / length), extent)


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    require(len(set(keys)) == len(keys), f"expected each key once, got {', '.join(keys)}")
    return dict(pairs)


def _refused(constant: str) -> float:
    raise InputError(f"expected finite numbers, got {constant}")


def _vector(key: str, value: Any) -> Vector:
    is_numbers = isinstance(value, list) and all(type(one) in (int, float) for one in value)
    require(
        is_numbers and len(value) == 3 and all(math.isfinite(one) for one in value),
        f"{key}: expected 3 finite numbers, got {value!r}",
    )
    x, y, z = map(float, value)
    return x, y, z


def center_error(action: AnchorAction, reference: AnchorAction) -> float:
    """Meters."""
    return math.dist(action.center, reference.center)


def extent_error(action: AnchorAction, reference: AnchorAction) -> float:
    """Length of the difference of the sides, meters."""
    return math.dist(action.extent, reference.extent)


def normal_error(action: AnchorAction, reference: AnchorAction) -> float:
    """Angle, degrees."""
    a, b = action.normal, reference.normal
    cross = (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
    dot = sum(one * other for one, other in zip(a, b, strict=True))
    return math.degrees(math.atan2(math.hypot(*cross), dot))


def box_iou(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> float:
    """Intersection over union of two axis-aligned boxes (low corner, high corner).

    Raises:
        InputError: for a box without volume.
    """
    for low, high in (first, second):
        require(
            all(start < end for start, end in zip(low, high, strict=True)),
            f"expected a box with a volume, got one from {list(low)} to {list(high)}",
        )
    shared = 1.0
    for axis in range(3):
        shared *= max(0.0, min(first[1][axis], second[1][axis]) - max(first[0][axis], second[0][axis]))
    volumes = [math.prod(end - start for start, end in zip(*box, strict=True)) for box in (first, second)]
    return shared / (sum(volumes) - shared)


def box_of(action: AnchorAction) -> tuple[Vector, Vector]:
    """Corners of the axis-aligned box of an action's center and sides."""
    low = [middle - side / 2 for middle, side in zip(action.center, action.extent, strict=True)]
    high = [middle + side / 2 for middle, side in zip(action.center, action.extent, strict=True)]
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


@dataclass(frozen=True)
class ActionScores:
    """Over all records with an action; text that is no action is as wrong as can be."""

    count: int
    parse_rate: float
    center_error: float
    """Median, meters; infinite where more than half are no actions."""
    normal_error: float
    """Median, degrees; an answer that is no action counts as 180."""
    iou: float
    """Mean; 0 for what is no action and for boxes without volume."""
    acc_025: float
    acc_05: float
    """Share with an overlap of at least that."""


def action_scores(records: Sequence[QARecord], predictions: Iterable[tuple[str, str]]) -> ActionScores:
    """Compare (id, text) with the actions of records.

    Raises:
        InputError: as `training.vqa.metrics.join`, for no record, or a record without an action that has a volume.
    """
    require(len(records) > 0, "expected records with actions, got none")
    centers, normals, overlaps, num_parsed = [], [], [], 0
    for one in join(records, predictions):
        reference = reference_action(one.record)
        box = box_of(reference)
        try:
            action = parse_action(one.prediction)
        except InputError:
            centers.append(math.inf)
            normals.append(180.0)
            overlaps.append(0.0)
            continue
        num_parsed += 1
        centers.append(center_error(action, reference))
        normals.append(normal_error(action, reference))
        overlaps.append(box_iou(box_of(action), box) if min(action.extent) > 0 else 0.0)
    count = len(overlaps)
    found = [sum(overlap >= level for overlap in overlaps) / count for level in IOU_LEVELS]
    return ActionScores(count, num_parsed / count, median(centers), median(normals), sum(overlaps) / count, *found)


def baseline_actions(records: Sequence[QARecord]) -> dict[str, str]:
    """The best that a constant answer can do, from the evaluated records themselves: their most frequent action (the
    first in the alphabet of several), and the means of their centers, normals and sides.

    Raises:
        InputError: for a record whose action is none.
    """
    actions = [reference_action(record) for record in records]
    texts = Counter(record.answers[0] for record in records)
    center, normal, extent = (
        [round(fmean(values), 3) for values in zip(*(getattr(one, key) for one in actions), strict=True)]
        for key in ("center", "normal", "extent")
    )
    mean = {
        "action": PLACE_ANCHOR,
        "scene": Counter(one.scene for one in actions).most_common(1)[0][0],
        "center": center,
        "normal": normal if math.hypot(*normal) > _MIN_LENGTH else [0.0, 0.0, 1.0],
        "extent": extent,
    }
    most_frequent = min(texts, key=lambda text: (-texts[text], text))
    return {"most frequent action": most_frequent, "mean action": action_text(mean)}


def reference_action(record: QARecord) -> AnchorAction:
    """The action that a record asks for.

    Raises:
        InputError: naming the record, for what is no action or has a box without volume.
    """
    try:
        action = checked_action(record.action)
        box_iou(box_of(action), box_of(action))
        return action
    except InputError as error:
        raise InputError(f"record {record.id!r}: {error}") from None
