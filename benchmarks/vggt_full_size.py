"""Time and memory of the full-size network on random weights: `python -m benchmarks.vggt_full_size`.

Weights and images are random, so only seconds and bytes mean anything. On the CPU the peak is that of the process
(weights, code and activations), on an accelerator that of its allocator.
"""

import argparse
import resource
import time
from typing import TypeVar

import torch
from torch import nn

from geometry.errors import InputError, one_line_errors
from models.vggt import VGGT, VGGTConfig
from models.vggt.config import HEADS
from models.vggt.depth_anything import DepthAnything3, DepthAnythingConfig, depth_anything_heads
from models.vggt.frozen import default_layers

Network = TypeVar("Network", bound=nn.Module)
NUM_QUERY_POINTS = 64
"""Of the track head; its cost grows with their number."""
NUM_FORWARDS = 2
"""The first one also pays for memory and kernels that the second finds ready."""


def build_random(config: VGGTConfig, device: torch.device) -> VGGT:
    """The network in evaluation mode without ever holding two copies of its weights."""
    with torch.device("meta"):
        model = VGGT(config)
    return with_random_weights(model, device)


def build_depth_anything(heads: list[str] | None, device: torch.device) -> DepthAnything3:
    """DA3-Base likewise; `heads` None: all."""
    config = DepthAnythingConfig()
    with torch.device("meta"):
        model = DepthAnything3(config, depth_anything_heads(config, heads))
    return with_random_weights(model, device)


def with_random_weights(model: Network, device: torch.device) -> Network:
    """A network of the meta device on a real one."""
    model = model.to_empty(device=device).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.uniform_(-0.02, 0.02)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    return model


def peak_bytes(device: torch.device) -> int:
    """Peak memory so far: of the process on the CPU, of the allocator elsewhere."""
    if device.type == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return torch.cuda.max_memory_allocated(device)


@one_line_errors
def main(arguments: list[str] | None = None) -> None:
    """Build, run twice, print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vggt_full_size", description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=("vggt-1b", "da3-base"), default="vggt-1b")
    parser.add_argument("--heads", nargs="*", help=f"out of {' '.join(HEADS)}, by default all; none: tokens only")
    parser.add_argument("--views", type=int, default=3)
    parser.add_argument("--size", type=int, nargs=2, default=(392, 518), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--chunk", type=int, default=1, help="views a dense head works on at a time")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    options = parser.parse_args(arguments)
    if min(options.views, options.chunk, *options.size) < 1:
        raise InputError("views, chunk and size must be positive")
    device = options.device

    model: VGGT | DepthAnything3
    if options.network == "da3-base":
        model = build_depth_anything(options.heads, device)
    else:
        model = build_random(VGGTConfig().with_heads(HEADS if options.heads is None else options.heads), device)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    generator = torch.Generator(device).manual_seed(0)
    images = torch.rand(1, options.views, 3, *options.size, generator=generator, device=device)
    inputs = [images]
    if isinstance(model, VGGT) and model.track_head is not None:
        extent = images.new_tensor([options.size[1], options.size[0]])
        inputs.append(torch.rand(1, NUM_QUERY_POINTS, 2, generator=generator, device=device) * extent)
    print(
        f"{options.network}, {num_parameters / 1e6:.1f} M parameters, heads: {', '.join(model.sizes.heads) or 'none'}"
    )
    print(
        f"{options.views} views of {options.size[0]}x{options.size[1]}, float32, {device}, "
        f"{torch.get_num_threads()} CPU threads"
    )
    print(f"{'stage':<12}{'seconds':>10}{'peak GB':>10}")
    print(f"{'weights':<12}{'':>10}{peak_bytes(device) / 1e9:>10.2f}")
    for index in range(NUM_FORWARDS):
        start = time.perf_counter()
        with torch.no_grad():
            model(*inputs, keep_layers=default_layers(model.sizes.num_layers), frames_chunk_size=options.chunk)
        if device.type != "cpu":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
        print(f"{f'forward {index + 1}':<12}{seconds:>10.1f}{peak_bytes(device) / 1e9:>10.2f}")


if __name__ == "__main__":
    main()
