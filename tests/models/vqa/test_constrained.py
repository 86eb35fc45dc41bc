"""Forms over bytes: what they let through, that nothing is a dead end, and random logits that always give actions."""

import json
import random

import pytest
import torch

from geometry import InputError
from models.vqa.constrained import Constraint, Fixed, Form, FreeText, Number, State
from models.vqa.language import TINY_FOLDER, TextCodec
from training.vqa.actions import action_form, parse_action

DIRECTION = Form([Fixed(b"["), Number(begins=True), Fixed(b","), Number(ends_nonzero=True), Fixed(b"]")])


def reached(form: Form, text: bytes) -> State | None:
    state: State | None = form.start
    for byte in text:
        state = None if state is None else form.step(state, byte)
    return state


@pytest.mark.parametrize("text", [b"[0,1]", b"[-0.5,0]", b"[999.999,-0]", b"[0,0.001]", b"[10,0.0]"])
def test_numbers_of_the_form(text: bytes) -> None:
    state = reached(DIRECTION, text)
    assert state is not None
    assert DIRECTION.is_end(state)
    assert json.loads(text)


@pytest.mark.parametrize(
    "text", [b"[0,0]", b"[0,0.0000", b"[0,0.000", b"[01", b"[+1", b"[.5", b"[1.,", b"[--", b"[1e", b"[1000", b"[1]"]
)
def test_other_numbers(text: bytes) -> None:
    assert reached(DIRECTION, text) is None


def test_free_text_is_bounded_and_needs_no_escape() -> None:
    form = Form([Fixed(b'"'), FreeText(3), Fixed(b'"')])
    assert [reached(form, text) is None for text in (b'"a b"', '"é"'.encode(), b'"abcd', b'""', b'"\\', b'"\n')] == [
        *(False, False),
        *(True, True, True, True),
    ]


def codec() -> TextCodec:
    return TextCodec.from_file(TINY_FOLDER / "tokenizer.json")


def test_tokens_are_their_bytes() -> None:
    text = 'place "é" 3.25 m\n'
    one = codec()
    values = one.token_bytes()
    assert b"".join(values[token] for token in one.encode(text)) == text.encode()
    assert one.special("<|im_end|>") not in values


def test_random_logits_always_give_an_action() -> None:
    """Rows end in the terminator within the longest text, whatever is preferred; other rows are left alone."""
    one, form = codec(), action_form()
    stop, pad = one.special("<|im_end|>"), one.special("<|endoftext|>")
    constraint = Constraint(form, one, (stop, pad))
    generator = torch.Generator().manual_seed(0)
    favorites = [values for values in (b"0", b"-", b"9", b" ") for _ in range(2)]
    rows = [True] * len(favorites) + [False]
    processor = constraint.processor(rows)
    ids = torch.zeros(len(rows), 0, dtype=torch.long)
    preferred = {value: token for token, value in one.token_bytes().items()}
    for _ in range(form.longest + 1):
        scores = torch.randn(len(rows), 420, generator=generator)
        for row, value in enumerate(favorites):
            scores[row, preferred[value]] += random.Random(row).choice((0.0, 5.0))
        allowed = processor(ids, scores)
        assert torch.equal(allowed[-1], scores[-1])
        chosen = allowed.argmax(-1)
        ended = (ids == stop).any(1)
        chosen[ended] = pad
        ids = torch.cat([ids, chosen[:, None]], dim=1)
    assert (ids[:-1] == stop).any(1).all()
    for row in ids[:-1].tolist():
        assert parse_action(one.decode(row[: row.index(stop)])).normal


def test_a_tokenizer_must_know_every_byte() -> None:
    class Words(TextCodec):
        def token_bytes(self) -> dict[int, bytes]:
            return {0: b"a"}

    with pytest.raises(InputError, match="a token for each byte, got 1"):
        Constraint(action_form(), Words(None), (1,))
