"""train_occupancy.py --eval_only: metrics by stratum and step, of the weights and of what is trivial."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from data.image_io import write_image
from data.occupancy.datamodule import OccupancyDataModule, build_occupancy_data
from data.occupancy.types import OccupancyBatch
from geometry import require
from models.occupancy.networks import OCCWORLD
from training.files import staged_file, write_json
from training.launch import require_one_process
from training.occupancy.baselines import Baselines, mean_occupancy
from training.occupancy.checkpoint import Loaded, load_weights
from training.occupancy.inputs import maneuvers, moving_region, plane_steps
from training.occupancy.learners import Learner, Predicted, learner_of
from training.occupancy.metrics import ALL, CHANGED, MOVING, NON_GROUND, mean
from training.occupancy.options import TOKENIZER, OccupancyOptions
from training.occupancy.pictures import forecast_picture
from training.occupancy.scoring import Scores
from training.pictures import as_bytes
from training.precision import autocast_of, resolved_precision, usable_device

WITH_PLAN, WITHOUT_PLAN, OTHER_PLAN = "model", "model without plan", "model with another's plan"
RECONSTRUCTION = "tokenizer's reconstruction"
_COLUMNS = ((NON_GROUND, "non-ground"), (CHANGED, "changed"), (MOVING, "moving"), (ALL, "all"))
_WIDTH = 26

Predict = Callable[[OccupancyBatch], Predicted]


@dataclass(frozen=True)
class Measured:
    """Scores by row of the table, and a picture of the first window."""

    scores: dict[str, Scores]
    picture: torch.Tensor | None


def evaluate(options: OccupancyOptions) -> dict[str, Any]:
    """Measure, print the table, write `--out` and a picture beside it.

    The weights are those of `--ckpt`, `--init_from` or `--eval_ckpt`.

    Raises:
        InputError: for no weights, weights and data that do not fit, or a split without windows.
    """
    sources = {f"--{name}": getattr(options, name) for name in ("ckpt", "init_from", "eval_ckpt")}
    given = [name for name, source in sources.items() if source]
    require_one_process("--eval_only")
    named = " and ".join(given) or "none"
    require(len(given) == 1, f"--eval_only: expected weights by one of {', '.join(sources)}, got {named}")
    source, out = sources[given[0]], Path(options.out)
    require(out.suffix != ".png", f"--out {out}: expected a name for JSON; a picture .png is put beside it")
    device = usable_device(options.accelerator)
    options = replace(options, precision=resolved_precision(options.precision, device))
    loaded = load_weights(source)
    data = build_occupancy_data(options.spec, needs=(options.eval_split,))
    require(
        options.eval_split in data.sources,
        f"--eval_split {options.eval_split}: expected windows to measure on, got none",
    )
    require_same_data(loaded, options, data)
    with staged_file(out) as partial, staged_file(out.with_suffix(".png")) as picture:
        measured = measure(options, loaded, data, device)
        metrics = {
            "rows": {name: scores.named() for name, scores in measured.scores.items()},
            "num_windows": len(data.keys(options.eval_split)),
            "split": options.eval_split,
            "sessions": data.names[options.eval_split],
            "model": loaded.plan.model,
            "threshold": options.occ_threshold,
            "weights": loaded.identity.name,
            "weights_sha256": loaded.identity.sha256,
            "commands": command_source(data, options),
        }
        write_json(partial, metrics)
        assert measured.picture is not None
        write_image(picture, as_bytes(measured.picture))
    sys.stdout.write(f"{scores_table(measured.scores)}\nwritten to {out}\n")
    return metrics


def require_same_data(loaded: Loaded, options: OccupancyOptions, data: OccupancyDataModule) -> None:
    """Refuse data of another kind than the network's.

    Raises:
        InputError: naming what differs.
    """
    plan, source = loaded.plan, data.any_source
    for name, ours, theirs in (
        ("--model", plan.model, options.model),
        ("--history", plan.history, options.history),
        ("--future", plan.future, options.future),
        ("grid", plan.space.record(), source.space.record()),
        ("classes", plan.num_classes, source.num_classes),
    ):
        require(ours == theirs, f"{name}: the weights {loaded.identity.name} are of {ours}, got {theirs}")


def command_source(data: OccupancyDataModule, options: OccupancyOptions) -> str:
    """Where the plan of the row `model` comes from: a reader of its score has to know."""
    sample = data.windows(options.eval_split)[data.keys(options.eval_split)[0]]
    return "poses that were driven" if sample.commands is None else "plans recorded with the data"


@torch.no_grad()
def measure(options: OccupancyOptions, loaded: Loaded, data: OccupancyDataModule, device: torch.device) -> Measured:
    """All rows over the split."""
    network = loaded.network.to(device).eval()
    rows = dict(model_rows(learner_of(network, loaded.plan, options), options))
    if options.baselines:
        rows |= baseline_rows(options, loaded, data)
    source = data.any_source
    scores = {name: Scores.of(loaded.plan, options.future, source.ground_classes) for name in rows}
    picture = None
    number = -(-len(data.keys(options.eval_split)) // options.batch_size)
    for batch in tqdm(batches(data, options, device), total=number, unit="batch", disable=number < 2):
        region = moving_region(batch, source.space)
        for name, predict in rows.items():
            with autocast_of(options.precision, device):
                found = predict(batch)
            scores[name].add(found, batch, source.space, region)
            if picture is None:
                picture = forecast_picture(batch, found, loaded.plan.free_class)
    return Measured(scores, picture)


def model_rows(learner: Learner, options: OccupancyOptions) -> Iterator[tuple[str, Predict]]:
    """With the plan, without one, and with the plan of another window of the batch."""
    if options.model == OCCWORLD and options.stage == TOKENIZER:
        yield RECONSTRUCTION, lambda batch: learner.predicted(batch, has_plan=True)
        return
    yield WITH_PLAN, lambda batch: learner.predicted(batch, has_plan=True)
    yield WITHOUT_PLAN, lambda batch: learner.predicted(batch, has_plan=False)
    yield OTHER_PLAN, lambda batch: learner.predicted(with_other_plan(batch), has_plan=True)


def with_other_plan(batch: OccupancyBatch) -> OccupancyBatch:
    """Each window has the plan of the one before it (the first: of the last); one alone has its own mirrored in y."""
    plan = batch.relative_future if batch.commands is None else batch.commands
    other = plan.roll(1, 0) if len(plan) > 1 else plan * plan.new_tensor([1, -1, 1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1])
    own, count = maneuvers(batch), batch.history.shape[1]
    changed = torch.cat([own[:, :count], own.roll(1, 0)[:, count:]], dim=1)
    return replace(batch, commands=other, steps=plane_steps(batch), maneuvers=changed)


def baseline_rows(options: OccupancyOptions, loaded: Loaded, data: OccupancyDataModule) -> dict[str, Predict]:
    """What nothing was learned for. The mean map needs training windows."""
    shares = None
    if "train" in data.sources:
        source = data.sources["train"]
        shares = mean_occupancy(lambda index: source[index], len(source), loaded.plan.free_class)
    made = Baselines(data.space, loaded.plan.free_class, shares, options.occ_threshold)
    return {name: (lambda batch, name=name: made.predicted(name, batch)) for name in made.names()}


def batches(data: OccupancyDataModule, options: OccupancyOptions, device: torch.device) -> Iterator[OccupancyBatch]:
    """Of the split, in order, on the device."""
    loader: DataLoader[OccupancyBatch] = DataLoader(
        data.windows(options.eval_split),
        sampler=data.keys(options.eval_split),
        batch_size=options.batch_size,
        collate_fn=OccupancyBatch.stack,
        num_workers=options.num_workers,
    )
    for batch in loader:
        yield batch.to(device)


def scores_table(scores: dict[str, Scores]) -> str:
    """One line per row: IoU by stratum, of what is not ground by step, and the mean position error."""
    steps = next(iter(scores.values())).steps
    shown = [(name, title) for name, title in _COLUMNS if any(name in one.occupancy.counts for one in scores.values())]
    by_step = NON_GROUND if any(NON_GROUND in one.occupancy.counts for one in scores.values()) else ALL
    is_semantic = any(one.semantic is not None for one in scores.values())
    titles = [title for _, title in shown] + (["mIoU", "mIoU ref"] if is_semantic else [])
    titles += [f"step {step + 1}" for step in range(steps)] + ["pose m"]
    lines = ["IoU".ljust(_WIDTH) + "".join(f"{title:>11}" for title in titles)]
    for name, one in scores.items():
        cells = [one.occupancy.iou(stratum) for stratum, _ in shown]
        if one.semantic is not None:
            named = one.semantic.named()
            cells += [mean(named["miou_per_step"]), mean(named["miou_reference_rule_per_step"])]
        elif is_semantic:
            cells += [None, None]
        cells += [one.occupancy.iou(by_step, step) for step in range(steps)]
        cells.append(torch.cat(one.pose)[..., 0].mean().item() if one.pose else None)
        lines.append(name.ljust(_WIDTH) + "".join("-".rjust(11) if one is None else f"{one:11.3f}" for one in cells))
    return "\n".join(lines)
