"""JSON arrays, objects around an array, JSON lines -> their entries with line numbers, for messages that name them."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from geometry import InputError
from geometry.plain_files import plain_file
from geometry.plain_json import DECODER, parse_json, require_whole_characters

_SPACE = " \t\r\n\ufeff"


class Entry(NamedTuple):
    """One value of a list, and where it starts."""

    line: int
    """From 1."""
    value: Any


def read_entries(path: Path, keys: Sequence[str]) -> list[Entry]:
    """Entries of a file that is an array, JSON lines, or an object with an array under one of `keys`.

    Raises:
        InputError: for a file that cannot be read or is neither, naming the line.
    """
    try:
        text = plain_file(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a JSON file in UTF-8, got: {error}") from None
    try:
        return list(_with_lines(text, _find(text, keys)))
    except (ValueError, RecursionError) as error:
        at = getattr(error, "pos", 0)
        line = getattr(error, "lineno", text.count("\n", 0, at) + 1)
        reason = getattr(error, "msg", str(error))
        names = " or ".join(repr(key) for key in keys)
        raise InputError(
            f"{path}, line {line}: expected a JSON array, an object with one under {names}, or one object per line, "
            f"got: {reason}"
        ) from None


def word(value: object) -> str:
    """Text, or a number as text (SQA3D's ids are numbers); "" for anything else."""
    return str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _with_lines(text: str, entries: Iterator[tuple[int, Any]]) -> Iterator[Entry]:
    line, at = 1, 0
    for start, value in entries:
        line += text.count("\n", at, start)
        at = start
        yield Entry(line, value)


def _find(text: str, keys: Sequence[str]) -> Iterator[tuple[int, Any]]:
    start = _skip(text, 0)
    if text[start : start + 1] == "[":
        return _array(text, start, is_last=True)
    inside = _member(text, start, keys)
    return _lines(text) if inside is None else _array(text, inside, is_last=False)


def _decoded(text: str, at: int) -> tuple[Any, int]:
    """A value and the position behind it."""
    try:
        value, end = DECODER.raw_decode(text, at)
        require_whole_characters(text[at:end], value)
        return value, end
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        raise json.JSONDecodeError(str(error), text, at) from None
    except RecursionError:
        raise json.JSONDecodeError("maximum recursion depth exceeded by nested brackets", text, at) from None


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _expect(text: str, at: int, marks: str) -> int:
    """Position behind one of the marks, with space around it."""
    at = _skip(text, at)
    if text[at : at + 1] == "" or text[at] not in marks:
        raise json.JSONDecodeError(f"no {' or '.join(marks)}", text, at)
    return _skip(text, at + 1)


def _array(text: str, at: int, *, is_last: bool) -> Iterator[tuple[int, Any]]:
    at = _expect(text, at, "[")
    while text[at : at + 1] != "]":
        value, end = _decoded(text, at)
        yield at, value
        at = _skip(text, end)
        if text[at : at + 1] != "]":
            at = _expect(text, at, ",")
    if is_last and _skip(text, at + 1) != len(text):
        raise json.JSONDecodeError("text behind the array", text, at + 1)


def _member(text: str, at: int, keys: Sequence[str]) -> int | None:
    """Where the array under one of the keys starts; None: the text is no single object that has one."""
    try:
        at = _expect(text, at, "{")
        while text[at : at + 1] == '"':
            key, end = _decoded(text, at)
            at = _expect(text, end, ":")
            if key in keys and text[at : at + 1] == "[":
                return at
            at = _skip(text, _decoded(text, at)[1])
            if text[at : at + 1] == ",":
                at = _skip(text, at + 1)
    except json.JSONDecodeError:
        return None
    return None


def _lines(text: str) -> Iterator[tuple[int, Any]]:
    at = 0
    for line in text.split("\n"):  # a string may hold other separators of lines, such as U+2028
        if line.strip(_SPACE):
            try:
                yield at, parse_json(line.strip(_SPACE))
            except ValueError as error:
                position = at + getattr(error, "pos", 0)
                raise json.JSONDecodeError(getattr(error, "msg", str(error)), text, position) from None
        at += len(line) + 1
