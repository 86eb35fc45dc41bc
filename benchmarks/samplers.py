"""Quality against samples per ray, for every sampler: python -m benchmarks.samplers --ckpt H G --datadir D --out DIR.

Give a checkpoint of the hierarchical sampler and one of the guided one; each is rendered with 4, 8, 16, ... samples per
ray without being trained again (hierarchical: coarse samples alone, and half of them coarse, half fine). Writes
<out>/samplers.json and samplers.png and prints the table.
"""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure

from benchmarks.plots import line_plot, save_plot
from data.novel_view.dataset import Target
from data.novel_view.protocols import PROTOCOLS, targets_of
from data.readers.registry import read_scenes
from data.seeds import evenly_spread
from geometry import one_line_errors, require
from models.nerf.guided.network import GuidedSamples
from models.nerf.hierarchical.network import HierarchicalSamples
from render.evaluate import EvaluatedView, evaluate_targets
from training.allocator import keep_freed_memory
from training.cli import parse_options
from training.files import staged_folder, write_json
from training.metrics import lpips_metric
from training.nerf.checkpoint import load_model, read_nerf_checkpoint
from training.options import option

_PROTOCOL = "dtu-nearest3"
_NUM_VIEWS = 3
"""Source views: what the protocol takes."""


@dataclass(frozen=True, kw_only=True)
class SamplerOptions:
    """The comparison."""

    ckpt: tuple[str, ...] = option((), "checkpoints, one per sampler", nargs="+")
    vggt_ckpt: str = option("", "where the VGGT weights lie now, if not where the trainings found them")
    datadir: str = option("runs/guided_data", "scenes in DTU's layout; the test scans are rendered")
    scale: float = option(1.0, "resize factor of the images")
    chunk: int = option(4096, "rays rendered at a time")
    views_per_scan: int = option(1, "target views per scan, at most 4")
    samples: tuple[int, ...] = option((4, 8, 16, 32, 64, 128), "samples per ray", nargs="+")
    out: str = option("runs/samplers", "folder for the table and the plot")

    def __post_init__(self) -> None:
        """Refuse what cannot work, by name.

        Raises:
            InputError: naming the option.
        """
        require(bool(self.ckpt), "--ckpt: expected at least one checkpoint, got none")
        require(min(self.samples) >= 2, f"--samples: expected at least 2, got {min(self.samples)}")
        require(self.scale > 0, f"--scale: expected more than 0, got {self.scale}")
        require(self.chunk >= 1, f"--chunk: expected at least 1, got {self.chunk}")
        require(self.views_per_scan >= 1, f"--views_per_scan: expected at least 1, got {self.views_per_scan}")


@dataclass(frozen=True)
class Point:
    """One sampler with one number of samples."""

    sampler: str
    samples: int
    psnr: float
    rays_per_second: float


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Render, print the table, write the plot."""
    options = parse_options(SamplerOptions, __doc__, argv)
    keep_freed_memory()
    points = []
    _require_one_per_sampler(options.ckpt)
    lpips_metric()  # first, since the download of its weights prints lines
    print("| sampler | samples per ray | PSNR | rays/s |\n|---|---|---|---|")
    for checkpoint in options.ckpt:
        for point in _points(options, Path(checkpoint)):
            points.append(point)
            print(f"| {point.sampler} | {point.samples} | {point.psnr:.2f} | {point.rays_per_second:.0f} |")
            sys.stdout.flush()
    with staged_folder(Path(options.out)) as folder:
        write_json(folder / "samplers.json", {"points": [vars(point) for point in points]})
        save_plot(plot(points), folder / "samplers.png")


def _require_one_per_sampler(checkpoints: Sequence[str]) -> None:
    """Before anything is rendered: lines of the plot are named after samplers."""
    first: dict[str, str] = {}
    for checkpoint in checkpoints:
        sampler = read_nerf_checkpoint(Path(checkpoint)).record.renderer.sampler
        require(sampler not in first, f"--ckpt: expected one per sampler, got {sampler} in {first.get(sampler)} too")
        first[sampler] = checkpoint


def variants(sampler: str, count: int) -> dict[str, GuidedSamples | HierarchicalSamples]:
    """Ways of spending `count` samples per ray."""
    if sampler == "guided":
        return {"guided": GuidedSamples(count)}
    half = count // 2
    return {"coarse": HierarchicalSamples(count, 0), "coarse + fine": HierarchicalSamples(half, count - half)}


def _points(options: SamplerOptions, checkpoint: Path) -> list[Point]:
    model, record = load_model(checkpoint, options.vggt_ckpt)
    protocol = PROTOCOLS[_PROTOCOL]
    scenes = read_scenes("dtu", options.datadir, split="test", scans=None, evaluated_only=True)
    targets = [
        target
        for scene in scenes
        for target in evenly_spread(targets_of(protocol, scene, _NUM_VIEWS), options.views_per_scan)
    ]

    def rendered(some: Sequence[Target]) -> list[EvaluatedView]:
        device = torch.device("cpu")
        return evaluate_targets(model, some, protocol, device=device, scale=options.scale, chunk=options.chunk)

    rendered(targets[:1])  # the first image of a process is slower
    points = []
    for count in sorted(set(options.samples)):
        for name, samples in variants(record.renderer.sampler, count).items():
            model.network.samples = samples
            views = rendered(targets)
            seconds = sum(view.render_seconds + view.encode_seconds for view in views)
            rays = sum(view.height * view.width for view in views)
            quality = statistics.mean(view.scores.psnr for view in views)
            points.append(Point(name, count, quality, rays / seconds))
    return points


def plot(points: Sequence[Point]) -> Figure:
    """PSNR over the logarithm of the samples per ray, a line per sampler."""
    lines = {
        name: ([p.samples for p in points if p.sampler == name], [p.psnr for p in points if p.sampler == name])
        for name in dict.fromkeys(point.sampler for point in points)
    }
    return line_plot(lines, "samples per ray", "PSNR (dB)", logarithmic=("x",))


if __name__ == "__main__":
    main()
