"""Base of every batch type: a frozen dataclass of tensors that moves, indexes and stacks as one value."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from geometry.errors import InputError

Struct = TypeVar("Struct", bound="TensorStruct")


class TensorStruct:
    """Mix-in for frozen dataclasses whose fields are tensors, other structs, plain values or None."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    HOST_FIELDS: ClassVar[frozenset[str]] = frozenset()
    """Tensors that `to` leaves on the CPU: few numbers that the host reads, for which it would wait for a GPU."""

    def map(self: Struct, function: Callable[[Tensor], Tensor]) -> Struct:
        """Apply `function` to every tensor, also inside nested structs; everything else is kept."""
        changes = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                changes[field.name] = function(value)
            elif isinstance(value, TensorStruct):
                changes[field.name] = value.map(function)
        return dataclasses.replace(self, **changes)

    def to(self: Struct, *args: Any, **kwargs: Any) -> Struct:
        """`Tensor.to` on every tensor but the `HOST_FIELDS`; a floating dtype leaves integers and booleans alone."""
        changes = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in self.HOST_FIELDS:
                continue
            if isinstance(value, TensorStruct):
                changes[field.name] = value.to(*args, **kwargs)
            elif isinstance(value, Tensor):
                moved = value.to(*args, **kwargs)
                changes[field.name] = moved if value.is_floating_point() else moved.to(value.dtype)
        return dataclasses.replace(self, **changes)

    def pin_memory(self: Struct) -> Struct:
        """Page-locked copy, for DataLoader(pin_memory=True)."""
        return self.map(Tensor.pin_memory)

    def __getitem__(self: Struct, index: Any) -> Struct:
        """Index the leading axes of every tensor alike. Tuples of names are indexed when `index` is an int or slice."""
        changes = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor | TensorStruct):
                changes[field.name] = value[index]
            elif isinstance(value, tuple) and isinstance(index, int | slice):
                picked = value[index]
                changes[field.name] = picked if isinstance(index, slice) else (picked,)
        return dataclasses.replace(self, **changes)

    @classmethod
    def stack(cls: type[Struct], items: Sequence[Struct]) -> Struct:
        """Stack along a new leading axis; this is the collate function. Tuples are joined, plain values must agree."""
        values = {}
        for field in dataclasses.fields(cls):
            column = [getattr(item, field.name) for item in items]
            first = column[0]
            if isinstance(first, Tensor):
                shapes = sorted({tuple(tensor.shape) for tensor in column})
                if len(shapes) != 1:
                    raise InputError(f"cannot stack {cls.__name__}: field {field.name!r} has shapes {shapes}")
                values[field.name] = torch.stack(column)
            elif isinstance(first, TensorStruct):
                values[field.name] = type(first).stack(column)
            elif isinstance(first, tuple):
                values[field.name] = tuple(entry for part in column for entry in part)
            elif any(value != first for value in column):
                raise InputError(f"cannot stack {cls.__name__}: field {field.name!r} differs between items: {column}")
            else:
                values[field.name] = first
        return cls(**values)
