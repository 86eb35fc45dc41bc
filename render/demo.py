"""The whole path in a few minutes on two cores: `make demo`, or python -m render.demo.

Procedural scenes in DTU's layout -> general training -> evaluation on scans it has never seen -> fine-tuning on one of
them -> evaluation on its held-out views -> video; then the shipped networks of the other tasks on rooms and a world
that they have not seen. All of it ends on one page, index.html. Every stage is one of the project's commands, printed
as it runs; a stage that finished before with the same command is not run again, an interrupted training is resumed.
"""

import importlib.util
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geometry import InputError, one_line_errors, require, sigterm_like_ctrl_c
from render.demo_page import write_page
from render.stages import StageLog
from training.cli import parse_options
from training.files import write_json
from training.options import option

_SCAN = "scan1"
_PROTOCOL = "dtu-nearest3"
"""Scan to fine-tune on, one of DTU's test list, and protocol of both evaluations."""
_TASKS = ("reconstruction", "questions", "forecast")
"""Shown by their shipped networks; each is render.<task>_demo."""
_GROUND = ("data", "general", "finetune")
"""Stages whose results others read."""
_NEEDS = {"questions": ("transformers", "peft")}
"""Packages of an extra, by stage."""
_SHOWN = (("psnr", "PSNR", ".2f"), ("ssim", "SSIM", ".3f"), ("depth_abs", "|depth| mm", ".1f"))


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Sizes of the demonstration; the defaults fit two cores and twelve minutes."""

    out: str = option("runs/demo", "folder of everything the demonstration writes")
    scenes: int = option(14, "procedural scans; those whose names are in DTU's test list are never trained on")
    views: int = option(30, "views per scan, at least 20")
    width: int = option(160, "image width in pixels")
    height: int = option(128, "image height in pixels")
    general_steps: int = option(380, "optimizer steps of general training")
    finetune_steps: int = option(250, "optimizer steps of fine-tuning")
    frames: int = option(20, "frames of the video")
    tasks: tuple[str, ...] = option(_TASKS, f"other tasks to show: some of {', '.join(_TASKS)}", nargs="*")

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            InputError: naming the option.
        """
        unknown = [name for name in self.tasks if name not in _TASKS]
        require(not unknown, f"--tasks: expected some of {', '.join(_TASKS)}, got {unknown[:1]}")


@dataclass(frozen=True)
class Stage:
    """One command of the demonstration."""

    name: str
    arguments: tuple[str, ...]
    """Of the Python interpreter."""
    resumable: Path | None = None
    """Checkpoint that an interrupted training left."""


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Run all stages, print the table, write summary.json."""
    options = parse_options(DemoOptions, __doc__, argv)
    out = Path(options.out)
    log = StageLog(out / "stages.json")
    planned = stages(options)
    _require_same_ground(planned, log)
    missing = {stage.name: ", ".join(lacking) for stage in planned if (lacking := _lacking(stage.name))}
    for name, packages in missing.items():
        sys.stdout.write(f"[{name}] not run: {packages} not installed (pip install -e .[vqa])\n")
    with sigterm_like_ctrl_c():  # with the stage that runs, which would go on alone
        seconds = {stage.name: _run(stage, log, sys.executable) for stage in planned if stage.name not in missing}
    summary = summarize(out, seconds)
    write_json(out / "summary.json", summary)
    page = write_page(out, summary, {stage.name: stage.arguments for stage in planned}, missing)
    sys.stdout.write(
        f"\n{table(summary)}\n\nvideo: {summary['video']}\nsummary: {out / 'summary.json'}\npage: {page}\n"
    )


def stages(options: DemoOptions) -> list[Stage]:
    """The commands, in order."""
    out = Path(options.out)
    data, general, finetuned = (out / name for name in ("data", "general", "finetuned"))
    dataset = ("--dataset_name", "dtu", "--datadir", str(data))
    last = "checkpoints/last.ckpt"
    size = ("--width", options.width, "--height", options.height, "--views", options.views)
    general_run = ("--datadir", data, "--basedir", out, "--expname", "general", "--max_steps", options.general_steps)
    finetune_run = (
        *("--datadir", data, "--basedir", out, "--expname", "finetuned", "--max_steps", options.finetune_steps),
        *("--init_from", general / last, "--scans", _SCAN),
    )
    # a fifteenth and a twelfth of the steps: the configs' own values at the default sizes
    general_run += ("--warmup_steps", options.general_steps // 15)
    finetune_run += ("--warmup_steps", options.finetune_steps // 12)
    evaluate = ("-m", "render.evaluate", *dataset, "--protocol", _PROTOCOL)
    film = ("--scan", _SCAN, "--trajectory", "interpolate", "--frames", options.frames)
    return [
        _stage("data", "-m", "data.procedural", "--layout", "dtu", "--out", data, "--scenes", options.scenes, *size),
        _stage("general", "train_general.py", "--config", "configs/demo.txt", *general_run, resumable=general / last),
        _stage("evaluate_general", *evaluate, "--ckpt", general / last, "--out", out / "evaluate_general"),
        _stage(
            *("finetune", "train_finetune.py", "--config", "configs/demo_finetune.txt", *finetune_run),
            resumable=finetuned / last,
        ),
        _stage(
            *("evaluate_finetuned", *evaluate, "--scans", _SCAN),
            *("--ckpt", finetuned / last, "--out", out / "evaluate_finetuned"),
        ),
        _stage("video", "-m", "render.video", *dataset, "--ckpt", finetuned / last, *film, "--out", out / "video.mp4"),
        *(_stage(name, "-m", f"render.{name}_demo", "--out", out / name) for name in _TASKS if name in options.tasks),
    ]


def _stage(name: str, *arguments: object, resumable: Path | None = None) -> Stage:
    return Stage(name, tuple(str(argument) for argument in arguments), resumable)


def _lacking(name: str) -> list[str]:
    """Packages that a stage needs and that are not installed."""
    return [package for package in _NEEDS.get(name, ()) if importlib.util.find_spec(package) is None]


def _settings(stage: Stage) -> dict[str, str]:
    """By which the log knows a stage again."""
    return {"command": shlex.join(["python", *stage.arguments])}


def _require_same_ground(planned: Sequence[Stage], log: StageLog) -> None:
    """What later stages read was made by the same commands: what finished before would tell of other data.

    Raises:
        InputError: naming both commands.
    """
    for stage in planned:
        changed = log.changed(stage.name, _settings(stage)) if stage.name in _GROUND else {}
        for before, now in changed.values():
            raise InputError(
                f"--out: {log.path.parent} holds a demonstration whose stage {stage.name} was {before}, got {now}; "
                "take another folder, or remove this one"
            )


def _run(stage: Stage, log: StageLog, python: str) -> float:
    """Run a stage unless it finished before with the same command; its seconds."""
    command = _settings(stage)["command"]
    before = log.finished(stage.name, {"command": command})
    if before is not None:
        sys.stdout.write(f"\n[{stage.name}] finished before: {command}\n")
        return before["seconds"]
    arguments = list(stage.arguments)
    if stage.resumable is not None and stage.resumable.is_file():
        arguments += ["--ckpt", str(stage.resumable)]
    sys.stdout.write(f"\n[{stage.name}] {command}\n")
    sys.stdout.flush()
    log.begin(stage.name, {"command": command})
    start = time.monotonic()
    status = subprocess.run([python, *arguments]).returncode
    if status != 0:
        raise InputError(f"stage {stage.name}: expected exit status 0, got {status} from: {command}")
    return log.finish(stage.name, time.monotonic() - start)["seconds"]


def summarize(out: Path, seconds: dict[str, float]) -> dict[str, Any]:
    """The figures of both evaluations. Baselines and `general` are means over the unseen scans."""
    unseen, finetuned = (
        json.loads((out / name / "metrics.json").read_text()) for name in ("evaluate_general", "evaluate_finetuned")
    )
    pick = {key for key, _, _ in _SHOWN}

    def shown(scores: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in scores.items() if key in pick}

    return {
        "mean_colour": shown(unseen["baselines"]["mean_colour"]),
        "nearest_source": shown(unseen["baselines"]["nearest_source"]),
        "general": shown(unseen["mean"]),
        "general_on_finetuned_scan": shown(unseen["scans"][_SCAN]),
        "finetuned": shown(finetuned["mean"]),
        "scans": {"unseen": sorted(unseen["scans"]), "finetuned": _SCAN},
        "protocol": _PROTOCOL,
        "seconds": {**seconds, "total": round(sum(seconds.values()), 1)},
        "video": str(out / "video.mp4"),
    }


def table(summary: dict[str, Any]) -> str:
    """The summary as text."""
    scans = summary["scans"]
    rows = {
        f"mean color ({len(scans['unseen'])} unseen scans)": summary["mean_colour"],
        f"nearest source ({len(scans['unseen'])} unseen scans)": summary["nearest_source"],
        f"general ({len(scans['unseen'])} unseen scans)": summary["general"],
        f"general ({scans['finetuned']})": summary["general_on_finetuned_scan"],
        f"fine-tuned ({scans['finetuned']}, held-out views)": summary["finetuned"],
    }
    width = max(len(name) for name in rows) + 2
    lines = [" " * width + "".join(f"{title:>12}" for _, title, _ in _SHOWN)]
    for name, scores in rows.items():
        cells = (format(scores[key], form) if isinstance(scores.get(key), float) else "-" for key, _, form in _SHOWN)
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>12}" for cell in cells))
    lines.append(
        f"total {summary['seconds']['total']:.0f} s: "
        + ", ".join(f"{name} {value:.0f}" for name, value in summary["seconds"].items() if name != "total")
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
