"""Reading dataclasses from JSON with errors that name the key: what, where, expected, got."""

from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from geometry.errors import InputError
from geometry.plain_files import plain_file
from geometry.plain_json import parse_json

Section = TypeVar("Section")
MAX_LAYERS = 1024
"""Of one kind in a network; a billion would be built one by one until the memory ends."""


def section(value: Any, where: str) -> dict[str, Any]:
    """A JSON object as a new dict; anything else is an `InputError`."""
    if not isinstance(value, Mapping):
        raise InputError(f"{where} must be a JSON object, got {value!r}")
    return dict(value)


def build(kind: type[Section], raw: Mapping[str, Any], where: str) -> Section:
    """One section from its JSON object, with unknown keys and wrong types named."""
    hints = get_type_hints(kind)
    require_known_keys(raw, {item.name for item in fields(kind)}, where)
    values = {key: _typed(value, hints[key], f"{where}.{key}") for key, value in raw.items()}
    return kind(**values)


def _typed(value: Any, hint: Any, where: str) -> Any:
    """`value` as the annotated type; lists become tuples, integers become floats where a float is expected."""
    if hint in (tuple[int, ...], tuple[str, ...]):
        item = int if hint == tuple[int, ...] else str
        if not isinstance(value, list | tuple) or any(type(entry) is not item for entry in value):
            raise InputError(f"{where} must be a list of {item.__name__}, got {value!r}")
        return tuple(value)
    if hint in (float, float | None) and type(value) is int:
        return float(value)
    if hint in (bool, int, float, str):
        if type(value) is not hint:
            raise InputError(f"{where} must be {hint.__name__}, got {value!r}")
    elif not isinstance(value, hint):
        raise InputError(f"{where} must be {hint}, got {value!r}")
    return value


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an unreadable or invalid file is an `InputError`."""
    try:
        raw = parse_json(plain_file(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"config {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"config {path} is not valid JSON: {error}") from error
    return section(raw, f"config {path}")


def require_known_keys(raw: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Refuse the first key, in alphabetical order, that is not known."""
    unknown = sorted(set(raw) - set(known))
    if unknown:
        raise InputError(f"unknown key {unknown[0]!r} in {where}, known keys: {', '.join(sorted(known))}")


def require_choice(what: str, value: str, choices: Collection[str]) -> None:
    """Refuse a name that is not among the choices."""
    if value not in choices:
        raise InputError(f"{what} must be one of {', '.join(choices)}, got {value!r}")


def require_positive(config: Any, *names: str) -> None:
    """Refuse fields that are zero, negative or no number."""
    for name in names:
        if not getattr(config, name) > 0:
            raise InputError(f"{type(config).__name__}.{name} must be positive, got {getattr(config, name)}")


def require_not_negative(config: Any, *names: str) -> None:
    """Refuse fields that are negative or no number."""
    for name in names:
        if not getattr(config, name) >= 0:
            raise InputError(f"{type(config).__name__}.{name} must be 0 or more, got {getattr(config, name)}")


def require_layers(config: Any, *names: str) -> None:
    """Refuse numbers of layers beyond `MAX_LAYERS`, which nobody has trained."""
    for name in names:
        if not getattr(config, name) <= MAX_LAYERS:
            found = getattr(config, name)
            raise InputError(f"{type(config).__name__}.{name} must be at most {MAX_LAYERS}, got {found}")


def require_divisible(what: str, value: int, divisor: int) -> None:
    """Refuse a size that the divisor does not divide."""
    if value % divisor:
        raise InputError(f"{what} must be divisible by {divisor}, got {value}")
