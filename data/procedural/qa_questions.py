"""Questions about a room of `qa_rooms`, balanced: given its text alone, all answers to a question are equally likely.

Most are balanced by symmetry: shapes, colors, sizes, distances and places are drawn independently, so exchanging two
colors, views or objects leaves the probability of a room unchanged, and objects are picked without regard to the
answer. Counts are not, so a question about one is asked with a probability that makes its answers equally likely
(`_count`); "yes" and "no" are drawn first.
"""

from collections.abc import Callable
from functools import lru_cache
from math import comb
from typing import Any, NamedTuple

import numpy as np

from data.procedural.qa_rooms import COLORS, DISTANCES, SHAPES, QARoom, RoomObject, occupancies
from data.seeds import derived_seed

MAX_SHAPE_COUNT = 3
"""Rooms with more of one shape are too rare to balance; there the question is not asked."""
NEARER, LARGER = 0.4, 1.3
"""Least difference of two distances in meters, least ratio of two sizes to ask about; chosen by hand."""
_COUNT_QUESTIONS = 3
"""Considered for each room; most rooms get one or two."""
_QUESTION_STREAM = 71
SIDES = ("left", "right")
READING = "reading"
"""Task of `room_readings`; no question type, and never evaluated."""
_PLURALS = {"ball": "balls", "box": "boxes", "cone": "cones"}


class RoomQuestion(NamedTuple):
    """A question with its answer."""

    task: str
    """One of `QUESTION_TYPES`, `caption`, `reading` or `anchor`."""
    question: str
    answer: str
    """"" where `action` is the answer."""
    views: tuple[int, ...]
    """That the answer depends on, from 0."""
    action: dict[str, Any] | None = None


def room_questions(room: QARoom, seed: int, index: int) -> list[RoomQuestion]:
    """At most two of each type, three of counts; they depend on the room and these numbers only."""
    rng = np.random.default_rng(derived_seed(seed, index, _QUESTION_STREAM))
    found: list[RoomQuestion] = []
    for ask in _ASK.values():
        found += ask(room, rng)
    return found


def room_captions(room: QARoom) -> list[RoomQuestion]:
    """What each view shows, from left to right, and all views at once: much to learn from one image.

    Of two objects in a view each is told with its side.
    """
    lists = [", ".join(_told(room, view)) or "nothing" for view in _all_views(room)]
    parts = [
        RoomQuestion("caption", f"what does view {view + 1} show?", text, (view,)) for view, text in enumerate(lists)
    ]
    everything = "; ".join(f"view {view + 1}: {text}" for view, text in enumerate(lists))
    return [RoomQuestion("caption", "what do the views show?", everything, _all_views(room)), *parts]


def room_readings(room: QARoom) -> list[RoomQuestion]:
    """Where each object is, asked in three ways: what a language model has to read before it can compare two sides.

    "Is X left or right of Y" names two objects, and both answers are equally frequent whatever else the room holds: a
    small network that sees nothing simpler stays at even odds (docs/vqa.md, "The toy language model").
    """
    found = []
    for view in _all_views(room):
        objects = room.in_view(view)
        for one, told in zip(objects, _told(room, view), strict=True):
            side = told.removesuffix(one.name).strip()
            found.append(
                RoomQuestion(READING, f"where is the {one.name}?", f"view {view + 1} {side or 'middle'}", (view,))
            )
            if side:
                found.append(RoomQuestion(READING, f"is the {one.name} left or right?", side, (view,)))
                question = f"which object is {side} in view {view + 1}?"
                found.append(RoomQuestion(READING, question, one.name, (view,)))
    return found


def _told(room: QARoom, view: int) -> list[str]:
    """Objects of a view from left to right, with their sides where there are two."""
    names = [one.name for one in room.in_view(view)]
    return [f"{side} {name}" for side, name in zip(SIDES, names, strict=True)] if len(names) == len(SIDES) else names


def room_actions(room: QARoom) -> list[RoomQuestion]:
    """An anchor on each object: its bounding box in the room's world frame, meters, upright.

    The scene is "room" everywhere: a name that no view shows could only be guessed.
    """
    found = []
    for one in room.objects:
        width = 2 * one.radius * (0.8 if one.shape == "box" else 1.0)
        action = {
            "action": "place_anchor",
            "scene": "room",
            "center": [round(float(value), 2) for value in one.middle],
            "normal": [0.0, 0.0, 1.0],
            "extent": [round(value, 2) for value in (width, width, 2 * one.half_height)],
        }
        found.append(RoomQuestion("anchor", f"place an anchor on the {one.name}.", "", (one.view,), action))
    return found


def _all_views(room: QARoom) -> tuple[int, ...]:
    return tuple(range(room.num_views))


def _pick(rng: np.random.Generator, items: list[Any], count: int = 1) -> list[Any]:
    return [items[number] for number in rng.permutation(len(items))[:count]]


def _color(room: QARoom, rng: np.random.Generator) -> list[RoomQuestion]:
    found = []
    single = [one for one in room.objects if sum(other.shape == one.shape for other in room.objects) == 1]
    for one in _pick(rng, single):
        found.append(RoomQuestion("color", f"what color is the {one.shape}?", one.color, (one.view,)))
    alone = [room.in_view(view)[0] for view in range(room.num_views) if len(room.in_view(view)) == 1]
    for one in _pick(rng, alone):
        found.append(RoomQuestion("color", f"what color is the object in view {one.view + 1}?", one.color, (one.view,)))
    return found


@lru_cache(maxsize=8)
def _chances(num_views: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """How likely each number of objects in a view is, and each number of objects of a shape in a room."""
    rooms = occupancies(num_views)
    in_view = np.zeros(3)
    of_shape = np.zeros(MAX_SHAPE_COUNT + 1)
    share = 1 / len(SHAPES)
    for number, choices in rooms.items():
        for counts in choices:
            in_view[counts[0]] += 1 / len(choices) / len(rooms)
        for count in range(min(number, MAX_SHAPE_COUNT) + 1):
            of_shape[count] += comb(number, count) * share**count * (1 - share) ** (number - count) / len(rooms)
    return tuple(in_view), tuple(of_shape)


def _count(room: QARoom, rng: np.random.Generator) -> list[RoomQuestion]:
    """What to count is drawn without regard to the room; then the question is asked with min p / p(answer)."""
    in_view, of_shape = _chances(room.num_views)
    found = []
    for what in _pick(rng, [None, *SHAPES, *_all_views(room)], _COUNT_QUESTIONS):
        chance = rng.random()
        if what is None:
            found.append(RoomQuestion("count", "how many objects are there?", str(len(room.objects)), _all_views(room)))
        elif isinstance(what, int):
            number = len(room.in_view(what))
            if chance < min(in_view) / in_view[number]:
                question = f"how many objects are in view {what + 1}?"
                found.append(RoomQuestion("count", question, str(number), (what,)))
        else:
            number = sum(one.shape == what for one in room.objects)
            if number <= MAX_SHAPE_COUNT and chance < min(of_shape) / of_shape[number]:
                question = f"how many {_PLURALS[what]} are there?"
                found.append(RoomQuestion("count", question, str(number), _all_views(room)))
    return found


def _side(room: QARoom, rng: np.random.Generator) -> list[RoomQuestion]:
    found = []
    for view in _pick(rng, [view for view in _all_views(room) if len(room.in_view(view)) == 2], 2):
        first, second = _pick(rng, room.in_view(view), 2)
        question = f"is the {first.name} left or right of the {second.name}?"
        found.append(RoomQuestion("side", question, "left" if first.is_left else "right", (view,)))
    return found


def _pairs(room: QARoom, rng: np.random.Generator, differ: Callable[[RoomObject, RoomObject], bool]) -> list[Any]:
    """At most one pair, in random order."""
    every = [(a, b) for a in room.objects for b in room.objects if a is not b and differ(a, b)]
    return _pick(rng, every)


def _nearest(room: QARoom, rng: np.random.Generator) -> list[RoomQuestion]:
    found = []
    for first, second in _pairs(room, rng, lambda a, b: abs(a.distance - b.distance) >= NEARER):
        nearer = min(first, second, key=lambda one: one.distance)
        question = f"which is nearer, the {first.name} or the {second.name}?"
        found.append(RoomQuestion("nearest", question, nearer.name, _views_of(first, second)))
    return found


def _size(room: QARoom, rng: np.random.Generator) -> list[RoomQuestion]:
    found = []
    for first, second in _pairs(room, rng, lambda a, b: max(a.radius / b.radius, b.radius / a.radius) >= LARGER):
        larger = max(first, second, key=lambda one: one.radius)
        question = f"which is larger, the {first.name} or the {second.name}?"
        found.append(RoomQuestion("size", question, larger.name, _views_of(first, second)))
    return found


def _views_of(first: RoomObject, second: RoomObject) -> tuple[int, ...]:
    return tuple(sorted({first.view, second.view}))


def _view(room: QARoom, rng: np.random.Generator) -> list[RoomQuestion]:
    return [
        RoomQuestion("view", f"which view shows the {one.name}?", str(one.view + 1), (one.view,))
        for one in _pick(rng, list(room.objects), 2)
    ]


def _exists(room: QARoom, rng: np.random.Generator) -> list[RoomQuestion]:
    """A color, where one is absent, and a color with a shape; half of the wrong ones have a color that is there."""
    there = [one.color for one in room.objects]
    absent = [color for color in COLORS if color not in there]
    found = []
    is_there = rng.random() < 0.5
    if absent:
        (color,) = _pick(rng, there if is_there else absent)
        found.append(_existence(room, f"{color} object", is_there))
    is_there = rng.random() < 0.5
    (one,) = _pick(rng, list(room.objects))
    name = one.name if is_there else f"{one.color} {_pick(rng, [shape for shape in SHAPES if shape != one.shape])[0]}"
    if not is_there and absent and rng.random() < 0.5:
        name = f"{_pick(rng, absent)[0]} {_pick(rng, list(SHAPES))[0]}"
    found.append(_existence(room, name, is_there))
    return found


def _existence(room: QARoom, name: str, is_there: bool) -> RoomQuestion:
    return RoomQuestion("exists", f"is there a {name}?", "yes" if is_there else "no", _all_views(room))


def _distance(room: QARoom, rng: np.random.Generator) -> list[RoomQuestion]:
    found = []
    for one in _pick(rng, list(room.objects), 2):
        rounded = min(DISTANCES, key=lambda value: abs(value - one.distance))
        question = f"how many meters away is the {one.name}?"
        found.append(RoomQuestion("distance", question, f"{rounded:g}", (one.view,)))
    return found


_ASK: dict[str, Callable[[QARoom, np.random.Generator], list[RoomQuestion]]] = {
    "color": _color,
    "count": _count,
    "side": _side,
    "nearest": _nearest,
    "view": _view,
    "exists": _exists,
    "size": _size,
    "distance": _distance,
}
QUESTION_TYPES = tuple(_ASK)
