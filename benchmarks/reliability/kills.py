"""SIGKILL at random moments of a training; what was resumed ends as what was never stopped, bit for bit."""

import io
import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.reliability.runs import Run, differences, finish, run_of, start
from geometry import require
from training.progress import StepProgress

TRAINING: str = "training"
WRITING: str = "writing a checkpoint"
VALIDATION: str = "validation"
MOMENTS = (TRAINING, TRAINING, TRAINING, WRITING, VALIDATION)
"""In turn: three of five kills at any time of any step."""


Record = Callable[[str, str, dict[str, Any]], None]
"""Task, number of the kill, result."""


@dataclass(frozen=True)
class Plan:
    """When a process kills itself."""

    moment: str
    occasion: int
    """Training step, write of a checkpoint or batch of validation of the process, from 1."""
    delay: float
    """Seconds from the start of that step; of a write: see `_write_or_die`."""


@dataclass(frozen=True)
class Occasions:
    """What the uninterrupted run did."""

    counts: dict[str, int]
    """Of each moment."""
    step_seconds: float


def kill_and_resume(
    name: str, files: dict[str, str], folder: Path, kills: int, done: Collection[str], record: Record
) -> None:
    """`record` each kill that is not among `done`; files of the runs lie below `folder`.

    Raises:
        InputError: when the run fails by itself.
    """
    whole = run_of(name, files, folder / name.replace(" ", "_") / "whole")
    occasions = _whole(name, whole)
    for number in tqdm(range(kills), desc=name, unit="kill"):
        if str(number) in done:
            continue
        run = run_of(name, files, whole.base.with_name(f"kill{number}"))
        shutil.rmtree(run.base, ignore_errors=True)
        result = _one(run, whole, planned(name, number, occasions))
        record(name, str(number), result)
        if not result["differences"]:
            shutil.rmtree(run.base, ignore_errors=True)


def planned(name: str, number: int, occasions: Occasions) -> Plan:
    """The same for the same name and number on a machine of the same speed."""
    chance = random.Random(f"{name} {number}")
    moment = MOMENTS[number % len(MOMENTS)]
    occasion = chance.randint(1, max(1, occasions.counts.get(moment, 0)))
    longest = 1.0 if moment == WRITING else 2 * occasions.step_seconds
    return Plan(moment, occasion, chance.uniform(0, longest))


def _whole(name: str, run: Run) -> Occasions:
    """The uninterrupted run, made once."""
    counted = run.base / "occasions.json"
    if not (run.base / "done").is_file():
        shutil.rmtree(run.base, ignore_errors=True)
        process = start(run, run.words, _count, str(counted))
        process.join()
        lines = run.log.read_text(errors="replace").strip().splitlines() or [""]
        require(process.exitcode == 0, f"{name}: the run ends with status {process.exitcode}: {lines[-1]}")
        (run.base / "done").touch()
    content = json.loads(counted.read_text())
    return Occasions(content["counts"], content["seconds"] / content["counts"][TRAINING])


def _one(run: Run, whole: Run, plan: Plan) -> dict[str, Any]:
    process = start(run, run.words, _arm, plan)
    process.join()
    killed = process.exitcode == -signal.SIGKILL
    step = torch.load(run.last, weights_only=True)["global_step"] if run.last.is_file() else 0
    status = finish(run) if killed else process.exitcode
    found = differences(run, whole) if status == 0 else [f"status {status}"]
    return {**asdict(plan), "killed": killed, "resumed_from": step, "differences": found}


def _count(path: str) -> None:
    """In the process of the run: write down how many occasions there are."""
    counts, start_time = dict.fromkeys((TRAINING, WRITING, VALIDATION), 0), time.perf_counter()
    first: list[float] = []

    def seen(moment: str) -> None:
        counts[moment] += 1
        first[:] = first or [time.perf_counter()]
        seconds = time.perf_counter() - first[0]
        Path(path).write_text(json.dumps({"counts": counts, "seconds": seconds, "before": first[0] - start_time}))

    _watch(seen)
    save = torch.save

    def count(contents: Any, file: Any) -> None:
        seen(WRITING)
        save(contents, file)

    torch.save = count


def _arm(plan: Plan) -> None:
    """In the process of the run: kill it at the moment of the plan."""
    counts = dict.fromkeys((TRAINING, VALIDATION), 0)

    def seen(moment: str) -> None:
        counts[moment] += 1
        if (moment, counts[moment]) == (plan.moment, plan.occasion):
            threading.Timer(plan.delay, _die).start()

    _watch(seen)
    if plan.moment == WRITING:
        torch.save = _write_or_die(plan)


def _watch(seen: Callable[[str], None]) -> None:
    setattr(StepProgress, "on_train_batch_start", lambda *_, **__: seen(TRAINING))  # noqa: B010
    setattr(StepProgress, "on_validation_batch_start", lambda *_, **__: seen(VALIDATION))  # noqa: B010


def _write_or_die(plan: Plan) -> Callable[[Any, Any], None]:
    """The first 70 % of the delays: after that share of the bytes; then whole but unnamed; then just named."""
    save, replace, count = torch.save, Path.replace, [0]

    def write(contents: Any, file: Any) -> None:
        count[0] += 1
        if count[0] != plan.occasion:
            save(contents, file)
            return
        memory = io.BytesIO()
        save(contents, memory)
        share = plan.delay / _IN_PIECES
        file.write(memory.getvalue()[: int(min(1.0, share) * memory.tell())])
        if share < 1:
            file.flush()
            _die()
        Path.replace = rename  # type: ignore[method-assign]

    def rename(path: Path, target: Path) -> Path:
        if plan.delay < _IS_NAMED:
            _die()
        found = replace(path, target)
        _die()
        return found

    return write


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


_IN_PIECES, _IS_NAMED = 0.7, 0.85


def kills_table(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    """A line per task."""
    lines = ["| training | kills | in a step | writing a checkpoint | in validation | bit-equal after going on |"]
    lines.append("|---" * 6 + "|")
    for name, kills in results.items():
        landed = [kill for kill in kills.values() if kill["killed"]]
        per_moment = [sum(kill["moment"] == moment for kill in landed) for moment in (TRAINING, WRITING, VALIDATION)]
        equal = sum(not kill["differences"] for kill in landed)
        cells = [name, str(len(landed)), *map(str, per_moment), f"{equal} of {len(landed)}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
