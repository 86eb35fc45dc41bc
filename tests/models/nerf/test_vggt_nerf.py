"""Encoding, viewing and rendering where memory does not suffice for the whole."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from geometry import SceneBatch
from models.memory import MemoryExceeded
from models.nerf.guided.network import GuidedConfig, GuidedNeRF, GuidedSamples
from models.nerf.hierarchical.network import HierarchicalConfig, HierarchicalNeRF, HierarchicalSamples
from models.nerf.renderer import Renderer
from models.nerf.vggt_nerf import RenderedImage, VGGTNeRF, render_image
from tests.scenes import random_batch


class SmallMemory(TorchDispatchMode):
    """No tensor of more than `limit` numbers can be allocated; counts the failures."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.failures, self.largest = limit, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one, kind in zip(
            result if isinstance(result, tuple | list) else [result], func._schema.returns, strict=False
        ):
            if isinstance(one, Tensor) and kind.alias_info is None:  # not a view of something that exists
                size = one.untyped_storage().nbytes() // one.element_size()
                self.largest = max(self.largest, size)
                if size > self.limit:
                    self.failures += 1
                    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate too much")
        return result


def hierarchical() -> Renderer:
    sizes = {"feature_channels": 8, "hidden": 8, "fused": 8}
    return HierarchicalNeRF(HierarchicalConfig(token_layers=0, token_channels=0, **sizes), HierarchicalSamples(8, 0))


def guided(**changes: int) -> Renderer:
    sizes = {"feature_channels": 8, "hidden": 8, "fused": 8, "sweep_planes": 16}
    network = GuidedNeRF(GuidedConfig(**(sizes | changes)), GuidedSamples(4))
    if network.scene_field is not None:
        network.scene_field.set_bounds(torch.full((3,), -2.0), torch.full((3,), 2.0))
        for grid in network.scene_field.grids:
            torch.nn.init.normal_(grid, std=2.0)
    return network


def guided_with_field() -> Renderer:
    return guided(scene_field=8, depth_prior=True)


def whole_path(model: VGGTNeRF, batch: SceneBatch) -> RenderedImage:
    target = batch.target[:, 0]
    view = model.view(model.encode(batch.source), target.cameras, target.near, target.far)
    return render_image(view, 10_000)


@torch.no_grad()
@pytest.mark.parametrize(
    ("network", "size"),
    [
        (hierarchical, {"height": 90, "width": 110}),
        (guided, {"height": 90, "width": 110}),
        (guided, {"height": 203, "width": 64}),
        (guided_with_field, {"height": 90, "width": 110}),
    ],
)
def test_parts_give_the_same_picture(network: Callable[[], Renderer], size: dict) -> None:
    """Up to rounding; with a field of the scene as well, and heights that are no multiples of anything."""
    torch.manual_seed(0)
    model, batch = VGGTNeRF(None, network()).eval(), random_batch(1, **size)
    with SmallMemory(1 << 40) as plenty:
        expected = whole_path(model, batch)
    with SmallMemory(plenty.largest * 6 // 10) as scarce:
        found = whole_path(model, batch)
    assert scarce.failures >= 1
    for name in ("rgb", "depth", "opacity"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=2e-4, rtol=2e-4)


@torch.no_grad()
def test_every_stage_is_split() -> None:
    """The maps of the sources and the sweeps of a target fail at their full size."""
    torch.manual_seed(0)
    model, batch = VGGTNeRF(None, guided(feature_channels=4)).eval(), random_batch(1, height=203, width=64)
    target = batch.target[:, 0]
    with SmallMemory(1 << 40) as plenty:
        maps = model.encode(batch.source)
    with SmallMemory(plenty.largest - 1) as scarce:
        parts = model.encode(batch.source)
    assert scarce.failures > 0
    torch.testing.assert_close(parts.fine, maps.fine, atol=1e-5, rtol=1e-5)
    with SmallMemory(1 << 40) as plenty:
        view = model.view(maps, target.cameras, target.near, target.far)
    with SmallMemory(plenty.largest - 1) as scarce:
        parts = model.view(maps, target.cameras, target.near, target.far)
    assert scarce.failures > 0
    for found, expected in zip(parts.levels, view.levels, strict=True):
        torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.context, expected.context, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("network", [hierarchical, guided])
def test_what_cannot_fit_is_one_error_with_advice(network: Callable[[], Renderer]) -> None:
    model, batch = VGGTNeRF(None, network()).eval(), random_batch(1)
    target = batch.target[:, 0]
    maps = model.encode(batch.source)
    view = model.view(maps, target.cameras, target.near, target.far)
    with pytest.raises(MemoryExceeded, match=r"lower --imgScale_test or --n_views \(Default"), SmallMemory(100):
        model.encode(batch.source)
    with pytest.raises(MemoryExceeded, match=r"lower --imgScale_test or --chunk"), SmallMemory(100):
        render_image(view, 64)
    if isinstance(view.network, GuidedNeRF):
        with pytest.raises(MemoryExceeded, match=r"lower --imgScale_test or --n_views"), SmallMemory(100):
            model.view(maps, target.cameras, target.near, target.far)


def test_a_regularizer_in_strips_is_exact() -> None:
    """Rows that a strip depends on are all in it: the halo is not too narrow by a single row."""
    torch.manual_seed(0)
    network = guided()
    for volume, planes in ((network.coarse, 8), (network.fine, 8)):
        channels = volume.first[0].in_channels
        cost = torch.randn(1, channels, 75, 5, planes)
        centers = torch.linspace(1, 0, planes).expand(1, 75, 5, planes)
        with torch.no_grad():
            whole = volume(cost, centers)
            limit = round(2.2 * 40 * 5 * planes * volume.first[0].out_channels)  # small volumes are computed twice
            with SmallMemory(limit) as scarce:
                parts = volume(cost, centers)
        assert scarce.failures > 0
        torch.testing.assert_close(parts.logits, whole.logits, atol=2e-6, rtol=2e-5)
        torch.testing.assert_close(replace(parts, logits=whole.logits).context, whole.context, atol=2e-6, rtol=2e-5)
