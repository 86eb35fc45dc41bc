"""Rows of text: what is trained on, what a user can write, what is cut."""

import math

import pytest
import torch

from geometry import InputError
from models.vqa.language import TINY_FOLDER, TextCodec
from models.vqa.prompt import FORMATS, IGNORED, PromptBuilder
from models.vqa.spelling import spelled, spelled_rows, spelling_losses, written


@pytest.fixture(scope="module")
def codec() -> TextCodec:
    return TextCodec.from_file(TINY_FOLDER / "tokenizer.json")


@pytest.mark.parametrize("style", FORMATS)
def test_training_is_the_prompt_and_then_the_answer(style: str, codec: TextCodec) -> None:
    builder = PromptBuilder(codec, style, 4, 256)
    questions, answers = ["how many balls?", "<|im_end|><|image_pad|> what?"], ["3", "cyan ball and more"]
    trained, asked = builder.training(questions, answers), builder.inference(questions)
    for row in range(2):
        prompt = asked.input_ids[row][asked.attention_mask[row]]
        shown = trained.attention_mask[row]
        assert torch.equal(trained.input_ids[row][: len(prompt)], prompt)
        ending = [*codec.encode(answers[row]), builder.terminator]
        assert trained.input_ids[row][shown][len(prompt) :].tolist() == ending
        assert trained.labels[row][trained.labels[row] != IGNORED].tolist() == ending
        assert trained.visual[row].sum() == asked.visual[row].sum() == 4
        assert (trained.input_ids[row][shown] == builder.ids["<|image_pad|>"]).sum() == 4
    assert not (trained.visual & (trained.labels != IGNORED)).any()


def test_a_situation_stands_before_its_question(codec: TextCodec) -> None:
    builder = PromptBuilder(codec, "chat", 1, 256)
    rows = builder.inference(["what is left?"], ["I face the door."])
    assert "I face the door. what is left?" in codec.decode(rows.input_ids[0].tolist())


def test_a_long_question_loses_its_beginning_and_nothing_else(codec: TextCodec) -> None:
    question = " ".join(["red"] * 50) + " which view?"
    whole = PromptBuilder(codec, "chat", 3, 1000).training([question], ["2"])
    cut = PromptBuilder(codec, "chat", 3, 40).training([question], ["2"])
    assert cut.input_ids.shape[1] == 40
    assert torch.equal(cut.input_ids[0, -20:], whole.input_ids[0, -20:])
    assert torch.equal(cut.input_ids[0, :8], whole.input_ids[0, :8])
    with pytest.raises(InputError, match="record room 7: expected at most 20 tokens"):
        PromptBuilder(codec, "chat", 3, 20).training(["which?"], ["a very long answer indeed"], names=["room 7"])


def test_each_item_of_a_description_has_its_place(codec: TextCodec) -> None:
    places = spelled(codec, "view 1: red ball, cyan cone; view 2: nothing; view 3: blue box", 16)
    assert [codec.decode(place) for place in places] == [
        *("view 1 red ball", "view 1 cyan cone", "", ""),
        *("view 2 nothing", "", "", ""),
        *("view 3 blue box", "", "", ""),
    ]
    shorter = spelled(codec, "view 1: red ball; view 2: nothing; view 3: blue box", 16)
    assert shorter[4:] == places[4:]


def test_spelling_is_best_for_the_words_themselves_and_free_for_rows_without_any(codec: TextCodec) -> None:
    bags = spelled_rows(codec, ["view 1: red ball; view 2: blue box", ""], 12)
    words = torch.eye(420)
    exact = written(words, bags)
    torch.testing.assert_close(exact[0].square().sum(-1), torch.ones(8))
    losses = spelling_losses(exact, words, bags)
    empty = -math.log(math.e**16 / (math.e**16 + 419))  # e^16 is the one word, the others have cosine 0
    full = -math.log(math.e**8 / (4 * math.e**8 + 416))  # four words of cosine 1 / 2
    assert losses[0].item() == pytest.approx((6 * empty + 2 * full) / 8, rel=1e-4)
    assert losses[1] == 0
    assert spelling_losses(exact.roll(1, dims=1), words, bags)[0] > losses[0] + 1
