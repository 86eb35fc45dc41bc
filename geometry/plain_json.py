"""JSON of strangers: what Python's parser would end in a RecursionError with, or float() in an OverflowError later."""

import json
import re
from typing import Any

_LONGEST = 20
"""Digits and sign of a whole number: 2^64 has 20. float() of one of 400 digits raises an OverflowError."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


def _whole(digits: str) -> int:
    if len(digits) > _LONGEST:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


DECODER = json.JSONDecoder(parse_int=_whole)


def parse_json(text: str) -> Any:
    """As json.loads; a byte order mark, which editors of Windows write, is passed over.

    Raises:
        ValueError: as json.loads, and for what is nested too deeply, for a whole number of more than 20 digits, and for
            half a character (a surrogate alone), which cannot be written or tokenized.
    """
    try:
        value = json.loads(text.removeprefix("\ufeff"), parse_int=_whole)
        require_whole_characters(text, value)
    except RecursionError:
        raise ValueError("maximum recursion depth exceeded by nested brackets") from None
    return value


def require_whole_characters(text: str, value: Any) -> None:
    """Refuse half a character in the value of a text.

    Raises:
        ValueError: naming it.
    """
    if _SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()
