"""What else happens to a run: no space, no right to write, damaged files, signals, clocks, two of one name."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.reliability.runs import Run, differences, finish, start
from training.progress import StepProgress

_DAY = 86400.0
_DISK, _FILLER = "32m", "filler"
_LOG_DISK = "8k"
"""A page for hparams.yaml, and one for the log of less than seven steps."""
_MADE_READ_ONLY = ("checkpoints", "validation")
_SAID = ("error: ", "interrupted", "SIGTERM")
Before = Callable[..., None]


@dataclass(frozen=True)
class Outcome:
    """Of one fault."""

    fault: str
    status: int
    """Exit status of the process that met it."""
    message: str
    """Last line that it printed."""
    is_one_line: bool
    """No traceback anywhere."""
    differences: list[str]
    """Of what the run became after it had gone on, from the run that was never stopped."""


class Faults:
    """Every fault of one training, `whole` being the run without any."""

    def __init__(self, whole: Run, run_named: Callable[[str], Run]) -> None:
        self.whole = whole
        self.run_named = run_named

    def all(self) -> Iterator[Outcome]:
        """One after the other."""
        for what, before in {"a checkpoint": _fill_at_write, "a picture": _fill_at_validation}.items():
            yield self._on_small_disk(f"no space, writing {what}", before)
        yield self._on_small_disk("no space, writing metrics", _nothing, "tensorboard", _LOG_DISK)
        for name in _MADE_READ_ONLY:
            yield self._read_only(name)
        for what, damage in {"truncated": _truncate, "one bit flipped": _flip, "empty": _empty}.items():
            yield self._damaged(what, damage)
        yield self._outcome("SIGTERM", *self._named("SIGTERM"), _signal_in_step, int(signal.SIGTERM))
        yield self._outcome("Ctrl-C", *self._named("Ctrl-C"), _signal_in_step, int(signal.SIGINT))
        yield self._clock("clock a day back", -_DAY)
        yield self._clock("clock a day ahead", _DAY)
        yield self._two_of_one_name()

    def _named(self, name: str) -> tuple[Run, tuple[str, ...]]:
        run = self.run_named(name)
        return run, run.words

    def _on_small_disk(self, fault: str, before: Before, part: str = "", size: str = _DISK) -> Outcome:
        """A disk of its own for the run's folder, or for a part of it."""
        run = self.run_named(fault)
        place = run.folder / part
        place.mkdir(parents=True)
        _shell("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place))
        try:
            return self._outcome(fault, run, run.words, before, str(place / _FILLER))
        finally:
            _shell("umount", str(place))

    def _read_only(self, name: str) -> Outcome:
        """From the fourth step on, before its checkpoint and validation."""
        run = self.run_named(f"read-only {name}")
        folder = run.folder / name
        return self._outcome(f"read-only: {name}", run, run.words, _make_read_only, str(folder))

    def _outcome(self, fault: str, run: Run, words: tuple[str, ...], before: Before, *arguments: object) -> Outcome:
        """A run that meets the fault, and goes on without."""
        process = start(run, words, before, *arguments)
        process.join()
        return self._judged(fault, run, process.exitcode or 0)

    def _judged(self, fault: str, run: Run, status: int) -> Outcome:
        printed = run.log.read_text(errors="replace").replace("\r", "\n")
        lines = [line for line in printed.splitlines() if line.strip()]
        is_one_line = "Traceback" not in printed and "Exception" not in printed
        (run.folder / _FILLER).unlink(missing_ok=True)
        _shell("mount", "-o", f"remount,size={_DISK}", str(run.folder / "tensorboard"), is_checked=False)
        for name in _MADE_READ_ONLY:
            _shell("umount", str(run.folder / name), is_checked=False)
        resumed = finish(run)
        found = differences(run, self.whole) if resumed == 0 else [f"status {resumed} going on"]
        said = [line for line in lines if line.startswith(_SAID)]
        message = (said or lines or [""])[-1].replace(str(run.base), "...")
        return Outcome(fault, status, message, is_one_line, found)

    def _damaged(self, what: str, damage: Callable[[Path], None]) -> Outcome:
        """Stopped at the fifth step, when there are checkpoints of two and of four; the newer one is damaged."""
        run = self.run_named(f"last {what}")
        process = start(run, run.words, _signal_in_step, int(signal.SIGKILL), 7)
        process.join()
        damage(run.last)
        status = finish(run)
        printed = run.log.read_text(errors="replace").replace("\r", "\n")
        warned = [line for line in printed.splitlines() if line.startswith("warning: ")]
        found = differences(run, self.whole) if status == 0 else [f"status {status} going on"]
        message = (warned or [""])[-1].replace(str(run.base), "...")
        return Outcome(f"last.ckpt {what}", status, message, len(warned) == 1 and "Traceback" not in printed, found)

    def _clock(self, fault: str, seconds: float) -> Outcome:
        """Killed, and resumed when the clock has jumped."""
        run = self.run_named(fault)
        start(run, run.words, _signal_in_step, int(signal.SIGKILL)).join()
        process = start(run, run.resume_words(), _set_clock, seconds)
        process.join()
        found = differences(run, self.whole) if process.exitcode == 0 else [f"status {process.exitcode} going on"]
        return Outcome(fault, process.exitcode or 0, "", is_one_line=True, differences=found)

    def _two_of_one_name(self) -> Outcome:
        """The second is started while the first one trains."""
        run = self.run_named("two of one name")
        first = start(run, run.words, _slow)
        while not (run.folder / "config.txt").is_file() and first.is_alive():
            time.sleep(0.02)
        other = Run(run.words, run.base / "second")
        second = start(other, run.words)
        second.join()
        first.join()
        shutil.copyfile(other.log, run.log)
        return self._judged("two runs of one name at once", run, second.exitcode or 0)


def _shell(*words: str, is_checked: bool = True) -> None:
    subprocess.run(words, check=is_checked, capture_output=not is_checked)


def _at(hook: str, occasion: int, what: Callable[[], object]) -> None:
    """In the process of the run: do it before the step or batch of validation of that number, from 1."""
    count = [0]

    def act(*_: Any, **__: Any) -> None:
        count[0] += 1
        if count[0] == occasion:
            what()

    setattr(StepProgress, hook, act)


def _nothing(_: str) -> None:
    """The disk is small enough."""


def _fill(filler: str) -> None:
    with open(filler, "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def _fill_at_write(filler: str) -> None:
    save, count = torch.save, [0]

    def write(*arguments: Any) -> None:
        count[0] += 1
        if count[0] == 2:
            _fill(filler)
        save(*arguments)

    torch.save = write


def _fill_at_validation(filler: str) -> None:
    _at("on_validation_batch_start", 1, lambda: _fill(filler))


def _make_read_only(folder: str) -> None:
    def act() -> None:
        Path(folder).mkdir(exist_ok=True)
        _shell("mount", "--bind", folder, folder)
        _shell("mount", "-o", "remount,ro,bind", folder)

    _at("on_train_batch_start", 4, act)


def _signal_in_step(number: int, step: int = 5) -> None:
    _at("on_train_batch_start", step, lambda: os.kill(os.getpid(), number))


def _set_clock(seconds: float) -> None:
    now = time.time
    time.time = lambda: now() + seconds


def _slow() -> None:
    setattr(StepProgress, "on_train_batch_start", lambda *_, **__: time.sleep(0.3))  # noqa: B010


def _truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def faults_table(rows: list[dict[str, Any]]) -> str:
    """A line per fault."""
    lines = ["| fault | exit status | one line | what it says | goes on to the same bits |", "|---" * 5 + "|"]
    for row in rows:
        said = row["message"].replace("|", "/")
        equal = "yes" if not row["differences"] else f"**no: {row['differences'][0]}**"
        lines.append(
            f"| {row['fault']} | {row['status']} | {'yes' if row['is_one_line'] else '**no**'} | {said} | {equal} |"
        )
    return "\n".join(lines)
