"""Files that are made once and read by later starts and other processes: a folder, a lock, atomic writes.

The folder is `$VGGT_NERF_CACHE` (`off` or empty: no cache), else `vggt_nerf` in the user's cache folder:
`$XDG_CACHE_HOME` or `~/.cache`, `~/Library/Caches` on macOS, `%LOCALAPPDATA%` on Windows. Nothing is lost when it is
deleted.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from data.image_io import write_bytes
from geometry import InputError

CACHE_VARIABLE = "VGGT_NERF_CACHE"
"""Environment variable that names the folder."""
_LOCK_SECONDS = 1800.0
"""Longest wait for another process that makes the same file; then it is made here too. Chosen by hand."""

Value = TypeVar("Value")
_log = logging.getLogger(__name__)


def cache_folder() -> Path | None:
    """Where files are kept; None: nowhere."""
    named = os.environ.get(CACHE_VARIABLE)
    if named is not None:
        return None if named in ("", "off") else Path(named).expanduser()
    try:
        home = Path.home()
    except RuntimeError:  # a user without a home
        return None
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "vggt_nerf"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "vggt_nerf"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "vggt_nerf"


def cached(name: str, read: Callable[[bytes], Value | None], make: Callable[[], tuple[Value, bytes]]) -> Value:
    """What `read` gets out of the file, else what `make` makes, whose bytes are then written.

    `read` returns None for content that does not fit (any more) and may raise anything for a broken file. Of several
    processes one makes the file, the others wait and read it. A folder that cannot be written to costs time, no more.
    """
    folder = cache_folder()
    if folder is None:
        return make()[0]
    path = folder / name
    found = _read(path, read)
    if found is not None:
        return found
    with _locked(path):
        found = _read(path, read)
        if found is not None:
            return found
        value, content = make()
        try:
            write_bytes(path, content)
        except InputError as error:
            _log.warning("nothing is kept for the next start: %s", error)
        return value


def _read(path: Path, read: Callable[[bytes], Value | None]) -> Value | None:
    try:
        return read(path.read_bytes())
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever a broken file makes a parser raise: the file is made anew
        _log.info("%s is made anew: %s", path, error)
        return None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone with the file, where the file system knows locks."""
    lock = FileLock(f"{path}.lock", timeout=_LOCK_SECONDS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, Timeout, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        lock.release()
