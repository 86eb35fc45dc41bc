"""What a VGGT is worth to the radiance field: python -m benchmarks.features --datadir D --real_datadir R --out DIR.

The same field is trained under the same budget (steps, rays, seeds, order of the data) behind
(a)  a VGGT's features and its depth,
(a') its features alone,
(b)  the same VGGT with random weights, features and depth,
(c)  no VGGT, the image stem alone,
and evaluated on scans it has never seen: the procedural test scans below --datadir and, if given, a real scan, each
from near sources (`dtu-nearest3`) and from wide baselines (`dtu-wide3`). Targets are rendered at half size.

--sampler guided compares, behind the same VGGT,
(g)  its tokens in the feature maps and its depth in both levels of the sweep (`--vggt_layers`, `--fine_depth`),
(g1) its tokens alone,
(g2) its depth alone, in both levels,
(g3) its depth in the coarse level alone, as before there were tokens,
(g4) no VGGT.
Real scenes with COLMAP models (--photos) are evaluated on as well, their held-out views from the nearest 3 others.

Every finished run leaves <out>/<arm>_seed<n>.json and is not repeated.
"""

import json
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from data.novel_view.protocols import PROTOCOLS, targets_of
from data.readers.registry import read_scenes
from data.seeds import evenly_spread
from geometry import InputError, one_line_errors, require
from models.nerf.vggt_nerf import VGGTNeRF
from models.vggt.frozen import FrozenVGGT
from render.evaluate import evaluate_targets, summary
from training.backbone import NO_VGGT
from training.cli import parse_options
from training.files import staged_file, write_json
from training.nerf.build import build_data, build_general_task
from training.nerf.options import GeneralOptions
from training.options import option
from training.trainer import fit

ARMS = {
    "vggt_depth": ("(a)", "VGGT features and depth"),
    "vggt": ("(a')", "VGGT features"),
    "random": ("(b)", "random weights, features and depth"),
    "stem": ("(c)", "image stem alone"),
}
GUIDED_ARMS = {
    "both": ("(g)", "tokens and depth"),
    "tokens": ("(g1)", "tokens"),
    "depth": ("(g2)", "depth in both levels"),
    "coarse_depth": ("(g3)", "depth in the coarse level"),
    "none": ("(g4)", "no VGGT"),
}
ARMS_OF = {"hierarchical": ARMS, "guided": GUIDED_ARMS}
_NAMES = ARMS | GUIDED_ARMS
_WITH_DEPTH = ("vggt_depth", "random", "both", "depth", "coarse_depth")
_WITH_FINE_DEPTH = ("both", "depth")
_WITH_TOKENS = ("both", "tokens")
"""Of the guided arms; those of the other sampler that have a VGGT read its tokens."""
_BACKBONE_DROPOUT = 0.25
"""Share of steps without VGGT in the arms with depth; the same in both. Chosen by hand."""
SOURCES = {"near": "dtu-nearest3", "wide": "dtu-wide3"}
_RATE_FROM_A_START = 0.25
"""Of the learning rates, where weights have learned already (`--init_from`). Chosen by hand."""
_SCORES = ("psnr", "ssim", "depth_abs")
_SHOWN = {"psnr": "PSNR", "depth_abs": "depth error"}
_SMALLER = 2
"""Targets are rendered at 1 / this of the sources' size, a quarter of the rays."""
_NUM_VIEWS = 3
"""Source views: what both protocols take."""


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """The comparison; the defaults take about 45 minutes on one idle core."""

    vggt: str = option("ckpts/vggt_nano.safetensors", "VGGT weights, with their sizes in a .json file beside them")
    vggt_image_size: int = option(0, "longest image side VGGT sees; 0 = the image's own size")
    datadir: str = option("runs/demo/data", "procedural scenes in DTU's layout")
    scale: float = option(1.0, "resize factor of the procedural images; 160x128 pixels are meant")
    real_datadir: str = option("", "root folder of real scans in DTU's layout; none: procedural scenes only")
    real_scan: str = option("scan24", "the real scan that is evaluated on; nothing is trained on it")
    real_scale: float = option(0.25, "resize factor of the real images")
    out: str = option("runs/features", "folder of all runs and results")
    sampler: str = option("hierarchical", "what is trained: hierarchical or guided")
    arms: tuple[str, ...] = option(
        (),
        f"what to compare, out of {', '.join(ARMS)}; with --sampler guided {', '.join(GUIDED_ARMS)}; none given: all",
        nargs="+",
    )
    vggt_layers: tuple[int, ...] = option((), "guided: VGGT layers whose tokens are read; none given: all", nargs="+")
    init_from: str = option("", "guided: general checkpoint that the arms start from, which reads depth; not for none")
    photos: tuple[str, ...] = option((), "folders of real scenes with COLMAP models, evaluated on as well", nargs="+")
    photos_scale: float = option(0.5, "resize factor of their images")
    seeds: tuple[int, ...] = option((0, 1, 2), "seeds, one run each", nargs="+")
    steps: int = option(250, "optimizer steps per run")
    rays: int = option(512, "rays per step")
    N_samples: int = option(32, "samples per ray of the coarse pass")
    N_importance: int = option(16, "further samples per ray of the fine pass")
    extra_views: int = option(7, "views: training sources are drawn from so many more than 3 of the nearest")
    views_per_scan: int = option(2, "target views per procedural test scan, at most 4")

    def __post_init__(self) -> None:
        """Refuse what cannot work, by name.

        Raises:
            InputError: naming the option.
        """
        known = ", ".join(ARMS_OF)
        require(self.sampler in ARMS_OF, f"--sampler: expected one of {known}, got {self.sampler!r}")
        arms = ARMS_OF[self.sampler]
        unknown = [arm for arm in self.arms if arm not in arms]
        require(not unknown, f"--arms: expected some of {', '.join(arms)}, got {', '.join(unknown)}")
        is_start = self.sampler == "guided" and self.arms and set(self.arms) <= set(_WITH_DEPTH)
        require(
            not self.init_from or bool(is_start),
            f"--init_from {self.init_from}: expected --sampler guided and --arms out of "
            f"{', '.join(arm for arm in GUIDED_ARMS if arm in _WITH_DEPTH)}",
        )
        surplus = ("N_samples", "N_importance") if self.sampler == "guided" else ("vggt_layers",)
        for name in surplus:
            value, default = getattr(self, name), type(self).__dataclass_fields__[name].default
            require(value == default, f"--{name} {value}: has no effect with --sampler {self.sampler}")
        require(self.steps >= 2, f"--steps: expected at least 2, got {self.steps}")
        require(self.views_per_scan >= 1, f"--views_per_scan: expected at least 1, got {self.views_per_scan}")

    @property
    def budget(self) -> dict[str, Any]:
        """What all runs below one folder must share."""
        plain = json.loads(json.dumps(asdict(self)))
        return {name: value for name, value in plain.items() if name not in ("out", "arms", "seeds")}


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Train and evaluate what is missing, print the table."""
    options = parse_options(FeatureOptions, __doc__, argv)
    out = Path(options.out)
    _require_same_budget(options, out / "budget.json")
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in options.seeds:
        for arm in options.arms or ARMS_OF[options.sampler]:
            results.setdefault(arm, []).append(result_of(options, arm, seed))
    print(table(results))


def result_of(options: FeatureOptions, arm: str, seed: int) -> dict[str, Any]:
    """Scores of one run, `{set: {score: mean}}`, trained and evaluated now unless that was done before."""
    path = Path(options.out) / f"{arm}_seed{seed}.json"
    if path.is_file():
        return json.loads(path.read_text())
    run = train_options(options, arm, seed)
    shutil.rmtree(run.run_dir, ignore_errors=True)  # of a run that was interrupted
    data = build_data(run, is_per_scene=False)
    task = build_general_task(run, data.trained_on)
    fit(run, task, data)
    model = task.model.eval().to("cpu")
    scores = {}
    for name, (datadir, scans, scale, count) in _test_sets(options).items():
        for sources, protocol in SOURCES.items():
            scores[f"{name}, {sources}"] = evaluate_set(model, datadir, scans, scale, count, protocol)
    for folder in options.photos:
        scores[_name_of(folder)] = evaluate_photos(model, folder, options.photos_scale)
    with staged_file(path) as partial:
        write_json(partial, scores)
    return scores


def train_options(options: FeatureOptions, arm: str, seed: int) -> GeneralOptions:
    """The run of an arm; arms differ in the VGGT and in nothing else."""
    architecture = Path(options.vggt).with_suffix(".json")
    if arm == "random" and not architecture.is_file():
        raise InputError(f"--vggt {options.vggt}: expected its sizes in {architecture}, got no such file")
    source = {"random": f"random:{architecture}:{seed}", "stem": NO_VGGT, "none": NO_VGGT}.get(arm, options.vggt)
    has_depth, has_tokens = arm in _WITH_DEPTH, arm in _WITH_TOKENS
    share = _RATE_FROM_A_START if options.init_from else 1.0
    own = {"N_samples": options.N_samples, "N_importance": options.N_importance}
    if options.sampler == "guided":
        # shapes and sample count of the shipped model
        own = {"feature_channels": 8, "hidden": 32, "fused": 32, "N_guided": 6, "muon_lrate": share * 1e-2}
        own |= {"vggt_layers": _layers(options) if has_tokens else (), "fine_depth": arm in _WITH_FINE_DEPTH}
    return GeneralOptions(
        **own,
        sampler=options.sampler,
        init_from=options.init_from,
        expname=f"{arm}_seed{seed}",
        basedir=str(Path(options.out) / "runs"),
        dataset_name="dtu",
        datadir=options.datadir,
        imgScale_train=(options.scale,),
        imgScale_test=options.scale,
        vggt_ckpt=source,
        vggt_image_size=options.vggt_image_size,
        depth_prior=has_depth,
        backbone_dropout=_BACKBONE_DROPOUT if has_depth or has_tokens else 0.0,
        n_views=(_NUM_VIEWS,),
        extra_views=options.extra_views,
        rays_per_step=options.rays,
        max_steps=options.steps,
        warmup_steps=options.steps // 15,
        lrate=share * (2e-3 if options.sampler == "guided" else 4e-3),
        lrate_final=share * 3e-4,
        depth_loss=0.1,
        save_every=options.steps,
        val_every=options.steps,
        num_val=1,
        num_workers=0,
        seed=seed,
        accelerator="cpu",
    )


def _layers(options: FeatureOptions) -> tuple[int, ...]:
    """All layers of the VGGT unless some are named."""
    return options.vggt_layers or tuple(range(FrozenVGGT.load(options.vggt).depth))


def _name_of(folder: str) -> str:
    """Of a scene's folder; the last folders of a set of them are all called "scene"."""
    path = Path(folder)
    return path.parent.name if path.name == "scene" else path.name


def _test_sets(options: FeatureOptions) -> dict[str, tuple[str, tuple[str, ...], float, int]]:
    """Name -> folder, scans (none: the test scans), scale of the sources, targets per scan."""
    sets = {"unseen": (options.datadir, (), options.scale, options.views_per_scan)}
    if options.real_datadir:
        sets[options.real_scan] = (options.real_datadir, (options.real_scan,), options.real_scale, 4)
    return sets


def evaluate_set(
    model: VGGTNeRF, datadir: str, scans: tuple[str, ...], scale: float, count: int, name: str
) -> dict[str, float]:
    """Mean scores over up to `count` targets of every scan, under the protocol of that name."""
    protocol = PROTOCOLS[name]
    scenes = read_scenes("dtu", datadir, split="test", scans=scans or None, evaluated_only=True)
    targets = [one for scene in scenes for one in evenly_spread(targets_of(protocol, scene, _NUM_VIEWS), count)]
    views = evaluate_targets(
        model, targets, protocol, device=torch.device("cpu"), scale=scale, target_scale=scale / _SMALLER
    )
    mean = summary(views, 0.0)["mean"]
    return {score: mean[score] for score in _SCORES if isinstance(mean[score], float)}


def evaluate_photos(model: VGGTNeRF, folder: str, scale: float) -> dict[str, float]:
    """Mean scores over up to 4 held-out views of a COLMAP scene, each from the nearest 3 of the others."""
    protocol = PROTOCOLS["full"]
    (scene,) = read_scenes("colmap", folder, split="all", scans=None)
    targets = evenly_spread(targets_of(protocol, scene, _NUM_VIEWS), 4)
    views = evaluate_targets(
        model, targets, protocol, device=torch.device("cpu"), scale=scale, target_scale=scale / _SMALLER
    )
    mean = summary(views, 0.0)["mean"]
    return {score: mean[score] for score in ("psnr", "ssim") if isinstance(mean[score], float)}


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: a row per arm, a column per test set and score; mean and spread (standard deviation) over seeds.

    The last rows are differences between the first arm and the others, seed by seed.
    """
    example = next(iter(results.values()))[0]
    columns = [(name, score) for name, scores in example.items() for score in _SHOWN if score in scores]
    lines = ["| | " + " | ".join(f"{name}: {_SHOWN[score]}" for name, score in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for arm, runs in results.items():
        cells = [_mean_and_spread([run[name][score] for run in runs], score) for name, score in columns]
        lines.append(f"| {' '.join(_NAMES[arm])} | " + " | ".join(cells) + " |")
    first, *others = results
    for other in others:
        pairs = list(zip(results[first], results[other], strict=True))
        cells = [
            _mean_and_spread([one[name][score] - two[name][score] for one, two in pairs], score, sign="+")
            for name, score in columns
        ]
        lines.append(f"| {_NAMES[first][0]} - {_NAMES[other][0]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _mean_and_spread(values: Sequence[float], score: str, sign: str = "") -> str:
    digits = {"psnr": 2, "depth_abs": 1}[score]
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.{digits}f}{spread}"


def _require_same_budget(options: FeatureOptions, path: Path) -> None:
    """Results of different budgets do not belong into one table."""
    before = json.loads(path.read_text()) if path.is_file() else options.budget
    for name, value in options.budget.items():
        require(
            before.get(name) == value, f"--{name}: --out {options.out} holds runs with {before.get(name)}, got {value}"
        )
    with staged_file(path) as partial:
        write_json(partial, options.budget)


if __name__ == "__main__":
    main()
