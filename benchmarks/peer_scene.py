"""The peer's synthetic scene: python -m benchmarks.peer_scene --ckpt C --peer_dir /path/to/peer --out DIR

Renders the four targets from three fixed sources at 320x256 and 640x512, as the released MVSNeRF checkpoint was
measured (its figures stand in <peer_dir>/README.md), and prints quality, speed and memory. The scene is made by the
peer's own `make_scene.py` once per size and seed and kept below --out. Nothing about it enters a training.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from geometry import Cameras, InputError, Views, one_line_errors, require
from geometry.conversions import intrinsics_from_integer_centers
from models.nerf.guided.network import GuidedSamples
from models.nerf.vggt_nerf import QUALITIES, RenderedImage, VGGTNeRF, render_image
from render.loading import peak_memory_mb
from training.allocator import keep_freed_memory
from training.cli import parse_options
from training.metrics import psnr, ssim
from training.nerf.checkpoint import load_model
from training.options import option

_MIN_REPEATS = 5
"""Images rendered for the median time."""
_ARRAYS = ("images", "intrinsics", "w2c", "depths", "near", "far", "source_ids", "target_ids", "dtu_ids")


@dataclass(frozen=True, kw_only=True)
class PeerOptions:
    """What is measured; with two checkpoints or more, side by side in one run."""

    ckpt: tuple[str, ...] = option((), "checkpoints of train_general.py", nargs="+")
    vggt_ckpt: str = option("", "where the VGGT weights lie now, if not where the training found them")
    peer_dir: str = option("../shared/peer", "folder of make_scene.py")
    out: str = option("runs/peer_scene", "folder that keeps the scenes")
    sizes: tuple[str, ...] = option(("320x256", "640x512"), "widths and heights, multiples of 32", nargs="+")
    seeds: tuple[int, ...] = option((0,), "scenes; 0 is the one with published figures", nargs="+")
    quality: str = option("fast", f"{' or '.join(QUALITIES)}, see render.evaluate")
    N_guided: int = option(0, "samples per ray of guided checkpoints; 0 = as trained")
    threads: int = option(2, "CPU threads")
    chunk: int = option(8192, "rays rendered at a time")

    def __post_init__(self) -> None:
        """Refuse what cannot work, by name.

        Raises:
            InputError: naming the option.
        """
        require(bool(self.ckpt), "--ckpt: expected at least one checkpoint, got none")
        script = Path(self.peer_dir) / "make_scene.py"
        require(script.is_file(), f"--peer_dir {self.peer_dir}: expected a folder with make_scene.py, got none there")
        for name, minimum in (("threads", 1), ("chunk", 1), ("N_guided", 0)):
            require(getattr(self, name) >= minimum, f"--{name}: expected {minimum} or more, got {getattr(self, name)}")
        require(self.quality in QUALITIES, f"--quality: expected {' or '.join(QUALITIES)}, got {self.quality!r}")
        require(min(self.seeds) >= 0, f"--seeds: expected 0 or more, got {min(self.seeds)}")
        for size in self.sizes:
            sides = size.split("x")
            is_size = len(sides) == 2 and all(
                side.isdecimal() and int(side) > 0 and int(side) % 32 == 0 for side in sides
            )
            require(is_size, f"--sizes: expected WIDTHxHEIGHT in multiples of 32, got {size!r}")


@dataclass(frozen=True)
class Row:
    """What a checkpoint scores on one scene at one size."""

    name: str
    psnrs: list[float]
    ssim: float
    depth_median: float
    """Of the absolute error of camera z, scene units (mm)."""
    depth_mean: float
    seconds: float
    """Per image, sources encoded anew: median over the images."""
    rays_per_second: float
    peak_mb: float
    """Of the process so far: measure one checkpoint and size per run to compare."""


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Make what is missing, render, print the table."""
    options = parse_options(PeerOptions, __doc__, argv)
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    print(
        "| checkpoint, scene | PSNR of targets | mean PSNR | SSIM | depth error median / mean | s/image | rays/s | MB |"
    )
    print("|---" * 8 + "|")
    for checkpoint in options.ckpt:
        model, record = load_model(Path(checkpoint), options.vggt_ckpt)
        if options.N_guided and record.renderer.sampler == "guided":
            model.network.samples = GuidedSamples(options.N_guided)
        model.quality = options.quality
        for seed in options.seeds:
            for size in options.sizes:
                source, target = read_scene(scene_file(options, size, seed))
                name = f"{checkpoint}, {options.quality}, seed {seed}, {size}"
                print(_line(measured(model, name, source, target, options.chunk)))
                sys.stdout.flush()


def scene_file(options: PeerOptions, size: str, seed: int) -> Path:
    """The scene's npz, made now unless it was before.

    Raises:
        InputError: when the peer's script fails, with its last line.
    """
    path = Path(options.out).resolve() / f"seed{seed}_{size}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        width, height = size.split("x")
        script = (Path(options.peer_dir) / "make_scene.py").resolve()
        partial = path.with_name(f"partial_{path.name}")
        command = [sys.executable, str(script), "--out", str(partial), "--width", width, "--height", height]
        command += ["--seed", str(seed), "--threads", str(options.threads)]
        print(f"making {path}", file=sys.stderr)
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode != 0 or not partial.is_file():
            said = [f"exit status {result.returncode}", *result.stderr.strip().splitlines()]
            raise InputError(f"--peer_dir {options.peer_dir}: expected make_scene.py to write a scene, got {said[-1]}")
        partial.replace(path)
    return path


def read_scene(path: Path) -> tuple[Views, Views]:
    """Sources (axes batch view) and targets (axis view) of a scene of the peer's, in our pixel convention."""
    with np.load(path) as file:
        scene = {name: file[name] for name in _ARRAYS}
    millimeters = {name: float(scene[name]) for name in ("near", "far")}

    def views(ids: np.ndarray) -> Views:
        images = torch.from_numpy(scene["images"][ids]).permute(0, 3, 1, 2).float().contiguous()
        intrinsics = intrinsics_from_integer_centers(torch.from_numpy(scene["intrinsics"][ids]).float())
        cameras = Cameras(torch.from_numpy(scene["w2c"][ids]).float(), intrinsics, *images.shape[-2:])
        near, far = (torch.full((len(ids),), millimeters[name]) for name in ("near", "far"))
        depth = torch.from_numpy(scene["depths"][ids]).float()
        return Views(images, cameras, near, far, torch.from_numpy(scene["dtu_ids"][ids]), depth)

    return Views.stack([views(scene["source_ids"])]), views(scene["target_ids"])


@torch.no_grad()
def measured(model: VGGTNeRF, name: str, source: Views, target: Views, chunk: int) -> Row:
    """Render every target, at least five images for the time, and score the first round."""
    images: list[RenderedImage] = []
    seconds = []
    while len(seconds) < max(_MIN_REPEATS, len(target.near)):
        number = len(seconds) % len(target.near)
        view = target[number : number + 1]
        start = time.perf_counter()
        maps = model.encode(source)
        images.append(render_image(model.view(maps, view.cameras, view.near, view.far), chunk))
        seconds.append(time.perf_counter() - start)
    truth = [(one.permute(1, 2, 0), depth) for one, depth in zip(target.images, target.depth, strict=True)]
    pairs = list(zip(images[: len(truth)], truth, strict=True))
    errors = torch.cat([(image.depth - depth)[depth > 0].abs() for image, (_, depth) in pairs])
    per_image = statistics.median(seconds)
    return Row(
        name=name,
        psnrs=[psnr(image.rgb, rgb) for image, (rgb, _) in pairs],
        ssim=statistics.mean(ssim(image.rgb, rgb) for image, (rgb, _) in pairs),
        depth_median=errors.median().item(),
        depth_mean=errors.mean().item(),
        seconds=per_image,
        rays_per_second=images[0].depth.numel() / per_image,
        peak_mb=peak_memory_mb(torch.device("cpu")),
    )


def _line(row: Row) -> str:
    each = " ".join(f"{one:.2f}" for one in row.psnrs)
    cells = [row.name, each, f"{statistics.mean(row.psnrs):.2f}", f"{row.ssim:.3f}"]
    cells += [f"{row.depth_median:.1f} / {row.depth_mean:.1f}", f"{row.seconds:.2f}", f"{row.rays_per_second:.0f}"]
    return "| " + " | ".join([*cells, f"{row.peak_mb:.0f}"]) + " |"


if __name__ == "__main__":
    main()
