"""Work in parts where memory does not suffice for the whole."""

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from geometry import InputError

Part = TypeVar("Part")

_MESSAGES = (
    "out of memory",
    "can't allocate memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_SUPPORTED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
)
"""Of failed allocations that are plain RuntimeErrors: CUDA's own, torch's on the CPU, and those inside the libraries.

cuDNN says "not supported" of a convolution when none of its algorithms finds the workspace that it needs; cuBLAS is not
initialized when its handle does not fit.
"""


class MemoryExceeded(InputError):
    """Not even the smallest part fits."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: on a GPU, within cuDNN or cuBLAS, or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


def in_parts(
    compute: Callable[[int, int], Part],
    count: int,
    *,
    advice: str,
    part: int | None = None,
    least: int = 1,
    on_done: Callable[[int], None] | None = None,
) -> list[Part]:
    """Results of `compute(first, last)` for consecutive ranges that make up `count` items.

    A range has `part` items (None: all), and half as many where an allocation fails, a multiple of `least` each time.
    While gradients are recorded, nothing is halved: they would keep every part. `on_done` is told the number of items
    of every range.

    Raises:
        MemoryExceeded: when `least` items do not fit; `advice` names the options to lower.
    """
    part, done, results = part or count, 0, []
    while done < count:
        size = min(part, count - done)
        result, reason = _attempt(lambda first=done, last=done + size: compute(first, last))
        if result is None:
            if size <= least:
                raise MemoryExceeded(_too_large(advice, reason))
            part = max(least, size // 2 // least * least)
            continue
        results.append(result)
        done += size
        if on_done is not None:
            on_done(size)
    return results


def halved_to_fit(compute: Callable[[int], Part], size: int, *, advice: str) -> Part:
    """`compute(size)`, with a size half as large each time that an allocation fails; see `in_parts`.

    Raises:
        MemoryExceeded: when size 1 does not fit; `advice` names the options to lower.
    """
    while True:
        result, reason = _attempt(lambda size=size: compute(size))
        if result is not None:
            return result
        if size <= 1:
            raise MemoryExceeded(_too_large(advice, reason))
        size //= 2


@contextlib.contextmanager
def named_if_out_of_memory(advice: str) -> Iterator[None]:
    """Where nothing can be done in parts: a failed allocation in the block is an error that names options to lower.

    Raises:
        MemoryExceeded: instead of the allocator's error, unless gradients are recorded.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if torch.is_grad_enabled() or not is_out_of_memory(error):
            raise
        raise MemoryExceeded(_too_large(advice, _reason(error))) from None


def joined(parts: list[Tensor], dim: int) -> Tensor:
    """Parts of a tensor along an axis; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _attempt(compute: Callable[[], Part]) -> tuple[Part | None, str]:
    """The result, or None and the reason where an allocation fails."""
    try:
        return compute(), ""
    except (RuntimeError, MemoryError) as error:
        if torch.is_grad_enabled() or not is_out_of_memory(error):
            raise
        reason = _reason(error)
    # after the handler, whose traceback keeps the tensors of what has failed: libraries allocate beside torch, from
    # what its cache does not hold
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return None, reason


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _too_large(advice: str, reason: str) -> str:
    return f"out of memory, even in the smallest parts: lower {advice} ({reason})"
