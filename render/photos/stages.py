"""Stages that build on one another: run in order, kept where nothing that they depend on has changed."""

import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from render.stages import Entry, StageLog


@dataclass(frozen=True)
class Stage:
    """A part of the work."""

    name: str
    settings: Mapping[str, Any]
    """What it depends on, besides the stages that it needs."""
    work: Callable[[], Mapping[str, Any]]
    """Does it; what was found, as plain values. `line`: one sentence about it."""
    needs: tuple[str, ...] = ()
    """Stages before it whose results it uses."""
    makes: tuple[Path, ...] = ()
    """Files and folders that it leaves; they are removed before it starts anew."""
    can_go_on: bool = False
    """Whether `work` makes use of what an interrupted attempt has left in `makes`."""


def run_stages(stages: Sequence[Stage], log: StageLog) -> dict[str, Entry]:
    """Do what is not finished yet; the entries of all stages.

    A stage with other settings than before is done anew, and so is everything that needs it.
    """
    for stage in stages:
        entry = log.finished(stage.name, stage.settings)
        if entry is not None:
            say(f"[{stage.name}] {entry['line']} (kept)")
            continue
        changed = log.changed(stage.name, stage.settings)
        if changed:
            listed = ", ".join(f"{name} {now} instead of {before}" for name, (before, now) in changed.items())
            say(f"[{stage.name}] done anew, with all that builds on it: {listed}")
        goes_on = stage.can_go_on and log.begun(stage.name, stage.settings) is not None
        later = _dependents(stage, stages)
        log.forget(one.name for one in later)
        for one in later if goes_on else [stage, *later]:
            remove(one.makes)
        log.begin(stage.name, stage.settings)
        start = time.monotonic()
        found = stage.work()
        entry = log.finish(stage.name, time.monotonic() - start, **found)
        say(f"[{stage.name}] {entry['line']} ({entry['seconds']:.0f} s)")
    return {stage.name: log.entries[stage.name] for stage in stages}


def say(line: str) -> None:
    """A line for the user, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def remove(paths: Sequence[Path]) -> None:
    """Files and folders, those that there are."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _dependents(stage: Stage, stages: Sequence[Stage]) -> list[Stage]:
    """Stages that need it, directly or not."""
    found: list[Stage] = []
    names = {stage.name}
    for one in stages:
        if names.intersection(one.needs):
            found.append(one)
            names.add(one.name)
    return found
