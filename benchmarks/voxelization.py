"""How long a city takes to become a grid: `python -m benchmarks.voxelization`.

A square kilometer with 2000 buildings (boxes and gable roofs, turned at random, 6 to 60 m high), seen from a drone on a
straight path; a grid of 80 x 80 x 152 m at 0.4 x 0.4 x 1.25 m, 200 x 200 x 121 voxels. One thread; seconds per frame
are of the process, so that other work on the machine does not count.
"""

import argparse
import time

import numpy as np
import torch

from data.occupancy.voxelize import MODES, prepared, voxelized
from geometry import one_line_errors, require
from geometry.voxels import EgoGrid, GridFrame, VoxelGrid

GUIDE = EgoGrid(VoxelGrid((-40, -40, -2), (40, 40, 150), (0.4, 0.4, 1.25)), GridFrame("yaw", "world"))


def city(buildings: int, extent: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and triangles of closed buildings on the plane z = 0, of a side of `extent` meters."""
    random = np.random.default_rng(seed)
    center = random.uniform(-extent / 2, extent / 2, (buildings, 2))
    half, yaw = random.uniform(4, 12, (buildings, 2)), random.uniform(0, np.pi, buildings)
    eaves = random.uniform(5, 55, buildings)
    ridge = eaves + random.uniform(0.5, 5, buildings)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, 0], [1, 0]])
    offset = corners * half[:, None]
    cos, sin = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    x = center[:, None, 0] + cos * offset[..., 0] - sin * offset[..., 1]
    y = center[:, None, 1] + sin * offset[..., 0] + cos * offset[..., 1]
    levels = (np.zeros(buildings), eaves, ridge)
    rings = ((0, 1, 2, 3), (0, 1, 2, 3), (4, 5))
    vertices = np.concatenate(
        [
            np.stack([x[:, ring], y[:, ring], np.broadcast_to(z[:, None], (buildings, len(ring)))], axis=-1)
            for ring, z in zip(rings, levels, strict=True)
        ],
        axis=1,
    )  # building 10 3: floor, eaves, ridge
    walls = [[a, b, b + 4] for a, b in ((0, 1), (1, 2), (2, 3), (3, 0))]
    walls += [[a, b + 4, a + 4] for a, b in ((0, 1), (1, 2), (2, 3), (3, 0))]
    roof = [[4, 5, 9], [4, 9, 8], [6, 7, 8], [6, 8, 9], [5, 6, 9], [7, 4, 8]]
    faces = np.array([[0, 2, 1], [0, 3, 2], *walls, *roof])
    return vertices.reshape(-1, 3), (faces + 10 * np.arange(buildings)[:, None, None]).reshape(-1, 3)


@one_line_errors
def main(arguments: list[str] | None = None) -> None:
    """Print seconds per frame by mode."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.voxelization", description=__doc__.splitlines()[0])
    parser.add_argument("--buildings", type=int, default=2000)
    parser.add_argument("--extent", type=float, default=1000.0, help="side of the city, meters")
    parser.add_argument("--frames", type=int, default=20)
    options = parser.parse_args(arguments)
    require(options.buildings >= 1 and options.frames >= 1, "--buildings, --frames: expected numbers from 1 on")
    torch.set_num_threads(1)
    start = time.process_time()
    vertices, faces = city(options.buildings, options.extent)
    shells = prepared(vertices, faces)
    print(f"{options.buildings} buildings, {len(faces)} triangles, {shells.num_open} of them open; ", end="")
    print(f"prepared in {time.process_time() - start:.2f} s; {GUIDE.grid.description()}")
    poses = torch.zeros(options.frames, 13, dtype=torch.float64)
    poses[:, 0] = torch.linspace(-0.4, 0.4, options.frames) * options.extent
    poses[:, 3], poses[:, 6] = np.cos(0.3), np.sin(0.3)
    for mode in MODES:
        seconds, occupied = [], []
        for grid2world in GUIDE.frame.grid2world(poses).numpy():
            start = time.process_time()
            grid = voxelized(shells, GUIDE, grid2world, mode)
            seconds.append(time.process_time() - start)
            occupied.append(grid.mean())
        print(
            f"{mode:8} mean {np.mean(seconds):.3f} s, most {max(seconds):.3f} s per frame; "
            f"occupied {100 * np.mean(occupied):.2f} %"
        )


if __name__ == "__main__":
    main()
