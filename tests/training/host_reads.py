"""Where values of tensors are read: on a GPU the host waits there until the device has worked them out.

Two ways to find such places without a GPU: `HostReads` counts them in a step on the CPU, its backward pass and the
optimizer included; `FakeGPU` has tensors without values, of which nothing can be read at all.
"""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ROOT = Path(__file__).parents[2]
_READS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim"}
_INDEXED = {"index", "index_put", "index_put_"}
_LISTS = {Tensor.tolist, Tensor.numpy, Tensor.cpu}
"""They copy out of memory on the CPU without an operation."""
ON_HOST = {
    "geometry/cameras.py:median_focal",  # of `host_intrinsics`
    "models/nerf/vggt_nerf.py:frozen_features",  # ids
    "models/nerf/guided/scene_field.py:of",  # ids
    "models/vggt/frozen.py:_check_range",  # not on a GPU, but for the first call
    "models/vggt/objective/track_targets.py:tracks_of_batch",  # seeds
    "training/nerf/rays.py:scene_generators",  # seeds
    "training/nerf/task.py:_quarter_turns",  # random numbers
    "training/nerf/task.py:training_step",  # a random number
    "training/nerf/windows.py:random_start",  # random numbers
}
"""Reads of what stays on the CPU when a batch moves to the device."""


class HostReads(TorchDispatchMode):
    """Counts reads by the innermost function of the repository that asked, as path:function."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self._lists = _Lists(self)

    def __enter__(self) -> "HostReads":
        self._lists.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._lists.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _READS or (name in _INDEXED and any(one is not None and one.dtype is torch.bool for one in args[1])):
            self.note()
        return func(*args, **(kwargs or {}))

    def note(self) -> None:
        """One more for whoever asks."""
        frame = sys._getframe(2)
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            if "torch/optim" in path.as_posix():
                return  # numbers of steps, on the CPU
            is_ours = path.is_relative_to(_ROOT) and "site-packages" not in path.parts  # .venv may lie in the root
            if is_ours and path != Path(__file__):
                function = frame.f_code.co_qualname.split(".<locals>")[0].split(".")[-1]
                self.found[f"{path.relative_to(_ROOT)}:{function}"] += 1
                return
            frame = frame.f_back
        self.found["outside"] += 1

    @property
    def of_device(self) -> dict[str, int]:
        """Without `ON_HOST`."""
        return {place: count for place, count in self.found.items() if place not in ON_HOST}


class _Lists(TorchFunctionMode):
    def __init__(self, reads: HostReads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in _LISTS:
            self.reads.note()
        return func(*args, **(kwargs or {}))


def count_second_step(monkeypatch: pytest.MonkeyPatch, owner: type, method: str) -> list[HostReads]:
    """What the second call of a method of a task reads, once it has run."""
    original: Callable[..., Any] = getattr(owner, method)
    counted: list[HostReads] = []
    calls: Counter[int] = Counter()

    def step(task: Any, *arguments: Any, **named: Any) -> Any:
        calls[id(task)] += 1
        if calls[id(task)] != 2:
            return original(task, *arguments, **named)
        with HostReads() as reads:
            result = original(task, *arguments, **named)
        counted.append(reads)
        return result

    monkeypatch.setattr(owner, method, step)
    return counted


class FakeGPU(FakeTensorMode):
    """Tensors on "cuda" have shapes but no values; what stays on the CPU is computed as ever."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_leaves((args, kwargs or {}))
        on_gpu = any(isinstance(one, FakeTensor) for one in leaves)
        if on_gpu or any(isinstance(one, torch.device) and one.type == "cuda" for one in leaves):
            return super().__torch_dispatch__(func, types, args, kwargs)
        return func(*args, **(kwargs or {}))

    @staticmethod
    def move(module: nn.Module) -> None:
        """All weights to the GPU; to be called inside."""
        for part in module.modules():
            for name, one in part._parameters.items():
                if one is not None:
                    part._parameters[name] = nn.Parameter(one.detach().to("cuda"), one.requires_grad)
            for name, one in part._buffers.items():
                if one is not None:
                    part._buffers[name] = one.to("cuda")
