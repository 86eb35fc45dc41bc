"""Evaluate a general checkpoint on every scan, as it is and fine-tuned to it: one table and one benchmark.json.

python -m render.benchmark --ckpt C --dataset_name dtu --datadir D --protocol dtu-nearest3 --scans scan1 scan8 --out DIR

With --finetune CONFIG every scan is also fine-tuned. The same command again does what is left; --devices N works on N
scans at a time. What runs for a scan is `python -m render.evaluate` and `train_finetune.py`, see DIR/SCAN/log.txt.
"""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from tqdm import tqdm

from data.novel_view.protocols import protocol_named
from data.readers.registry import READERS, read_scenes
from data.readers.splits import choose_scans, scans_below
from geometry import InputError, one_line_errors, require
from models.vggt.weights import file_sha256
from render.options import BenchmarkOptions, EvaluateOptions
from render.scoring import Scores, mean_scores
from render.table import benchmark_table
from training.backbone import VGGTRecord
from training.cli import parse_options
from training.files import staged_file, write_json
from training.nerf.checkpoint import read_nerf_checkpoint
from training.nerf.data_options import DataOptions
from training.nerf.options import FinetuneOptions
from training.run_task import plain

ROOT = Path(__file__).parents[1]
_MAY_CHANGE = frozenset({"ckpt", "vggt_ckpt", "datadir", "scans", "out", "finetune", "device", "devices", "chunk"})
"""Options with which a benchmark may be gone on with: they do not change a score, or are paths to what is compared by
its contents."""
_LOCK = "lock"


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Parse options, do what is left, print the table; exit status 1 when a scan failed."""
    options = parse_options(BenchmarkOptions, __doc__, argv)
    metrics = run_benchmark(options)
    sys.stdout.write(f"{benchmark_table(metrics)}\n")
    sys.stdout.write(f"written to {options.out}: benchmark.json and a folder per scan\n")
    for scan, reason in metrics["failed"].items():
        sys.stderr.write(f"failed: {scan} ({reason}; see {Path(options.out) / scan / 'log.txt'})\n")
    if metrics["failed"]:
        raise SystemExit(1)


def run_benchmark(options: BenchmarkOptions) -> dict[str, Any]:
    """Do what is left of a benchmark and return what `<out>/benchmark.json` holds.

    Raises:
        InputError: for what no scan could be done with, before any is; for an `--out` of a benchmark of something else.
    """
    protocol_named(options.protocol, options.dataset_name, options.n_views)
    record = read_nerf_checkpoint(Path(options.ckpt)).record
    require(record.task == "general", f"--ckpt {options.ckpt}: expected a general checkpoint, got a {record.task} one")
    scans, out = scans_of(options), Path(options.out)
    settings = _settings(options, record.vggt)
    _require_same_benchmark(out, settings)
    failed = _do_scans(options, [scan for scan in scans if not _is_done(out / scan, options)])
    metrics = {"protocol": options.protocol, **collected(out, scans, options), "failed": failed, "settings": settings}
    with staged_file(out / "benchmark.json") as partial:
        write_json(partial, metrics)
    return metrics


def scans_of(options: BenchmarkOptions) -> tuple[str, ...]:
    """The scans that are named, without reading them; none named: the data set's test scans.

    Raises:
        InputError: for a scan that is not there.
    """
    if options.scans and options.dataset_name in READERS and Path(options.datadir).is_dir():
        found = list(READERS[options.dataset_name].find(Path(options.datadir)))
        return choose_scans(Path(options.datadir), found, "all", scans_below(found, options.scans), {})
    scans = options.scans or None
    scenes = read_scenes(options.dataset_name, options.datadir, split="test", scans=scans, evaluated_only=True)
    return tuple(dict.fromkeys(scene.scan for scene in scenes))


def collected(out: Path, scans: Sequence[str], options: BenchmarkOptions) -> dict[str, Any]:
    """Scores by scan, and their means over the scans that are done: each counts once, however many views it has."""
    by_scan: dict[str, dict[str, Any]] = {}
    for scan in scans:
        found = {kind: _read(out / scan / kind) for kind in _kinds(options)}
        by_scan[scan] = {kind: metrics for kind, metrics in found.items() if metrics}
    done = [by_scan[scan] for scan in scans if _is_done(out / scan, options)]
    names = [field.name for field in fields(Scores)]

    def mean(of: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return asdict(mean_scores([Scores(**{name: one[name] for name in names}) for one in of]))

    baselines = done[0]["general"]["baselines"] if done else {}
    return {
        "averaged_scans": len(done),
        "mean": {kind: mean([one[kind]["mean"] for one in done]) for kind in _kinds(options)} if done else {},
        "baselines": {name: mean([one["general"]["baselines"][name] for one in done]) for name in baselines},
        "scans": {
            scan: {kind: mean([metrics["mean"]]) for kind, metrics in kinds.items()} for scan, kinds in by_scan.items()
        },
        "seen_in_training": {
            scan: {kind: metrics["seen_in_training"] for kind, metrics in kinds.items() if metrics["seen_in_training"]}
            for scan, kinds in by_scan.items()
        },
    }


def commands_of(scan: str, options: BenchmarkOptions) -> Iterator[list[str]]:
    """What has to be run for a scan, one command after the other; those whose result is there are left out."""
    folder = Path(options.out) / scan
    if not _read(folder / "general"):
        yield _evaluate(scan, options, options.ckpt, folder / "general")
    if not options.finetune or _read(folder / "finetuned"):
        return
    yield _finetune(scan, options, folder)
    chosen = "best" if _finetuning(options).val_views else "last"
    yield _evaluate(scan, options, str(folder / "run" / "checkpoints" / f"{chosen}.ckpt"), folder / "finetuned")


def _evaluate(scan: str, options: BenchmarkOptions, ckpt: str, out: Path) -> list[str]:
    own = {"ckpt": ckpt, "scans": (scan,), "out": str(out)}
    given = {field.name: getattr(options, field.name) for field in fields(EvaluateOptions)} | own
    defaults = {field.name: field.default for field in fields(EvaluateOptions)}
    return ["render.evaluate", *_arguments({name: one for name, one in given.items() if one != defaults[name]})]


def _finetune(scan: str, options: BenchmarkOptions, folder: Path) -> list[str]:
    """Goes on with what an interrupted fine-tuning has left; views and background are those of the evaluation."""
    evaluated = _read(folder / "general")["settings"]
    given = {field.name: getattr(options, field.name) for field in fields(DataOptions)}
    checkpoints = [folder / "run" / "checkpoints" / f"{name}.ckpt" for name in ("last", "best")]
    given |= {
        "init_from": options.ckpt,
        "scans": (scan,),
        "basedir": str(folder),
        "expname": "run",
        "devices": 1,
        "view_split": evaluated["view_split"][scan],
        "vggt_ckpt": options.vggt_ckpt or None,
        "white_bkgd": evaluated["white_bkgd"],
        "accelerator": "cpu" if options.device == "cpu" else None,
        "ckpt": next((str(path) for path in checkpoints if path.is_file()), None),
    }
    given = {name: value for name, value in given.items() if value not in (None, ())}
    return ["train_finetune", "--config", options.finetune, *_arguments(given)]


def _arguments(options: Mapping[str, Any]) -> list[str]:
    """As on a command line."""
    arguments = []
    for name, value in options.items():
        if isinstance(value, bool):
            arguments.append(f"--{name}" if value else f"--no-{name}")
        else:
            arguments += [f"--{name}", *(str(one) for one in (value if isinstance(value, tuple) else (value,)))]
    return arguments


def _do_scans(options: BenchmarkOptions, scans: Sequence[str]) -> dict[str, str]:
    """Run the commands of all scans, `--devices` of them at a time; why those failed that did."""
    places: SimpleQueue[dict[str, str]] = SimpleQueue()
    for environment in _environments(options):
        places.put(environment)
    failed: dict[str, str] = {}
    running: set[subprocess.Popen[bytes]] = set()

    def work(scan: str) -> None:
        environment = places.get()
        try:
            folder = Path(options.out) / scan
            with _locked(folder) as lock:
                for command in commands_of(scan, options):
                    _run(command, folder / "log.txt", environment, running, (lock,))
        finally:
            places.put(environment)

    with ThreadPoolExecutor(options.devices) as pool, tqdm(total=len(scans), unit="scan", desc="benchmark") as bar:
        jobs = {pool.submit(work, scan): scan for scan in scans}
        try:
            for job in as_completed(jobs):
                error = job.exception()
                if isinstance(error, InputError):
                    failed[jobs[job]] = str(error)
                elif error is not None:
                    raise error
                bar.set_postfix_str(f"{len(failed)} failed" if failed else "")
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                process.terminate()
            raise
    return {scan: failed[scan] for scan in scans if scan in failed}


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """The folder of a scan, for one benchmark at a time; yields the open file that says so.

    Commands inherit it: those of a benchmark that was killed go on, and keep others out until they end.

    Raises:
        InputError: when another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError("an earlier or another benchmark still works on it: wait for that, or end it") from None
        yield file.fileno()


def _run(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    running: set[subprocess.Popen[bytes]],
    kept_open: tuple[int, ...] = (),
) -> None:
    """Run a module with arguments; what it prints goes to the end of `log`, and it inherits the files `kept_open`.

    Raises:
        InputError: with the last line that it printed, when it fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        file.write(f"$ python -m {' '.join(command)}\n".encode())
        file.flush()
        process = subprocess.Popen(
            [sys.executable, "-m", *command], env=environment, stdout=file, stderr=file, pass_fds=kept_open
        )
        running.add(process)
        status = process.wait()
        running.discard(process)
    if status != 0:
        lines = log.read_text(errors="replace").split("\n$ ")[-1].replace("\r", "\n").splitlines()
        last = next((line for line in reversed(lines) if line.strip()), "")
        raise InputError(f"{command[0]} ended with status {status}: {last.removeprefix('error: ')}")


def _environments(options: BenchmarkOptions) -> list[dict[str, str]]:
    """Of the processes that run at a time: a GPU for each, or a share of the CPU's cores.

    Raises:
        InputError: for more devices than there are.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    common = {**os.environ, "PYTHONPATH": path}
    if options.devices == 1:
        return [common]
    count = 0 if options.device == "cpu" else torch.cuda.device_count()
    if not count:
        threads = str(max(1, (os.cpu_count() or 1) // options.devices))
        return [{"OMP_NUM_THREADS": threads, **common}] * options.devices
    require(options.devices <= count, f"--devices {options.devices}: expected at most the {count} GPUs of this machine")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = visible.split(",") if visible else [str(index) for index in range(count)]
    return [{**common, "CUDA_VISIBLE_DEVICES": name} for name in names[: options.devices]]


def _kinds(options: BenchmarkOptions) -> tuple[str, ...]:
    return ("general", "finetuned") if options.finetune else ("general",)


def _is_done(folder: Path, options: BenchmarkOptions) -> bool:
    return all((folder / kind / "metrics.json").is_file() for kind in _kinds(options))


def _read(folder: Path) -> dict[str, Any]:
    """The metrics of an evaluation; empty when it has not ended. That file comes last and whole."""
    path = folder / "metrics.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _finetuning(options: BenchmarkOptions) -> FinetuneOptions:
    return parse_options(FinetuneOptions, "", ["--config", options.finetune, "--init_from", options.ckpt])


def _settings(options: BenchmarkOptions, trained_with: VGGTRecord) -> dict[str, Any]:
    """All that the scores depend on, besides the data; the fine-tuning's options as read from its config."""
    finetuning = None
    if options.finetune:
        finetuning = {name: plain(value) for name, value in asdict(_finetuning(options)).items() if name != "init_from"}
    own = {name: plain(value) for name, value in asdict(options).items() if name not in _MAY_CHANGE}
    vggt = options.vggt_ckpt
    if vggt in ("", trained_with.source):
        vggt = trained_with.sha256
    elif Path(vggt).is_file():
        vggt = file_sha256(Path(vggt))
    return {**own, "vggt": vggt, "checkpoint_sha256": file_sha256(Path(options.ckpt)), "finetuning": finetuning}


def _require_same_benchmark(out: Path, settings: dict[str, Any]) -> None:
    """Write the settings into a new folder; refuse one that holds results of others.

    A benchmark without fine-tuning may be gone on with by one with it. Options added since had their defaults then.

    Raises:
        InputError: naming what differs.
    """
    path = out / "settings.json"
    if path.is_file():
        before = _defaults(BenchmarkOptions) | json.loads(path.read_text())
        if before.get("finetuning"):
            before["finetuning"] = _defaults(FinetuneOptions, "init_from") | before["finetuning"]
        for name, value in settings.items():
            if before.get(name) != value and not (name == "finetuning" and None in (before.get(name), value)):
                what = "other --finetune options" if name == "finetuning" else f"{name} {before.get(name)}"
                raise InputError(f"--out {out}: holds a benchmark with {what}; take another folder")
        settings = {**settings, "finetuning": settings["finetuning"] or before.get("finetuning")}
    with staged_file(path) as partial:
        write_json(partial, settings)


def _defaults(options: type[DataOptions], *without: str) -> dict[str, Any]:
    return {field.name: plain(field.default) for field in fields(options) if field.name not in without}


if __name__ == "__main__":
    main()
