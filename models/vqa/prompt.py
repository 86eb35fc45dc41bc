"""The one place that lays out text: prompts with placeholders for visual tokens, and rows to train on.

Training and inference share the prompt; training appends the answer and the token that ends it. Prompt parts and answer
are tokenized separately, so that the boundary between them is the same in both. Text of users never becomes a special
token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from geometry.errors import InputError, require
from geometry.tensor_struct import TensorStruct

FORMATS = ("chat", "plain")
"""`chat`: the turns that Qwen3-Instruct was tuned on; `plain`: question, placeholders, answer, line by line."""
PLACEHOLDER = "<|image_pad|>"
IM_START, IM_END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, IM_START, IM_END, VISION_START, VISION_END, PLACEHOLDER)
IGNORED = -100
"""Label of a position that is not trained on."""


@runtime_checkable
class Tokenizer(Protocol):
    """What a prompt needs of one."""

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, none of them special."""
        ...

    def special(self, token: str) -> int:
        """Id of a special token."""
        ...


@dataclass(frozen=True)
class TextRows(TensorStruct):
    """Rows of one length: padded on the right to train on, on the left to generate from."""

    input_ids: Int[Tensor, "batch token"]
    attention_mask: Bool[Tensor, "batch token"]
    """From lengths, not from ids: the padding may be a terminator."""
    labels: Int[Tensor, "batch token"]
    """The row itself where it is trained on (answer and terminator), else -100. Not shifted."""
    position_ids: Int[Tensor, "batch token"]
    visual: Bool[Tensor, "batch token"]
    """Placeholders, of which every row has as many as there are visual embeddings."""


class PromptBuilder:
    """Questions and answers -> rows of token ids."""

    def __init__(self, tokenizer: Tokenizer, style: str, num_visual: int, max_length: int) -> None:
        """`style` is one of `FORMATS`; rows of training have at most `max_length` tokens.

        Raises:
            InputError: for an unknown style or a tokenizer that lacks one of `SPECIAL_TOKENS`.
        """
        require(style in FORMATS, f"prompt format: expected one of {', '.join(FORMATS)}, got {style!r}")
        self.tokenizer, self.style, self.num_visual, self.max_length = tokenizer, style, num_visual, max_length
        self.ids = {token: tokenizer.special(token) for token in SPECIAL_TOKENS}
        self.terminator = self.ids[IM_END if style == "chat" else END_OF_TEXT]
        self.stops = (self.ids[IM_END], self.ids[END_OF_TEXT])
        self.pad = self.ids[END_OF_TEXT]

    def training(
        self,
        questions: Sequence[str],
        answers: Sequence[str],
        situations: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
    ) -> TextRows:
        """Rows that end in answer and terminator, padded on the right; `names` are for error messages.

        Raises:
            InputError: for an answer that does not fit beside the placeholders.
        """
        rows, starts, visual = [], [], []
        for index, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            ending = [*self.tokenizer.encode(answer), self.terminator]
            name = names[index] if names is not None else f"{question!r}"
            ids, first = self._prompt(_asked(question, situations, index), len(ending), name)
            rows.append(ids + ending)
            starts.append(len(ids))
            visual.append(first)
        return self._padded(rows, starts, visual, is_left=False)

    def inference(self, questions: Sequence[str], situations: Sequence[str] | None = None) -> TextRows:
        """Prompts, padded on the left; an answer is what follows.

        Raises:
            InputError: when the placeholders alone are too many.
        """
        rows, visual = [], []
        for index, question in enumerate(questions):
            ids, first = self._prompt(_asked(question, situations, index), 0, f"{question!r}")
            rows.append(ids)
            visual.append(first)
        return self._padded(rows, [len(row) for row in rows], visual, is_left=True)

    def _prompt(self, question: str, reserved: int, name: str) -> tuple[list[int], int]:
        """Ids and the position of the first placeholder; a question that is too long loses its beginning."""
        before, lead, asked, behind = self._parts(question)
        room = self.max_length - reserved - len(before) - len(lead) - len(behind) - self.num_visual
        if room < 0:
            raise InputError(
                f"record {name}: expected at most {self.max_length} tokens (--max_length), got {reserved} of the "
                f"answer beside {self.max_length - room - reserved} of the prompt without its question"
            )
        asked = asked[len(asked) - min(room, len(asked)) :]
        placeholders = [self.ids[PLACEHOLDER]] * self.num_visual
        if self.style == "chat":
            ids, first = [*before, *placeholders, self.ids[VISION_END], *lead, *asked, *behind[1:]], len(before)
        else:
            ids, first = [*asked, *placeholders, *behind], len(asked)
        found = ids.count(self.ids[PLACEHOLDER])
        require(found == self.num_visual, f"record {name}: expected {self.num_visual} placeholders, got {found}")
        return ids, first

    def _parts(self, question: str) -> tuple[list[int], list[int], list[int], list[int]]:
        """Before the placeholders, what leads to the question, the question, all the rest (`chat`: VISION_END too)."""
        encode, ids = self.tokenizer.encode, self.ids
        if self.style == "plain":
            return [], [], encode(f"{question}\n"), encode("\n")
        before = [ids[IM_START], *encode("user\n"), ids[VISION_START]]
        lead = encode("\n")
        joined = encode(f"\n{question}")
        if joined[: len(lead)] == lead:
            asked = joined[len(lead) :]
        else:  # the line break is part of a longer token
            lead, asked = [], joined
        behind = [ids[VISION_END], ids[IM_END], *encode("\n"), ids[IM_START], *encode("assistant\n")]
        return before, lead, asked, behind

    def _padded(
        self, rows: Sequence[list[int]], answer_starts: Sequence[int], visual_starts: Sequence[int], *, is_left: bool
    ) -> TextRows:
        length = max(len(row) for row in rows)
        shape = (len(rows), length)
        input_ids = torch.full(shape, self.pad)
        labels = torch.full(shape, IGNORED)
        mask, visual = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
        for index, row in enumerate(rows):
            start = length - len(row) if is_left else 0
            ids = torch.tensor(row)
            input_ids[index, start : start + len(row)] = ids
            mask[index, start : start + len(row)] = True
            answer = answer_starts[index]
            labels[index, start + answer : start + len(row)] = ids[answer:]
            first = start + visual_starts[index]
            visual[index, first : first + self.num_visual] = True
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)
        return TextRows(input_ids, mask, labels, positions, visual)


def _asked(question: str, situations: Sequence[str] | None, index: int) -> str:
    """A situation (SQA3D) stands before its question, whose answer depends on it."""
    situation = situations[index] if situations is not None else ""
    return f"{situation} {question}" if situation else question
