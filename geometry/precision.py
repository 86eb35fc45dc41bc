"""Geometry in full precision: under autocast a projected pixel would be known to eight bits only."""

import functools
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])


def full_precision(function: Function) -> Function:
    """Switch autocast off while `function` runs; its first argument is a tensor or a dataclass with one."""

    @functools.wraps(function)
    def wrapped(first: Any, *args: Any, **kwargs: Any) -> Any:
        values = (first,) if isinstance(first, Tensor) else (getattr(first, field.name) for field in fields(first))
        tensor = next(value for value in values if isinstance(value, Tensor))
        with torch.autocast(tensor.device.type, enabled=False):
            return function(first, *args, **kwargs)

    return cast(Function, wrapped)
