"""Frames made when they are asked for: Co3D has millions of them, and each has a file to open."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

Value = TypeVar("Value")


class LazyMapping(Mapping[int, Value]):
    """Known keys; a value is made anew by `make(key)` on every access."""

    def __init__(self, keys: Sequence[int], make: Callable[[int], Value]) -> None:
        self._keys = dict.fromkeys(keys)
        self._make = make

    def __getitem__(self, key: int) -> Value:
        if key not in self._keys:
            raise KeyError(key)
        return self._make(key)

    def __iter__(self) -> Iterator[int]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._keys
