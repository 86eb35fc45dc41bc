"""Actions: what is one, errors in closed form, scores with failures."""

import json
import math

import pytest

from data.scene_qa.records import action_text
from data.scene_qa.types import QARecord
from geometry import InputError
from training.vqa.actions import action_scores, baseline_actions, box_iou, normal_error, parse_action

ANCHOR = {
    "action": "place_anchor",
    "scene": "room1",
    "center": [1.0, 2.0, 0.5],
    "normal": [0.0, 0.0, 2.0],
    "extent": [1.0, 1.0, 1.0],
}


def changed(**values: object) -> str:
    return json.dumps(ANCHOR | values)


def test_a_normal_has_length_one():
    assert parse_action(changed()).normal == (0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed(center=[1e400, 0, 0]), "finite"),
        (changed(center=[True, 0, 0]), "center: expected 3 finite numbers"),
        (changed(scene=3), "scene: expected text"),
        (changed(normal=[0, 0, 0]), "normal: expected a direction"),
        ("[1]", "expected an object"),
        ('{"action": 1, "action": 2}', "each key once"),
        (changed() + " done", "Extra data"),
    ],
)
def test_other_text_is_no_action(text: str, message: str):
    with pytest.raises(InputError, match=message):
        parse_action(text)


def test_angles_near_zero_and_opposite():
    up = parse_action(changed())
    tilted = parse_action(changed(normal=[1e-7, 0, 1]))
    assert normal_error(tilted, up) == pytest.approx(math.degrees(1e-7), rel=1e-6)
    assert normal_error(parse_action(changed(normal=[0, 0, -1])), up) == pytest.approx(180)


def test_overlap_of_half_shifted_cubes():
    cube = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert box_iou(cube, ((0.5, 0.0, 0.0), (1.5, 1.0, 1.0))) == pytest.approx(1 / 3)
    with pytest.raises(InputError, match="a box with a volume"):
        box_iou(((0.0, 0.0, 0.0), (1.0, 0.0, 1.0)), cube)


def test_text_that_is_no_action_is_as_wrong_as_can_be():
    records = [QARecord((), "q", (action_text(ANCHOR),), ANCHOR, id=str(number)) for number in range(3)]
    shifted = changed(center=[1.5, 2.0, 0.5])
    scores = action_scores(records, [("0", changed()), ("1", shifted), ("2", "no idea")])
    assert (scores.count, scores.parse_rate) == (3, pytest.approx(2 / 3))
    assert (scores.center_error, scores.normal_error) == (0.5, 0.0)
    assert scores.iou == pytest.approx((1 + 1 / 3) / 3)
    assert (scores.acc_025, scores.acc_05) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert action_scores(records[:1], [("0", "none")]).center_error == math.inf
    assert action_scores(records[:1], [("0", changed(extent=[0, 1, 1]))]).iou == 0.0
    with pytest.raises(InputError, match="record '0': expected a box with a volume"):
        action_scores([QARecord((), "q", ("",), ANCHOR | {"extent": [0, 1, 1]}, id="0")], [("0", changed())])


def test_constant_answers_of_the_records():
    centers = ([1.0, 2.0, 0.5], [1.0, 2.0, 0.5], [4.0, 2.0, 2.0])
    actions = [ANCHOR | {"center": center} for center in centers]
    records = [QARecord((), "q", (action_text(one),), one, id=str(number)) for number, one in enumerate(actions)]
    constant = baseline_actions(records)
    assert parse_action(constant["most frequent action"]).center == (1.0, 2.0, 0.5)
    assert parse_action(constant["mean action"]).center == (2.0, 2.0, 1.0)
    scores = action_scores(records, [(one.id, constant["most frequent action"]) for one in records])
    assert (scores.center_error, scores.iou) == (0.0, pytest.approx(2 / 3))
    opposite = [ANCHOR, ANCHOR | {"normal": [0, 0, -1]}]
    records = [QARecord((), "q", (action_text(one),), one, id=str(number)) for number, one in enumerate(opposite)]
    assert parse_action(baseline_actions(records)["mean action"]).normal == (0.0, 0.0, 1.0)
