"""How long a visitor of the viewer waits for the first picture after a movement, and for the full one.

python -m benchmarks.viewer_latency --ckpt C --dataset_name dtu --datadir D --scan scan24
"""

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from geometry import one_line_errors
from render.loading import load_for, precision_for, scenes_for, usable_device
from render.options import RenderOptions
from render.source_pool import SourcePool
from render.trajectories import CameraPath, interpolate
from render.video import only_scene
from render.viewer.scene_renderer import SceneRenderer
from render.viewer.schedule import Pace, sizes
from training.cli import parse_options
from training.nerf.checkpoint import read_nerf_checkpoint
from training.options import option


@dataclass(frozen=True, kw_only=True)
class LatencyOptions(RenderOptions):
    """Those of all render commands, and the flight's."""

    scan: str = option("", "the scan; may be left out when there is only one")
    steps: int = option(40, "coarse pictures along a flight through all source views")
    max_side: int = option(640, "longest side of the full picture, pixels")
    threads: int = option(2, "CPU threads")
    cpu_time: bool = option(False, "count seconds of computation instead: with --threads 1, those of a quiet core")


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Fly, stop, print the times."""
    options = parse_options(LatencyOptions, __doc__, argv)
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.cpu_time else time.perf_counter
    device = usable_device(options.device)
    checkpoint = read_nerf_checkpoint(Path(options.ckpt))
    record = checkpoint.record
    scene = only_scene(scenes_for(record, options, (options.scan,) if options.scan else (), split="all"))
    pool = SourcePool.of(scene, scene.train_views, options.imgScale_test)
    model, precision = load_for(options, checkpoint, device, [scene]), precision_for(options, record, device)
    renderer = SceneRenderer(model, scene, pool, device, scale=options.imgScale_test, precision=precision)
    flight = interpolate(CameraPath(pool.cameras, pool.near, pool.far), options.steps)
    full = tuple(
        round(side * options.max_side / max(flight.height, flight.width)) for side in scene.image_size(pool.ids[0])
    )
    pace, known, encoding, size = Pace(), [], [], full
    for step in range(options.steps):
        size = sizes(full, pace.pixels)[0]
        begin = clock()
        frame = renderer.render(flight[step : step + 1].resized(*size), options.n_views, moving=True)
        seconds = clock() - begin
        (encoding if frame.is_slow else known).append(seconds)
        if not frame.is_slow:
            pace.measured(size, seconds)
    begin = clock()
    renderer.render(flight[-1:].resized(*full), options.n_views)
    still = clock() - begin
    settled = known[len(known) // 3 :] or encoding
    lines = [
        f"coarse picture while moving: median {statistics.median(settled):.3f} s, longest {max(settled):.3f} s "
        f"({len(settled)} pictures after the first third; the last {size[1]} x {size[0]})",
        f"coarse picture for which sources were encoded: {len(encoding)} of {options.steps}, "
        f"median {statistics.median(encoding):.2f} s",
        f"full picture {full[1]} x {full[0]}: {still:.2f} s",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
