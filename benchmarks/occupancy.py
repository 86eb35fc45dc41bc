"""Proof of the occupancy world models on procedural worlds: `python -m benchmarks.occupancy`.

Trains, for each seed: the aligned forecaster, a tokenizer with and one without restarted codes, OccWorld's
transformer on a world that moves one code cell per step, and the guide's bottleneck for comparison. Everything is
measured on held-out worlds; every bar is printed beside its figure. Writes metrics.json, and a picture per seed. Runs
and parts that the folder holds already are taken from there, so that a run that was cut goes on.
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.image_io import write_image
from data.occupancy.datamodule import OccupancyDataModule, build_occupancy_data
from data.occupancy.kept_windows import KeptWindows
from data.occupancy.procedural_world import ProceduralWorlds, WorldSpec
from data.occupancy.types import OccupancyBatch
from geometry import InputError, one_line_errors, require
from geometry.body_poses import placed_at, product, quaternion_of, rotation_about_z
from geometry.voxels import warp_nearest
from models.occupancy.inputs import ForecastInputs
from models.occupancy.occworld import OccWorld
from models.occupancy.occworld.network import code_loss
from models.occupancy.occworld.tokenizer import code_use
from training.cli import parse_options
from training.occupancy.baselines import CONSTANT_VELOCITY, PERSISTENCE, TRUE_MOTION
from training.occupancy.build import build_task
from training.occupancy.checkpoint import Loaded, load_weights
from training.occupancy.evaluation import (
    OTHER_PLAN,
    RECONSTRUCTION,
    WITH_PLAN,
    WITHOUT_PLAN,
    measure,
    scores_table,
)
from training.occupancy.inputs import plane_steps
from training.occupancy.learners import one_hot_maneuvers
from training.occupancy.metrics import CHANGED, MOVING, NON_GROUND, OccupancyScores
from training.occupancy.options import TOKENIZER, TRANSFORMER, OccupancyOptions
from training.occupancy.runs import train_run
from training.occupancy.scoring import Scores
from training.pictures import as_bytes
from training.trainer import fit

CONFIG = "configs/occupancy/tiny_world.txt"
OCCWORLD_SIZES = "configs/occupancy/sizes/tiny_occworld.json"
CELL = 4
"""Voxels (here meters) per code cell of those sizes."""
SHIFT = 3.0
"""Voxels (here meters) by which a shifted command differs."""
CPU = torch.device("cpu")
Figures = dict[str, float | None]


@dataclass(frozen=True)
class Budget:
    """Lengths of the trainings, optimizer steps, numbers of worlds, and what trains."""

    aligned: int = 2000
    bottleneck: int = 200
    tokenizer: int = 450
    collapsed: int = 100
    transformer: int = 500
    worlds: int = 2000
    test_worlds: int = 120
    accelerator: str = "cpu"


QUICK = Budget(aligned=4, bottleneck=2, tokenizer=3, collapsed=2, transformer=2, worlds=16, test_worlds=4)


@dataclass(frozen=True)
class Bar:
    """What a figure has to reach."""

    name: str
    figure: Callable[[Figures], float | None]
    least: float

    def line(self, figures: list[Figures]) -> tuple[str, bool]:
        """Of the mean over seeds, with the figure of each."""
        values = [self.figure(one) for one in figures]
        known = [value for value in values if value is not None]
        mean = sum(known) / len(known) if len(known) == len(values) else None
        passes = mean is not None and mean >= self.least
        each = ", ".join("-" if value is None else f"{value:.3f}" for value in values)
        shown = "-" if mean is None else f"{mean:.3f}"
        verdict = "pass" if passes else "FAIL"
        return f"{self.name:<66}{shown:>8}  bar {self.least:6.3f}  {verdict}  ({each})", passes


def _difference(a: str, b: str) -> Callable[[Figures], float | None]:
    def value(figures: Figures) -> float | None:
        first, second = figures.get(a), figures.get(b)
        return None if first is None or second is None else first - second

    return value


def _entry(name: str, sign: float = 1.0) -> Callable[[Figures], float | None]:
    def value(figures: Figures) -> float | None:
        found = figures.get(name)
        return None if found is None else sign * found

    return value


BARS = (
    Bar("oracle of a static world, whole-voxel moves, visible voxels: IoU", _entry("static_oracle"), 1.0),
    Bar("persistence on changed voxels: minus IoU", _entry("persistence_changed", -1.0), 0.0),
    Bar("aligned, non-ground IoU", _entry("non_ground"), 0.60),
    Bar("  above persistence by", _difference("non_ground", "persistence"), 0.35),
    Bar("  above the true-motion warp by", _difference("non_ground", "true_motion"), 0.0),
    Bar("aligned, changed voxels", _entry("changed"), 0.62),
    Bar("aligned, last step", _entry("last_step"), 0.50),
    Bar("shuffled commands lose", _difference("non_ground", "other_plan"), 0.30),
    Bar("without command, above the constant-velocity warp by", _difference("without_plan", "constant_velocity"), 0.0),
    Bar("moving boxes, above the true-motion warp by", _difference("moving", "true_motion_moving"), 0.0),
    Bar("share of occupied voxels, worst step: minus relative error", _entry("calibration_error", -1.0), -0.25),
    Bar("command shifted by 3 voxels: IoU with the forecast, moved back", _entry("shifted_iou"), 0.60),
    Bar("command yawed by 90 degrees: IoU with the forecast, turned back", _entry("yawed_iou"), 0.60),
    Bar("pose error over constant motion's, no command: minus the ratio", _entry("pose_ratio", -1.0), -1.1),
    Bar("tokenizer, share of codes used", _entry("code_use"), 0.60),
    Bar("tokenizer, perplexity", _entry("perplexity"), 80.0),
    Bar("tokenizer, reconstruction of non-ground voxels: IoU", _entry("reconstruction"), 0.62),
    Bar("without restart the tokenizer collapses: minus share of codes used", _entry("collapsed_use", -1.0), -0.60),
    Bar("transformer, next-code accuracy above copying by", _difference("code_accuracy", "copy_accuracy"), 0.15),
    Bar("transformer, IoU above persistence, worst step by", _entry("transformer_margin"), 0.0),
)


def base_options(seed: int, folder: Path, budget: Budget, **changes: Any) -> OccupancyOptions:
    """Those of the config, for one seed."""
    options = parse_options(OccupancyOptions, __doc__ or "", ["--config", CONFIG])
    values = {
        "seed": seed,
        "basedir": str(folder),
        "num_worlds": budget.worlds,
        "num_val_worlds": budget.test_worlds,
        "num_val": budget.test_worlds,
        "accelerator": budget.accelerator,
        "val_every": 1_000_000,
    }
    return replace(options, **(values | changes))


def trained(options: OccupancyOptions) -> Loaded:
    """The finished weights of a run, which is made, or gone on with, unless it is done."""
    path = options.run_dir / f"{options.expname}.safetensors"
    if not path.is_file():
        begun = (options.run_dir / "checkpoints" / "last.ckpt").is_file()
        trainer = train_run(replace(options, resume=begun, init_from="" if begun else options.init_from))
        if not path.is_file():
            raise InputError(f"{options.run_dir}: stopped after step {trainer.global_step}; the same command goes on")
    return load_weights(str(path))


def measured(options: OccupancyOptions, loaded: Loaded) -> tuple[dict[str, Scores], Tensor | None]:
    """All rows on the test worlds."""
    data = build_occupancy_data(options.spec, needs=("test",))
    for split, source in data.sources.items():
        data.sources[split] = KeptWindows(source)
    with torch.no_grad():
        found = measure(replace(options, batch_size=20), loaded, data, CPU)
    return found.scores, found.picture


def static_oracle() -> float | None:
    """Through the product's evaluator: a vehicle that moves by whole voxels in a world at rest."""
    spec = WorldSpec(movers=0, history=2, future=3)
    world = ProceduralWorlds(spec, 1, seed=5).world(0)
    poses = world.poses.clone()
    poses[:, :3] = torch.stack([torch.tensor([2.0 * i, -1.0 * i, 1.0 + i], dtype=torch.float64) for i in range(5)])
    poses[:, 3:] = poses.new_tensor([1.0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    world = replace(world, poses=poses)
    grids = torch.stack([torch.from_numpy(world.occupancy(spec.space, step)[0]) for step in range(5)])
    motion = spec.space.frame.motion(poses[1], poses[2:])
    warped, known = warp_nearest(spec.space.grid, grids[1].expand(3, -1, -1, -1), motion)
    scores = OccupancyScores(3)
    scores.add(warped[None], grids[2:][None], {"all": known[None]})
    return scores.iou("all")


def aligned_figures(options: OccupancyOptions, folder: Path, seed: int) -> tuple[Figures, str]:
    """Forecasts with, without and with wrong commands beside what is trivial."""
    loaded = trained(options)
    scores, picture = measured(options, loaded)
    if picture is not None:
        write_image(folder / f"forecast_seed{seed}.png", as_bytes(picture))
    model, last = scores[WITH_PLAN], options.future - 1
    errors = [abs(share - 1) for share in model.occupancy.calibration() if share is not None]
    poses = {name: torch.cat(scores[name].pose)[..., 0].mean().item() for name in (WITH_PLAN, CONSTANT_VELOCITY)}
    figures: Figures = {
        "non_ground": model.occupancy.iou(NON_GROUND),
        "changed": model.occupancy.iou(CHANGED),
        "last_step": model.occupancy.iou(NON_GROUND, last),
        "moving": model.occupancy.iou(MOVING),
        "persistence": scores[PERSISTENCE].occupancy.iou(NON_GROUND),
        "persistence_changed": scores[PERSISTENCE].occupancy.iou(CHANGED),
        "true_motion": scores[TRUE_MOTION].occupancy.iou(NON_GROUND),
        "true_motion_moving": scores[TRUE_MOTION].occupancy.iou(MOVING),
        "constant_velocity": scores[CONSTANT_VELOCITY].occupancy.iou(NON_GROUND),
        "without_plan": scores[WITHOUT_PLAN].occupancy.iou(NON_GROUND),
        "other_plan": scores[OTHER_PLAN].occupancy.iou(NON_GROUND),
        "calibration_error": max(errors) if errors else None,
        "pose_error_m": poses[WITH_PLAN],
        "pose_ratio": poses[WITH_PLAN] / poses[CONSTANT_VELOCITY],
        "static_oracle": static_oracle(),
    }
    return figures | command_figures(options, loaded) | straight_figures(options, loaded), scores_table(scores)


@torch.no_grad()
def command_figures(options: OccupancyOptions, loaded: Loaded) -> Figures:
    """Forecasts by a command that differs, seen from the true command's frames, beside the forecast by that."""
    worlds = ProceduralWorlds(WorldSpec(history=options.history, future=options.future), 40, seed=1, is_held_out=True)
    batch = OccupancyBatch.stack([worlds[index] for index in range(min(40, options.num_val_worlds))])
    plan = batch.relative_future
    shifted, yawed = plan.clone(), plan.clone()
    shifted[..., 0] += SHIFT
    quarter = quaternion_of(rotation_about_z(plan.new_tensor(torch.pi / 2)))
    yawed[..., 3:7] = product(plan[..., 3:7], quarter)
    inputs = ForecastInputs(batch.history, batch.history_poses, batch.agent, plan)
    expected = loaded.network(inputs).logits > 0
    figures: Figures = {}
    above = loaded.plan.space.heights(batch.future_poses) >= 0
    for name, other in (("shifted_iou", shifted), ("yawed_iou", yawed)):
        forecast = loaded.network(replace(inputs, plan=other)).logits > 0
        frames = [placed_at(batch.history_poses[:, -1:], one) for one in (other, plan)]
        back, known = warp_nearest(loaded.plan.space.grid, forecast, loaded.plan.space.frame.motion(*frames))
        scores = OccupancyScores(options.future)
        scores.add(back, expected, {"seen": known & above})
        figures[name] = scores.iou("seen")
    return figures


@torch.no_grad()
def straight_figures(options: OccupancyOptions, loaded: Loaded) -> Figures:
    """Position error where nothing is commanded: straight on at constant speed, which constant motion knows exactly."""
    spec = WorldSpec(history=options.history, future=options.future, history_turn=0.0, turn=(0.0, 0.0), climb=0.0)
    worlds = ProceduralWorlds(spec, 20, seed=2, is_held_out=True)
    batch = OccupancyBatch.stack([worlds[index] for index in range(20)])
    inputs = ForecastInputs(batch.history, batch.history_poses, batch.agent)
    poses = loaded.network.motion(inputs).poses.double()
    return {"straight_pose_error_m": (poses - batch.relative_future)[..., :3].norm(dim=-1).mean().item()}


def tokenizer_options(seed: int, folder: Path, budget: Budget, name: str, **changes: Any) -> OccupancyOptions:
    """OccWorld's first stage at toy size."""
    values: dict[str, Any] = {
        "expname": name,
        "model": "occworld",
        "model_config": OCCWORLD_SIZES,
        "stage": TOKENIZER,
        "steps_per_window": 0,
        "batch_size": 2,
        "max_steps": budget.tokenizer,
        "class_lovasz_weight": 3.0,
    }
    return base_options(seed, folder, budget, **(values | changes))


def tokenizer_figures(options: OccupancyOptions) -> tuple[Figures, Loaded]:
    """Code use and reconstruction on test worlds."""
    loaded = trained(options)
    network = loaded.network
    assert isinstance(network, OccWorld)
    scores, _ = measured(replace(options, baselines=False), loaded)
    worlds = ProceduralWorlds(WorldSpec(history=options.history, future=options.future), 60, seed=1, is_held_out=True)
    with torch.no_grad():
        codes = torch.cat([network.vae.codes(worlds[index].future[None])[0] for index in range(60)])
    use = code_use(codes, network.config.tokenizer.num_codes)
    return {
        "code_use": use.share,
        "perplexity": use.perplexity,
        "reconstruction": scores[RECONSTRUCTION].occupancy.iou(NON_GROUND),
        "same_code_as_before": (codes[:, 1:] == codes[:, :-1]).double().mean().item(),
    }, loaded


def translation_data(options: OccupancyOptions, budget: Budget) -> OccupancyDataModule:
    """Worlds in which the vehicle moves straight ahead by one code cell per step."""
    spec = WorldSpec(
        history=options.history,
        future=options.future,
        movers=0,
        speed=(float(CELL), float(CELL)),
        history_turn=0.0,
        turn=(0.0, 0.0),
        climb=0.0,
    )
    sources = {
        "train": KeptWindows(ProceduralWorlds(spec, budget.worlds, seed=options.seed)),
        "val": KeptWindows(ProceduralWorlds(spec, budget.test_worlds, is_held_out=True)),
        "test": KeptWindows(ProceduralWorlds(spec, budget.test_worlds, seed=1, is_held_out=True)),
    }
    return OccupancyDataModule(options.spec, dict(sources), {split: [] for split in sources})


def transformer_figures(tokenizer: OccupancyOptions, budget: Budget) -> Figures:
    """Next codes and rolled-out occupancy on the translation world."""
    source = tokenizer.run_dir / f"{tokenizer.expname}.safetensors"
    options = replace(
        tokenizer,
        expname=f"{tokenizer.expname}_transformer",
        stage=TRANSFORMER,
        init_from=str(source),
        max_steps=budget.transformer,
        batch_size=4,
        lrate=1e-3,
    )
    data = translation_data(options, budget)
    last = options.run_dir / "checkpoints" / "last.ckpt"
    if last.is_file():
        options = replace(options, ckpt=str(last))
    task = build_task(options, data)
    fit(options, task, data)
    loaded = Loaded(task.model.eval(), task.plan, task.start)
    with torch.no_grad():
        scores = measure(replace(options, batch_size=20), loaded, data, CPU).scores
        accuracy, copied = code_accuracy(loaded, [data.sources["test"][index] for index in range(budget.test_worlds)])
    steps = range(options.future)
    ious = [
        (scores[name].occupancy.iou(NON_GROUND, step) or 0.0) for name in (WITH_PLAN, PERSISTENCE) for step in steps
    ]
    model, persistence = ious[: options.future], ious[options.future :]
    return {
        "code_accuracy": accuracy,
        "copy_accuracy": copied,
        "transformer_iou": scores[WITH_PLAN].occupancy.iou(NON_GROUND),
        "transformer_persistence_iou": scores[PERSISTENCE].occupancy.iou(NON_GROUND),
        "transformer_margin": min(one - other for one, other in zip(model, persistence, strict=True)),
    }


def code_accuracy(loaded: Loaded, samples: list[OccupancyBatch]) -> tuple[float, float]:
    """Teacher-forced, of the future frames; and that of the code of the frame before."""
    network = loaded.network
    assert isinstance(network, OccWorld)
    right, same, cells = 0.0, 0.0, 0
    for sample in samples:
        batch = OccupancyBatch.stack([sample])
        labels = torch.cat([batch.history, batch.future], dim=1)
        found = network(labels, plane_steps(batch), one_hot_maneuvers(batch))
        require(bool(torch.isfinite(code_loss(found))), "transformer: expected finite logits")
        first = batch.history.shape[1] - 1
        truth = found.code_labels[:, first:]
        codes = network.vae.codes(labels)[0][:, first:-1]
        right += (found.code_logits[:, first:].argmax(2) == truth).sum().item()
        same += (codes == truth).sum().item()
        cells += truth.numel()
    return right / cells, same / cells


def aligned_part(seed: int, out: Path, budget: Budget) -> dict[str, Any]:
    """The default forecaster."""
    options = base_options(seed, out / f"seed{seed}", budget, expname="aligned", max_steps=budget.aligned)
    figures, table = aligned_figures(options, out, seed)
    return {"figures": figures, "table": table}


def tokenizer_part(seed: int, out: Path, budget: Budget) -> dict[str, Any]:
    """With codes that restart."""
    figures, _ = tokenizer_figures(tokenizer_options(seed, out / f"seed{seed}", budget, "tokenizer"))
    return {"figures": figures}


def collapsed_part(seed: int, out: Path, budget: Budget) -> dict[str, Any]:
    """Without, as OccWorld's."""
    options = tokenizer_options(
        seed, out / f"seed{seed}", budget, "collapsed", restart_after=0, max_steps=budget.collapsed
    )
    figures, _ = tokenizer_figures(options)
    return {"figures": {f"collapsed_{name.removeprefix('code_')}": value for name, value in figures.items()}}


def transformer_part(seed: int, out: Path, budget: Budget) -> dict[str, Any]:
    """Of the tokenizer."""
    return {"figures": transformer_figures(tokenizer_options(seed, out / f"seed{seed}", budget, "tokenizer"), budget)}


def bottleneck_part(seed: int, out: Path, budget: Budget) -> dict[str, Any]:
    """The guide's simple model, half as wide."""
    folder = out / f"seed{seed}"
    options = base_options(
        seed, folder, budget, expname="bottleneck", model="simple", steps_per_window=0, max_steps=budget.bottleneck,
        model_config=str(_narrow(folder)), lrate=1e-3,
    )  # fmt: skip
    scores, _ = measured(replace(options, baselines=False), trained(options))
    return {
        "figures": {
            "bottleneck": scores[WITH_PLAN].occupancy.iou(NON_GROUND),
            "bottleneck_other_plan": scores[OTHER_PLAN].occupancy.iou(NON_GROUND),
        }
    }


PARTS: dict[str, Callable[[int, Path, Budget], dict[str, Any]]] = {
    "aligned": aligned_part,
    "tokenizer": tokenizer_part,
    "collapsed": collapsed_part,
    "transformer": transformer_part,
    "bottleneck": bottleneck_part,
}


def run_seed(seed: int, out: Path, budget: Budget, parts: tuple[str, ...]) -> None:
    """Parts with one seed, in one thread; what is found lies in a file each."""
    torch.set_num_threads(1)
    for part in parts:
        path = out / f"seed{seed}_{part}.json"
        if path.is_file():
            continue
        start = time.process_time()
        found = PARTS[part](seed, out, budget)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(found | {"cpu_seconds": time.process_time() - start}, indent=2) + "\n")
        partial.replace(path)


def collected(seed: int, out: Path) -> dict[str, Any]:
    """What the parts of a seed have found."""
    found: dict[str, Any] = {"seed": seed, "figures": {}, "table": "", "seconds": {}}
    for part in PARTS:
        path = out / f"seed{seed}_{part}.json"
        if path.is_file():
            one = json.loads(path.read_text())
            found["figures"] |= one["figures"]
            found["table"] = one.get("table", found["table"])
            found["seconds"][part] = one["cpu_seconds"]
    return found


def _narrow(folder: Path) -> Path:
    """Sizes of a bottleneck that trains in minutes: half as wide, with as many numbers in the middle."""
    path = folder / "bottleneck.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"width": 32}))
    return path


def report(results: list[dict[str, Any]], out: Path) -> bool:
    """Print tables and bars, write metrics.json; whether all pass."""
    lines: list[str] = []
    for one in results:
        took = ", ".join(f"{name} {value:.0f} s" for name, value in one["seconds"].items())
        lines += [f"seed {one['seed']} (CPU: {took})", one["table"], ""]
    figures = [one["figures"] for one in results]
    verdicts = [bar.line(figures) for bar in BARS]
    lines += [line for line, _ in verdicts]
    others = (
        "same_code_as_before",
        "collapsed_same_code_as_before",
        "collapsed_perplexity",
        "collapsed_reconstruction",
    )
    others += ("code_accuracy", "copy_accuracy", "transformer_iou", "transformer_persistence_iou", "bottleneck")
    others += ("bottleneck_other_plan", "straight_pose_error_m", "pose_error_m")
    for name in others:
        shown = ", ".join("-" if one.get(name) is None else f"{one[name]:.3f}" for one in figures)
        lines.append(f"{name:<40}{shown}")
    sys.stdout.write("\n".join(lines) + "\n")
    bars = [
        {"name": bar.name, "bar": bar.least, "passes": passes} for bar, (_, passes) in zip(BARS, verdicts, strict=True)
    ]
    (out / "metrics.json").write_text(json.dumps({"seeds": results, "bars": bars}, indent=2) + "\n")
    return all(passes for _, passes in verdicts)


@one_line_errors
def main(arguments: list[str] | None = None) -> None:
    """Run all seeds, print and write; exit status 1 where a bar is missed (not with --quick, which reaches none)."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.occupancy", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/occupancy_proof"), help="folder of runs and results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--processes", type=int, default=2, help="seeds at the same time, one thread each")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--accelerator", default="cpu", help="what trains; everything is measured on the CPU")
    parser.add_argument("--transformer_steps", type=int, default=Budget.transformer)
    parser.add_argument("--quick", action="store_true", help="a few steps of everything: it runs, and reaches nothing")
    options = parser.parse_args(arguments)
    require(options.processes >= 1, f"--processes: expected at least 1, got {options.processes}")
    require(
        options.transformer_steps >= 1, f"--transformer_steps: expected at least 1, got {options.transformer_steps}"
    )
    budget = QUICK if options.quick else Budget(transformer=options.transformer_steps)
    budget = replace(budget, accelerator=options.accelerator)
    options.out.mkdir(parents=True, exist_ok=True)
    jobs = [(seed, options.out, budget, tuple(options.parts)) for seed in options.seeds]
    if min(options.processes, len(jobs)) == 1:
        for job in jobs:
            run_seed(*job)
    else:
        with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
            pool.starmap(run_seed, jobs)
    passes = report([collected(seed, options.out) for seed in options.seeds], options.out)
    if not (passes or options.quick):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
