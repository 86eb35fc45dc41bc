"""Rooms to ask about: objects lie in their views, answers follow from the room, language alone gains nothing."""

import json
import re
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.procedural.__main__ import main
from data.procedural.layout_parts import GeneratorSettings
from data.procedural.qa_questions import (
    QUESTION_TYPES,
    RoomQuestion,
    room_actions,
    room_captions,
    room_questions,
    room_readings,
)
from data.procedural.qa_rooms import (
    BOX_SIDE,
    COLORS,
    SHAPES,
    QARoom,
    RoomObject,
    draw_room,
    intrinsics,
    render_room,
    room_depth,
)
from data.scene_qa.records import read_records
from geometry import InputError

SIZE = 48
ROOMS = [draw_room(3, index) for index in range(200)]
NAME = re.compile(rf"(?:{'|'.join(COLORS)}) (?:{'|'.join(SHAPES)})")


def outline(one: RoomObject) -> np.ndarray:
    """Points of a solid that its silhouette lies between."""
    angles = one.yaw + np.pi / 4 + np.arange(4) * np.pi / 2 if one.shape == "box" else np.linspace(0, 2 * np.pi, 24)
    reach = one.radius * (BOX_SIDE * np.sqrt(2) if one.shape == "box" else 1.0)
    heights = (0.0,) if one.shape == "cone" else (0.0, 2 * one.half_height)
    points = [[*(one.spot + reach * np.array([np.cos(a), np.sin(a)])), z] for a in angles for z in heights]
    return np.array([*points, [*one.spot, 2 * one.half_height]])


def projected(c2w: np.ndarray, points: np.ndarray) -> np.ndarray:
    local = (points - c2w[:3, 3]) @ c2w[:3, :3] @ intrinsics(SIZE).T
    assert (local[:, 2] > 0.5).all()
    return local[:, :2] / local[:, 2:]


def test_every_object_is_inside_its_view_and_hides_no_other():
    for room in ROOMS:
        for view in range(room.num_views):
            spans = []
            for one in room.in_view(view):
                pixels = projected(room.c2w[view], outline(one))
                assert pixels.min() > 0
                assert pixels.max() < SIZE
                spans.append((pixels[:, 0].min(), pixels[:, 0].max()))
            assert spans == sorted(spans)
            assert all(left[1] < right[0] for left, right in pairwise(spans))


def test_distances_and_depth_are_exact():
    for room in ROOMS[:20]:
        depth = room_depth(room, SIZE)
        for one in room.objects:
            c2w = room.c2w[one.view]
            assert np.linalg.norm(one.middle - c2w[:3, 3]) == pytest.approx(one.distance)
            x, y = projected(c2w, one.middle[None])[0]
            ray = np.array([(x - SIZE / 2) / intrinsics(SIZE)[0, 0], (y - SIZE / 2) / intrinsics(SIZE)[0, 0], 1])
            if one.shape == "ball":  # the ray through the middle meets the near side
                along = (one.distance - one.radius) / np.linalg.norm(ray)
                assert depth[one.view][int(y), int(x)] == pytest.approx(along, abs=0.08)
        assert depth.min() > 0.5
        assert depth.max() < 10


def test_pictures_show_the_colors_of_their_objects_only():
    room = next(room for room in ROOMS if len(room.objects) == 3 and room.in_view(0) == [])
    pictures = render_room(room, SIZE).astype(float)
    assert np.array_equal(pictures[1:2], render_room(room, SIZE, (1,)))
    saturation = pictures.max(-1) - pictures.min(-1)
    assert saturation[0].max() < 80 < saturation[1:].max()
    for one in room.objects:
        x, y = projected(room.c2w[one.view], one.middle[None])[0]
        color = pictures[one.view][int(y), int(x)]
        expected = np.array(COLORS[one.color])
        assert color @ expected / np.linalg.norm(color) / np.linalg.norm(expected) > 0.995


def answer_of(room: QARoom, one: RoomQuestion) -> str:
    """Read from the text, apart from how the questions were made."""
    text, everything = one.question, room.objects
    named = {item.name: item for item in everything}
    objects = [named.get(name) for name in NAME.findall(text)]
    view = int(found[1]) - 1 if (found := re.search(r"in view (\d)", text)) else None
    there = [item for item in everything if view in (None, item.view)]
    shapes = [item for item in there if item.shape in text]
    by_task = {
        "view": lambda: str(objects[0].view + 1),
        "distance": lambda: f"{round(2 * objects[0].distance) / 2:g}",
        "nearest": lambda: min(objects, key=lambda item: item.distance).name,
        "size": lambda: max(objects, key=lambda item: item.radius).name,
        "side": lambda: ("right", "left")[_column(room, objects[0]) < _column(room, objects[1])],
        "exists": lambda: ("no", "yes")[bool(objects[0]) if objects else text.split()[3] in {i.color for i in there}],
        "color": lambda: (there if view is not None else shapes)[0].color,
        "count": lambda: str(len(there if "objects" in text else shapes)),
    }
    return by_task[one.task]()


def _column(room: QARoom, one: RoomObject) -> float:
    return float(projected(room.c2w[one.view], one.middle[None])[0, 0])


def test_answers_follow_from_the_room():
    types = Counter()
    for index, room in enumerate(ROOMS):
        for one in room_questions(room, 3, index):
            types[one.task] += 1
            assert one.answer == answer_of(room, one), one
    assert set(types) == set(QUESTION_TYPES)


def test_answers_are_equally_likely_given_the_text():
    """Chi-squared of each question, colors exchanged for one another; chance stays below 30 in all but 1 of 50 000."""
    found = defaultdict(Counter)
    for index in range(600):
        for one in room_questions(draw_room(11, index), 11, index):
            text, answer = re.sub("|".join(COLORS), "C", one.question), one.answer
            if one.task in ("nearest", "size"):
                answer, text = str(one.question.index(answer) < one.question.index(", the ") + 8), one.task
            found[text][answer] += 1
    assert len(found) > 25
    for text, counts in found.items():
        mean = sum(counts.values()) / len(counts)
        assert sum((count - mean) ** 2 / mean for count in counts.values()) < 30, (text, counts)


def read(caption: str, question: str) -> str:
    """What a reader by rule answers who has the caption of all views and nothing else."""
    views = [NAME.findall(part) for part in caption.split("; ")]
    named, asked = NAME.findall(question), re.search(r"in view (\d)", question)
    there = views[int(asked[1]) - 1] if asked else NAME.findall(caption)
    kind = re.search("|".join(SHAPES), question)
    matching = [name for name in there if kind is None or kind[0] in name]
    if question.startswith("is the "):
        return "left" if f"left {named[0]}" in caption else "right"
    if question.startswith("which view"):
        return next(str(number) for number, names in enumerate(views, 1) if named[0] in names)
    if question.startswith("is there"):
        color = question.split()[3]
        return "yes" if any(name.split()[0] == color for name in matching) else "no"
    return matching[0].split()[0] if question.startswith("what color") else str(len(matching))


def test_captions_tell_all_but_sizes_and_distances():
    """A language model that reads them can answer the rest, and nothing but the words keeps it from doing so."""
    for index, room in enumerate(ROOMS):
        caption = room_captions(room)[0].answer
        for one in room_questions(room, 3, index):
            if one.task not in ("nearest", "size", "distance"):
                assert read(caption, one.question) == one.answer, (caption, one)


def test_captions_and_actions():
    room = next(room for room in ROOMS if [len(room.in_view(view)) for view in range(3)] == [1, 0, 2])
    names = [[one.name for one in room.in_view(view)] for view in range(3)]
    everything, first, second, _ = room_captions(room)
    assert (
        everything.answer == f"view 1: {names[0][0]}; view 2: nothing; view 3: left {names[2][0]}, right {names[2][1]}"
    )
    assert (first.answer, second.answer) == (names[0][0], "nothing")
    asked = {one.question: (one.answer, one.views) for one in room_readings(room)}
    assert asked[f"where is the {names[0][0]}?"] == ("view 1 middle", (0,))
    assert asked[f"is the {names[2][1]} left or right?"] == ("right", (2,))
    assert asked["which object is left in view 3?"] == (names[2][0], (2,))
    assert len(asked) == 3 + 2 + 2
    anchor = room_actions(room)[0].action
    (one,) = room.in_view(0)
    assert anchor["center"] == pytest.approx(one.middle, abs=0.005)
    assert anchor["extent"][2] == pytest.approx(2 * one.half_height, abs=0.005)


def test_the_layout_writes_records_that_are_read(tmp_path: Path):
    command = ["--layout", "rooms_qa", "--width", "32", "--height", "32", "--scenes", "2", "--workers", "1"]
    main([*command, "--out", str(tmp_path / "rooms")])
    records = read_records([tmp_path / "rooms" / "*" / "*.jsonl"])
    assert {record.scene for record in records} == {"room00001", "room00002"}
    assert {"caption", "anchor", "count"} <= {record.task for record in records}
    room, record = draw_room(0, 0), next(record for record in records if record.scene == "room00001")
    assert np.array_equal(np.asarray(Image.open(record.images[1])), render_room(room, 32)[1])
    assert record.geometry is not None
    assert record.geometry.translations.numpy() == pytest.approx(room.c2w[:, :3, 3], abs=1e-5)
    assert record.geometry.depth_histogram.sum(-1).numpy() == pytest.approx(np.ones(3), abs=1e-4)
    lines = (tmp_path / "rooms" / "room00002" / "actions.jsonl").read_text().splitlines()
    assert all(json.loads(line)["action_json"]["scene"] == "room" for line in lines)


@pytest.mark.parametrize(
    ("changes", "message"), [({"height": 40}, "--height"), ({"tracer": "fast"}, "--tracer"), ({"views": 5}, "--views")]
)
def test_settings_that_rooms_do_not_have(changes: dict[str, object], message: str):
    settings = {"layout": "rooms_qa", "width": 32, "height": 32, "views": 3, "seed": 0, "lights": 1, "first_scan": 1}
    with pytest.raises(InputError, match=message):
        GeneratorSettings(**settings | changes)
