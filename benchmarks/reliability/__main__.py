"""Faults that runs survive, and machines that agree: python -m benchmarks.reliability --kills 30 --faults --cpu_levels

Results are kept in `--out` as they come, files of the runs beside it. Kills that are there already are not done again.
"""

import json
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.reliability.agreement import cpu_levels, other_device, plain_rows, table_of
from benchmarks.reliability.faults import Faults, faults_table
from benchmarks.reliability.forwards import MODELS
from benchmarks.reliability.kills import kill_and_resume, kills_table
from benchmarks.reliability.runs import NEED_GENERAL, RUNS, Run, prepare, run_of
from geometry import one_line_errors, require
from render.loading import usable_device
from training.cli import parse_options
from training.files import staged_file, write_json
from training.options import option


@dataclass(frozen=True, kw_only=True)
class ReliabilityOptions:
    """What is measured."""

    kills: int = option(0, "SIGKILLs in the training of each of --tasks, at random moments; 0: leave that out")
    tasks: tuple[str, ...] = option(tuple(RUNS), f"trainings to kill: {', '.join(RUNS)}", nargs="+")
    faults: bool = option(False, "full disks, damaged files, signals and the like, in a general training; needs root")
    cpu_levels: bool = option(False, "instructions of the CPU: default, avx2, avx512")
    device: str = option("", "compare this device with the CPU: cuda, cuda:1, ...; none: leave that out")
    height: int = option(128, "of the images that devices and levels compute with, pixels, a multiple of 32")
    models: tuple[str, ...] = option(MODELS, f"what devices compare: {', '.join(MODELS)}", nargs="+")
    out: str = option("runs/reliability.json", "JSON file of all results")

    def __post_init__(self) -> None:
        """Refuse what cannot work, by name.

        Raises:
            InputError: naming the option.
        """
        height = self.height
        require(height >= 32 and height % 32 == 0, f"--height {height}: expected a positive multiple of 32")
        asked = self.kills or self.faults or self.cpu_levels or self.device
        require(bool(asked), "expected one of --kills, --faults, --cpu_levels, --device, got none")
        require(self.kills >= 0, f"--kills {self.kills}: expected 0 or more")
        strangers = sorted(set(self.tasks) - set(RUNS))
        require(not strangers, f"--tasks: expected some of {', '.join(RUNS)}, got {', '.join(strangers)}")
        unknown = sorted(set(self.models) - set(MODELS))
        require(not unknown, f"--models: expected some of {', '.join(MODELS)}, got {', '.join(unknown)}")


class Results:
    """The JSON file, written after every result."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

    def add(self, name: str, value: Any) -> None:
        """Keep one result, in place of an older one of that name."""
        self.content[name] = value
        with staged_file(self.path) as partial:
            write_json(partial, self.content)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print tables, keep the numbers."""
    options = parse_options(ReliabilityOptions, __doc__ or "", argv)
    results = Results(Path(options.out))
    if options.kills:
        _say(kills_table(kill_all(options, results)))
    if options.faults:
        _say(faults_table(all_faults(results)))
    if options.cpu_levels:
        rows = cpu_levels(options.height)
        results.add("cpu_levels", plain_rows(rows))
        _say(table_of(rows))
    if options.device:
        rows = other_device(usable_device(options.device), options.height, options.models)
        results.add("device", plain_rows(rows))
        _say(table_of(rows))


def kill_all(options: ReliabilityOptions, results: Results) -> dict[str, Any]:
    """Every kill of every task that is not among the results; those."""
    found: dict[str, Any] = results.content.get("kills", {})

    def record(task: str, number: str, result: dict[str, Any]) -> None:
        found.setdefault(task, {})[number] = result
        results.add("kills", found)

    folder = results.path.with_suffix("")
    files = prepare(folder)
    general = run_of("general", files, folder / "general" / "whole")
    if set(options.tasks) & set(NEED_GENERAL) or "general" in options.tasks:
        kill_and_resume(
            "general", files, folder, options.kills * ("general" in options.tasks), found.get("general", {}), record
        )
    files["general"] = str(general.last)
    for task in options.tasks:
        if task != "general":
            kill_and_resume(task, files, folder, options.kills, found.get(task, {}), record)
    return found


def all_faults(results: Results) -> list[dict[str, Any]]:
    """Every fault of the general training, which stands for all: what meets them is the same."""
    folder = results.path.with_suffix("")
    files = prepare(folder)

    def run_named(name: str) -> Run:
        words = re.sub(r"\W+", "_", name)
        run = run_of("general", files, folder / "faults" / words)
        shutil.rmtree(run.base, ignore_errors=True)
        return run

    kill_and_resume("general", files, folder, 0, {}, lambda *_: None)
    rows = []
    for outcome in Faults(run_of("general", files, folder / "general" / "whole"), run_named).all():
        rows.append(asdict(outcome))
        results.add("faults", rows)
    return rows


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
