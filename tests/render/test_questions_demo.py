"""All questions of a room are asked of its own pictures, and answers are compared with the true ones."""

import json
from pathlib import Path

import pytest
import torch

from geometry import InputError
from render import questions_demo as demo
from render.answering import Answer


class _Color:
    """Says one color whatever it is asked."""

    image_size, max_views = 32, 4

    def __init__(self) -> None:
        self.asked: list[tuple[int, str]] = []

    def ask(self, views: object, question: str, *_: object, **__: object) -> Answer:
        images = views.images  # type: ignore[attr-defined]
        self.asked.append((len(images), question))
        return Answer("Red.", True, torch.full((len(images), 2, 2), 1 / (4 * len(images))))


def test_every_question_is_asked_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answerer = _Color()
    monkeypatch.setattr(demo.NetworkAnswerer, "load", lambda *_: answerer)
    demo.main(["--out", str(tmp_path)])
    answers = json.loads((tmp_path / "answers.json").read_text())
    rows = [json.loads(line) for line in next(tmp_path.rglob("questions.jsonl")).read_text().splitlines()]
    assert [one["question"] for one in answers] == [row["question"] for row in rows]
    assert answerer.asked == [(3, row["question"]) for row in rows]
    assert [one["is_right"] for one in answers] == [row["answer"].lower() == "red" for row in rows]
    assert all((tmp_path / one["picture"]).stat().st_size > 0 for one in answers)


def test_a_seed_below_zero_is_refused() -> None:
    with pytest.raises(InputError, match="--seed: expected 0 or more, got -1"):
        demo.QuestionsDemoOptions(seed=-1)
