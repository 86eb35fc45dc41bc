"""Memory of general training with the guided sampler behind a full-size VGGT, counted without a GPU:

    python -m benchmarks.guided_memory --config configs/nerf/dtu_guided.txt --scenes 1 2 4 8 16

For each number of target views per step VGGT looks at all source views at once, on fake tensors, which have shapes and
no numbers; then one step behind it (encoding, sweep, rays, all losses, backward, optimizer) runs on the CPU with random
numbers. The peak is that of the bytes of tensors that are alive, rounded up to 512 as CUDA's allocator does, at the
largest of the config's image sizes and numbers of source views. Everything counts as float32, an upper bound for mixed
precision. Attention counts as its result, as in kernels that hold no matrix of all pairs. Not counted: the CUDA
context, workspaces of cuDNN, and what the allocator loses between blocks.
"""

import sys
import weakref
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.vggt_memory import random_views
from geometry import SceneBatch, one_line_errors, require
from models.nerf.samplers import RendererSpec
from models.nerf.vggt_nerf import VGGTNeRF
from models.vggt import VGGT, VGGTConfig
from models.vggt.frozen import FROZEN_HEADS, FrozenFeatures, FrozenVGGT, default_layers, patch_grid
from models.vggt.weights import WeightIdentity
from training.cli import parse_options
from training.nerf.options import GeneralOptions
from training.nerf.rays import draw_target_rays, jitter_from
from training.nerf.windows import random_window
from training.optimizers import build_optimizer
from training.options import option

_BLOCK = 512
"""Bytes; CUDA's caching allocator rounds up to multiples of it."""


@dataclass(frozen=True, kw_only=True)
class MemoryOptions(GeneralOptions):
    """The run to count, and how many scenes at a time."""

    scenes: tuple[int, ...] = option((1, 2, 4, 8), "target views per step", nargs="+")
    width: int = option(640, "of source and target images at scale 1")
    height: int = option(512, "of source and target images at scale 1")
    vggt_config: str = option("", "JSON file of VGGT's sizes; none: VGGT-1B")

    def __post_init__(self) -> None:
        """See `GeneralOptions`; besides, there must be something to count.

        Raises:
            InputError: naming the option.
        """
        super().__post_init__()
        require(bool(self.scenes) and min(self.scenes) >= 1, f"--scenes: expected at least 1, got {list(self.scenes)}")
        self._require_at_least(32, "width", "height")
        require(self.sampler == "guided", f"--sampler: expected guided, got {self.sampler}")


class LiveBytes(TorchDispatchMode):
    """Bytes of all tensors that operations make, while they are alive."""

    def __init__(self, *held: Tensor) -> None:
        """`held`: tensors that exist already."""
        super().__init__()
        self.now = self.peak = 0
        self._counted: set[int] = set()
        for tensor in held:
            self._count(tensor)

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, -(-storage.nbytes() // _BLOCK) * _BLOCK
        if key in self._counted:
            return
        self._counted.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._counted.discard(key)
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count the results of one operation."""
        result = func(*args, **(kwargs or {}))
        for one in tree_leaves(result):
            if isinstance(one, Tensor):
                self._count(one)
        return result


@dataclass(frozen=True)
class Peaks:
    """Bytes."""

    weights: int
    """Of VGGT."""
    backbone: int
    """Weights, and the most that looking at the source views takes."""
    step: int
    """The most that a training step behind it takes, the radiance field's weights and moments included."""

    @property
    def whole(self) -> int:
        """Of a training step: VGGT's activations are gone before the radiance field begins."""
        return max(self.backbone, self.weights + self.step)


def count(options: MemoryOptions, scenes: int) -> Peaks:
    """One step of `scenes` target views."""
    height, width = (round(side * max(options.imgScale_train)) for side in (options.height, options.width))
    batch = _batch(scenes, options.view_range[1], height, width)
    return Peaks(*_backbone(options, batch.source.images.shape), _step(options, batch))


def _backbone(options: MemoryOptions, shape: Sequence[int]) -> tuple[int, int]:
    config = _config(options)
    keep = options.vggt_layers or default_layers(config.aggregator.depth)
    no_numbers = mock.patch.object(nn.init, "trunc_normal_")  # it asks for values
    no_pairs = mock.patch.object(F, "scaled_dot_product_attention", lambda query, *_, **__: torch.empty_like(query))
    with FakeTensorMode(), no_numbers, no_pairs, torch.no_grad():
        vggt = VGGT(config).eval()
        frozen = FrozenVGGT(vggt, WeightIdentity("random", ""), keep, image_size=options.vggt_image_size or None)
        images = torch.rand(*shape[:3], *frozen.working_size(*shape[3:]))
        held = [*vggt.parameters(), *vggt.buffers()]
        weights, live = LiveBytes(*held), LiveBytes(*held, images)
        with live:
            vggt(images, keep_layers=keep)
    return weights.peak, live.peak


def _step(options: MemoryOptions, batch: SceneBatch) -> int:
    config = _config(options).aggregator
    layers = options.vggt_layers
    tokens = {"token_layers": len(layers), "token_channels": 2 * config.embed_dim if layers else 0}
    shapes = asdict(options) | tokens
    network = RendererSpec.from_options(options.sampler, shapes, background=0.0, near_far="data").build()
    model = VGGTNeRF(None, network)
    optimizer = build_optimizer(model, lrate=options.lrate, muon_lrate=options.muon_lrate, weight_decay=0.0)
    with LiveBytes(*model.parameters(), *_tensors(batch)) as live:
        views = batch.source
        rows, cols = patch_grid(*views.images.shape[-2:], config.patch_size, options.vggt_image_size or None)
        seen = FrozenFeatures(
            tokens=views.images.new_zeros(*views.images.shape[:2], *tokens.values(), rows, cols),
            depth=views.images[:, :, 0] + 1,
            depth_conf=views.images[:, :, 0] + 1,
            w2c=views.cameras.w2c,
            intrinsics=views.cameras.intrinsics,
        )
        generators = [torch.Generator() for _ in batch.names]
        cut = random_window(batch, *network.training_window(*batch.target.images.shape[-2:]), generators[0])
        target = cut.target[:, 0]
        view = network.view(network.encode(views, seen), target.cameras, target.near, target.far)
        truth = draw_target_rays(target, options.rays_per_step, generators, view.bounds)
        output = view.render(truth.rays, jitter_from(generators, options.rays_per_step, truth.rgb.device))
        losses = view.losses(output, truth, [name for name in ("depth", "color") if getattr(options, f"{name}_loss")])
        sum(losses.values()).backward()
        optimizer.step()  # makes the moments, which all further steps hold as well
    return live.peak


def _config(options: MemoryOptions) -> VGGTConfig:
    return (VGGTConfig.read(options.vggt_config) if options.vggt_config else VGGTConfig()).with_heads(FROZEN_HEADS)


def _parameters(options: MemoryOptions) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in VGGT(_config(options)).parameters())


def _batch(scenes: int, views: int, height: int, width: int) -> SceneBatch:
    """One target and its sources, `scenes` times."""
    one = random_views(views + 1, height, width, torch.device("cpu"))
    same = one.map(lambda values: values.expand(scenes, *values.shape[1:]).contiguous())
    source, target = (same.map(lambda values, part=part: values[:, part]) for part in (slice(1, None), slice(1)))
    return SceneBatch(source, target, ("scene",) * scenes, torch.arange(scenes))


def _tensors(batch: SceneBatch) -> list[Tensor]:
    held: list[Tensor] = []
    batch.map(lambda values: held.append(values) or values)
    return held


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    options = parse_options(MemoryOptions, __doc__, argv)
    print(f"VGGT: {_parameters(options) / 1e6:.1f} M parameters")
    print(f"{options.width}x{options.height}, up to {options.view_range[1]} source views, ", end="")
    print(f"{options.rays_per_step} rays per target view; GB, float32")
    print("| target views per step | VGGT's weights | with its activations | the rest of the step | peak |")
    print("|---" * 5 + "|")
    for scenes in options.scenes:
        found = count(options, scenes)
        cells = (found.weights, found.backbone, found.step, found.whole)
        print(f"| {scenes} | {' | '.join(f'{one / 1e9:.2f}' for one in cells)} |")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
