"""JSON of strangers: what Python's parser would end in a RecursionError with, or float() in an OverflowError later."""

import json
from typing import Any

_LONGEST = 20
"""Digits and sign of a whole number: 2^64 has 20. float() of one of 400 digits raises an OverflowError."""


def _whole(digits: str) -> int:
    if len(digits) > _LONGEST:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


DECODER = json.JSONDecoder(parse_int=_whole)


def parse_json(text: str) -> Any:
    """As json.loads.

    Raises:
        ValueError: as json.loads, and for what is nested too deeply or for a whole number of more than 20 digits.
    """
    try:
        return json.loads(text, parse_int=_whole)
    except RecursionError:
        raise ValueError("maximum recursion depth exceeded by nested brackets") from None
