"""Cost of the guided sampler against source views, pixels and samples: python -m benchmarks.scaling --out DIR

One axis at a time, around 3 source views, 320x256 and 6 samples; every point is measured in a process of its own, so
that peak memory is that of the point. Under each axis stands the straight line a + b x through the seconds per image,
and the farthest point from it. Writes <out>/scaling.json and a plot per axis.
"""

import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.plots import line_plot, save_plot
from benchmarks.speed import SpeedOptions, median_seconds, stages
from geometry import one_line_errors, require
from render.loading import peak_memory_mb
from training.allocator import keep_freed_memory
from training.cli import parse_options
from training.files import staged_folder, write_json
from training.options import option

STAGES = ("encode", "sweep", "field")


@dataclass(frozen=True, kw_only=True)
class ScalingOptions:
    """What is varied."""

    ckpt: str = option("", "checkpoint of a guided model; none: random weights, sizes of general_guided, no VGGT")
    views: tuple[int, ...] = option((2, 3, 4, 8, 12, 16), "source views", nargs="+")
    sizes: tuple[str, ...] = option(
        ("160x128", "320x256", "640x512", "1280x1024", "1600x1200"), "widths and heights of all images", nargs="+"
    )
    samples: tuple[int, ...] = option((2, 4, 8, 16, 32, 64), "samples per ray", nargs="+")
    chunk: int = option(8192, "rays at a time")
    threads: int = option(2, "CPU threads")
    repeats: int = option(3, "repeats of every stage; the median counts")
    out: str = option("runs/scaling", "folder for the numbers and the plots")

    def __post_init__(self) -> None:
        """Refuse what cannot work, by name.

        Raises:
            InputError: naming the option.
        """
        for name in ("chunk", "threads", "repeats"):
            require(getattr(self, name) >= 1, f"--{name}: expected at least 1, got {getattr(self, name)}")
        for name, minimum in (("views", 2), ("samples", 1)):
            values = getattr(self, name)
            is_enough = len(values) >= 2 and min(values) >= minimum
            require(is_enough, f"--{name}: expected two numbers or more of at least {minimum}, got {list(values)}")
        for size in self.sizes:
            sides = size.split("x")
            is_size = len(sides) == 2 and all(side.isdecimal() and int(side) >= 32 for side in sides)
            require(is_size, f"--sizes: expected WIDTHxHEIGHT of at least 32 pixels, got {size!r}")
        require(len(self.sizes) >= 2, f"--sizes: expected two sizes or more, got {list(self.sizes)}")


@dataclass(frozen=True)
class Point:
    """One setting."""

    label: str
    x: float
    """Views, rays or samples."""
    seconds: tuple[float, ...]
    """Per image, of `STAGES`."""
    peak_mb: float


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table per axis, write the plots."""
    options = parse_options(ScalingOptions, __doc__, argv)
    results: dict[str, list[Point]] = {}
    for axis, settings in axes_of(options).items():
        print(f"| {axis} | {' s | '.join(STAGES)} s | all s | peak MB |\n" + "|---" * 6 + "|")
        for label, x, setting in settings:
            point = Point(label, x, *_in_own_process(setting))
            results.setdefault(axis, []).append(point)
            cells = [*(f"{one:.3f}" for one in point.seconds), f"{sum(point.seconds):.3f}", f"{point.peak_mb:.0f}"]
            print(f"| {label} | {' | '.join(cells)} |")
            sys.stdout.flush()
        print(f"\n{straight_line(axis, results[axis])}\n")
    with staged_folder(Path(options.out)) as folder:
        write_json(folder / "scaling.json", {axis: [vars(one) for one in points] for axis, points in results.items()})
        for axis, points in results.items():
            x = [point.x for point in points]
            lines = {name: (x, [point.seconds[i] for point in points]) for i, name in enumerate(STAGES)}
            save_plot(line_plot(lines, axis, "seconds per image"), folder / f"{axis.split()[0]}.png")


def axes_of(options: ScalingOptions) -> dict[str, list[tuple[str, float, SpeedOptions]]]:
    """Per axis: label, place on the axis, and setting of every point."""
    middle = SpeedOptions(
        ckpt=options.ckpt,
        width=320,
        height=256,
        chunk=options.chunk,
        threads=options.threads,
        repeats=options.repeats,
    )
    sizes = [tuple(int(side) for side in size.split("x")) for size in options.sizes]
    return {
        "views": [(str(n), n, replace(middle, n_views=n)) for n in options.views],
        "rays": [
            (f"{width}x{height}", width * height, replace(middle, width=width, height=height))
            for width, height in sizes
        ],
        "samples per ray": [(str(n), n, replace(middle, N_guided=n)) for n in options.samples],
    }


def straight_line(axis: str, points: Sequence[Point]) -> str:
    """The line of least squares through the seconds per image, and the farthest point from it."""
    x, y = np.array([point.x for point in points]), np.array([sum(point.seconds) for point in points])
    slope, start = np.polyfit(x, y, 1)
    off = np.abs(slope * x + start - y)
    farthest = points[int(off.argmax())].label
    return f"seconds = {start:.3g} + {slope:.3g} * {axis}; farthest from it: {farthest}, by {off.max():.2g} s"


def _in_own_process(setting: SpeedOptions) -> tuple[tuple[float, ...], float]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, setting).result()


def _measured(setting: SpeedOptions) -> tuple[tuple[float, ...], float]:
    keep_freed_memory()
    torch.set_num_threads(setting.threads)
    with torch.inference_mode():
        named = stages(setting)
        seconds = tuple(median_seconds(named[name], setting.repeats)[0] for name in STAGES)
    return seconds, peak_memory_mb(torch.device("cpu"))


if __name__ == "__main__":
    main()
