"""Memory and time of the aligned forecaster over the size of the grid: `python -m benchmarks.occupancy_memory`.

Random weights and random grids; every cell is a process of its own. `stream`: the next grid of one vehicle, as it
drives; `train`: a complete step (one window, one future frame, the guide's losses, AdamW). Sizes of the networks are
those of the configs: 32 channels and one halving up to 50 x 50, 64 and three for 200 x 200.
"""

import argparse
import json
import subprocess
import sys
import time

import torch

from benchmarks.vggt_full_size import peak_bytes
from benchmarks.vggt_memory import NO_ANSWER, usable_device
from geometry import one_line_errors, require
from geometry.voxels import EgoGrid, GridFrame, VoxelGrid
from models.occupancy import AlignedConfig, AlignedForecaster, ForecastInputs
from models.occupancy.objective.occupancy import OccupancyWeights, class_loss, occupancy_losses

MODES = ("stream", "train")
GRIDS: dict[str, tuple[tuple[int, int, int], int, str]] = {
    # name: voxels, classes (1: occupied or not), orientation
    "20x20x12": ((20, 20, 12), 1, "yaw"),
    "32x32x16": ((32, 32, 16), 1, "yaw"),
    "50x50x30": ((50, 50, 30), 1, "yaw"),
    "200x200x16, 18 classes": ((200, 200, 16), 18, "full"),
    "200x200x120, tilted": ((200, 200, 120), 1, "full"),
    "200x200x121": ((200, 200, 121), 1, "yaw"),
}
HISTORY, FUTURE = 4, 6
_WIDE_FROM = 100
"""Voxels along x from which the larger network is taken."""


def build(name: str, device: torch.device) -> tuple[AlignedForecaster, ForecastInputs]:
    """A network and one window of random grids."""
    size, classes, orientation = GRIDS[name]
    half = (0.2 * size[0], 0.2 * size[1])
    grid = VoxelGrid((-half[0], -half[1], -1.0), (half[0], half[1], -1.0 + 0.4 * size[2]), (0.4, 0.4, 0.4))
    is_wide = size[0] >= _WIDE_FROM
    config = AlignedConfig(
        history=HISTORY, future=FUTURE, num_classes=classes, width=64 if is_wide else 32, levels=3 if is_wide else 1
    )
    torch.manual_seed(0)
    model = AlignedForecaster(config, EgoGrid(grid, GridFrame(orientation, "vehicle"))).to(device)
    history = torch.randint(max(2, classes), (1, HISTORY, *size), dtype=torch.uint8, device=device)
    poses = torch.zeros(1, HISTORY, 13, dtype=torch.float64, device=device)
    poses[..., 3] = 1
    poses[..., 0] = torch.arange(HISTORY, device=device)
    plan = torch.zeros(1, FUTURE, 13, dtype=torch.float64, device=device)
    plan[..., 3] = 1
    plan[..., 0] = 1.0 + torch.arange(FUTURE, device=device)
    return model, ForecastInputs(history, poses, torch.zeros(1, dtype=torch.long, device=device), plan)


def measure(name: str, mode: str, device: torch.device, repeats: int) -> dict[str, float]:
    """Peak bytes, and seconds (on a CPU: of its time) of the fastest repetition after the first."""
    model, inputs = build(name, device)
    optimizer = torch.optim.AdamW(model.parameters())
    target = inputs.history[:, -1:]

    def step() -> None:
        if mode == "stream":
            with torch.no_grad():
                model(inputs, (0,))
            return
        logits = model(inputs, (0,)).logits
        is_binary = logits.ndim == target.ndim
        losses = occupancy_losses(logits, target.float(), OccupancyWeights()) if is_binary else {}
        loss = sum(losses.values()) if is_binary else class_loss(logits, target)
        optimizer.zero_grad()
        torch.as_tensor(loss).backward()
        optimizer.step()

    # CPU seconds do not depend on what else the machine does
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    seconds = []
    for _ in range(repeats + 1):
        start = clock()
        step()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        seconds.append(clock() - start)
    return {"bytes": peak_bytes(device), "seconds": min(seconds[1:])}


def grid_measured_apart(arguments: list[str], name: str, mode: str) -> dict[str, float] | None:
    """From a process of its own; None when it fails, with the last line of its error on stderr."""
    command = [sys.executable, "-m", "benchmarks.occupancy_memory", *arguments, "--grids", name, "--modes", mode]
    result = subprocess.run([*command, "--measure"], capture_output=True, text=True)
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or [f"ended with status {result.returncode}"])[-1]
        print(f"{name}, {mode}: {reason}", file=sys.stderr)
        return None
    return json.loads(result.stdout.strip().splitlines()[-1])


@one_line_errors
def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.occupancy_memory", description=(__doc__ or "")[:80])
    parser.add_argument("--grids", nargs="+", default=list(GRIDS), choices=list(GRIDS))
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--measure", action="store_true", help="one cell, in this process, as JSON")
    options = parser.parse_args(given)
    require(min(options.repeats, options.threads) >= 1, "--repeats, --threads: expected at least 1")
    torch.set_num_threads(options.threads)
    device = usable_device(options.device)
    if options.measure:
        print(json.dumps(measure(options.grids[0], options.modes[0], device, options.repeats)))
        return
    print(f"aligned, {HISTORY} grids seen, float32, {options.device}, {options.threads} thread(s)")
    titles = [f"{mode} {unit}" for mode in options.modes for unit in ("GB", "s")]
    print(f"{'grid':<26}" + "".join(f"{title:>12}" for title in titles))
    for name in options.grids:
        cells: list[str] = []
        for mode in options.modes:
            found = grid_measured_apart(given, name, mode)
            cells += (
                [NO_ANSWER, NO_ANSWER] if found is None else [f"{found['bytes'] / 1e9:.2f}", f"{found['seconds']:.3f}"]
            )
        print(f"{name:<26}" + "".join(f"{cell:>12}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
