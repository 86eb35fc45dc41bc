"""Peak memory and time of `data.wai.covisibility` over the frames: `python -m benchmarks.covisibility_memory`.

A scene of small depth maps (96x128, enlarged to the long side as any others) is written to a temporary folder: cameras
in a row before a wall, of which each sees a part of what the next `--reach` on both sides see. Every number of frames
is a process of its own; memory counts torch and everything else in it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.vggt_full_size import peak_bytes
from data.wai.covisibility import LONG_SIDE, Settings, add_covisibility
from data.wai.scene import WaiScene
from data.wai.scene_meta import FrameMeta, Modality, SceneMeta
from geometry.errors import one_line_errors, require

_HEIGHT, _WIDTH, _FOCAL, _DEPTH = 96, 128, 110.0, 3.0


def write_row(folder: Path, count: int, reach: int) -> None:
    """A scene of `count` cameras in a row, in meters."""
    step = _DEPTH * _WIDTH / _FOCAL / (reach + 1)
    values = {"camera_model": "PINHOLE", "camera_convention": "opencv", "shared_intrinsics": True}
    values |= {"fl_x": _FOCAL, "fl_y": _FOCAL, "cx": (_WIDTH - 1) / 2, "cy": (_HEIGHT - 1) / 2}
    values |= {"w": _WIDTH, "h": _HEIGHT, "scale_type": "metric"}
    scene, frames = WaiScene(folder, SceneMeta("row", "rows", (), {}, values=values)), []
    depth = np.full((_HEIGHT, _WIDTH), _DEPTH, np.float32)
    for number in range(count):
        c2w = np.eye(4)
        c2w[0, 3] = step * number
        name = f"{number:06d}"
        path = scene.store(f"depth/{name}.exr", depth, "depth")
        frames.append(FrameMeta(name, c2w, {"depth": path.relative_to(folder).as_posix()}))
    modalities = {"depth": Modality("frame_key", "depth", "depth")}
    WaiScene(folder, SceneMeta("row", "rows", tuple(frames), modalities, values=values)).write()


def measure(count: int, reach: int, long_side: int) -> dict[str, float]:
    """Peak bytes of this process and seconds of the stage."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_row(Path(folder), count, reach)
        start = time.perf_counter()
        add_covisibility(Settings(long_side=long_side), "row", Path(folder))
        return {"bytes": peak_bytes(torch.device("cpu")), "seconds": time.perf_counter() - start}


@one_line_errors
def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.covisibility_memory")
    parser.add_argument("--frames", type=int, nargs="+", default=[2, 125, 250, 500])
    parser.add_argument("--reach", type=int, default=20, help="cameras on either side that see some of the same")
    parser.add_argument("--long_side", type=int, default=LONG_SIDE, help="pixels of the maps that are compared")
    parser.add_argument("--measure", action="store_true", help="the first number only, in this process, as JSON")
    options = parser.parse_args(given)
    require(min(options.frames) >= 1 and options.reach >= 1, "--frames, --reach: expected 1 or more")
    if options.measure:
        print(json.dumps(measure(options.frames[0], options.reach, options.long_side)))
        return
    print(f"{'frames':<8}{'peak GB':>9}{'seconds':>9}   long side {options.long_side}, one core")
    for count in options.frames:
        command = [sys.executable, "-m", "benchmarks.covisibility_memory", *given, "--frames", str(count), "--measure"]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(result.stdout.strip().splitlines()[-1])
        print(f"{count:<8}{found['bytes'] / 1e9:>9.2f}{found['seconds']:>9.1f}", flush=True)


if __name__ == "__main__":
    main()
