"""The contract of `models/nerf/renderer.py`, over all samplers: encode -> view -> render -> losses."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from geometry import SceneBatch
from models.nerf.compositing import RenderOutput
from models.nerf.renderer import Renderer, TargetRays, TargetView
from models.nerf.samplers import SAMPLERS, RendererSpec
from models.vggt.frozen import FrozenFeatures
from tests.oracle_vggt import OracleVGGT
from tests.scenes import random_batch
from training.nerf.rays import draw_target_rays, jitter_from, scene_generators

TOKENS = {"token_layers": 2, "token_channels": 6}
SMALL = {"feature_channels": 8, "hidden": 8, "fused": 8, "N_samples": 6, "N_importance": 4, "N_guided": 3} | TOKENS
GENERAL = {"sweep_planes": 12, "depth_prior": True}
FINETUNED = GENERAL | {"residual_channels": 2, "residual_resolution": 6, "scene_field": 8}
RAYS = 24
SOFTMAX_BIASES = {"hierarchical": {"aggregation.attention.bias"}, "guided": {"coarse.logit.bias", "fine.logit.bias"}}
"""Added to all logits of a softmax (over views, over planes), they change nothing: gradients are rounding errors."""


def renderer_of(sampler: str, options: dict[str, Any]) -> Renderer:
    torch.manual_seed(0)
    return RendererSpec.from_options(sampler, SMALL | options, background=0.0, near_far="data").build()


def seen_in(batch: SceneBatch) -> FrozenFeatures:
    """Tokens that say something, and the true depth."""
    seen = OracleVGGT(list(batch.source))(batch.source.images)
    shape = (*batch.source.images.shape[:2], *TOKENS.values(), 2, 3)
    return replace(seen, tokens=torch.randn(shape, generator=torch.Generator().manual_seed(1)))


def rendered(
    renderer: Renderer, batch: SceneBatch, seen: FrozenFeatures
) -> tuple[TargetView, TargetRays, RenderOutput, dict[str, torch.Tensor]]:
    target = batch.target[:, 0]
    view = renderer.view(renderer.encode(batch.source, seen), target.cameras, target.near, target.far)
    generators = scene_generators(batch)
    truth = draw_target_rays(target, RAYS, generators, view.bounds)
    output = view.render(truth.rays, jitter_from(generators, RAYS, torch.device("cpu")))
    return view, truth, output, view.losses(output, truth, renderer.loss_names)


contract = pytest.mark.parametrize("sampler", SAMPLERS)
with_options = pytest.mark.parametrize("options", [GENERAL, FINETUNED], ids=["general", "finetuned"])


@with_options
@contract
def test_contract_from_source_views_to_losses(sampler: str, options: dict[str, Any]) -> None:
    renderer, batch = renderer_of(sampler, options).eval(), random_batch(2)
    target = batch.target[:, 0]
    with torch.no_grad():
        view, truth, output, losses = rendered(renderer, batch, seen_in(batch))
        assert torch.equal(view.render(truth.rays).rgb, view.render(truth.rays).rgb)  # as often as wanted
        fewer = view.render(truth.rays[:, 3:5]).rgb
    assert torch.equal(view.camera.w2c, target.cameras.w2c)
    assert torch.equal(view.bounds.near, target.near)
    assert torch.equal(view.bounds.far, target.far)
    assert output.rgb.shape == (2, RAYS, 3)
    assert output.depth.shape == output.opacity.shape == (2, RAYS)
    assert ((output.rgb >= 0) & (output.rgb <= 1)).all()
    assert ((output.opacity >= 0) & (output.opacity <= 1 + 1e-5)).all()
    torch.testing.assert_close(fewer, view.render(truth.rays).rgb[:, 3:5], atol=1e-5, rtol=1e-5)
    assert losses.keys() == {"photometric", *renderer.loss_names}
    assert all(loss.shape == () and torch.isfinite(loss) and loss > 0 for loss in losses.values())
    assert view.losses(output, truth).keys() == {"photometric"}


@contract
def test_open_bounds_lie_beyond_the_datas(sampler: str) -> None:
    spec = RendererSpec.from_options(sampler, SMALL, background=0.0, near_far="open")
    batch = random_batch(2)
    with torch.no_grad():
        view, _, output, _ = rendered(spec.build().eval(), batch, seen_in(batch))
    assert (view.bounds.near < batch.target.near).all()
    assert (view.bounds.far > 5 * batch.target.far).all()
    assert not view.bounds.is_auto.any()
    assert torch.isfinite(output.rgb).all()


@with_options
@contract
def test_batch_of_two_is_two_batches_of_one(sampler: str, options: dict[str, Any]) -> None:
    renderer, batch = renderer_of(sampler, options).eval(), random_batch(2)
    near = torch.tensor([[2.0], [2.3]])  # the scenes must not share their bounds
    batch = replace(batch, target=replace(batch.target, near=near))
    seen = seen_in(batch)
    with torch.no_grad():
        _, _, both, losses = rendered(renderer, batch, seen)
        alone = [rendered(renderer, batch[part], seen[part]) for part in (slice(0, 1), slice(1, 2))]
    for name in ("rgb", "depth", "opacity", "weights"):
        parts = torch.cat([getattr(output, name) for _, _, output, _ in alone])
        torch.testing.assert_close(getattr(both, name), parts, atol=1e-4, rtol=1e-4)
    for name, loss in losses.items():
        parts = torch.stack([one[name] for *_, one in alone])
        if name in ("color", "coarse"):
            # a mean over the pixels that two views see: as many of them in each scene need not be
            assert parts.min() <= loss <= parts.max()
        else:
            torch.testing.assert_close(loss, parts.mean(), atol=1e-4, rtol=1e-4)


@with_options
@contract
def test_every_weight_learns(sampler: str, options: dict[str, Any]) -> None:
    """Photometric and all named losses together reach all of them, but biases that a softmax takes out again."""
    renderer, batch = renderer_of(sampler, options).train(), random_batch(1)
    if renderer.residual is not None:
        # its last layer starts at zero: in the very first step the grids before it have no gradient
        torch.nn.init.normal_(renderer.residual.out.weight)
    *_, losses = rendered(renderer, batch, seen_in(batch))
    sum(losses.values()).backward()
    trainable = {name: one for name, one in renderer.named_parameters() if one.requires_grad}
    assert trainable.keys() >= SOFTMAX_BIASES[sampler]
    for name, parameter in trainable.items():
        assert parameter.grad is not None, name
        is_reached = parameter.grad.abs().max() > 5e-7
        assert is_reached != (name in SOFTMAX_BIASES[sampler]), name
    frozen = {name for name, one in renderer.named_parameters() if not one.requires_grad}
    assert all(name.startswith("scene_field.") for name in frozen)
