"""How many steps of fine-tuning fit into a time: measured on this machine, before the run.

Steps of both parts and the look at the scene's surfaces are run for a moment, through the same trainer and the same
loaders as the run itself. The schedule needs the number of steps before the first one, and a resumed run that of the
run it goes on with, so that a clock cannot simply stop the training.
"""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import pytorch_lightning as pl

from data.novel_view.datamodule import SceneDataModule
from data.problems import announce
from geometry import require
from training.nerf.build import FinetuneStart, build_finetune_task, build_scene_field_task
from training.nerf.options import FinetuneOptions
from training.run_task import RunTask
from training.trainer import fit

Clock = Callable[[], float]

_WARM, _TIMED = 2, 5
"""Steps that are run before the clock is read, and steps whose median counts."""
_VIEWS = 2
"""Training views in which the general model looks for surfaces while the clock runs."""
_LEAST = 20
"""Steps of either part below which nothing is learned; a run that has no time for them takes longer."""
_SPARE = 0.95
"""Share of the time that is planned for: checkpoints and the last validation take some as well."""
_RESUMED = ("max_steps", "scene_field_steps", "warmup_steps")
"""What a budget decides, which a resumed run takes from its checkpoint."""


@dataclass(frozen=True)
class StepTimes:
    """Seconds of fine-tuning on some machine."""

    step: float
    """Of the part that renders from source views."""
    field_step: float = 0.0
    """Of the scene's own field."""
    surfaces: float = 0.0
    """What the general model needs to look for surfaces in all views that `--surface_views` names."""


def limited(options: FinetuneOptions, num_views: int) -> FinetuneOptions:
    """The same run without the steps of the field that are above `--scene_field_steps_per_view`."""
    most = options.scene_field_steps_per_view * num_views
    above = max(0, options.steps_of_field - most) if most else 0
    if not above or options.max_steps < 1:
        return options
    return replace(options, max_steps=options.max_steps - above, scene_field_steps=most)


def within(options: FinetuneOptions, seconds: float, times: StepTimes) -> FinetuneOptions:
    """The same run with as many steps as fit into the time, never more than it has.

    Both parts and the warm-up are shortened by one factor. With less time than `_LEAST` steps of each part take, so
    many are taken all the same, and a warning says how long they will take.
    """
    of_field = options.steps_of_field
    of_rest = options.max_steps - of_field
    needed = of_field * times.field_step + of_rest * times.step
    share = min(1.0, max(0.0, seconds * _SPARE - times.surfaces) / needed)
    floor = min(_LEAST, of_rest, of_field or of_rest)
    warmup = options.warmup_steps / of_rest
    of_field, of_rest = (max(floor, int(steps * share)) if steps else 0 for steps in (of_field, of_rest))
    planned = times.surfaces + of_field * times.field_step + of_rest * times.step
    if planned > seconds:
        announce(
            f"--minutes {options.minutes:g}: too few for fine-tuning on this machine; "
            f"{of_field + of_rest} steps will take about {planned / 60:.1f} minutes"
        )
    warmup = min(round(warmup * of_rest), of_rest - 1, of_field - 1 if of_field else of_rest)
    steps: dict[str, Any] = {"max_steps": of_field + of_rest, "warmup_steps": warmup, "minutes": 0.0}
    return replace(options, **steps, **({"scene_field_steps": of_field} if of_field else {}))


def planned(
    options: FinetuneOptions, data: SceneDataModule, start: FinetuneStart, clock: Clock = time.perf_counter
) -> FinetuneOptions:
    """Options with the number of steps that `--minutes` leave time for, and no more than are of use.

    The time of measuring is part of the minutes. A run to resume (`--ckpt`) has the steps of its checkpoint.

    Raises:
        InputError: for several processes, whose numbers of steps would differ.
    """
    (scene,) = data.train_scenes.values()
    options = limited(options, len(scene.train_views))
    if not options.minutes:
        return options
    require(options.num_processes == 1, f"--minutes: expected one process, got {options.num_processes}")
    if options.ckpt:
        before = start.checkpoint.record.options
        return replace(options, minutes=0.0, **{name: before[name] for name in _RESUMED})
    begin = clock()
    times = measured(options, data, start, clock)
    chosen = within(options, 60 * options.minutes - (clock() - begin), times)
    sys.stdout.write(
        f"--minutes {options.minutes:g}: {chosen.max_steps} steps, {chosen.steps_of_field} of them of the scene's own "
        f"field ({times.step:.2f} s and {times.field_step:.2f} s each, surfaces {times.surfaces:.0f} s)\n"
    )
    sys.stdout.flush()
    return chosen


def measured(
    options: FinetuneOptions, data: SceneDataModule, start: FinetuneStart, clock: Clock = time.perf_counter
) -> StepTimes:
    """Run a few steps of each part as the options say, in a folder that is thrown away."""
    with TemporaryDirectory() as folder:
        short = replace(options, basedir=folder, expname="measured", minutes=0.0)
        (scene,) = data.train_scenes.values()
        field, of_field, surfaces = None, 0.0, 0.0
        if short.scene_field:
            seen, looking = views_to_look_at(short, len(scene.train_views))
            task = build_scene_field_task(replace(short, surface_views=looking), scene, start)
            preparation, of_field = _timed(short, task, data, clock)
            surfaces = preparation * seen / looking if looking else 0.0
            field = task.field
        task = build_finetune_task(short, scene, start, field)
        return StepTimes(_timed(short, task, data, clock)[1], of_field, surfaces)


def views_to_look_at(options: FinetuneOptions, num_views: int) -> tuple[int, int]:
    """In how many of the training views the general model looks for surfaces, and in how many while the clock runs."""
    if not options.surface_loss or options.surfaces != "model":
        return 0, 0
    seen = min(options.surface_views or num_views, num_views)
    return seen, min(_VIEWS, seen)


def _timed(options: FinetuneOptions, task: RunTask, data: SceneDataModule, clock: Clock) -> tuple[float, float]:
    """Seconds before the first step, and of a step."""
    stopwatch = _Stopwatch(clock)
    with suppress(_Enough):
        fit(options, task, data, [stopwatch], is_continued=True)
    ends = stopwatch.ends
    steps = [end - before for before, end in pairwise(ends[_WARM:])]
    return stopwatch.first - stopwatch.start, median(steps or [ends[-1] - stopwatch.first])


class _Enough(Exception):
    """Ends a run that is only measured."""


class _Stopwatch(pl.Callback):
    """Notes when steps end, until there are enough."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.start = self.first = 0.0
        self.ends: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start = self.clock()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.first = self.first or self.clock()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.ends.append(self.clock())
        if len(self.ends) > _WARM + _TIMED:
            raise _Enough
