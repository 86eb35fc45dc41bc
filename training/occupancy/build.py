"""Options of train_occupancy.py -> network, task and data."""

from dataclasses import replace
from pathlib import Path

import torch

from data.occupancy.datamodule import PROCEDURAL, OccupancyDataModule, build_occupancy_data
from data.occupancy.kept_windows import KeptWindows
from geometry import require
from models.config_checks import read_json
from models.occupancy.networks import ALIGNED, OCCWORLD, NetworkPlan, Sizes, build_network, sizes_of
from models.occupancy.occworld import OccWorldConfig
from models.vggt import WeightIdentity
from training.checkpoint import read_checkpoint
from training.occupancy.checkpoint import OCCUPANCY_TRAINING, newest_checkpoint, start_from
from training.occupancy.options import OccupancyOptions
from training.occupancy.task import OccupancyTask


def network_plan(options: OccupancyOptions, data: OccupancyDataModule) -> NetworkPlan:
    """Of a network for these data.

    Raises:
        InputError: for sizes that do not fit the data.
    """
    source = data.any_source
    sizes = _sizes(options, source.num_classes, source.empty_class)
    if isinstance(sizes, OccWorldConfig):
        _require_fitting(sizes, options, source.num_classes, source.space.grid.size)
    return NetworkPlan(
        model=options.model,
        sizes=sizes,
        space=source.space,
        free_class=source.empty_class,
        num_classes=source.num_classes,
        history=options.history,
        future=options.future,
        skip=options.skip,
    )


def _sizes(options: OccupancyOptions, num_classes: int, free_class: int) -> Sizes:
    """From `--model_config`, completed by options and data."""
    given = read_json(Path(options.model_config)) if options.model_config else {}
    if options.model == OCCWORLD:
        return sizes_of(OCCWORLD, given, f"--model_config {options.model_config}")
    known = {"history": options.history, "future": options.future}
    if options.model == ALIGNED:
        is_binary = num_classes == 2
        known |= {"width": options.width, "levels": options.levels, "num_classes": 1 if is_binary else num_classes}
        known |= {} if is_binary else {"free_class": free_class}
    else:
        known |= {"uses_transformer": options.use_transformer}
    repeated = sorted(known.keys() & given.keys())
    require(
        not repeated,
        f"--model_config {options.model_config}: expected no {', '.join(repeated)}, which options or data say",
    )
    return sizes_of(options.model, known | given, f"--model_config {options.model_config}")


def _require_fitting(
    sizes: OccWorldConfig, options: OccupancyOptions, num_classes: int, grid: tuple[int, int, int]
) -> None:
    """OccWorld's sizes are those of its data."""
    tokenizer, frames = sizes.tokenizer, sizes.transformer.frames
    found = (tokenizer.plane, tokenizer.plane, tokenizer.heights)
    require(found == grid, f"--model_config {options.model_config}: expected grids of {grid}, got {found}")
    require(
        tokenizer.num_classes == num_classes,
        f"--model_config {options.model_config}: expected {num_classes} classes, got {tokenizer.num_classes}",
    )
    needed = options.history + options.future - 1
    require(
        frames >= needed,
        f"--model_config {options.model_config}: expected at least {needed} frames before the last "
        f"(--history {options.history} --future {options.future}), got {frames}",
    )


def resumed_options(options: OccupancyOptions) -> OccupancyOptions:
    """With the path of the checkpoint that `--resume` stands for.

    Raises:
        InputError: when the run has none.
    """
    if not options.resume:
        return options
    newest = newest_checkpoint(options.run_dir / "checkpoints")
    return replace(options, resume=False, ckpt=str(newest))


def build_task(options: OccupancyOptions, data: OccupancyDataModule) -> OccupancyTask:
    """Network and task. A run to resume gets its weights from the trainer."""
    torch.manual_seed(options.seed)
    plan = network_plan(options, data)
    network = build_network(plan)
    if options.ckpt:
        checkpoint = read_checkpoint(Path(options.ckpt), OCCUPANCY_TRAINING)
        require(
            checkpoint.record.network == plan.plain(),
            f"--ckpt {options.ckpt}: expected the network {plan.plain()}, got {checkpoint.record.network}",
        )
        start = WeightIdentity(checkpoint.record.start, checkpoint.record.start_sha256)
        task = OccupancyTask(options, network, plan, data, start)
        task.resume(checkpoint)
        return task
    start = WeightIdentity(f"random:{options.model}:{options.seed}", "")
    if options.init_from:
        start = start_from(network, options.init_from, options.init_allow)
    task = OccupancyTask(options, network, plan, data, start)
    learns = len(task.clipping_groups()["network"]) > 0
    require(learns, f"--freeze {' '.join(options.freeze)}: expected something left to learn")
    return task


def build_data(options: OccupancyOptions) -> OccupancyDataModule:
    """All splits. One training window is read at once, so that broken files stop a run before it leaves anything."""
    data = build_occupancy_data(options.spec)
    if options.dataset == PROCEDURAL:
        for split, source in data.sources.items():
            data.sources[split] = KeptWindows(source)
    data.windows("train")[data.sampler().keys_of(0)[0]]
    return data
