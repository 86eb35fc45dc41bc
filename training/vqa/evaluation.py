"""train_vqa.py --eval_only: answers to every validation record, with the real views and with what ablations show.

Beside the scores stand the majority answer and the bare language model, which sees nothing: a number means something
only above these. Answers are joined to records by id.
"""

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from data.scene_qa.datamodule import SceneQADataModule
from data.scene_qa.types import QABatch, QARecord
from geometry import require
from models.vggt.frozen import FrozenVGGT
from models.vqa.network import SceneQA
from models.vqa.visual import scene_features
from training.files import staged_file, write_json
from training.launch import require_one_process
from training.precision import autocast_of, resolved_precision, usable_device
from training.vqa.actions import action_constraint, action_scores, baseline_actions, reference_action
from training.vqa.build import build_data, load_vggt_of
from training.vqa.checkpoint import LoadedVQA, load_vqa
from training.vqa.inputs import scene_inputs
from training.vqa.metrics import report, require_scorable
from training.vqa.options import VQAOptions

SHOWN, TEXT_ONLY = "none", "text_only"
NAMES = {SHOWN: "real views", TEXT_ONLY: "language model alone"}
_MAJORITY, _MENTIONED = "majority answer", "first one named"
_WIDTH = 24
Answers = list[tuple[str, str]]


def evaluate(options: VQAOptions) -> dict[str, Any]:
    """Evaluate, print the table, write `--out` and beside it the answers.

    Raises:
        InputError: for no weights, weights and data that do not fit, and records that cannot be joined by id.
    """
    source = options.ckpt or options.init_from
    require_one_process("--eval_only")
    require(bool(source), "--eval_only: expected weights by --ckpt or --init_from, got none")
    device = usable_device(options.accelerator)
    options = replace(options, precision=resolved_precision(options.precision, device))
    loaded = load_vqa(source, options.language_model, dtype=getattr(torch, options.language_dtype))
    options = replace(
        options,
        vggt_layers=loaded.network.config.visual.layers,
        image_size=loaded.vggt.image_size or options.image_size,
    )
    vggt = recorded_vggt(options, loaded)
    data = build_data(options, vggt, loaded.network.config)
    out = Path(options.out)
    with staged_file(out) as partial:
        metrics = evaluate_network(options, loaded.network, vggt, data, device)
        answers = metrics.pop("answers")
        metrics |= {
            "weights": source,
            "language_model": loaded.network.language.identity._asdict(),
            "vggt": {"name": vggt.identity.name, "sha256": vggt.identity.sha256},
            "image_size": options.image_size,
            "dataset_name": list(options.dataset_name),
            "datadir": list(options.datadir),
        }
        write_json(partial, metrics)
        with staged_file(out.with_name(f"{out.stem}_answers.json")) as beside:
            write_json(beside, answers)
    tables = [scores_table(metrics), *([actions_table(metrics)] if "actions" in metrics else [])]
    sys.stdout.write("\n\n".join(tables) + f"\nwritten to {out}\n")
    return metrics


def recorded_vggt(options: VQAOptions, loaded: LoadedVQA) -> FrozenVGGT:
    """The VGGT that a network was trained behind, from `--vggt_ckpt`.

    Raises:
        InputError: when it is another one.
    """
    vggt, record = load_vggt_of(options, loaded.network.config, loaded.vggt.source)
    require(
        record.sha256 == loaded.vggt.sha256,
        f"--vggt_ckpt {record.source}: the network was trained with VGGT {loaded.vggt.name} "
        f"({loaded.vggt.sha256[:8]}), got {record.sha256[:8]}",
    )
    return vggt


def evaluate_network(
    options: VQAOptions, network: SceneQA, vggt: FrozenVGGT, data: SceneQADataModule, device: torch.device
) -> dict[str, Any]:
    """Scores of every condition, the answers among them."""
    require(
        not options.constrained or bool(actions_of(data)),
        "--constrained: expected records that ask for an action, got none",
    )
    records = [record for source in data.val_sources for record in source.records]
    require_scorable(records)
    for record in actions_of(data):
        reference_action(record)
    for name in options.ablations:
        data.val_samples(name)  # refuses what cannot be shown
    network, vggt = network.to(device).eval(), vggt.to(device)
    answers: dict[str, Answers] = {}
    stopped: dict[str, float] = {}
    for name in (SHOWN, *options.ablations, TEXT_ONLY):
        ablation = name if name in options.ablations else SHOWN
        answers[name], stopped[name] = answers_to(options, network, vggt, data, device, ablation, name == TEXT_ONLY)
    metrics = report(records, answers)
    metrics |= {"stopped": stopped, "answers": {name: dict(found) for name, found in answers.items()}}
    actions = actions_of(data)
    if actions:
        constant = baseline_actions(actions)
        runs = {name: [(record.id, text) for record in actions] for name, text in constant.items()}
        runs |= {name: _of(actions, found) for name, found in answers.items()}
        metrics["actions"] = {name: _finite(action_scores(actions, one)) for name, one in runs.items()}
        if options.constrained:
            for name in answers:
                metrics["actions"][name]["parse_rate"] = None
    return metrics


def actions_of(data: SceneQADataModule) -> list[QARecord]:
    """Validation records that ask for an action."""
    return [record for source in data.val_sources for record in source.records if record.action is not None]


def _of(records: list[QARecord], answers: Answers) -> Answers:
    wanted = {record.id for record in records}
    return [(name, text) for name, text in answers if name in wanted]


def _finite(scores: Any) -> dict[str, Any]:
    """JSON has no infinity: null stands for one."""
    return {key: None if value == float("inf") else value for key, value in asdict(scores).items()}


@torch.no_grad()
def answers_to(
    options: VQAOptions,
    network: SceneQA,
    vggt: FrozenVGGT,
    data: SceneQADataModule,
    device: torch.device,
    ablation: str,
    is_text_only: bool,
) -> tuple[Answers, float]:
    """(id, answer) of every record, and the share of answers that ended by themselves."""
    found: Answers = []
    num_stopped = 0
    constraint = action_constraint(network) if options.constrained else None
    formed = {record.id for record in actions_of(data)}
    for batch in _batches(options, vggt, network, data, device, ablation):
        how: dict[str, Any] = {"max_new_tokens": options.max_new_tokens}
        if constraint is not None:
            how["processors"] = [constraint.processor([one in formed for one in batch.ids])]
        with autocast_of(options.precision, device), network.without_adapters() if is_text_only else nullcontext():
            inputs = None if is_text_only else scene_inputs(batch, network.config, vggt)
            generated = network.answer(inputs, batch.questions, batch.situations, **how)
        found += zip(batch.ids, generated.texts, strict=True)
        num_stopped += sum(generated.stopped)
    return found, num_stopped / len(found)


def _batches(
    options: VQAOptions,
    vggt: FrozenVGGT,
    network: SceneQA,
    data: SceneQADataModule,
    device: torch.device,
    ablation: str,
) -> Iterator[QABatch]:
    if data.cache is not None:
        wanted = data.val_samples(ablation).wanted()
        data.cache.fill(wanted, lambda images: _features(vggt, network, images.to(device)))
    loader = data.evaluation_loader(ablation, batch_size=options.eval_batch)
    for batch in tqdm(loader, desc=NAMES.get(ablation, ablation), unit="batch"):
        yield batch.to(device)


def _features(vggt: FrozenVGGT, network: SceneQA, images: torch.Tensor) -> torch.Tensor:
    return scene_features(vggt, network.config.visual, images)


def scores_table(metrics: dict[str, Any]) -> str:
    """Exact match, one line per condition, one column per task; the mean counts every task alike."""
    tasks = [group for group in metrics["majority"] if group.startswith("task/")]
    columns = [*tasks, *(["later_views"] if "later_views" in metrics["majority"] else [])]
    titles = [column.removeprefix("task/") for column in columns]
    lines = [" " * _WIDTH + f"{'mean':>9}" + "".join(f"{title:>12}" for title in titles) + f"{'stopped':>9}"]
    trivial = {_MAJORITY: {one: metrics["majority"][one]["em"] for one in columns}, _MENTIONED: metrics["mentioned"]}
    for name, scores in trivial.items():
        mean = sum(scores[task] for task in tasks) / len(tasks)
        lines.append(f"{name:<{_WIDTH}}{mean:>9.3f}" + "".join(f"{scores[one]:>12.3f}" for one in columns))
    for name, run in metrics["runs"].items():
        cells = (f"{run['groups'][one]['em']:>12.3f}" for one in columns)
        line = f"{NAMES.get(name, name):<{_WIDTH}}{run['mean_over_tasks']:>9.3f}" + "".join(cells)
        lines.append(line + f"{metrics['stopped'][name]:>9.3f}")
    return "\n".join(lines)


_ACTION_COLUMNS = {
    "parse_rate": "actions",
    "center_error": "center, m",
    "normal_error": "normal, deg",
    "iou": "overlap",
    "acc_025": ">= 0.25",
    "acc_05": ">= 0.5",
}
"""Of `ActionScores`, with their titles."""


def actions_table(metrics: dict[str, Any]) -> str:
    """Scores of actions, one line per condition; a dash: infinite, or true by construction."""
    lines = [" " * _WIDTH + "".join(f"{title:>12}" for title in _ACTION_COLUMNS.values())]
    for name, scores in metrics["actions"].items():
        cells = ("-" if scores[key] is None else f"{scores[key]:.3f}" for key in _ACTION_COLUMNS)
        lines.append(f"{NAMES.get(name, name):<{_WIDTH}}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)
