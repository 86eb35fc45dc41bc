"""Greedy decoding that can only write one form of JSON: an automaton over bytes, tokens masked that it would refuse.

The form is a sequence of pieces: fixed text, free text and numbers of bounded length. Every answer that follows it ends
within `Form.longest` tokens, since a byte-level tokenizer has a token for every byte: nothing leads to a dead end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geometry.errors import require
from models.vqa.language import TextCodec

_INTEGER_DIGITS, _DECIMALS = 3, 3
"""Of a number at most: 999.999 meters, to the millimeter."""
_DIGITS = b"0123456789"
_REFUSED_IN_TEXT = frozenset(b'"\\') | frozenset(range(32))
"""Bytes that JSON would want escaped."""


@dataclass(frozen=True)
class Fixed:
    """Bytes that stand there."""

    text: bytes


@dataclass(frozen=True)
class FreeText:
    """Inside of a string; bytes that would need an escape are not in it."""

    most: int
    """Bytes."""


@dataclass(frozen=True)
class Number:
    """Decimal, without exponent."""

    is_signed: bool = True
    ends_nonzero: bool = False
    """The last of several numbers, not all of which may be 0."""
    begins: bool = False
    """The first of these numbers."""


class State(NamedTuple):
    """Where in a form a text has come to."""

    piece: int
    at: str = ""
    """Of a number what is written of it: "" nothing, "-", "i" and "d" one letter for each digit, "z" a leading zero."""
    count: int = 0
    """Bytes of fixed and free text."""
    is_nonzero: bool = False
    """Some digit of these numbers is not 0."""


class Form:
    """An automaton whose texts are a sequence of pieces; a `Fixed` one stands first, last, and behind all others."""

    def __init__(self, pieces: Sequence[Fixed | FreeText | Number]) -> None:
        self.pieces = tuple(pieces)
        self.start = State(0)

    @property
    def longest(self) -> int:
        """Bytes of the longest text."""
        lengths = {Number: _INTEGER_DIGITS + 1 + _DECIMALS}
        total = 0
        for piece in self.pieces:
            if isinstance(piece, Fixed):
                total += len(piece.text)
            else:
                total += piece.most if isinstance(piece, FreeText) else lengths[Number] + piece.is_signed
        return total

    def is_end(self, state: State) -> bool:
        """Whether the text is complete."""
        return state.piece == len(self.pieces)

    def step(self, state: State, byte: int) -> State | None:
        """The state behind one more byte; None: no text of this form goes on like that."""
        if self.is_end(state):
            return None
        piece = self.pieces[state.piece]
        if isinstance(piece, Fixed):
            return self._fixed(piece, state, byte)
        if isinstance(piece, FreeText):
            if byte not in _REFUSED_IN_TEXT:
                return state._replace(count=state.count + 1) if state.count < piece.most else None
            return self._next(state, byte) if state.count else None
        found = _digit(piece, state, byte)
        return self._next(state, byte) if found is None and _may_end(piece, state) else found

    def _fixed(self, piece: Fixed, state: State, byte: int) -> State | None:
        if piece.text[state.count] != byte:
            return None
        if state.count + 1 < len(piece.text):
            return state._replace(count=state.count + 1)
        is_first = state.piece + 1 < len(self.pieces) and getattr(self.pieces[state.piece + 1], "begins", False)
        return State(state.piece + 1, is_nonzero=state.is_nonzero and not is_first)

    def _next(self, state: State, byte: int) -> State | None:
        """The byte belongs to the fixed text behind."""
        return self.step(State(state.piece + 1, is_nonzero=state.is_nonzero), byte)


def _digit(piece: Number, state: State, byte: int) -> State | None:
    """One more sign, digit or point of a number; None: it has none there."""
    at = state.at
    if byte == ord("-"):
        return state._replace(at="-") if piece.is_signed and not at else None
    if byte == ord("."):
        return state._replace(at=f"{at}.") if at.endswith(("i", "z")) and "." not in at else None
    if byte not in _DIGITS:
        return None
    is_zero = byte == _DIGITS[0]
    if "." in at:
        decimals = at.count("d") + 1
        must_not = piece.ends_nonzero and not state.is_nonzero and is_zero and decimals == _DECIMALS
        kind = "" if must_not or decimals > _DECIMALS else "d"
    elif at.endswith("z") or at.count("i") == _INTEGER_DIGITS:
        kind = ""
    else:
        kind = "z" if is_zero and "i" not in at else "i"
    return state._replace(at=at + kind, is_nonzero=state.is_nonzero or not is_zero) if kind else None


def _may_end(piece: Number, state: State) -> bool:
    return state.at.endswith(("i", "z", "d")) and (state.is_nonzero or not piece.ends_nonzero)


class _Node:
    """Of the tree of all tokens by their bytes."""

    __slots__ = ("children", "tokens")

    def __init__(self) -> None:
        self.children: dict[int, _Node] = {}
        self.tokens: list[int] = []


class Constraint:
    """A form over the tokens of a vocabulary; masks are computed once for every state."""

    def __init__(self, form: Form, codec: TextCodec, stops: Sequence[int]) -> None:
        """`stops`: tokens that end an answer, of which the first is the one to write.

        Raises:
            InputError: for a tokenizer that does not work on bytes.
        """
        self.form, self.stop, self.stops = form, stops[0], frozenset(stops)
        self._bytes = codec.token_bytes()
        singles = {value[0] for value in self._bytes.values() if len(value) == 1}
        require(
            len(singles) == 256,
            f"constrained answers: expected a tokenizer with a token for each byte, got {len(singles)} of them",
        )
        self._allowed: dict[State, Int[Tensor, " token"]] = {}

    @cached_property
    def _tree(self) -> _Node:
        root = _Node()
        for token, value in self._bytes.items():
            node = root
            for byte in value:
                node = node.children.setdefault(byte, _Node())
            node.tokens.append(token)
        return root

    def allowed(self, state: State) -> Int[Tensor, " token"]:
        """Tokens that may come next."""
        if state not in self._allowed:
            found = [self.stop] if self.form.is_end(state) else []
            waiting = [(self._tree, state)]
            while waiting:
                node, reached = waiting.pop()
                for byte, child in node.children.items():
                    behind = self.form.step(reached, byte)
                    if behind is not None:
                        found += child.tokens
                        waiting.append((child, behind))
            self._allowed[state] = torch.tensor(sorted(found))
        return self._allowed[state]

    def behind(self, state: State, token: int) -> State:
        """The state behind an allowed token."""
        for byte in self._bytes[token]:
            following = self.form.step(state, byte)
            assert following is not None
            state = following
        return state

    def processor(self, rows: Sequence[bool]) -> "ConstrainedRows":
        """For one batch; `rows` says which answers are to have the form."""
        return ConstrainedRows(self, rows)


class ConstrainedRows:
    """A logits processor of transformers, for prompts that are embeddings: ids hold what is new."""

    def __init__(self, constraint: Constraint, rows: Sequence[bool]) -> None:
        self._constraint = constraint
        self._states: list[State | None] = [constraint.form.start if is_formed else None for is_formed in rows]
        self._length = 0

    def __call__(
        self, ids: Int[Tensor, "batch new"], scores: Float[Tensor, "batch vocabulary"]
    ) -> Float[Tensor, "batch vocabulary"]:
        """Scores, minus infinity for what may not come."""
        if ids.shape[1] > self._length:
            self._length = ids.shape[1]
            for row, token in enumerate(ids[:, -1].tolist()):
                state = self._states[row]
                is_over = state is None or token in self._constraint.stops
                self._states[row] = None if is_over else self._constraint.behind(state, token)
        refused: Bool[Tensor, "batch vocabulary"] = torch.zeros_like(scores, dtype=torch.bool)
        for row, state in enumerate(self._states):
            if state is not None:
                refused[row] = True
                refused[row, self._constraint.allowed(state).to(scores.device)] = False
        return scores.masked_fill(refused, -torch.inf)
