"""Time to read Co3D's annotations at the start of a run, per frame: the first time and from the cache.

    python -m benchmarks.co3d_index --frames 100000

Writes a made-up category of sequences of 200 frames into a temporary folder (the images, depth maps and masks of a
sequence are links to one small file each) and reads it as `train_vggt.py` does, with a cache folder of its own.
"""

import argparse
import gzip
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from data.cache import CACHE_VARIABLE
from data.image_io import write_image, write_uint16
from data.readers import co3d_index
from data.readers.co3d import read_co3d
from geometry import rigid_inverse

FRAMES_PER_SEQUENCE = 200
"""As many as a typical sequence of Co3D has."""
_SIDE = 32
"""Pixels of the image all frames show: what is decoded is not what is measured."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line per start."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.co3d_index", description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=2, help="starts that find the cache filled")
    options = parser.parse_args(arguments)
    before = os.environ.get(CACHE_VARIABLE)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "co3d"
        count = write_category(root, options.frames)
        os.environ[CACHE_VARIABLE] = str(Path(folder) / "cache")
        try:
            for turn in range(1 + options.repeats):
                co3d_index.forget()  # as a new process
                wall, processor = time.perf_counter(), time.process_time()
                scenes = read_co3d(root, split="train", scans=("made_up",))
                wall, processor = time.perf_counter() - wall, time.process_time() - processor
                what = "from the cache" if turn else "the first time"
                sys.stdout.write(
                    f"{what}: {len(scenes)} sequences, {count} frames in {wall:.2f} s ({processor:.2f} s of CPU, "
                    f"{1000 * processor / count:.4f} ms per frame)\n"
                )
        finally:
            os.environ.pop(CACHE_VARIABLE)
            os.environ |= {} if before is None else {CACHE_VARIABLE: before}


def write_category(root: Path, num_frames: int) -> int:
    """A category `made_up` of whole sequences; how many frames it has."""
    num_sequences = max(1, num_frames // FRAMES_PER_SEQUENCE)
    cameras = [_camera(view) for view in range(FRAMES_PER_SEQUENCE)]
    intrinsics = [[40.0, 0.0, 15.5], [0.0, 40.0, 15.5], [0.0, 0.0, 1.0]]
    content = {}
    for number in range(num_sequences):
        sequence = f"made_up/{number:05d}"
        image, depth, mask = (root / sequence / name for name in ("image.jpg", "depth.png", "mask.png"))
        write_image(image, np.zeros((_SIDE, _SIDE, 3), np.uint8))
        write_uint16(depth, np.full((_SIDE, _SIDE), 3.0, np.float16).view(np.uint16))
        write_image(mask, np.full((_SIDE, _SIDE), 255, np.uint8))
        for kind in ("images", "depths", "depth_masks"):
            (root / sequence / kind).mkdir()
        content[f"{number:05d}"] = []
        for view, extrinsics in enumerate(cameras):
            name = f"frame{view:06d}"
            os.link(image, root / sequence / "images" / f"{name}.jpg")
            os.link(depth, root / sequence / "depths" / f"{name}.jpg.geometric.png")
            os.link(mask, root / sequence / "depth_masks" / f"{name}.png")
            frame = {"filepath": f"{sequence}/images/{name}.jpg", "extri": extrinsics, "intri": intrinsics}
            content[f"{number:05d}"].append(frame)
    (root / "made_up_train.jgz").write_bytes(gzip.compress(json.dumps(content).encode()))
    return num_sequences * FRAMES_PER_SEQUENCE


def _camera(view: int) -> list[list[float]]:
    """On a circle of radius 3 around the origin, looking at it."""
    angle = torch.tensor(2 * torch.pi * view / FRAMES_PER_SEQUENCE)
    c2w = torch.eye(4)
    c2w[:3, 0] = torch.stack([angle.cos(), torch.zeros(()), -angle.sin()])
    c2w[:3, 2] = torch.stack([angle.sin(), torch.zeros(()), angle.cos()])
    c2w[:3, 3] = -3 * c2w[:3, 2]
    return rigid_inverse(c2w)[:3].double().tolist()


if __name__ == "__main__":
    main()
