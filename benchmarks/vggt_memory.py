"""Peak memory of one training step over the number of frames: `python -m benchmarks.vggt_memory`.

Four ways to train: the aggregator frozen or everything learning, each with and without activation checkpointing. Each
cell is a process of its own that makes one complete step (forward, objective, backward, clipping, AdamW) of one group
on random weights, images and depth, by default in the sizes of VGGT-1B. On the CPU the peak is that of the process, on
an accelerator that of its allocator; weights, gradients and AdamW's moments are part of it.
"""

import argparse
import json
import subprocess
import sys

import torch

from benchmarks.vggt_full_size import build_random, peak_bytes
from geometry import Cameras, Views
from geometry.errors import InputError, one_line_errors
from models.vggt import VGGT, VGGTConfig
from models.vggt.config import HEADS
from models.vggt.objective.ground_truth import ground_truth
from models.vggt.objective.losses import LossWeights, vggt_objective
from training.run_task import clip_by_group
from training.vggt.learning import frozen_modules, module_groups

MODES = ("frozen", "frozen_checkpointed", "unfrozen", "unfrozen_checkpointed")
DEFAULT_HEADS = ("camera", "depth")
NO_ANSWER = "none"


def random_views(frames: int, height: int, width: int, device: torch.device) -> Views:
    """One group of noise with cameras a little apart, all looking along z."""
    generator = torch.Generator().manual_seed(0)
    w2c = torch.eye(4).repeat(1, frames, 1, 1)
    w2c[..., 0, 3] = torch.linspace(0, 1, frames)
    intrinsics = torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]]).repeat(1, frames, 1, 1)
    views = Views(
        images=torch.rand(1, frames, 3, height, width, generator=generator),
        cameras=Cameras(w2c, intrinsics, height, width),
        near=torch.ones(1, frames),
        far=torch.full((1, frames), 3.0),
        ids=torch.arange(frames)[None],
        depth=1 + torch.rand(1, frames, height, width, generator=generator),
    )
    return views.to(device)


def prepared(config: VGGTConfig, mode: str, device: torch.device) -> VGGT:
    """A network on random weights, ready to be trained in one of the modes."""
    model = build_random(config, device).train().requires_grad_(True)
    model.set_checkpointing(mode.endswith("_checkpointed"))
    if mode.startswith("frozen"):
        for module in frozen_modules(model, ["aggregator"]):
            module.eval()
    return model


def measure(config: VGGTConfig, mode: str, frames: int, size: tuple[int, int], device: torch.device) -> int:
    """Peak bytes of one step."""
    model = prepared(config, mode, device)
    groups = module_groups(model)
    optimizer = torch.optim.AdamW([parameter for group in groups.values() for parameter in group])
    views = random_views(frames, *size, device)
    output = model(views.images)
    vggt_objective(output, ground_truth(views), LossWeights()).objective.backward()
    clip_by_group(groups, 1.0)
    optimizer.step()
    return peak_bytes(device)


def measured_apart(arguments: list[str], mode: str, frames: int) -> float | None:
    """Peak gigabytes, from a process of its own; None when it fails, with the last line of its error on stderr."""
    command = [sys.executable, "-m", "benchmarks.vggt_memory", *arguments, "--modes", mode, "--frames", str(frames)]
    result = subprocess.run([*command, "--measure"], capture_output=True, text=True)
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or [f"ended with status {result.returncode}"])[-1]
        print(f"{mode}, {frames} frames: {reason}", file=sys.stderr)
        return None
    return json.loads(result.stdout.strip().splitlines()[-1])["bytes"] / 1e9


def usable_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        InputError: when there is none here.
    """
    try:
        return torch.empty(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: not possible here ({str(error).splitlines()[0]})") from None


@one_line_errors
def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vggt_memory", description=__doc__.splitlines()[0])
    parser.add_argument("--config", help="JSON file of sizes; none: VGGT-1B")
    parser.add_argument("--heads", nargs="+", default=list(DEFAULT_HEADS), choices=HEADS[:3])
    parser.add_argument("--frames", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--size", type=int, nargs=2, default=(392, 518), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--measure", action="store_true", help="one cell, in this process, as JSON")
    options = parser.parse_args(given)
    if min(*options.frames, *options.size) < 1:
        raise InputError("frames and size must be positive")
    config = (VGGTConfig.read(options.config) if options.config else VGGTConfig()).with_heads(options.heads)
    patch = config.aggregator.patch_size
    if any(side % patch for side in options.size):
        raise InputError(
            f"--size: expected multiples of the patch size {patch}, got {options.size[0]} {options.size[1]}"
        )
    device = usable_device(options.device)
    if options.measure:
        peak = measure(config, options.modes[0], options.frames[0], tuple(options.size), device)
        print(json.dumps({"bytes": peak}))
        return
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in VGGT(config).parameters())
    print(
        f"{count / 1e6:.1f} M parameters, heads: {', '.join(config.heads)}; "
        f"{options.size[0]}x{options.size[1]}, float32"
    )
    print(
        f"peak GB of one training step on {options.device}\n{'frames':<8}" + "".join(f"{m:>23}" for m in options.modes)
    )
    for frames in options.frames:
        cells = [measured_apart(given, mode, frames) for mode in options.modes]
        print(
            f"{frames:<8}" + "".join(f"{NO_ANSWER if one is None else f'{one:.2f}':>23}" for one in cells), flush=True
        )


if __name__ == "__main__":
    main()
