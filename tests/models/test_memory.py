"""What counts as a failed allocation, and work in parts."""

import pytest
import torch

from geometry import InputError
from models.memory import MemoryExceeded, halved_to_fit, in_parts, is_out_of_memory, joined, named_if_out_of_memory

FAILURES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError(
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input"
    ),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    MemoryError(),
]
OTHERS = [RuntimeError("shape mismatch"), ValueError("out of memory"), InputError("CUDNN_STATUS_ALLOC_FAILED")]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: str(failure)[:30])
def test_failed_allocations(failure: Exception) -> None:
    assert is_out_of_memory(failure)


@pytest.mark.parametrize("failure", OTHERS, ids=lambda failure: str(failure)[:30])
def test_other_errors(failure: Exception) -> None:
    assert not is_out_of_memory(failure)


@torch.no_grad()
@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: str(failure)[:30])
def test_parts_halve_until_they_fit(failure: Exception) -> None:
    """Of 22 items 5 fit at a time: 22 and 11 are too many, 5 are tried next and stay."""
    tried, done = [], []

    def compute(first: int, last: int) -> torch.Tensor:
        tried.append(last - first)
        if last - first > 5:
            raise failure
        return torch.arange(first, last)

    parts = in_parts(compute, 22, advice="--chunk", on_done=done.append)
    assert joined(parts, 0).tolist() == list(range(22))
    assert tried == [22, 11, 5, 5, 5, 5, 2]
    assert done == [5, 5, 5, 5, 2]


@torch.no_grad()
def test_parts_are_multiples_of_the_least() -> None:
    sizes = []

    def compute(first: int, last: int) -> int:
        sizes.append((first, last))
        if last - first > 8:
            raise FAILURES[0]
        return 0

    in_parts(compute, 45, advice="--chunk", least=4)
    assert sizes[:3] == [(0, 45), (0, 20), (0, 8)]
    assert all(first % 4 == 0 for first, _ in sizes)
    assert sizes[-1] == (40, 45)


@torch.no_grad()
def test_what_never_fits_names_the_options() -> None:
    def compute(first: int, last: int) -> None:
        raise FAILURES[2]

    with pytest.raises(MemoryExceeded, match=r"lower --imgScale_test or --chunk \(cuDNN error: CUDNN_STATUS_ALLOC"):
        in_parts(compute, 9, advice="--imgScale_test or --chunk")
    with pytest.raises(MemoryExceeded, match="--n_views"):
        halved_to_fit(lambda size: compute(0, size), 8, advice="--n_views")
    with pytest.raises(InputError, match="--n_views"), named_if_out_of_memory("--n_views"):
        raise FAILURES[0]
    with pytest.raises(RuntimeError, match="shape"), named_if_out_of_memory("--n_views"):
        raise OTHERS[0]


@torch.no_grad()
def test_a_size_that_fits() -> None:
    tried = []

    def compute(size: int) -> str:
        tried.append(size)
        if size > 3:
            raise FAILURES[0]
        return "fits"

    assert halved_to_fit(compute, 8, advice="--n_views") == "fits"
    assert tried == [8, 4, 2]


def test_training_is_not_split() -> None:
    """The parts' activations would all be kept."""

    def compute(first: int, last: int) -> None:
        raise FAILURES[0]

    with pytest.raises(torch.OutOfMemoryError):
        in_parts(compute, 8, advice="--chunk")
