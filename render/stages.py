"""Which stages of a long command are finished, kept in a file, so that the same command goes on where it stopped."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from geometry import InputError
from training.files import staged_file, write_json

Entry = dict[str, Any]
"""Of one stage: `settings`, `seconds` (absent until it is finished) and what else it has found, as plain values."""


class StageLog:
    """Entries of stages by name, in the order in which they began; every change is written at once."""

    def __init__(self, path: Path) -> None:
        """`path`: a JSON file, which may be there from a command before.

        Raises:
            InputError: for a file that is no such log.
        """
        self.path = path
        self.entries: dict[str, Entry] = _read(path)

    def finished(self, name: str, settings: Mapping[str, Any]) -> Entry | None:
        """The entry of a stage that finished with the same settings."""
        entry = self.begun(name, settings)
        return entry if entry is not None and "seconds" in entry else None

    def begun(self, name: str, settings: Mapping[str, Any]) -> Entry | None:
        """The entry of a stage that at least began with the same settings."""
        entry = self.entries.get(name)
        return entry if entry is not None and entry.get("settings") == _plain(settings) else None

    def changed(self, name: str, settings: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Settings of a stage that differ: before and now. None where it has no entry."""
        before = self.entries.get(name, {}).get("settings")
        now = _plain(settings)
        if before is None:
            return {}
        keys = dict.fromkeys([*before, *now])
        return {key: (before.get(key), now.get(key)) for key in keys if before.get(key) != now.get(key)}

    def begin(self, name: str, settings: Mapping[str, Any]) -> None:
        """A stage starts; what it found before is gone."""
        self.entries.pop(name, None)
        self.entries[name] = {"settings": _plain(settings)}
        self._write()

    def finish(self, name: str, seconds: float, **found: Any) -> Entry:
        """A stage that began has ended well."""
        self.entries[name] |= {"seconds": round(seconds, 1), **_plain(found)}
        self._write()
        return self.entries[name]

    def forget(self, names: Iterable[str]) -> None:
        """What these stages have made does not count any more."""
        for name in names:
            self.entries.pop(name, None)
        self._write()

    def _write(self) -> None:
        with staged_file(self.path) as partial:
            write_json(partial, self.entries)


def _read(path: Path) -> dict[str, Entry]:
    try:
        entries = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError:
        entries = None
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise InputError(f"{path}: expected the stages of a command before, as JSON, got something else; remove it")
    return entries


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives them back: lists instead of tuples."""
    return json.loads(json.dumps(values))
