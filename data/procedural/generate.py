"""Fill a folder with scenes, in parallel over views; resume what an interrupted run left.

`procedural.json` in the folder holds the settings; `.procedural/{scan}.done` marks a finished scene. A scene's bytes
depend on the settings and its index only, not on workers or on which other scenes are made.
"""

import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import cv2
import torch
from tqdm import tqdm

from data.procedural.writers import LAYOUTS, GeneratorSettings, write_text
from geometry import InputError

GENERATOR = "data.procedural 2"
SETTINGS_FILE = "procedural.json"
MARKER_FOLDER = ".procedural"


class _Task(NamedTuple):
    index: int
    view: int


class _Result(NamedTuple):
    task: _Task
    near: float
    far: float


def generate(out: Path, settings: GeneratorSettings, num_scenes: int, *, workers: int) -> None:
    """Write scenes 0..num_scenes-1 under `out`; those already finished with the same settings are skipped.

    Raises:
        InputError: when `out` holds something else, or scenes made with other settings.
    """
    claim_folder(out, settings)
    layout = LAYOUTS[settings.layout](out, settings)
    todo = [index for index in range(num_scenes) if not _marker(out, layout.scan(index)).is_file()]
    tasks = [_Task(index, view) for index in todo for view in layout.view_ids]
    ranges: dict[int, list[_Result]] = {index: [] for index in todo}
    with tqdm(total=len(tasks), unit="image", desc=f"{num_scenes - len(todo)} of {num_scenes} scenes exist") as bar:
        for result in _run(out, settings, tasks, min(workers, len(tasks))):
            bar.update()
            done = ranges[result.task.index]
            done.append(result)
            if len(done) == len(layout.view_ids):
                index = result.task.index
                bar.set_description(layout.scan(index))
                layout.finish_scene(index, (min(one.near for one in done), max(one.far for one in done)))
                write_text(_marker(out, layout.scan(index)), GENERATOR + "\n")


def claim_folder(out: Path, settings: GeneratorSettings) -> None:
    """Make the folder this generator's, or check that it is and was filled with the same settings.

    Raises:
        InputError: naming the folder, or both settings.
    """
    wanted = {"generator": GENERATOR, **asdict(settings)}
    path = out / SETTINGS_FILE
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: expected a folder, got a file")
    if not path.is_file():
        if out.is_dir() and any(out.iterdir()):
            raise InputError(f"{out}: expected an empty folder or one with {SETTINGS_FILE}, got other files")
        try:
            write_text(path, json.dumps(wanted, indent=2) + "\n")
        except OSError as error:
            raise InputError(f"{out}: expected a folder that can be written, got {error.strerror}") from None
        return
    try:
        found = json.loads(path.read_text())
    except ValueError:
        raise InputError(f"{path}: expected the settings as JSON, got something else") from None
    if isinstance(found, dict):
        found = {"tracer": "exact", "rooms": "", **found}  # all there was before there were two
    if found != wanted:
        keys = [key for key in wanted if not isinstance(found, dict) or found.get(key) != wanted[key]]
        was = {key: found.get(key) if isinstance(found, dict) else None for key in keys}
        raise InputError(
            f"{out}: expected { ({key: wanted[key] for key in keys}) } as asked for, got a folder with {was}"
        )


def _marker(out: Path, scan: str) -> Path:
    return out / MARKER_FOLDER / f"{scan}.done"


def _run(out: Path, settings: GeneratorSettings, tasks: list[_Task], workers: int) -> Iterator[_Result]:
    if workers <= 1:
        layout = LAYOUTS[settings.layout](out, settings)
        for task in tasks:
            yield _Result(task, *layout.write_view(*task))
        return
    # a fork server imports torch once for all workers and has no threads that a fork could catch in the middle
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["data.procedural.generate"])
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(out, settings)) as pool:
        waiting = iter(tasks)
        running = {pool.submit(_write_view, task) for task in islice(waiting, 4 * workers)}
        while running:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(_write_view, task) for task in islice(waiting, len(finished))}
            for future in finished:
                yield future.result()


_layout = None


def _start_worker(out: Path, settings: GeneratorSettings) -> None:
    global _layout
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _layout = LAYOUTS[settings.layout](out, settings)


def _write_view(task: _Task) -> _Result:
    return _Result(task, *_layout.write_view(*task))


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
