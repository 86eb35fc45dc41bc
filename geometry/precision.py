"""Geometry in full precision: under autocast a projected pixel would be known to eight bits only."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])


def full_precision(function: Function) -> Function:
    """Switch autocast off while `function` runs; its first argument is a tensor or a struct with a `w2c`."""

    @functools.wraps(function)
    def wrapped(first: Any, *args: Any, **kwargs: Any) -> Any:
        tensor = first if isinstance(first, Tensor) else first.w2c
        with torch.autocast(tensor.device.type, enabled=False):
            return function(first, *args, **kwargs)

    return cast(Function, wrapped)
