"""One stage of processing over many scenes: in parallel, resumed where it stopped, failures logged and counted."""

import argparse
import multiprocessing
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import torch
from tqdm import tqdm

from data.readers.splits import scan_order
from data.wai.process_log import FAILED, FINISHED, RUNNING, ProcessLog
from data.wai.scene_meta import DISTORTED_META_NAME, META_NAME
from geometry import InputError, require

Work = Callable[[Path], str]
"""Does a stage for the scene whose results go into a folder; returns what is worth saying about it, or nothing."""


class Outcome(NamedTuple):
    """Of one scene."""

    name: str
    state: str
    """finished, failed, or skipped: it was finished before with the same settings."""
    message: str


class Parser(argparse.ArgumentParser):
    """A mistake on the command line is an `InputError` like any other."""

    def error(self, message: str) -> None:
        """Raise it."""
        raise InputError(f"{message} (see --help)")


def add_stage_options(parser: argparse.ArgumentParser) -> None:
    """Options that all stages have."""
    parser.add_argument("--scenes", nargs="+", help="names of scenes; default: all")
    parser.add_argument("--workers", type=int, default=1, help="scenes at the same time")
    parser.add_argument(
        "--overwrite", action="store_true", help="again for scenes that are done; files are replaced, none is deleted"
    )


def require_folder(out: Path) -> None:
    """Refuse a path for results that is something else than a folder.

    Raises:
        InputError: naming it.
    """
    require(out.is_dir() or not out.exists(), f"{out}: expected a folder for the results, got a file")


def find_scenes(root: Path, names: Sequence[str] | None = None) -> dict[str, Path]:
    """Folders of WAI scenes: `root` itself, or those directly below it.

    Raises:
        InputError: for a folder without scenes, or an unknown name.
    """
    require(root.is_dir(), f"{root}: expected a folder, got none")
    if _is_scene(root):
        found = {root.resolve().name: root}
    else:
        found = {path.name: path for path in sorted(root.iterdir(), key=lambda path: scan_order(path.name))}
        found = {name: path for name, path in found.items() if path.is_dir() and _is_scene(path)}
    require(bool(found), f"{root}: expected folders with {META_NAME}, got none")
    unknown = [name for name in names or () if name not in found]
    require(not unknown, f"--scenes: expected some of {', '.join(list(found)[:8])}, got {', '.join(unknown)}")
    return found if names is None else {name: found[name] for name in names}


def run_stage(
    stage: str,
    targets: Mapping[str, Path],
    work: Callable[[str, Path], str],
    *,
    settings: Any = None,
    workers: int = 1,
    overwrite: bool = False,
    is_there: Callable[[Path], bool] = lambda _: True,
) -> list[Outcome]:
    """Run `work(name, folder)` for every scene, logged in its folder; scenes finished with `settings` are skipped.

    `is_there(folder)`: whether the result of a scene that was finished is still there and fits.

    Whatever goes wrong in a scene is logged there with its traceback; the others go on.

    Raises:
        InputError: for fewer than one worker.
    """
    require(workers >= 1, f"--workers: expected 1 or more, got {workers}")
    outcomes = []
    todo = []
    for name, folder in targets.items():
        log = ProcessLog(folder)
        is_finished = log.state(stage) == FINISHED and log.settings(stage) in (None, settings)
        if not overwrite and is_finished and is_there(folder):
            outcomes.append(Outcome(name, "skipped", ""))
        else:
            todo.append((name, folder))
    with tqdm(total=len(todo), unit="scene", desc=f"{stage}, {len(outcomes)} of {len(targets)} done before") as bar:
        for outcome in _run(stage, todo, work, settings, min(workers, len(todo))):
            outcomes.append(outcome)
            bar.update()
            if outcome.message:
                tqdm.write(f"{outcome.name}: {outcome.state}: {outcome.message}", file=sys.stderr)
    return outcomes


def finish(stage: str, outcomes: Sequence[Outcome]) -> None:
    """Say how many scenes there are of each state.

    Raises:
        SystemExit: with status 1, if one failed.
    """
    counts = {state: sum(one.state == state for one in outcomes) for state in (FINISHED, "skipped", FAILED)}
    sys.stdout.write(f"{stage}: {', '.join(f'{count} {state}' for state, count in counts.items())}\n")
    if counts[FAILED]:
        raise SystemExit(1)


def _is_scene(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (META_NAME, DISTORTED_META_NAME))


def _run(stage: str, todo: list[tuple[str, Path]], work: Any, settings: Any, workers: int) -> Any:
    if workers <= 1:
        for name, folder in todo:
            yield _one(stage, name, folder, work, settings)
        return
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        names = {pool.submit(_one, stage, name, folder, work, settings): name for name, folder in todo}
        running = set(names)
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                try:
                    yield future.result()
                except BrokenProcessPool:
                    yield Outcome(names[future], FAILED, "its process ended (out of memory?); run again")


def _start_worker() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _one(stage: str, name: str, folder: Path, work: Callable[[str, Path], str], settings: Any) -> Outcome:
    log = ProcessLog(folder)
    try:
        with log.alone():
            log.record(stage, RUNNING, settings=settings)
            try:
                message = work(name, folder)
            except Exception as error:
                log.record(stage, FAILED, traceback.format_exc(), settings)
                kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
                return Outcome(name, FAILED, kind + " ".join(str(error).split()))
            log.record(stage, FINISHED, message, settings)
    except (InputError, OSError) as error:
        return Outcome(name, FAILED, str(error))
    return Outcome(name, FINISHED, message)
