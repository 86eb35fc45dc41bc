"""Does the model look at its views? `python -m benchmarks.vqa`: from nothing to answers about held-out rooms.

For each seed: captions that align the Perceiver with the toy language model that ships (benchmarks.vqa_language has
trained it; configs/vqa/tiny_rooms_captions.txt), questions (configs/vqa/tiny_rooms.txt), and answers about rooms that
none of them has seen: with the real views, black ones, those of another room, the first alone, and by the language
model without any. What has been done is not done again: a run that was cut goes on where it stopped. `--defect` trains
once with a Perceiver that gets no gradient, which must fail.
"""

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import vqa_language
from geometry.errors import InputError, one_line_errors, require
from models.vggt import WeightIdentity
from models.vqa.weights import BESIDE, read_weights, save_weights
from training.checkpoint import read_checkpoint
from training.cli import parse_options
from training.files import staged_file
from training.launch import resolved
from training.trainer import fit
from training.vqa.build import build_data, build_task, load_vggt_of
from training.vqa.checkpoint import VQA_TRAINING, load_vqa
from training.vqa.evaluation import SHOWN, TEXT_ONLY, evaluate, scores_table
from training.vqa.options import VQAOptions
from training.vqa.runs import train_run

SHIPPED_LANGUAGE = "ckpts/vqa_rooms.lm"
CONFIGS = Path(__file__).parents[1] / "configs" / "vqa"
STAGES = ("tiny_rooms_captions", "tiny_rooms")
BARS = {"count": 0.35, "view": 0.25, "color": 0.25, "side": 0.15}
"""Least exact match above that of the majority answer, by task."""
MEAN_BAR = 0.25
ZEROED_BAR, SHUFFLED_BAR, LATER_BAR, STOPPED_BAR = 0.05, 0.03, 0.05, 0.99
"""Most that black views differ from the language model alone, that views of another room and (in questions about other
views) the first view alone are above the majority answer, in means over tasks; least share of answers that end."""


def run_seed(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Everything of one seed; its metrics."""
    base = Path(options.out) / f"seed{seed}"
    language = language_of(options, seed)
    if not (language / "config.json").is_file():
        steps = ["--steps", str(options.language_steps), "--device", options.language_device]
        vqa_language.main(["--out", str(language), "--seed", str(seed), *steps])
    start = ""
    for stage, steps in zip(STAGES, (options.caption_steps, options.question_steps), strict=True):
        run = stage_options(options, stage, base, language, seed, start, steps)
        start = trained(run)
    return tested(options, run, start, base / "metrics.json")


def language_of(options: argparse.Namespace, seed: int) -> Path:
    """The folder of `--language`, else the seed's own."""
    return Path(options.language) if options.language else Path(options.out) / f"seed{seed}" / "language"


def stage_options(
    options: argparse.Namespace, stage: str, base: Path, language: Path, seed: int, start: str, steps: int
) -> VQAOptions:
    """Of a shipped config, with places and lengths of this benchmark."""
    config = parse_options(VQAOptions, "", ["--config", str(CONFIGS / f"{stage}.txt")])
    return replace(
        config,
        expname=stage,
        basedir=str(base),
        language_model=str(language),
        token_cache=options.token_cache,
        init_from=start,
        seed=seed,
        rooms=options.rooms,
        max_steps=steps,
        save_every=min(config.save_every, steps),
        val_every=min(config.val_every, steps),
        export_dtype="float16",
        accelerator=options.accelerator,
    )


def trained(run: VQAOptions) -> str:
    """The weight file of a run, which is trained, or goes on, where that is missing."""
    weights = run.run_dir / f"{run.expname}.safetensors"
    last = run.run_dir / "checkpoints" / "last.ckpt"
    if not weights.is_file():
        train_run(replace(run, ckpt=str(last) if last.is_file() else ""))
    return str(weights)


def tested(options: argparse.Namespace, run: VQAOptions, weights: str, out: Path) -> dict[str, Any]:
    """Metrics of held-out rooms, as train_vqa.py --eval_only writes them."""
    if not out.is_file():
        test = replace(
            run,
            init_from=weights,
            eval_only=True,
            out=str(out),
            dataset_name=("rooms_qa",),
            datadir=("-",),
            weights=(),
            val_rooms=options.test_rooms,
            max_new_tokens=12,
            eval_batch=64,
        )
        evaluate(test)
    return json.loads(out.read_text())


def verdicts(metrics: dict[str, Any]) -> list[tuple[str, float, str, bool]]:
    """What is asked for: name, value, bar, whether it is met."""
    majority = {name.removeprefix("task/"): one["em"] for name, one in metrics["majority"].items()}
    runs = metrics["runs"]
    tasks = [name.removeprefix("task/") for name in metrics["majority"] if name.startswith("task/")]
    floor = sum(majority[task] for task in tasks) / len(tasks)
    wording = sum(max(majority[task], metrics["mentioned"][f"task/{task}"]) for task in tasks) / len(tasks)
    """Of the better one of the majority answer and the answer that the question names first."""

    def em(run: str, group: str) -> float:
        return runs[run]["groups"][group]["em"]

    found = []
    for task, bar in BARS.items():
        if task in tasks:
            above = em(SHOWN, f"task/{task}") - majority[task]
            found.append((f"{task}: above majority", above, f">= {bar}", above >= bar))
    above = runs[SHOWN]["mean_over_tasks"] - floor
    found.append(("mean: above majority", above, f">= {MEAN_BAR}", above >= MEAN_BAR))
    above = runs[SHOWN]["mean_over_tasks"] - wording
    found.append(("mean: above majority or the first answer named", above, f">= {MEAN_BAR}", above >= MEAN_BAR))
    apart = abs(runs["zeroed"]["mean_over_tasks"] - runs[TEXT_ONLY]["mean_over_tasks"])
    found.append(("black views: from language model alone", apart, f"<= {ZEROED_BAR}", apart <= ZEROED_BAR))
    above = runs["shuffled"]["mean_over_tasks"] - floor
    found.append(("views of another room: mean above majority", above, f"<= {SHUFFLED_BAR}", above <= SHUFFLED_BAR))
    above = runs["shuffled"]["mean_over_tasks"] - wording
    found.append(("... above majority or the first answer named", above, f"<= {SHUFFLED_BAR}", above <= SHUFFLED_BAR))
    above = runs["shuffled"]["mean_over_tasks"] - runs[TEXT_ONLY]["mean_over_tasks"]
    found.append(("... above language model alone", above, f"<= {SHUFFLED_BAR}", above <= SHUFFLED_BAR))
    if "later_views" in metrics["majority"]:
        best = max(majority["later_views"], em(TEXT_ONLY, "later_views"))
        above = em("first_view", "later_views") - best
        found.append(("view 1 alone, other views asked: above", above, f"<= {LATER_BAR}", above <= LATER_BAR))
    stopped = metrics["stopped"][SHOWN]
    found.append(("answers that end by themselves", stopped, f">= {STOPPED_BAR}", stopped >= STOPPED_BAR))
    return found


def run_defect(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Questions with a random Perceiver that gets no gradient: adapters alone learn."""
    base = Path(options.out) / f"seed{seed}"
    run = stage_options(options, "tiny_rooms", base, language_of(options, seed), seed, "", options.defect_steps)
    run = resolved(replace(run, expname="defect", spelling_weight=0.0))
    weights = run.run_dir / "defect.safetensors"
    if not weights.is_file():
        vggt, record = load_vggt_of(run, run.config)
        data = build_data(run, vggt, run.config_for(vggt.channels))
        task = build_task(run, vggt, record, data)
        for name, parameter in task.model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name.startswith("language."))
        fit(run, task, data)
        loaded = load_vqa(run.run_dir / "checkpoints" / "last.ckpt")
        identity = WeightIdentity(loaded.vggt.source, loaded.vggt.sha256)
        save_weights(weights, loaded.network, identity, loaded.vggt.image_size)
    return tested(replace_rooms(options, 100), run, str(weights), base / "defect.json")


def replace_rooms(options: argparse.Namespace, most: int) -> argparse.Namespace:
    """Fewer rooms to test with."""
    return argparse.Namespace(**{**vars(options), "test_rooms": min(most, options.test_rooms)})


def ship(options: argparse.Namespace, seed: int) -> None:
    """Weights of a seed and its language model under names that find each other beside VGGT-nano."""
    base, target, language = Path(options.out) / f"seed{seed}", Path(options.ship), language_of(options, seed)
    folder = target.with_name(f"{target.name}.lm")
    loaded = load_vqa(base / STAGES[-1] / f"{STAGES[-1]}.safetensors")
    record = read_checkpoint(base / STAGES[-1] / "checkpoints" / "last.ckpt", VQA_TRAINING).record
    if language.resolve() != folder.resolve():
        shutil.copytree(language, folder, dirs_exist_ok=True)
    identity = loaded.network.language.identity
    loaded.network.language.identity = WeightIdentity(f"{BESIDE}{folder.name}", identity.sha256)
    vggt = WeightIdentity(f"{BESIDE}{Path(loaded.vggt.source).name}", loaded.vggt.sha256)
    with staged_file(target.with_name(f"{target.name}.safetensors"), "--ship") as partial:
        about = {"options": record.options, "commit": record.commit}
        save_weights(partial, loaded.network, vggt, loaded.vggt.image_size, dtype=torch.float16, about=about)
    found, _ = read_weights(target.with_name(f"{target.name}.safetensors"))
    sys.stdout.write(f"shipped {target}.safetensors on {found.language.name}\n")


def _apart(given: list[str], seeds: list[int]) -> None:
    """Seeds side by side, each in a process of its own with one thread."""
    started = [
        subprocess.Popen([sys.executable, "-m", "benchmarks.vqa", *given, "--seeds", str(seed), "--processes", "1"])
        for seed in seeds
    ]
    failed = [seed for seed, one in zip(seeds, started, strict=True) if one.wait() != 0]
    if failed:
        raise InputError(f"seeds {failed}: stopped with an error, see above")


@one_line_errors
def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, print tables and verdicts."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vqa", description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/vqa_proof")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--processes", type=int, default=1, help="seeds that run at the same time")
    parser.add_argument("--token_cache", default="runs/vqa_tokens")
    parser.add_argument("--rooms", type=int, default=3000)
    parser.add_argument("--test_rooms", type=int, default=300)
    parser.add_argument(
        "--language", default=SHIPPED_LANGUAGE, help='toy language model of all seeds; "": each seed trains its own'
    )
    parser.add_argument("--language_steps", type=int, default=6000)
    parser.add_argument("--language_device", default="cpu", help="on which it is trained")
    parser.add_argument("--caption_steps", type=int, default=1200)
    parser.add_argument("--question_steps", type=int, default=1000)
    parser.add_argument("--defect_steps", type=int, default=300)
    parser.add_argument("--defect", action="store_true", help="also train with a Perceiver that gets no gradient")
    parser.add_argument("--ship", default="", help="copy the first seed's weights to this path without its ending")
    parser.add_argument("--accelerator", default="auto")
    options = parser.parse_args(given)
    names = ("processes", "rooms", "test_rooms", "language_steps", "caption_steps", "question_steps", "defect_steps")
    for name in names:
        require(getattr(options, name) >= 1, f"--{name}: expected 1 or more, got {getattr(options, name)}")
    if options.processes > 1 and len(options.seeds) > 1:
        _apart([one for one in given if one not in ("--defect",)], options.seeds)
    for seed in options.seeds:
        metrics = run_seed(options, seed)
        print(f"seed {seed}\n{scores_table(metrics)}")
        for name, value, bar, is_met in verdicts(metrics):
            print(f"  {name:<46}{value:>8.3f}  {bar:<9}{'met' if is_met else 'MISSED'}")
    if options.defect:
        metrics = run_defect(options, options.seeds[0])
        print(f"Perceiver without gradient, {options.defect_steps} steps\n{scores_table(metrics)}")
    if options.ship:
        ship(options, options.seeds[0])


if __name__ == "__main__":
    main()
