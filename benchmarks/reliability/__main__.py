"""Faults that runs survive, and machines that agree: python -m benchmarks.reliability --out runs/reliability.json

Without one of the switches everything but `--device` is measured. Results are kept in `--out` as they come; what stands
there already is not done again.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.reliability.agreement import cpu_levels, other_device, plain_rows, table_of
from benchmarks.reliability.forwards import MODELS
from geometry import one_line_errors, require
from render.loading import usable_device
from training.cli import parse_options
from training.files import staged_file, write_json
from training.options import option


@dataclass(frozen=True, kw_only=True)
class ReliabilityOptions:
    """What is measured."""

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
    options = parse_options(ReliabilityOptions, __doc__, argv)
    results = Results(Path(options.out))
    if options.cpu_levels:
        rows = cpu_levels(options.height)
        results.add("cpu_levels", plain_rows(rows))
        _say(table_of(rows))
    if options.device:
        rows = other_device(usable_device(options.device), options.height, options.models)
        results.add("device", plain_rows(rows))
        _say(table_of(rows))


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
