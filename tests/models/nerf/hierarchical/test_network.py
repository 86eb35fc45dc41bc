"""Invariances of the whole radiance field: what must not change the picture, and what must."""

from dataclasses import replace

import pytest
import torch

from geometry import Cameras, RayBundle, SceneBatch, Views, pixel_centers, rigid_inverse
from models.nerf.compositing import RenderOutput
from models.nerf.hierarchical.feature_maps import FeatureMaps
from models.nerf.hierarchical.network import HierarchicalConfig, HierarchicalNeRF, HierarchicalSamples
from models.nerf.hierarchical.point_features import gather_point_features
from models.nerf.renderer import TargetView
from models.nerf.scene_box import common_box
from models.nerf.scene_residual import SceneResidual
from models.vggt.frozen import FrozenFeatures
from tests.scenes import random_batch, random_views, rigid_motion

TOKEN_CHANNELS = 20


@pytest.fixture
def network() -> HierarchicalNeRF:
    torch.manual_seed(0)
    config = HierarchicalConfig(
        token_layers=2, token_channels=TOKEN_CHANNELS, feature_channels=8, hidden=12, fused=16, heads=2
    )
    return HierarchicalNeRF(config, HierarchicalSamples(12, 12)).eval()


def tokens_for(batch: SceneBatch) -> FrozenFeatures:
    shape = (*batch.source.images.shape[:2], 2, TOKEN_CHANNELS, 2, 3)
    return FrozenFeatures(torch.randn(shape, generator=torch.Generator().manual_seed(1)))


def some_rays(views: Views, count: int = 40) -> RayBundle:
    target = views[:, 0]
    pixels = pixel_centers(24, 32, target.images)[:: 768 // count][:count].expand(len(target.near), -1, -1)
    return target.cameras.rays(pixels, target.near, target.far)


def view_of(network: HierarchicalNeRF, batch: SceneBatch, seen: FrozenFeatures | None) -> TargetView:
    target = batch.target[:, 0]
    return network.view(network.encode(batch.source, seen), target.cameras, target.near, target.far)


def render(network: HierarchicalNeRF, batch: SceneBatch, seen: FrozenFeatures | None) -> RenderOutput:
    with torch.no_grad():
        return view_of(network, batch, seen).render(some_rays(batch.target))


def assert_same_picture(one: RenderOutput, other: RenderOutput, depth_scale: float = 1.0) -> None:
    torch.testing.assert_close(other.rgb, one.rgb, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(other.depth, one.depth * depth_scale, atol=2e-4 * depth_scale, rtol=1e-3)


def test_batch_of_two_is_two_batches_of_one(network: HierarchicalNeRF) -> None:
    batch = random_batch(2)
    tokens = tokens_for(batch)
    both = render(network, batch, tokens)
    for index in range(2):
        part = slice(index, index + 1)
        alone = render(network, batch[part], tokens[part])
        torch.testing.assert_close(alone.rgb, both.rgb[part], atol=1e-5, rtol=1e-5)


def test_order_of_source_views_does_not_matter(network: HierarchicalNeRF) -> None:
    batch = random_batch(1, num_sources=4)
    tokens, order = tokens_for(batch), [2, 0, 3, 1]
    shuffled = replace(batch, source=batch.source[:, order])
    assert_same_picture(render(network, batch, tokens), render(network, shuffled, tokens[:, order]))


def moved(views: Views, motion: torch.Tensor) -> Views:
    cameras = views.cameras
    w2c = cameras.w2c @ rigid_inverse(motion)
    return replace(views, cameras=Cameras(w2c, cameras.intrinsics, cameras.height, cameras.width))


def test_rigid_motion_of_the_world_changes_nothing(network: HierarchicalNeRF) -> None:
    batch, motion = random_batch(1), rigid_motion(2)
    tokens = tokens_for(batch)
    other = replace(batch, source=moved(batch.source, motion), target=moved(batch.target, motion))
    assert_same_picture(render(network, batch, tokens), render(network, other, tokens))


def scaled(views: Views, factor: float) -> Views:
    return replace(
        views, cameras=views.cameras.scaled(factor), near=views.near * factor, far=views.far * factor, depth=None
    )


@pytest.mark.parametrize("factor", [200.0, 0.005])
def test_unit_of_the_scene_changes_only_depth(network: HierarchicalNeRF, factor: float) -> None:
    batch = random_batch(1)
    tokens = tokens_for(batch)
    other = replace(batch, source=scaled(batch.source, factor), target=scaled(batch.target, factor))
    assert_same_picture(render(network, batch, tokens), render(network, other, tokens), depth_scale=factor)


def test_number_of_source_views_is_free(network: HierarchicalNeRF) -> None:
    for num_sources in (1, 2, 6):
        batch = random_batch(1, num_sources=num_sources)
        output = render(network, batch, tokens_for(batch))
        assert torch.isfinite(output.rgb).all()
        assert (output.opacity <= 1 + 1e-5).all()


def test_rays_are_independent_of_their_neighbors(network: HierarchicalNeRF) -> None:
    batch = random_batch(1)
    rays = some_rays(batch.target)
    with torch.no_grad():
        view = view_of(network, batch, tokens_for(batch))
        together = view.render(rays).rgb
        alone = [view.render(rays[:, i : i + 1]).rgb for i in range(3)]
    torch.testing.assert_close(torch.cat(alone, dim=1), together[:, :3], atol=1e-5, rtol=1e-5)


def test_mixed_precision_renders_nearly_the_same(network: HierarchicalNeRF) -> None:
    batch = random_batch(1)
    tokens = tokens_for(batch)
    expected = render(network, batch, tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reduced = render(network, batch, tokens)
    assert reduced.rgb.dtype == reduced.depth.dtype == torch.float32
    torch.testing.assert_close(reduced.rgb, expected.rgb, atol=0.03, rtol=0)
    torch.testing.assert_close(reduced.depth, expected.depth, atol=0.1, rtol=0)


def test_a_view_that_sees_nothing_of_the_scene_has_no_say(network: HierarchicalNeRF) -> None:
    batch = random_batch(1, num_sources=3)
    tokens = tokens_for(batch)
    turn = torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0]))  # looks the other way: all points are behind it
    w2c = batch.source.cameras.w2c.clone()
    w2c[:, 2] = turn @ w2c[:, 2]
    pictures = []
    for brightness in (0.0, 1.0):
        images = batch.source.images.clone()
        images[:, 2] = brightness
        cameras = replace(batch.source.cameras, w2c=w2c)
        other = replace(batch, source=replace(batch.source, images=images, cameras=cameras))
        pictures.append(render(network, other, tokens).rgb)
    torch.testing.assert_close(pictures[0], pictures[1])


def test_point_features_read_the_source_pixels() -> None:
    views = random_views(2)
    pixels = pixel_centers(24, 32, views.images)[100:110]
    depth = torch.full((10,), 2.5)
    points = views.cameras[0].unproject(pixels, depth)[None]
    maps = FeatureMaps(views.images[None], views.cameras[None], None, views.images[None])
    directions = torch.nn.functional.normalize(points - views.cameras.centers[0], dim=-1)
    gathered = gather_point_features(maps, points, directions)
    expected = views.images[0].flatten(1)[:, 100:110].T
    torch.testing.assert_close(gathered.colors[0, 0], expected, atol=1e-3, rtol=0)
    # the target rays come from camera 0 itself: no offset, cosine one
    torch.testing.assert_close(gathered.direction_offsets[0, 0, :, :3], torch.zeros(10, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(gathered.direction_offsets[0, 0, :, 3], torch.ones(10))


def test_coarse_and_fine_pass_are_both_trained(network: HierarchicalNeRF) -> None:
    batch = random_batch(1)
    network.samples = HierarchicalSamples(6, 10)
    view = view_of(network, batch, tokens_for(batch))
    output = view.render(some_rays(batch.target))
    assert output.coarse is not None
    assert output.weights.shape[-1] == 16
    assert output.coarse.weights.shape[-1] == 6
    for pass_output in (output, output.coarse):
        network.zero_grad()
        pass_output.rgb.sum().backward(retain_graph=True)
        gradients = {name: p.grad for name, p in network.named_parameters()}
        assert gradients["field.density.0.weight"].abs().sum() > 0
        assert gradients["extractor.stem.0.0.weight"].abs().sum() > 0
    network.samples = HierarchicalSamples(6, 0)
    only_coarse = view.render(some_rays(batch.target))
    assert only_coarse.coarse is None
    torch.testing.assert_close(only_coarse.rgb, output.coarse.rgb)


def test_residual_starts_at_nothing_and_moves_with_its_box() -> None:
    torch.manual_seed(0)
    residual = SceneResidual(fused=6, channels=4, resolution=9)
    points = torch.randn(2, 7, 3)
    assert residual(points).abs().max() == 0
    torch.nn.init.normal_(residual.out.weight)
    residual.set_bounds(torch.tensor([-1.0, -2, -3]), torch.tensor([1.0, 2, 3]))
    before = residual(points)
    residual.set_bounds(torch.tensor([-1.0, -2, -3]) * 50, torch.tensor([1.0, 2, 3]) * 50)
    torch.testing.assert_close(residual(points * 50), before)
    far = residual(torch.tensor([[[1e6, 0, 0], [2e6, 0, 0]]]))
    torch.testing.assert_close(far[0, 0], far[0, 1], atol=1e-3, rtol=0)


def test_scene_box_surrounds_what_the_cameras_look_at() -> None:
    views = random_views(4)
    low, high = common_box(views.cameras, views.near, views.far)
    assert (low < 0).all()
    assert (high > 0).all()
    assert (high - low < 4).all()
    larger = scaled(views, 100.0)
    scaled_low, _ = common_box(larger.cameras, larger.near, larger.far)
    torch.testing.assert_close(scaled_low, low * 100, atol=1e-2, rtol=1e-3)
