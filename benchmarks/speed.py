"""Where the time of the guided sampler goes, and its floor: python -m benchmarks.speed --width 640 --height 512

Stages: encode (source images to maps), sweep (both volumes of the target view), field (all rays). For each the seconds
(CPU time and wall time, medians), the floating-point operations of its convolutions and matrix products, and the bytes
that its operations read and write, counted by running it once under a counter. The floor divides both by what this
machine delivers to a matrix product and to a copy of 64 MB, and takes the larger. It is an estimate and no bound: small
tensors are read from the cache faster than that copy, and a single small volume is counted twice, since `cost_volume`
convolves it in a batch of two. Without --ckpt the weights are random, at the same cost.

`--under_load`: seconds per image instead, alone and beside one and two processes that never rest.
"""

import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from geometry import Cameras, Views, one_line_errors, require
from geometry.waiting import SPINS
from models.nerf.guided.network import GuidedConfig, GuidedNeRF, GuidedSamples
from models.nerf.vggt_nerf import VGGTNeRF
from render.loading import peak_memory_mb
from training.allocator import keep_freed_memory
from training.cli import parse_options
from training.nerf.checkpoint import load_model
from training.options import option


@dataclass(frozen=True, kw_only=True)
class SpeedOptions:
    """What is timed."""

    ckpt: str = option("", "checkpoint of a guided model; none: random weights, sizes of general_guided")
    width: int = option(640, "of source and target images")
    height: int = option(512, "of source and target images")
    n_views: int = option(3, "source views")
    N_guided: int = option(6, "samples per ray")
    chunk: int = option(8192, "rays at a time")
    threads: int = option(2, "CPU threads")
    repeats: int = option(5, "repeats of every stage; the median counts")
    under_load: bool = option(False, "time whole images alone and beside busy processes, in processes of their own")

    def __post_init__(self) -> None:
        """Refuse what cannot work, by name.

        Raises:
            InputError: naming the option.
        """
        for name in ("width", "height", "n_views", "N_guided", "chunk", "threads", "repeats"):
            require(getattr(self, name) >= 1, f"--{name}: expected at least 1, got {getattr(self, name)}")


class ByteCounter(TorchDispatchMode):
    """Bytes of the tensors that operations read and write; views cost nothing, nor does what `expand` repeats."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one operation."""
        result = func(*args, **(kwargs or {}))
        written = [one for one in tree_leaves(result) if isinstance(one, Tensor)]
        read = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        known = {one.untyped_storage().data_ptr() for one in read}
        # in place: the result is one of the arguments, as a view is, but was written
        if func._schema.is_mutable or any(one.untyped_storage().data_ptr() not in known for one in written):
            self.count += sum(_bytes(one) for one in (*read, *written))
        return result


def _bytes(tensor: Tensor) -> int:
    """In memory: axes of stride 0 count once."""
    sides = [size if stride else min(size, 1) for size, stride in zip(tensor.shape, tensor.stride(), strict=True)]
    return math.prod(sides) * tensor.element_size()


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Time, count, print the table."""
    options = parse_options(SpeedOptions, __doc__ or "", argv)
    if options.under_load:
        print_under_load(options)
        return
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    flops, bandwidth = machine_rates()
    print(f"machine, {options.threads} threads: {flops / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.1f} GB/s")
    print("| stage | wall s | CPU s | GFLOP | GB | floor s |")
    print("|---" * 6 + "|")
    total = [0.0] * 5
    with torch.inference_mode():
        for name, stage in stages(options).items():
            row = [*median_seconds(stage, options.repeats), *_counted(stage)]
            row.append(max(row[2] / flops, row[3] / bandwidth))
            total = [one + other for one, other in zip(total, row, strict=True)]
            print(_line(name, row))
    print(_line("all", total))
    rays = options.width * options.height
    memory = peak_memory_mb(torch.device("cpu"))
    print(f"{rays / total[0]:.0f} rays/s; {total[0] / total[4]:.1f} times the floor; peak {memory:.0f} MB")


def print_under_load(options: SpeedOptions) -> None:
    """A table of seconds per image: threads that wait as OpenMP has it, and as the project sets it."""
    ways = {
        f"libgomp's {_LIBGOMP_SPINS} looks": (options.threads, _LIBGOMP_SPINS),
        f"{SPINS} looks": (options.threads, SPINS),
        "0 looks": (options.threads, "0"),
        "one thread": (1, SPINS),
    }
    print(f"| {options.threads} threads waiting by | {' | '.join(f'beside {busy}' for busy in _BUSY)} |")
    print("|---" * (1 + len(_BUSY)) + "|")
    seconds: dict[str, list[list[float]]] = {name: [[] for _ in _BUSY] for name in ways}
    with tqdm(total=len(ways) * len(_BUSY), unit="process") as bar:
        for place, busy in enumerate(_BUSY):
            for name, (threads, spins) in ways.items():  # in turn: what else the machine does meets all
                seconds[name][place] = _beside(busy, replace(options, threads=threads), spins)
                bar.update()
    for name, cells in seconds.items():
        print(f"| {name} | {' | '.join(f'{statistics.median(cell):.2f} s' for cell in cells)} |")


def _beside(busy: int, options: SpeedOptions, spins: str) -> list[float]:
    """Seconds of every image of a process beside so many that never rest."""
    others = [subprocess.Popen([sys.executable, "-c", _NEVER_RESTS]) for _ in range(busy)]
    try:
        own = multiprocessing.get_context("spawn")
        with mock.patch.dict(os.environ, {"GOMP_SPINCOUNT": spins}), ProcessPoolExecutor(1, mp_context=own) as pool:
            return pool.submit(image_seconds, options).result()
    finally:
        for other in others:
            other.kill()
            other.wait()


def image_seconds(options: SpeedOptions) -> list[float]:
    """Wall seconds of whole images, after one that does not count."""
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    seconds = []
    with torch.inference_mode():
        parts = stages(options)
        for _ in range(1 + options.repeats):
            start = time.perf_counter()
            for stage in parts.values():
                stage()
            seconds.append(time.perf_counter() - start)
    return seconds[1:]


_NEVER_RESTS = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"
"""As long as who started it is there."""
_LIBGOMP_SPINS = "300000"
_BUSY = (0, 1, 2)


def stages(options: SpeedOptions) -> dict[str, Callable[[], Any]]:
    """Name -> the stage, ready to be called any number of times."""
    model = _model(options)
    source, target = _views(options)
    near, far = target.near, target.far
    maps = model.encode(source)
    view = model.view(maps, target.cameras, near, far)
    rows = torch.arange(options.height * options.width)
    pixels = torch.stack([rows % options.width, rows // options.width], dim=-1)[None] + 0.5
    rays = target.cameras.rays(pixels, near, far)
    chunks = [rays[:, start : start + options.chunk] for start in range(0, len(rows), options.chunk)]
    return {
        "encode": lambda: model.encode(source),
        "sweep": lambda: model.view(maps, target.cameras, near, far),
        "field": lambda: [view.render(chunk).rgb for chunk in chunks],
    }


def machine_rates() -> tuple[float, float]:
    """Operations per second of a matrix product and bytes per second (read and written) of a copy."""
    matrix, block = torch.rand(1024, 1024), torch.rand(1 << 24)
    into = torch.empty_like(block)
    product, copy = median_seconds(lambda: matrix @ matrix, 5)[0], median_seconds(lambda: into.copy_(block), 5)[0]
    return 2 * 1024**3 / product, 2 * 4 * (1 << 24) / copy


def _model(options: SpeedOptions) -> VGGTNeRF:
    samples = GuidedSamples(options.N_guided)
    if not options.ckpt:
        return VGGTNeRF(None, GuidedNeRF(GuidedConfig(feature_channels=8, hidden=32, fused=32), samples)).eval()
    model, record = load_model(Path(options.ckpt))
    sampler = record.renderer.sampler
    require(sampler == "guided", f"--ckpt {options.ckpt}: expected --sampler guided, got {sampler}")
    model.network.samples = samples
    return model


def _views(options: SpeedOptions) -> tuple[Views, Views]:
    """Noise images from cameras side by side (axes batch view), and the target between them (axis batch)."""
    count, height, width = options.n_views + 1, options.height, options.width
    w2c = torch.eye(4).repeat(count, 1, 1)
    w2c[:, 0, 3] = torch.linspace(-0.5, 0.5, count)
    intrinsics = torch.tensor([[2.0 * width, 0, width / 2], [0, 2.0 * width, height / 2], [0, 0, 1]]).repeat(
        count, 1, 1
    )
    near, far = torch.full((count,), 4.25), torch.full((count,), 9.05)
    cameras = Cameras(w2c, intrinsics, height, width)
    views = Views(torch.rand(count, 3, height, width), cameras, near, far, torch.arange(count))
    middle = count // 2
    sources = [view for view in range(count) if view != middle]
    return Views.stack([views[sources]]), views[middle : middle + 1]


def median_seconds(stage: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Median wall and CPU seconds, after one call that does not count."""
    stage()
    pairs = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        stage()
        pairs.append((time.perf_counter() - wall, time.process_time() - cpu))
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def _counted(stage: Callable[[], Any]) -> tuple[float, float]:
    """Floating-point operations of products and convolutions, and bytes read and written."""
    with FlopCounterMode(display=False) as flops:
        stage()
    with ByteCounter() as counted:
        stage()
    return float(flops.get_total_flops()), float(counted.count)


def _line(name: str, row: Sequence[float]) -> str:
    wall, cpu, flops, traffic, floor = row
    cells = (wall, cpu, flops / 1e9, traffic / 1e9, floor)
    return " | ".join([f"| {name}", *(f"{cell:.3g}" for cell in cells)]) + " |"


if __name__ == "__main__":
    main()
