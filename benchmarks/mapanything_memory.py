"""Peak memory of MapAnything over the number of views: `python -m benchmarks.mapanything_memory`.

Random weights, by default in the released sizes; every cell is a process of its own. `forward` is one prediction with
all geometry given and the dense head on 8 images at a time; `train` one complete step (loss v1.1, AdamW) that computes
activations again backwards, `train_kept` one that keeps them.
"""

import argparse
import json
import subprocess
import sys

import torch

from benchmarks.vggt_full_size import peak_bytes
from benchmarks.vggt_memory import NO_ANSWER, random_views, usable_device
from geometry.errors import InputError, one_line_errors
from models.mapanything import MapAnything, MapAnythingConfig
from models.mapanything.objective.losses import geometry_losses
from models.mapanything.objective.recipes import RECIPES
from training.mapanything.truth import inputs_of_truth, truth_of_views

MODES = ("forward", "train", "train_kept")


def build_random(config: MapAnythingConfig, device: torch.device) -> MapAnything:
    """The network without ever holding two copies of its weights."""
    with torch.device("meta"):
        model = MapAnything(config)
    model = model.to_empty(device=device)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.ndim > 1:
                tensor.uniform_(-0.02, 0.02)
            else:
                tensor.fill_(0.0 if name.endswith("bias") else 1.0)
    return model


def measure(config: MapAnythingConfig, mode: str, count: int, size: tuple[int, int], device: torch.device) -> int:
    """Peak bytes of one prediction or step."""
    model = build_random(config, device)
    views = random_views(count, *size, device)
    yes, one = torch.ones(1, dtype=torch.bool, device=device), torch.ones(1, device=device)
    truth = truth_of_views(views, one, yes, yes)
    inputs = inputs_of_truth(views.images, truth)
    if mode == "forward":
        with torch.no_grad():
            model.eval()(inputs)
        return peak_bytes(device)
    model.train().set_checkpointing(mode == "train")
    optimizer = torch.optim.AdamW(model.parameters())
    geometry_losses(model(inputs), truth, RECIPES["v1.1"]).objective.backward()
    optimizer.step()
    return peak_bytes(device)


def measured_apart(arguments: list[str], mode: str, count: int) -> float | None:
    """Peak gigabytes, from a process of its own; None when it fails, with the last line of its error on stderr."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.mapanything_memory",
        *arguments,
        "--modes",
        mode,
        "--views",
        str(count),
    ]
    result = subprocess.run([*command, "--measure"], capture_output=True, text=True)
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or [f"ended with status {result.returncode}"])[-1]
        print(f"{mode}, {count} views: {reason}", file=sys.stderr)
        return None
    return json.loads(result.stdout.strip().splitlines()[-1])["bytes"] / 1e9


@one_line_errors
def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mapanything_memory", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--config", help="JSON file of sizes; none: the released ones")
    parser.add_argument("--views", type=int, nargs="+", default=[2, 8, 32])
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--size", type=int, nargs=2, default=(392, 518), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--measure", action="store_true", help="one cell, in this process, as JSON")
    options = parser.parse_args(given)
    if min(*options.views, *options.size) < 1:
        raise InputError("views and size must be positive")
    config = MapAnythingConfig.read(options.config) if options.config else MapAnythingConfig()
    device = usable_device(options.device)
    if options.measure:
        peak = measure(config, options.modes[0], options.views[0], tuple(options.size), device)
        print(json.dumps({"bytes": peak}))
        return
    with torch.device("meta"):
        number = sum(parameter.numel() for parameter in MapAnything(config).parameters())
    print(f"{number / 1e6:.1f} M parameters, {options.size[0]}x{options.size[1]}, float32, {options.device}")
    print(f"{'peak GB':<8}" + "".join(f"{mode:>12}" for mode in options.modes))
    for count in options.views:
        cells = [measured_apart(given, mode, count) for mode in options.modes]
        print(f"{count:<8}" + "".join(f"{NO_ANSWER if one is None else f'{one:.2f}':>12}" for one in cells), flush=True)


if __name__ == "__main__":
    main()
