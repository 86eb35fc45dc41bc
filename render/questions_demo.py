"""What the shipped network answers about a room that it has not seen: python -m render.questions_demo.

Draws a room of a seed of no training (`data.procedural --layout rooms_qa`), asks all questions that are made of it and
writes `answers.json` (question, answer, the true one) and a picture of where the network looked for each. Needs the
extra `vqa`, which `pip install -e .[test]` brings.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data.image_io import write_image
from data.procedural.__main__ import main as procedural
from data.scene_qa.records import read_records
from geometry import one_line_errors, require
from render.answering import Answerer, NetworkAnswerer, attention_picture, views_of_photos
from training.cli import parse_options
from training.files import write_json
from training.options import option
from training.vqa.metrics import exact_match

_SEED = 20270101
"""Of the room: no training has it."""
_LONGEST = 16
"""Tokens of an answer; those about rooms are a word or two."""


@dataclass(frozen=True, kw_only=True)
class QuestionsDemoOptions:
    """Which weights, which room."""

    out: str = option("runs/demo_questions", "folder of the room, answers.json and the pictures")
    weights: str = option("ckpts/vqa_rooms.safetensors", "weights of train_vqa.py")
    seed: int = option(_SEED, "of the room; it depends on nothing else")

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            InputError: naming the option.
        """
        require(self.seed >= 0, f"--seed: expected 0 or more, got {self.seed}")


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Make the room, ask, write and print the answers."""
    options = parse_options(QuestionsDemoOptions, __doc__, argv)
    out = Path(options.out)
    words = ("--layout", "rooms_qa", "--scenes", "1", "--seed", str(options.seed), "--workers", "1")
    procedural([*words, "--out", str(out / "rooms")])
    answerer = NetworkAnswerer.load(options.weights, torch.device("cpu"))
    answers = ask_all(answerer, next((out / "rooms").glob("room*")), out)
    write_json(out / "answers.json", answers)
    for one in answers:
        sys.stdout.write(
            f"{one['question']}\n    {one['answer']}{'' if one['is_right'] else ' (' + one['true'] + ')'}\n"
        )
    right = sum(one["is_right"] for one in answers)
    sys.stdout.write(f"{right} of {len(answers)} are right; pictures and answers.json below {out}\n")


def ask_all(answerer: Answerer, room: Path, out: Path) -> list[dict[str, Any]]:
    """Every question of a room's `questions.jsonl`, asked of its pictures; one picture for each into `out`.

    Raises:
        InputError: for files that cannot be read.
    """
    records = read_records([room / "questions.jsonl"])
    answers = []
    for number, record in enumerate(records, start=1):
        views = views_of_photos([str(path) for path in record.images], answerer.image_size)
        answer = answerer.ask(views, record.question, max_new_tokens=_LONGEST)
        name = f"question{number:02d}.png"
        write_image(out / name, attention_picture(views, answer))
        answers.append(
            {
                "kind": record.task,
                "question": record.question,
                "answer": answer.text,
                "true": record.answers[0],
                "is_right": exact_match(answer.text, record.answers),
                "picture": name,
            }
        )
    return answers


if __name__ == "__main__":
    main()
