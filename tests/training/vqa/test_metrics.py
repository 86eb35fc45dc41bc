"""Metrics of answers: the recorded cases, closed forms, refusals."""

import math
from pathlib import Path

import pytest

from data.scene_qa.types import QARecord
from geometry import InputError
from tests import goldens
from training.vqa.metrics import (
    cider,
    cleaned,
    exact_match,
    groups_of,
    join,
    majority_by_group,
    mentioned_by_group,
    refined_match,
    report,
    scores_by_group,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "vqa"


def record(name: str, question: str, *answers: str, task: str = "qa", evidence: tuple[int, ...] = ()) -> QARecord:
    return QARecord((), question, answers, id=name, task=task, evidence=evidence)


def test_every_recorded_number_is_reproduced():
    results = goldens.check_fixture(GOLDEN)["metrics.json"]
    assert len(results) > 100
    assert [item for item in results if not item.is_within] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  The  Chairs. ", "chairs"),
        ("23 tables2", "twenty-three tables"),
        ("21", "21"),
        ("o'  clock", "o'clock"),
        ("a the table", "table"),
        ("a", "a"),
        ("rght, rigth", "right, right"),
        ("15-17", "fifteen-seventeen"),
    ],
)
def test_cleaning(text: str, expected: str):
    assert cleaned(text) == expected


def test_matches_do_not_depend_on_the_order_of_references():
    assert exact_match("left", ["to your left", "left"])
    assert refined_match("up", ["cup"])
    assert not exact_match("up", ["cup"])
    assert not refined_match("", ["cup"])
    assert not refined_match("cup", ["."])


def test_cider_of_two_documents_by_hand():
    """Weights are ln 2 for what one document has, 0 for what both have; a perfect pair of words has 2 of 4 parts."""
    scores = cider(["red chair", "red box"], [["red chair"], ["red table"]])
    assert scores[0] == pytest.approx(10 * 2 / 4)
    assert scores[1] == pytest.approx(0.0)
    longer = cider(["red chair there now", "x"], [["red chair"], ["y"]])[0]
    unigram = 2 / math.sqrt(4 * 2)  # two of four words, of equal weight
    bigram = 1 / math.sqrt(3)
    assert longer == pytest.approx(10 * (unigram + bigram) / 4 * math.exp(-((3 - 1) ** 2) / (2 * 36)))


def test_groups_and_majority():
    records = [
        record("1", "What color is it?", "red", task="color", evidence=(1,)),
        record("2", "what color is it?", "red", "dark red", task="color", evidence=(0, 1)),
        record("3", "Are there any?", "no", task="exists"),
    ]
    assert groups_of(records[0]) == ["all", "task/color", "question/what", "later_views"]
    assert groups_of(records[2]) == ["all", "task/exists", "question/other"]
    assert majority_by_group(records)["all"].answer == "red"
    assert majority_by_group(records)["all"].em == pytest.approx(2 / 3)
    names = ("red ball", "blue box")
    nearer = [
        record(str(n), f"Which is nearer, the {a} or the {b}?", names[n % 2], task="nearest")
        for n, (a, b) in enumerate([names, names[::-1], names[::-1], names])
    ]
    found = mentioned_by_group([*nearer, *records])
    assert (found["task/nearest"], found["task/color"]) == (0.5, 1.0)
    assert majority_by_group(nearer)["task/nearest"].em == 0.5
    scores = scores_by_group(join(records, [("2", "dark red"), ("1", "red"), ("3", "yes")]))
    assert (scores["task/color"].em, scores["task/exists"].em, scores["later_views"].count) == (1.0, 0.0, 1)


def test_a_report_names_what_does_not_fit():
    records = [record("1", "q?", "a"), record("2", "q?", "b")]
    found = report(records, {"all views": [("1", "a"), ("2", "a")], "black": [("1", "b"), ("2", "b")]})
    assert found["runs"]["all views"]["groups"]["all"]["em"] == 0.5
    with pytest.raises(InputError, match=r"^black: predictions: .*1 records without answer \(2\)"):
        report(records, {"black": [("1", "a")]})
    with pytest.raises(InputError, match=r"1 answers given twice \(1\)"):
        join(records, [("1", "a"), ("1", "a"), ("2", "b")])
    with pytest.raises(InputError, match=r"1 answers to no record \(3\)"):
        join(records, [("1", "a"), ("2", "a"), ("3", "b")])
    with pytest.raises(InputError, match=r"1 records with the id of another \(1\)"):
        join([records[0], records[0]], [("1", "a")])
    with pytest.raises(InputError, match=r"references for all records, got none for 1: 4"):
        report([record("4", "q?")], {"x": [("4", "a")]})
