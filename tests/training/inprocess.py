"""A script's main() inside the test process: fast, for commands that stop before training starts."""

import contextlib
import io
import sys
from collections.abc import Callable
from unittest import mock

import train_finetune
import train_general
import train_mapanything
import train_occupancy
import train_vggt
import train_vqa


def _outcome(main: Callable[[], None], command: list[str]) -> tuple[int, str]:
    """Exit status and what was written to stderr; `command` is [python, script, arguments...]."""
    errors = io.StringIO()
    with mock.patch.object(sys, "argv", command[1:]), contextlib.redirect_stderr(errors):
        try:
            main()
        except SystemExit as stop:
            return int(stop.code), errors.getvalue()
    return 0, errors.getvalue()


def outcome_of_general(command: list[str]) -> tuple[int, str]:
    """Run train_general.py's main."""
    return _outcome(train_general.main, command)


def outcome_of_finetune(command: list[str]) -> tuple[int, str]:
    """Run train_finetune.py's main."""
    return _outcome(train_finetune.main, command)


def outcome_of_vggt(command: list[str]) -> tuple[int, str]:
    """Run train_vggt.py's main."""
    return _outcome(train_vggt.main, command)


def outcome_of_mapanything(arguments: list[str]) -> tuple[int, str]:
    """Run train_mapanything.py's main with these arguments."""
    return _outcome(train_mapanything.main, ["python", "train_mapanything.py", *arguments])


def outcome_of_occupancy(arguments: list[str]) -> tuple[int, str]:
    """Run train_occupancy.py's main with these arguments."""
    return _outcome(train_occupancy.main, ["python", "train_occupancy.py", *arguments])


def outcome_of_vqa(arguments: list[str]) -> tuple[int, str]:
    """Run train_vqa.py's main with these arguments."""
    return _outcome(train_vqa.main, ["python", "train_vqa.py", *arguments])
