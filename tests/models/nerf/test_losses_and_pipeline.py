"""Losses by hand, ray drawing, chunked rendering, token cache, and a field that learns."""

import math

import pytest
import torch

from geometry import RayBundle, RaySamples, SceneBatch
from models.nerf.compositing import RenderOutput
from models.nerf.hierarchical.network import (
    HierarchicalConfig,
    HierarchicalNeRF,
    HierarchicalSamples,
    HierarchicalView,
)
from models.nerf.losses import photometric_loss, termination_loss
from models.nerf.renderer import Jitter, TargetView
from models.nerf.vggt_nerf import VGGTNeRF, render_image
from models.vggt import VGGT, FrozenVGGT, VGGTConfig, WeightIdentity
from tests.render.tiny import _BACKBONE
from tests.scenes import random_batch
from training.nerf.rays import draw_target_rays, jitter_from, scene_generators


@pytest.fixture
def model() -> VGGTNeRF:
    torch.manual_seed(0)
    vggt = FrozenVGGT(VGGT(VGGTConfig.read(_BACKBONE)), WeightIdentity("test", "0"), layers=(0, 1))
    config = HierarchicalConfig(
        token_layers=2, token_channels=vggt.channels, feature_channels=8, hidden=8, fused=16, heads=2
    )
    return VGGTNeRF(vggt, HierarchicalNeRF(config, HierarchicalSamples(6, 4)))


def view_of(model: VGGTNeRF, batch: SceneBatch) -> TargetView:
    target = batch.target[:, 0]
    return model.view(model.encode(batch.source), target.cameras, target.near, target.far)


def output_with(weights: torch.Tensor, rgb: torch.Tensor) -> tuple[RenderOutput, RayBundle]:
    rays = RayBundle(
        torch.zeros(1, 1, 3), torch.zeros(1, 1, 3), torch.full((1, 1), 1.0), torch.full((1, 1), 5.0), torch.ones(1, 1)
    )
    t = torch.tensor([[[1.5, 2.5, 3.5, 4.5]]])
    samples = RaySamples.from_positions(t, rays.t_near, rays.t_far)
    return RenderOutput(rgb, (weights * t).sum(-1), weights.sum(-1), weights, samples), rays


def test_termination_loss_is_least_where_the_weight_is() -> None:
    losses = []
    for index in range(4):
        weights = torch.full((1, 1, 4), 0.02)
        weights[..., index] = 0.9
        output, rays = output_with(weights, torch.zeros(1, 1, 3))
        losses.append(termination_loss(output, rays, torch.full((1, 1), 2.5)).item())
    assert losses.index(min(losses)) == 1
    bell = [math.exp(-0.5 * x * x) for x in (-1, 0, 1, 2)]
    expected = -sum(b / sum(bell) * math.log((0.9 if i == 1 else 0.02) + 1e-4) for i, b in enumerate(bell))
    assert losses[1] == pytest.approx(expected, rel=1e-4)


def test_losses_by_hand_and_unknown_depth_counts_nothing() -> None:
    weights = torch.full((1, 1, 4), 0.25)
    output, rays = output_with(weights, torch.full((1, 1, 3), 0.5))
    assert photometric_loss(output, torch.full((1, 1, 3), 0.25)).item() == pytest.approx(0.0625)
    assert termination_loss(output, rays, torch.zeros(1, 1)).item() == 0


def test_losses_are_summed_over_both_passes_and_named(model: VGGTNeRF) -> None:
    batch = random_batch(1)
    view = view_of(model, batch)
    truth = draw_target_rays(batch.target[:, 0], 8, scene_generators(batch), view.bounds)
    output = view.render(truth.rays)
    assert view.losses(output, truth).keys() == {"photometric"}
    losses = view.losses(output, truth, ["depth"])
    errors = [(one.rgb - truth.rgb).square().mean() for one in (output, output.coarse)]
    torch.testing.assert_close(losses["photometric"], sum(errors))
    entropies = [termination_loss(one, truth.rays, truth.depth) for one in (output, output.coarse)]
    torch.testing.assert_close(losses["depth"], sum(entropies))
    assert torch.equal(losses["depth"], view.depth_loss(output, truth))


def test_drawn_rays_show_their_pixels() -> None:
    batch = random_batch(2)
    drawn = draw_target_rays(batch.target[:, 0], 50, scene_generators(batch))
    target = batch.target[:, 0]
    points = drawn.rays.origins + drawn.rays.directions * 3.0
    pixels = target.cameras.project(points).pixels
    columns, rows = pixels.floor().long().unbind(-1)
    torch.testing.assert_close(pixels - pixels.floor(), torch.full_like(pixels, 0.5), atol=1e-3, rtol=0)
    for scene in range(2):
        expected = target.images[scene][:, rows[scene], columns[scene]].T
        assert torch.equal(drawn.rgb[scene], expected)
        assert torch.equal(drawn.depth[scene], target.depth[scene][rows[scene], columns[scene]])
    again = draw_target_rays(batch.target[:, 0], 50, scene_generators(batch))
    assert torch.equal(again.rgb, drawn.rgb)


def test_jitter_is_per_scene() -> None:
    batch = random_batch(2)
    both = jitter_from(scene_generators(batch), 4, torch.device("cpu"))(5)
    alone = jitter_from(scene_generators(batch[1:]), 4, torch.device("cpu"))(5)
    assert torch.equal(both[1], alone[0])
    assert not torch.equal(both[0], both[1])


def test_chunks_do_not_change_the_picture(model: VGGTNeRF) -> None:
    batch = random_batch(1)
    with torch.no_grad():
        view = view_of(model, batch)
    whole = render_image(view, chunk=10_000)
    done: list[int] = []
    parts = render_image(view, chunk=100, on_chunk=done.append)
    torch.testing.assert_close(parts.rgb, whole.rgb, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(parts.depth, whole.depth, atol=1e-4, rtol=1e-5)
    assert sum(done) == 24 * 32
    assert max(done) == 100


def test_chunks_halve_when_memory_runs_out(model: VGGTNeRF, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, sizes = random_batch(1), []
    with torch.no_grad():
        view = view_of(model, batch)
    render = HierarchicalView.render

    def scarce(self: HierarchicalView, rays: RayBundle, jitter: Jitter | None = None) -> RenderOutput:
        sizes.append(rays.t_near.shape[1])
        if sizes[-1] > 130:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return render(self, rays, jitter)

    whole = render_image(view, chunk=512)
    monkeypatch.setattr(HierarchicalView, "render", scarce)
    parts = render_image(view, chunk=512)
    assert sizes[:3] == [512, 256, 128]
    torch.testing.assert_close(parts.rgb, whole.rgb, atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(HierarchicalView, "render", lambda *_: (_ for _ in ()).throw(RuntimeError("something else")))
    with pytest.raises(RuntimeError, match="something else"):
        render_image(view, chunk=512)


def test_tokens_of_the_same_views_are_computed_once(model: VGGTNeRF) -> None:
    batch = random_batch(2)
    first = model.frozen_features(batch.source, batch.names).tokens
    second = model.frozen_features(batch.source, batch.names).tokens
    assert (model.cache.misses, model.cache.hits) == (2, 2)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, model.frozen_features(batch.source).tokens)
    model.frozen_features(batch.source[:, [1, 0, 2]], batch.names)
    assert model.cache.misses == 4


def test_the_field_learns_a_scene(model: VGGTNeRF) -> None:
    """Sixty steps on one scene of a textured plane: far better than a constant image, with the plane's depth found."""
    batch = plane_batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(60):
        generators = [torch.Generator().manual_seed(int(torch.randint(1 << 30, ())))]
        drawn = draw_target_rays(batch.target[:, 0], 96, generators)
        view = view_of(model, batch)
        output = view.render(drawn.rays, jitter_from(generators, 96, drawn.rgb.device))
        losses = view.losses(output, drawn, ["depth"])
        optimizer.zero_grad()
        (losses["photometric"] + 0.02 * losses["depth"]).backward()
        optimizer.step()
    target = batch.target[:, 0]
    with torch.no_grad():
        image = render_image(view_of(model, batch), 512)
    truth = target.images[0].permute(1, 2, 0)
    error = (image.rgb - truth).square().mean()
    assert error < 0.25 * truth.var(unbiased=False)
    assert (image.depth - target.depth[0]).abs().mean() < 0.15


def plane_batch():
    """A fronto-parallel plane at z = 3 in front of cameras side by side, with a smooth texture."""
    from dataclasses import replace

    from geometry import Cameras, SceneBatch, Views, pixel_centers

    num_views, height, width = 4, 24, 32
    w2c = torch.eye(4).repeat(num_views, 1, 1)
    w2c[:, 0, 3] = torch.tensor([-0.5, 0.5, 0.2, 0.0])
    intrinsics = torch.tensor([[30.0, 0, 16], [0, 30.0, 12], [0, 0, 1]]).repeat(num_views, 1, 1)
    cameras = Cameras(w2c, intrinsics, height, width)
    pixels = pixel_centers(height, width, w2c).expand(num_views, -1, 2)
    points = cameras.unproject(pixels, torch.full((num_views, height * width), 3.0))
    x, y = points[..., 0] * 5, points[..., 1] * 5
    texture = torch.stack([(x.sin() + 1) / 2, (y.cos() + 1) / 2, ((x + 2 * y).sin() + 1) / 2], dim=1)
    views = Views(
        images=texture.unflatten(-1, (height, width)),
        cameras=cameras,
        near=torch.full((num_views,), 2.0),
        far=torch.full((num_views,), 4.0),
        ids=torch.arange(num_views),
        depth=torch.full((num_views, height, width), 3.0),
    )
    item = SceneBatch(views[:3], views[3:], ("plane",), torch.tensor(0))
    return replace(SceneBatch.stack([item]), names=("plane",))
