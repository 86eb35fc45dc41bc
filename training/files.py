"""Atomic writing of results: a file or folder is whole or absent."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from geometry import InputError


@contextmanager
def staged_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`; what is in it moves to `folder` when the block ends well, else it is deleted.

    Files and folders of the same names in `folder` are replaced, others stay.

    Raises:
        InputError: when `folder` cannot be one.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder}: expected a folder or a new name, got a file")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise InputError(f"--out {folder}: expected a folder that can be written, got {error.strerror}") from None
    try:
        yield staging
        folder.mkdir(exist_ok=True)
        # JSON last: once it is there, the pictures are too
        for path in sorted(staging.iterdir(), key=lambda path: (path.suffix == ".json", path.name)):
            if path.is_dir() and (folder / path.name).is_dir():  # os.replace wants an empty one
                shutil.rmtree(folder / path.name)
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def staged_file(path: Path, option: str = "--out") -> Iterator[Path]:
    """A name beside `path`, of the same type; it becomes `path` when the block ends well, else it is deleted.

    Raises:
        InputError: naming the `option`, at once, when `path` is a folder or cannot be written.
    """
    if path.is_dir():
        raise InputError(f"{option} {path}: expected a file name, got a folder")
    partial = path.with_name(f"{path.name}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
    except OSError as error:
        raise InputError(f"{option} {path}: expected a folder that can be written, got {error.strerror}") from None
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Indented JSON; a nan or infinity is a ValueError, since JSON has none."""
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
