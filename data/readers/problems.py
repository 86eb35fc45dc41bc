"""Parts of a data set that cannot be used: left out, counted and said in one line, or handed to the data doctor."""

import functools
import logging
from collections import Counter
from pathlib import Path

from data.readers.splits import Report
from geometry import InputError

_log = logging.getLogger(__name__)


class Problems:
    """What a reader meets in one data set."""

    def __init__(
        self, dataset: str, datadir: Path, report: Report | None, *, annotation_dir: Path | None = None
    ) -> None:
        """`report`: gets every problem, and then nothing is logged here."""
        self.arguments = f"--dataset_name {dataset} --datadir {datadir}"
        self.arguments += "" if annotation_dir is None else f" --annotation_dir {annotation_dir}"
        self.dataset = dataset
        self.datadir = datadir
        self.report = report
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, InputError] = {}
        """The first problem of each kind."""

    def add(self, what: str, error: InputError) -> None:
        """One problem; `what` says what is left out because of it, for counting ("frames without image")."""
        self.counts[what] += 1
        self.examples.setdefault(what, error)
        if self.report is not None:
            self.report(error)

    def count(self, what: str, number: int) -> None:
        """What is left out by a rule and is no problem."""
        self.counts[what] += number

    def require_some(self, number: int) -> None:
        """Stop when everything is left out.

        Raises:
            InputError: the first problem.
        """
        if not number and self.examples and self.report is None:
            raise next(iter(self.examples.values()))

    def say(self, used: str) -> None:
        """One line on what is used and what is left out, once per process."""
        left_out = ", ".join(f"{number} {what}" for what, number in self.counts.items() if number)
        if self.report is not None or not left_out:
            return
        line = f"{self.dataset} {self.datadir}: {used} used; left out: {left_out}"
        if self.examples:
            line += f"; for example {'; '.join(str(error) for error in self.examples.values())}"
            line += f" (python -m data.check {self.arguments} lists all)"
        _say_once(line)


@functools.cache
def _say_once(line: str) -> None:
    _log.warning(line)
