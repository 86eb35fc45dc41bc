"""The per-scene field: closed forms, invariances, and that it learns where surfaces are."""

from dataclasses import replace

import pytest
import torch

from geometry import RayBundle, SceneBatch, pixel_centers
from models.nerf.compositing import RenderOutput, weights_from_density
from models.nerf.depth_prior import DepthPrior
from models.nerf.depth_range import DepthRange
from models.nerf.guided.network import GuidedConfig, GuidedNeRF, GuidedSamples, GuidedView
from models.nerf.guided.plane_sweep import DisparityRange
from models.nerf.guided.scene_field import SceneField, Surfaces, surface_loss
from models.nerf.ray_sampling import stratified_samples
from models.nerf.scene_box import SceneBox
from tests.scenes import random_batch, random_views

CONFIG = GuidedConfig(feature_channels=8, hidden=8, fused=8, depth_prior=True, sweep_planes=12)


def test_the_box_gets_the_middle_half_and_everything_else_the_rest() -> None:
    box = SceneBox()
    box.set_bounds(torch.tensor([-1.0, -2, -3]), torch.tensor([1.0, 2, 3]))
    corner, far = torch.tensor([1.0, 2, 3]), torch.tensor([1e6, 0, 0])
    torch.testing.assert_close(box.contracted(corner), torch.full((3,), 0.5))
    torch.testing.assert_close(box.contracted(far), torch.tensor([1.0, 0, 0]))
    torch.testing.assert_close(box.contracted(torch.zeros(2, 5, 3)), torch.zeros(2, 5, 3))
    line = box.contracted(torch.tensor([[1.0, 0, 0], [2.0, 0, 0], [4.0, 0, 0]]))[:, 0]
    torch.testing.assert_close(line, torch.tensor([0.5, 0.75, 0.875]))


def test_steps_away_from_the_box_shrink_as_their_coordinates_do() -> None:
    box = SceneBox()
    box.set_bounds(torch.full((3,), -1.0), torch.full((3,), 1.0))
    points = torch.tensor([[0.5, 0.0, 0.0], [3.0, 0.0, 0.0], [0.0, -10.0, 0.0]])
    outward = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    step = 1e-3
    moved = (box.contracted(points + step * outward) - box.contracted(points)).abs().amax(-1) / (step / 2)
    torch.testing.assert_close(box.shrinkage(points), moved, rtol=0.02, atol=0)
    torch.testing.assert_close(box.shrinkage(points), torch.tensor([1, 1 / 9, 1 / 100]))


@pytest.mark.parametrize("distance", [1.5, 3.0, 25.0], ids=["before", "inside", "behind"])
def test_an_open_field_is_empty_at_first_and_learns_walls_at_any_distance(distance: float) -> None:
    """A wall across the rays, beyond the bounds of the data on either side and between them."""
    torch.manual_seed(0)
    camera = replace(random_views(1).cameras, w2c=torch.eye(4)[None])
    data = DepthRange.of_data(torch.tensor([2.0]), torch.tensor([4.0]))
    bounds = data.opened()
    field = SceneField(32, is_open=True)
    field.set_bounds(torch.tensor([-1.0, -1, 2]), torch.tensor([1.0, 1, 4]))
    rays = camera.rays(pixel_centers(6, 8, bounds.near)[None] * camera.width / 8, bounds.near, bounds.far)
    assert field.render(rays).opacity.max() < 0.5
    planes = DisparityRange(bounds.near, bounds.far)
    fraction = planes.fraction(torch.full((1, 48), 1 / distance))
    known = torch.stack([fraction, torch.ones(1, 48)], dim=-1)
    optimizer = torch.optim.Adam(field.parameters(), lr=0.3, eps=1e-15)
    for _ in range(200):
        loss = surface_loss(field.render(rays), rays, planes, known, torch.zeros(1, 48, dtype=torch.bool))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = field.view(camera, bounds.near, bounds.far, 6, 8).depth
    torch.testing.assert_close(planes.fraction(found.inverse_depth[0].flatten()[None]), fraction, atol=0.03, rtol=0)
    assert found.confidence.min() > 0.85


def test_threads_do_not_alter_what_is_looked_up() -> None:
    torch.manual_seed(0)
    field = SceneField(8)
    for grid in field.grids:
        torch.nn.init.normal_(grid)
    points = torch.rand(3, 7, 5, 3) * 4 - 2  # 105 points: no multiple of any number of threads
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(field.logits(points))
    finally:
        torch.set_num_threads(before)
    assert found[0].shape == (3, 7, 5, 4)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_the_whole_world_may_grow() -> None:
    """Optical lengths have no unit: a scene fifty times as large looks the same."""
    torch.manual_seed(0)
    field, views = SceneField(8), random_views(1)
    for grid in field.grids:
        torch.nn.init.normal_(grid, std=2)
    pixels = pixel_centers(24, 32, views.images)[None]
    field.set_bounds(torch.full((3,), -1.0), torch.full((3,), 1.0))
    before = field.render(views.cameras.rays(pixels, views.near, views.far))
    scale = 50.0
    w2c = views.cameras.w2c.clone()
    w2c[..., :3, 3] *= scale
    cameras = replace(views.cameras, w2c=w2c)
    field.set_bounds(torch.full((3,), -scale), torch.full((3,), scale))
    after = field.render(cameras.rays(pixels, views.near * scale, views.far * scale))
    torch.testing.assert_close(after.rgb, before.rgb, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(after.depth, before.depth * scale, rtol=1e-3, atol=1e-3)


def test_surface_loss_of_weight_here_there_and_nowhere() -> None:
    """Half the weight on the known surface, a quarter somewhere else, a quarter goes through: 0 / 2 + d / 4 + 1 / 4.

    For rays that hit nothing the three quarters are wrong, wherever they are.
    """
    views = random_views(1)
    rays = views.cameras.rays(pixel_centers(4, 4, views.images)[None], views.near, views.far)
    samples = stratified_samples(rays, 10)
    planes = DisparityRange(views.near, views.far)
    fraction = planes.fraction(1 / (samples.t * rays.cos_optical[..., None]))
    weights = torch.zeros(1, 16, 10)
    weights[..., 4], weights[..., 8] = 0.5, 0.25
    seen = RenderOutput(torch.zeros(1, 16, 3), torch.zeros(1, 16), weights.sum(-1), weights, samples)
    known = torch.stack([fraction[..., 4], torch.full((1, 16), 0.5)], dim=-1)
    known[:, 8:, 1] = 0  # of half of the rays nothing is known
    expected = ((fraction[..., 4] - fraction[..., 8]) / 4 + 0.25)[:, :8].mean() * 0.5 / 2
    nothing = torch.zeros(1, 16, dtype=torch.bool)
    torch.testing.assert_close(surface_loss(seen, rays, planes, known, nothing), expected)
    nothing[:, 12:] = True
    torch.testing.assert_close(surface_loss(seen, rays, planes, known, nothing), expected + 0.75 / 4)


def test_surfaces_are_found_by_view_number_at_any_size() -> None:
    fraction = torch.linspace(0, 1, 8).expand(3, 6, 8) + torch.tensor([10.0, 20, 30]).view(3, 1, 1)
    surfaces = Surfaces(torch.tensor([7, 3, 5]), torch.stack([fraction, torch.full_like(fraction, 0.5)], dim=1))
    views = replace(random_views(2), ids=torch.tensor([5, 7]))
    width = views.cameras.width
    pixels = torch.tensor([[width / 16, 9.0], [width * 15 / 16, 3.0]]).expand(2, 2, 2)
    found = surfaces.of(views, pixels)
    torch.testing.assert_close(found[..., 0], torch.tensor([[30.0, 31], [10, 11]]))
    assert (found[..., 1] == 0.5).all()
    with pytest.raises(ValueError, match=r"expected views out of \[7, 3, 5\], got \[5, 4\]"):
        surfaces.of(replace(views, ids=torch.tensor([5, 4])), pixels)


def test_depth_of_a_wall() -> None:
    """A slab at camera z = 3, opaque and white: its front is found and sure."""
    field, views = SceneField(64), random_views(1)
    camera = replace(views.cameras, w2c=torch.eye(4)[None])
    field.set_bounds(torch.tensor([-4.0, -4, 0]), torch.tensor([4.0, 4, 6]))
    near, far = torch.tensor([1.0]), torch.tensor([5.0])
    wall = torch.full((64,), -20.0)
    wall[32:40] = 20.0  # z from 3 on: the middle of the box is the middle of the grid
    with torch.no_grad():
        field.grids[1][0, 0] = wall[:, None, None]
        field.grids[1][0, 1:] = 20.0
    seen = field.view(camera, near, far, 6, 8)
    found = seen.depth
    torch.testing.assert_close(1 / found.inverse_depth, torch.full((1, 6, 8), 3.1), atol=0.1, rtol=0)
    assert found.confidence.min() > 0.94
    torch.testing.assert_close(seen.rgb, torch.ones(1, 3, 6, 8))
    with torch.no_grad():
        field.grids[1][0, 0] = -20.0
    assert field.view(camera, near, far, 6, 8).depth.confidence.max() < 1e-3


def test_it_takes_the_place_of_the_backbone() -> None:
    """Its depth reaches the sweep where VGGT's would, its color the rays; it stands still while the rest learns."""
    torch.manual_seed(0)
    samples = GuidedSamples(3)
    general = GuidedNeRF(CONFIG, samples).eval()
    network = GuidedNeRF(replace(CONFIG, scene_field=8), samples).eval()
    found = network.load_state_dict(general.state_dict(), strict=False)
    assert all(name.startswith("scene_field.") for name in found.missing_keys)
    assert not found.unexpected_keys
    assert general.uses_backbone
    assert not network.uses_backbone
    assert not any(parameter.requires_grad for parameter in network.scene_field.parameters())
    assert all(p.requires_grad for name, p in network.named_parameters() if not name.startswith("scene_field."))
    batch = random_batch(1)
    target = batch.target[:, 0]
    depth = torch.full((1, 3, 12, 16), 3.0)
    prior = DepthPrior(depth, torch.full_like(depth, 0.9), torch.zeros(1), torch.ones(1))
    rays = target.cameras.rays(pixel_centers(4, 4, target.images)[None], target.near, target.far)

    @torch.no_grad()
    def view_of(network: GuidedNeRF, prior: DepthPrior | None) -> GuidedView:
        maps = network._encode(batch.source, None, prior)
        return network.view(maps, target.cameras, target.near, target.far)

    def change(one: GuidedView, other: GuidedView) -> float:
        return (one.levels[0].logits - other.levels[0].logits).abs().max().item()

    with torch.no_grad():
        network.scene_field.grids[1][:, 0] = torch.randn(8, 8, 8) * 20
    without = view_of(general, None)
    assert without.scene is None
    assert change(view_of(general, prior), without) > 1e-4
    of_depth = view_of(network, None)
    assert change(of_depth, without) > 1e-4
    assert change(of_depth, view_of(network, prior)) == 0
    with torch.no_grad():
        network.scene_field.grids[1][:, 1:] = torch.randn(3, 8, 8, 8)
    of_both = view_of(network, None)
    assert change(of_both, of_depth) > 1e-4
    with torch.no_grad():
        shown, blind = (one.render(rays).rgb for one in (of_both, replace(of_both, scene=None)))
    assert (shown - blind).abs().max() > 1e-4


def test_it_learns_a_scene() -> None:
    """Rays of a colored wall: color and depth come out, from a grid of nothing."""
    torch.manual_seed(0)
    views = random_views(6)
    field = SceneField(32)
    field.set_bounds(torch.full((3,), -1.5), torch.full((3,), 1.5))
    rays = views.cameras.rays(pixel_centers(24, 32, views.images).expand(6, -1, 2), views.near, views.far)
    # the plane through the world's origin that faces camera 0
    normal = views.cameras[0].w2c[2, :3]
    t = -(rays.origins @ normal) / (rays.directions @ normal)
    hits = rays.at(t[..., None])[:, :, 0]
    inside = (t > rays.t_near) & (t < rays.t_far)
    truth = torch.sin(6 * hits) / 2 + 0.5
    optimizer = torch.optim.Adam(field.parameters(), lr=0.1, eps=1e-15)
    for _ in range(100):
        output = field.render(rays)
        loss = (output.rgb - truth)[inside].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    error = (output.rgb - truth)[inside].square().mean()
    assert error < 0.006
    off = (output.depth / rays.cos_optical - t)[inside].abs().median()
    assert off < 0.1 * (views.far - views.near).mean()


def test_weights_are_those_of_its_density() -> None:
    field, views = SceneField(8), random_views(1)
    field.set_bounds(torch.full((3,), -1.0), torch.full((3,), 1.0))
    rays = views.cameras.rays(pixel_centers(4, 4, views.images)[None], views.near, views.far)
    output = field.render(rays)
    density = torch.nn.functional.softplus(torch.tensor(-6.0)) * 100 / 2
    expected = weights_from_density(density.expand_as(output.samples.t), output.samples.deltas)
    torch.testing.assert_close(output.weights, expected)
    # grey haze before a grey background
    torch.testing.assert_close(output.rgb, torch.full_like(output.rgb, 0.5))


def test_pixels_of_the_background_show_nothing() -> None:
    """Within rounding to 8 bits of white. In photographs every pixel shows something, black ones too."""
    white, black = torch.ones(3), torch.zeros(3)
    rgb = torch.stack([white, white - 1 / 255, white - torch.tensor([0, 0, 2 / 255]), black])
    assert SceneField(8, 1.0).hits_nothing(rgb).tolist() == [True, True, False, False]
    assert not SceneField(8).hits_nothing(rgb).any()


def test_rays_through_an_empty_field_show_the_background() -> None:
    views = random_views(1)
    rays = views.cameras.rays(pixel_centers(4, 4, views.images)[None], views.near, views.far)
    for background, shown in ((0.0, 0.5), (1.0, 1.0)):
        field = SceneField(8, background)
        field.set_bounds(torch.full((3,), -1.0), torch.full((3,), 1.0))
        with torch.no_grad():
            field.grids[1][:, 0] = -30.0
            output = field.render(rays)
        torch.testing.assert_close(output.rgb, torch.full_like(output.rgb, shown))
        assert output.opacity.max() < 1e-6


@pytest.mark.parametrize("background", [0.0, 1.0])
def test_where_the_field_is_empty_the_white_background_is_seen(background: float) -> None:
    """Rays through the empty field end nowhere: opacity 0, white. In photographs all rays end at something."""
    torch.manual_seed(0)
    network = GuidedNeRF(replace(CONFIG, scene_field=16), GuidedSamples(3), background=background).eval()
    assert network.scene_field.background == background
    batch = random_batch(1)
    target = batch.target[:, 0]
    rays = target.cameras.rays(pixel_centers(24, 32, target.images)[None], target.near, target.far)
    with torch.no_grad():
        empty, full = (_rendered(network, batch, rays, logit) for logit in (-30.0, 30.0))
    assert full.opacity.min() > 0.1
    if background:
        assert empty.opacity.max() < 1e-3
        torch.testing.assert_close(empty.rgb, torch.ones_like(empty.rgb), atol=1e-3, rtol=0)
    else:
        assert empty.opacity.min() > 0.1


def _rendered(network: GuidedNeRF, batch: SceneBatch, rays: RayBundle, logit: float) -> RenderOutput:
    """With the same density everywhere in the field."""
    network.scene_field.grids[1][:, 0] = logit
    target = batch.target[:, 0]
    return network.view(network._encode(batch.source, None, None), target.cameras, target.near, target.far).render(rays)
