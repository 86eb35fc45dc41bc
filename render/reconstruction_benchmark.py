"""Reconstruction from 2 to 100 views, by data set, scene and set of views: `python -m render.reconstruction_benchmark`.

The dense benchmark of MapAnything (Keetha et al. 2025, section 4). Sets of scenes with covisibility are random walks
(docs/wai.md, "Sampling of views"), others are random first views with their best neighbors.

Below `--out`, for each preset of inputs and number of views: `sets.jsonl` (a line per set, written as it is done: a run
that was stopped goes on there), `<data set>_per_scene_results.json` {scene: {metric: [per set]}}, `<data
set>_avg_across_all_scenes.json` {metric: mean over sets} and `per_dataset_results.json` {data set: {metric: mean},
"Average": {metric: mean over data sets}}.
"""

import json
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from data.multi_view.covisible_views import EDGE_THRESHOLD, edges, sample_views
from data.multi_view.sampler import BatchShape
from data.multi_view.sources import FixedGroups, FrameGroup, GroupKey
from data.problems import LeftOut, Problems, Report
from data.readers.registry import READERS, read_scenes
from data.scene import PosedScene
from data.seeds import derived_seed, seeded_generator
from geometry import FrameBatch, InputError, one_line_errors, require
from training.cli import parse_options
from training.files import staged_file, write_json
from training.mapanything.checkpoint import as_reconstructor, load_weights
from training.mapanything.evaluation import inputs_of_preset, known
from training.mapanything.inputs import PRESETS, preset_named
from training.mapanything.metrics import METRICS, known_mean, set_metrics
from training.mapanything.options import MODELS
from training.mapanything.truth import truth_of_batch
from training.options import option
from training.precision import autocast_of, resolved_precision, usable_device

SEED = 777
"""As upstream's benchmark."""
_COLUMNS = ("pointmaps_abs_rel", "pointmaps_true_inlier_103", "pose_ate_rmse", "pose_true_auc_5", "z_depth_abs_rel")

Scores = dict[str, float | None]
SetKey = tuple[str, str, int]
"""Data set, scene, number of the set."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """Which weights, which data, how many views."""

    weights: str = option("", "a .ckpt of train_mapanything.py, a .safetensors file, a folder or a hub id")
    model: str = option("mapanything", f"network of the weights: {', '.join(MODELS)}")
    dataset_name: tuple[str, ...] = option(("blendedmvs",), f"data sets: {', '.join(READERS)}", nargs="+")
    datadir: tuple[str, ...] = option(("./data/blendedmvs",), "root folder of each, in the same order", nargs="+")
    covisibility: float = option(
        EDGE_THRESHOLD, "threshold of the walks through scenes with covisibility; 0: best neighbors there as well"
    )
    scans: tuple[str, ...] = option((), "scans of the one data set; none given: its own test list", nargs="+")
    views: tuple[int, ...] = option((2, 4, 8, 16, 24, 32, 50, 100), "numbers of views of a set", nargs="+")
    inputs: tuple[str, ...] = option(("images",), f"geometry given: {', '.join(PRESETS)}", nargs="+")
    sets_per_scene: int = option(10, "sets of views of each scene")
    image_size: int = option(518, "longer side of the images, a multiple of the patch size")
    images_at_a_time: int = option(8, "images that the dense head works on at once: less memory, the same result")
    precision: str = option("auto", "32-true, bf16-mixed, 16-mixed or auto")
    accelerator: str = option("auto", "where to compute: auto, cpu, gpu, ...")
    out: str = option("reconstruction_benchmark", "folder of the results; one that holds some goes on where it ended")

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            InputError: naming the option.
        """
        require(bool(self.weights), "--weights: expected a checkpoint or weights, got none")
        require(self.model in MODELS, f"--model: expected one of {', '.join(MODELS)}, got {self.model!r}")
        require(
            len(self.datadir) == len(self.dataset_name),
            f"--datadir: expected one folder for each of --dataset_name {list(self.dataset_name)}, "
            f"got {list(self.datadir)}",
        )
        unknown = [name for name in self.dataset_name if name not in READERS]
        require(not unknown, f"--dataset_name: expected some of {', '.join(READERS)}, got {unknown[:1]}")
        titles = [title for title, _, _ in self.datasets]
        repeated = len(set(titles)) < len(titles)
        require(not repeated, f"--dataset_name, --datadir: expected different data sets, got {titles}")
        require(0 <= self.covisibility < 1, f"--covisibility: expected 0 to below 1, got {self.covisibility:g}")
        require(not self.scans or len(self.dataset_name) == 1, "--scans: expected exactly one --dataset_name beside it")
        require(min(self.views) >= 2, f"--views: expected numbers of at least 2, got {list(self.views)}")
        for name in ("sets_per_scene", "images_at_a_time", "image_size"):
            require(getattr(self, name) >= 1, f"--{name}: expected at least 1, got {getattr(self, name)}")
        for name in self.inputs:
            preset_named(name)
        require(
            self.model == "mapanything" or self.inputs == ("images",),
            f"--inputs {' '.join(self.inputs)}: --model {self.model} takes images only",
        )

    @property
    def datasets(self) -> list[tuple[str, str, str]]:
        """Title of the results, name and folder of each data set; several roots of one format by their folders."""
        pairs = list(zip(self.dataset_name, self.datadir, strict=True))
        return [
            (name if self.dataset_name.count(name) == 1 else f"{name}_{Path(datadir).resolve().name}", name, datadir)
            for name, datadir in pairs
        ]


def sets_of_scene(
    scene: PosedScene, count: int, sets: int, report: Report, threshold: float = EDGE_THRESHOLD
) -> list[FrameGroup]:
    """The same in every run, whichever other scenes there are: walks of connected views if the scene has covisibility.

    Otherwise, or with a `threshold` of 0, random first views with their best neighbors.

    Raises:
        InputError: (unless `report` collects) naming a scene with too few views, which is left out, or with too few
            that are connected, of which a set has all that were found and repeats of them.
    """
    views = list(scene.frames)
    if len(views) < count:
        few = f"expected at least {count} views, got {len(views)}"
        report(LeftOut("scenes with too few views", f"scene {scene.name}: {few}"))
        return []
    seed = derived_seed(SEED, count, zlib.crc32(scene.name.encode()))
    if scene.covisibility is not None and threshold > 0:
        return _walks(scene, count, sets, report, threshold, seed)
    generator = seeded_generator(seed)
    rounds = [torch.randperm(len(views), generator=generator).tolist() for _ in range(-(-sets // len(views)))]
    firsts = [views[at] for order in rounds for at in order]
    return [FrameGroup(scene, (first, *scene.neighbors[first][: count - 1])) for first in firsts[:sets]]


def _walks(scene: PosedScene, count: int, sets: int, report: Report, threshold: float, seed: int) -> list[FrameGroup]:
    views = list(scene.frames)
    neighbors = edges(scene.covisibility.among(views), threshold)
    found = [sample_views(neighbors, count, np.random.default_rng((seed, number))) for number in range(sets)]
    short = [one.num_repeated for one in found if one.num_repeated]
    if short:
        few = f"expected {count} views connected above covisibility {threshold:g}, got down to {count - max(short)}"
        report(LeftOut("sets with repeated views", f"scene {scene.name}: {few} in {len(short)} of {sets} sets"))
    return [FrameGroup(scene, tuple(views[at] for at in one.views)) for one in found]


class SetFile:
    """Metrics of every set, a line each; lines that are there already are not computed again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.scores: dict[SetKey, Scores] = {}
        text = path.read_text() if path.is_file() else ""
        if text and not text.endswith("\n"):
            with path.open("a") as file:
                file.write("\n")  # the next set must not continue a line that was not finished
        for line in text.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # the run was stopped while it wrote this one
            self.scores[entry["dataset"], entry["scene"], entry["set"]] = entry["metrics"]

    def add(self, key: SetKey, scores: Mapping[str, float]) -> None:
        """Write one set; nan as null."""
        self.scores[key] = known(dict(scores))
        entry = {"dataset": key[0], "scene": key[1], "set": key[2], "metrics": self.scores[key]}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def per_scene(scores: Mapping[SetKey, Scores], dataset: str) -> dict[str, dict[str, list[float | None]]]:
    """{scene: {metric: [per set]}} of a data set, sets in order."""
    found: dict[str, dict[str, list[float | None]]] = {}
    for key in sorted(key for key in scores if key[0] == dataset):
        scene = found.setdefault(key[1], {name: [] for name in METRICS})
        for name in METRICS:
            scene[name].append(scores[key].get(name))
    return found


def average(scenes: Mapping[str, Mapping[str, Sequence[float | None]]]) -> Scores:
    """{metric: mean over the sets of all scenes}; sets without a value are left out, null where none has one."""
    values = {name: [value for scene in scenes.values() for value in scene[name]] for name in METRICS}
    return known({name: known_mean([one for one in found if one is not None]) for name, found in values.items()})


def write_levels(folder: Path, scores: Mapping[SetKey, Scores], datasets: Sequence[str]) -> dict[str, Any]:
    """The three JSON levels; the last one is returned."""
    levels: dict[str, Any] = {}
    for dataset in datasets:
        scenes = per_scene(scores, dataset)
        levels[dataset] = average(scenes)
        for name, content in (
            (f"{dataset}_per_scene_results.json", scenes),
            (f"{dataset}_avg_across_all_scenes.json", levels[dataset]),
        ):
            with staged_file(folder / name) as partial:
                write_json(partial, content)
    means = {name: [one[name] for one in levels.values() if one[name] is not None] for name in METRICS}
    levels["Average"] = known({name: known_mean(values) for name, values in means.items()})
    with staged_file(folder / "per_dataset_results.json") as partial:
        write_json(partial, levels)
    return levels


@torch.no_grad()
def run(options: BenchmarkOptions) -> dict[str, dict[str, Any]]:
    """All presets and numbers of views; the last JSON level by folder.

    Raises:
        InputError: for weights or data that cannot be read, or a folder with results of other weights.
    """
    device = usable_device(options.accelerator)
    options = replace(options, precision=resolved_precision(options.precision, device))
    network, identity = load_weights(options.weights, options.model)
    _claim(Path(options.out), options, identity.sha256)
    network = network.to(device).eval()
    scenes = {title: _scenes(options, name, datadir) for title, name, datadir in options.datasets}
    results = {}
    for count in options.views:
        problems = Problems()
        groups = [
            (name, group, number)
            for name, found in scenes.items()
            for scene in found
            for number, group in enumerate(
                sets_of_scene(scene, count, options.sets_per_scene, problems.add, options.covisibility)
            )
        ]
        problems.announce(f"{count} views")
        for preset in options.inputs:
            folder = Path(options.out) / preset / f"{count:03d}_views"
            file = SetFile(folder / "sets.jsonl")
            keys = [(name, group.scene.name, number) for name, group, number in groups]
            for key, (name, group, _) in zip(keys, tqdm(groups, f"{preset}, {count} views", unit="set"), strict=True):
                if key not in file.scores:
                    file.add(key, _scored(options, network, name, group, preset, device))
            if groups:  # the file may hold sets of other scenes, from a run with other --scans
                results[str(folder)] = write_levels(folder, {key: file.scores[key] for key in keys}, list(scenes))
    return results


def _scenes(options: BenchmarkOptions, name: str, datadir: str) -> list[PosedScene]:
    problems = Problems()
    found = read_scenes(
        name, datadir, problems=problems, split="test", scans=options.scans or None, evaluated_only=True
    )
    problems.announce(f"{name} in {datadir}")
    return found


def _scored(
    options: BenchmarkOptions, network: nn.Module, name: str, group: FrameGroup, preset: str, device: torch.device
) -> dict[str, float]:
    """Metrics of one set."""
    patch = as_reconstructor(network).patch_size
    count = len(group.view_ids)
    source = FixedGroups(name, [group])
    shape = BatchShape(options.image_size, (1.0, 1.0), patch, (count, count), count)  # only its `fitted` is asked
    height, width = shape.fitted(*source.image_shape(0))
    seed = derived_seed(SEED, count, *group.view_ids)
    batch = FrameBatch.stack(source.sample_many([GroupKey(0, 0, count, height, width, seed)])).to(device)
    truth = truth_of_batch(batch)
    with autocast_of(options.precision, device):
        prediction = network(inputs_of_preset(preset, batch, truth), images_at_a_time=options.images_at_a_time)
    return set_metrics(prediction, truth)


def _claim(folder: Path, options: BenchmarkOptions, sha256: str) -> None:
    """Note what the results are of; refuse a folder with results of something else."""
    note = folder / "benchmark.json"
    same = ("model", "image_size", "sets_per_scene", "precision", "covisibility")
    mine: dict[str, Any] = {name: getattr(options, name) for name in same} | {"weights_sha256": sha256}
    roots = {title: str(Path(datadir).resolve()) for title, _, datadir in options.datasets}
    if note.is_file():
        theirs = _read_note(note)
        mine |= {title: root for title, root in roots.items() if title in theirs}
        wrong = [name for name, value in mine.items() if theirs.get(name) != value]
        require(
            not wrong,
            f"--out {folder}: holds results with another {wrong[0] if wrong else ''} "
            f"({theirs.get(wrong[0]) if wrong else ''}), got {mine[wrong[0]] if wrong else ''}: take another folder",
        )
        mine = theirs | mine
    _write_note(note, mine | roots | {"weights": options.weights})


def _read_note(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected what the results are of, got a damaged file")
    return content


def _write_note(path: Path, content: dict[str, Any]) -> None:
    with staged_file(path) as partial:
        write_json(partial, content)


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The averages, one line per folder."""
    width = max((len(name) for name in results), default=0) + 2
    lines = [" " * width + "".join(f"{name.removeprefix('pointmaps_'):>20}" for name in _COLUMNS)]
    for folder, levels in results.items():
        values = [levels["Average"][name] for name in _COLUMNS]
        lines.append(folder.ljust(width) + "".join("-".rjust(20) if one is None else f"{one:>20.4f}" for one in values))
    return "\n".join(lines)


@one_line_errors
def main() -> None:
    """Run and print the averages."""
    options = parse_options(BenchmarkOptions, __doc__)
    results = run(options)
    require(bool(results), f"--views {list(options.views)}: expected scenes with so many views, got none")
    sys.stdout.write(f"{table(results)}\nwritten below {options.out}\n")


if __name__ == "__main__":
    main()
