"""Damaged and hostile files into every reader: `python -m benchmarks.fuzzing --cases 2000 --out fuzzing`.

Every case must end as a correct result or a one-line error (docs/hostile_input.md). The folder holds the outcome of
each case; with the same seed and folder a run goes on where it was cut off. Exit status 1: a case failed.
"""

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from benchmarks.hostile.cases import CORRECT, FAILED, REFUSED, Bench, Outcome
from benchmarks.hostile.formats import FORMATS
from data.cache import CACHE_VARIABLE
from geometry import InputError, one_line_errors, require

_PATIENCE = 300.0
"""Seconds without a sign of life after which a process is taken for hung: the limit of a case is in processor time,
and is not looked at inside a library's code."""


class Case(NamedTuple):
    """What is drawn from the seed: the same cases however many processes divide them."""

    name: str
    index: int


class Result(NamedTuple):
    """A case and what came of it."""

    case: Case
    outcome: Outcome


def cases_of(count: int, names: Sequence[str]) -> list[Case]:
    """So many cases, spread evenly over the formats."""
    return [Case(names[number % len(names)], number // len(names)) for number in range(count)]


def results_of(cases: Sequence[Case], seed: int, workers: int) -> Iterator[Result]:
    """Of all cases, as they come; each process has files of its own. A process that dies or hangs is a failure."""
    context = multiprocessing.get_context("fork")  # the readers' imports take longer than many cases
    parts = [list(cases[number::workers]) for number in range(workers)]
    running: dict[Connection, tuple[multiprocessing.process.BaseProcess, list[Case]]] = {}

    def start(part: list[Case]) -> None:
        if part:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(theirs, part, seed), daemon=True)
            process.start()
            theirs.close()
            running[ours] = (process, part)

    for part in parts:
        start(part)
    while running:
        ready = wait(list(running), timeout=_PATIENCE)
        for pipe in ready or list(running):
            process, left = running.pop(pipe)
            try:
                if not ready:
                    raise EOFError
                outcome = pipe.recv()
            except EOFError:
                process.kill()
                process.join()
                why = f"the process died ({process.exitcode})" if ready else f"nothing for {_PATIENCE:g} s"
                outcome = Outcome(FAILED, why)
                yield Result(left[0], outcome)
                start(left[1:])
                continue
            yield Result(left[0], outcome)
            if left[1:]:
                running[pipe] = (process, left[1:])
            else:
                process.join()


def _work(pipe: Connection, cases: Sequence[Case], seed: int) -> None:
    torch.set_num_threads(1)
    os.environ[CACHE_VARIABLE] = "off"
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for number in (1, 2):
        os.dup2(sys.stderr.fileno(), number)  # where libraries complain about every file
    with tempfile.TemporaryDirectory() as folder:
        names = tuple(dict.fromkeys(case.name for case in cases))
        bench = Bench(Path(folder) / "samples", names)
        for case in cases:
            pipe.send(bench.case(case.name, seed, case.index))


def table(results: Sequence[Result]) -> str:
    """Rows of a Markdown table."""
    counts = {name: Counter[str]() for name in FORMATS}
    for case, outcome in results:
        counts[case.name][outcome.verdict] += 1
    rows = [("**all**", sum(counts.values(), Counter())), *counts.items()]
    lines = ["| format | cases | correct results | one-line errors | failures |", "|---|---|---|---|---|"]
    for name, count in rows:
        if count:
            lines.append(f"| {name} | {count.total()} | {count[CORRECT]} | {count[REFUSED]} | {count[FAILED]} |")
    return "\n".join(lines)


def _known(file: Path) -> list[Result]:
    if not file.is_file():
        return []
    rows = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
    return [Result(Case(row["name"], row["index"]), Outcome(row["verdict"], row["why"])) for row in rows]


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--cases", type=int, default=2000, help="of all formats together")
    parser.add_argument("--seed", type=int, default=0, help="all damage derives from it")
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), help="names as in the table")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--out", type=Path, help="folder for the outcome of each case; not given: none is kept")
    parser.add_argument("--case", type=int, help="this one case of one of --formats alone, with what was said")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.formats if name not in FORMATS]
    require(not unknown, f"--formats: expected some of {', '.join(FORMATS)}, got {', '.join(unknown)}")
    require(options.cases >= 1 and options.workers >= 1, "--cases, --workers: expected 1 or more")
    cases = cases_of(options.cases, options.formats)
    if options.case is not None:
        cases = [Case(name, options.case) for name in options.formats]
    file = None if options.out is None else options.out / f"seed{options.seed}.jsonl"
    wanted, results = set(cases), []
    if file is not None and options.case is None:
        results = [one for one in _known(file) if one.case in wanted]
    left = [case for case in cases if case not in {one.case for one in results}]
    random.Random(options.seed).shuffle(left)  # formats differ in cost
    for one in tqdm(results_of(left, options.seed, options.workers), total=len(left), unit="case"):
        results.append(one)
        _keep(file, one)
        if options.case is not None:
            tqdm.write(f"{one.case.name}: {one.outcome.verdict}: {one.outcome.why}")
    print(table(results))
    failures = [one for one in results if one.outcome.verdict == FAILED]
    for case, outcome in sorted(failures):
        print(f"{case.name}, case {case.index}: {outcome.why}")
    if failures:
        raise SystemExit(1)


def _keep(file: Path | None, result: Result) -> None:
    if file is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as lines:
            lines.write(json.dumps({**result.case._asdict(), **result.outcome._asdict()}) + "\n")
    except OSError as error:
        raise InputError(f"--out {file.parent}: expected a folder that can be written to, got {error}") from None


if __name__ == "__main__":
    main()
