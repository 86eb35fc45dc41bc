"""The guided sampler: plane sweep, splatted depth, intervals, radiance field, and all of them together."""

from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch

from geometry import Cameras, RayBundle, SceneBatch, pixel_centers
from models.nerf.compositing import FieldOutput
from models.nerf.depth_prior import DepthPrior
from models.nerf.guided.cost_volume import DepthEstimate, PlaneDistribution, VolumeRegularizer, sweep_loss
from models.nerf.guided.depth_guide import Intervals, fractions, guided_samples, intervals
from models.nerf.guided.depth_splat import depth_evidence, splat_depth
from models.nerf.guided.image_stem import sweep_size, working_size
from models.nerf.guided.network import GuidedConfig, GuidedNeRF, GuidedSamples, GuidedView
from models.nerf.guided.plane_sweep import DisparityRange, SweepLines, matching_cost, sweep_lines, view_weights
from models.nerf.guided.radiance_field import ObservedSamples
from models.nerf.guided.shadow_map import depth_behind, shadow_maps
from models.nerf.vggt_nerf import RenderedImage, VGGTNeRF, render_image
from tests.models.nerf.test_losses_and_pipeline import plane_batch
from tests.scenes import random_batch, random_views, ring_cameras, slanted_plane_depth
from training.nerf.rays import draw_target_rays
from training.nerf.windows import random_window

RANGE = DisparityRange(torch.tensor([2.0]), torch.tensor([4.0]))


def config(**changes: object) -> GuidedConfig:
    return GuidedConfig(**{"feature_channels": 4, "hidden": 8, "fused": 8, "sweep_planes": 16, **changes})


@pytest.fixture
def model() -> VGGTNeRF:
    torch.manual_seed(0)
    return VGGTNeRF(None, GuidedNeRF(config(), GuidedSamples(5))).eval()


def view_of(model: VGGTNeRF, batch: SceneBatch) -> GuidedView:
    target = batch.target[:, 0]
    return model.view(model.encode(batch.source), target.cameras, target.near, target.far)


@torch.no_grad()
def image(model: VGGTNeRF, batch: SceneBatch, chunk: int = 10_000) -> RenderedImage:
    return render_image(view_of(model, batch), chunk)


def test_fractions_count_disparity() -> None:
    assert RANGE.inverse_depth(torch.tensor([[0.0, 0.5, 1.0]])).tolist() == [[0.25, 0.375, 0.5]]
    torch.testing.assert_close(RANGE.fraction(torch.tensor([[0.375]])), torch.tensor([[0.5]]))


def test_lines_are_projections() -> None:
    """In float64: what lies on an image's edge must be on the same side of it both ways."""
    cameras = ring_cameras(4).to(torch.float64)
    pixels = pixel_centers(24, 32, cameras.w2c)[None, ::7]
    depth = 2 + torch.rand(1, pixels.shape[1], 3, dtype=torch.float64)
    swept = sweep_lines(cameras[:3][None], cameras[3][None], pixels).at(1 / depth)
    for sample in range(3):
        points = cameras[3][None].unproject(pixels, depth[..., sample])
        expected = cameras[:3][None].project(points[:, None])
        pixels_found = (swept.coordinates[..., sample, :] + 1) / 2 * torch.tensor([32, 24])
        near_image = expected.visible[..., None].expand_as(pixels_found)
        torch.testing.assert_close(pixels_found[near_image], expected.pixels[near_image], atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(swept.depth_ratio[..., sample] * depth[:, None, :, sample], expected.depth)
        assert torch.equal(swept.visible[..., sample], expected.visible)


def test_sweep_of_a_plane_finds_its_depth() -> None:
    """A textured plane at z = 3, between near 2 and far 4: fraction 1/3; the colors themselves are the features."""
    batch = plane_batch()
    target = batch.target[:, 0].cameras
    half = torch.full((1, 24 * 32), 0.5)
    centers = fractions(Intervals(half, half), 30)
    swept = sweep_lines(batch.source.cameras, target, pixel_centers(24, 32, half)[None]).at(
        RANGE.inverse_depth(centers)
    )
    cost = matching_cost(batch.source.images, swept)
    assert cost.shape == (1, 5, 24 * 32, 30)
    inner = torch.zeros(24, 32, dtype=torch.bool)
    inner[4:-4, 9:-9] = True
    found = centers.gather(-1, cost[:, 3].argmin(-1, keepdim=True))[0, inner.flatten(), 0]
    assert (found - 1 / 3).abs().median() < 1 / 30
    assert ((found - 1 / 3).abs() < 2 / 30).float().mean() > 0.9


def plane_prior(cameras: Cameras) -> DepthPrior:
    depth = slanted_plane_depth(cameras)[None]
    return DepthPrior(depth, torch.full_like(depth, 0.9), torch.zeros(1), torch.ones(1))


def test_splat_of_a_plane_is_the_plane() -> None:
    cameras = ring_cameras(4)
    splat = splat_depth(plane_prior(cameras[[0, 1, 3]]), cameras[[0, 1, 3]][None], cameras[2][None], 12, 16)
    truth = slanted_plane_depth(cameras[2:3].resized(12, 16))
    known = splat.confidence > 0.5
    assert known.float().mean() > 0.7
    torch.testing.assert_close(1 / splat.inverse_depth[known], truth[known], rtol=0.02, atol=0)
    assert splat.spread[known].max() < 0.03
    bells = depth_evidence(splat, (1 / truth)[..., None] * torch.tensor([1.0, 1.5]))
    assert (bells[:, 0, ..., 0][known] > 0.2).all()
    assert (bells[:, :2, ..., 1][known.unsqueeze(1).expand(-1, 2, -1, -1)] < 1e-3).all()


def test_what_is_in_front_hides_what_is_behind() -> None:
    cameras = ring_cameras(2)
    depth = torch.stack([torch.full((24, 32), 2.0), torch.full((24, 32), 4.0)])[None]
    prior = DepthPrior(depth, torch.full_like(depth, 0.5), torch.zeros(1), torch.ones(1))
    both = replace(cameras, w2c=cameras.w2c[:1].repeat(2, 1, 1), intrinsics=cameras.intrinsics)
    splat = splat_depth(prior, both[None], both[0][None], 24, 32)
    torch.testing.assert_close(splat.inverse_depth, torch.full((1, 24, 32), 0.5))


def two_planes() -> tuple[Cameras, Cameras, torch.Tensor]:
    """A target, a source 0.5 to its right, and the target's depth: a square at z = 2 before a wall at z = 4."""
    intrinsics = torch.tensor([[40.0, 0, 20], [0, 40, 20], [0, 0, 1]])
    w2c = torch.eye(4).repeat(2, 1, 1)
    w2c[1, 0, 3] = -0.5
    cameras = Cameras(w2c, intrinsics.repeat(2, 1, 1), 40, 40)
    depth = torch.full((1, 40, 40), 4.0)
    depth[:, 14:26, 14:26] = 2.0
    return cameras[:1], cameras[1:][None], depth


def test_what_the_square_covers_is_hidden() -> None:
    """The square moves by 40 * 0.5 / 2 = 10 pixels, the wall by 5: wall pixels 9..14 lie behind it in the source."""
    target, source, depth = two_planes()
    planes = DisparityRange(torch.tensor([1.0]), torch.tensor([5.0]))
    center = planes.fraction(1 / depth)
    maps = shadow_maps(planes, center, torch.ones_like(center, dtype=torch.bool), target, source, 40, 40)
    assert maps[0, 0, 20, 10].item() == pytest.approx(1 / 2)
    assert maps[0, 0, 20, 2].item() == pytest.approx(1 / 4)
    assert maps[0, 0, 20, 38].item() == 0  # no pixel of the target falls there
    inverse = (1 / depth).flatten(1)[..., None]
    swept = sweep_lines(source, target, pixel_centers(40, 40, depth)[None]).at(inverse)
    behind = depth_behind(maps, planes, swept, inverse).view(40, 40)
    assert (behind[20, 9:14] == 1).all()
    assert (behind[20, 15:25] == -0.5).all()  # on the square itself
    assert (behind[20, 28:38] == -0.5).all()
    assert (behind[5] < 0).all()
    weights = view_weights(swept, behind.view(1, 1, -1, 1)).view(40, 40)
    assert (weights[20, 9:14] - 0.02).abs().max() < 1e-6
    assert (weights[20, 15:25] == 1).all()
    assert (weights[20, :5] == 0).all()  # left of the source's image
    unsure = shadow_maps(planes, center, torch.zeros_like(center, dtype=torch.bool), target, source, 40, 40)
    assert not unsure.any()


def test_a_nearer_source_judges_by_the_targets_disparity() -> None:
    """A wall at z = 4, seen from half the distance: 0.08 behind it is 0.2 of the softness in the target, 0.8 there."""
    target, source, _ = two_planes()
    w2c = torch.eye(4)
    w2c[2, 3] = -2.0
    source = replace(source, w2c=w2c[None, None])
    planes = DisparityRange(torch.tensor([1.0]), torch.tensor([5.0]))
    inverse = torch.full((1, 1, 1), 1 / 4.08)
    swept = sweep_lines(source, target, torch.tensor([[[20.0, 20.0]]])).at(inverse)
    behind = depth_behind(torch.full((1, 1, 40, 40), 1 / 2), planes, swept, inverse).item()
    assert behind == pytest.approx((1 / 4 - 1 / 4.08) / (0.8 * 0.03) - 0.5, abs=0.01)


def test_a_hidden_view_does_not_spoil_the_agreement_of_the_others() -> None:
    cameras = ring_cameras(4)
    images = torch.full((1, 3, 3, 24, 32), 0.5)
    images[:, 2] = 1.0
    inverse = torch.full((1, 24 * 32, 1), 1 / 3)
    swept = sweep_lines(cameras[:3][None], cameras[3][None], pixel_centers(24, 32, inverse)[None]).at(inverse)
    hidden = torch.full((1, 3, 24 * 32, 1), -1.0)
    seen = swept.visible.all(1)[0, :, 0]
    assert seen.float().mean() > 0.3
    plain = matching_cost(images, swept, hidden)[0, 0, seen]
    hidden[:, 2] = 1.0
    masked = matching_cost(images, swept, hidden)[0, 0, seen]
    assert (masked < plain - 0.1).all()


def test_intervals_widen_where_nothing_is_sure_and_at_edges() -> None:
    ones = torch.ones(1, 3, 9)
    center = torch.cat([0.2 * ones[..., :5], 0.3 * ones[..., 5:]], dim=-1)
    confidence = ones.clone()
    confidence[0, 1, 1] = 0.2
    found = intervals(DepthEstimate(center, 0.004 * ones, confidence), 0.01 * ones, floor=0.5, ceiling=5.0)
    assert found.half[0, 0, 7].item() == pytest.approx(0.008)
    assert found.half[0, 1, 1].item() == pytest.approx(0.048)
    assert found.half[0, 0, 4].item() == pytest.approx(0.05)  # 0.008 + half the step of 0.1, at most the ceiling
    tight = intervals(DepthEstimate(center, 1e-6 * ones, ones), 0.01 * ones, floor=0.5, ceiling=5.0)
    assert tight.half[0, 0, 7].item() == pytest.approx(0.005)


def test_samples_cover_the_interval_and_nothing_else() -> None:
    """Disparity fractions 0.2 to 0.4 between 2 and 4 are depths 1 / 0.35 to 1 / 0.3."""
    ray = RayBundle(torch.zeros(1, 1, 3), torch.zeros(1, 1, 3), *(torch.full((1, 1), v) for v in (2.5, 5.0, 0.8)))
    around = Intervals(torch.full((1, 1), 0.3), torch.full((1, 1), 0.1))
    samples = guided_samples(around, RANGE, ray, 4)
    assert samples.t_starts[0, 0, 0].item() == pytest.approx(1 / 0.35 / 0.8)
    assert samples.t_ends[0, 0, -1].item() == pytest.approx(1 / 0.3 / 0.8)
    assert torch.equal(samples.t_starts[..., 1:], samples.t_ends[..., :-1])
    assert (samples.t > samples.t_starts).all()
    assert (samples.t < samples.t_ends).all()
    drawn = guided_samples(around, RANGE, ray, 4, torch.rand(1, 1, 4))
    assert (drawn.t >= samples.t_starts).all()
    assert (drawn.t <= samples.t_ends).all()


def level_of(logits: torch.Tensor, centers: torch.Tensor) -> PlaneDistribution:
    """Without context."""
    return PlaneDistribution(logits, centers, torch.zeros_like(logits)[:, None, ..., 0])


def test_loss_is_least_at_the_known_depth_and_unknown_depth_counts_nothing() -> None:
    centers = torch.linspace(1, 0, 9).expand(1, 2, 2, 9)
    depth = torch.full((1, 4, 4), 1 / 0.375)  # fraction 0.5, plane 4
    losses = []
    for plane in range(9):
        logits = torch.zeros(1, 2, 2, 9)
        logits[..., plane] = 5
        losses.append(sweep_loss(level_of(logits, centers), RANGE, depth).item())
    assert losses.index(min(losses)) == 4
    level = level_of(torch.zeros(1, 2, 2, 9), centers)
    assert sweep_loss(level, RANGE, depth).item() == pytest.approx(torch.tensor(9.0).log().item())
    assert sweep_loss(level, RANGE, torch.zeros(1, 4, 4)).item() == 0
    assert sweep_loss(replace(level, centers=level.centers * torch.nan), RANGE, depth).isnan()  # --skip_non_finite
    sharp = replace(level, logits=torch.tensor([-9.0, 0, 1, 0, -9, -9, -9, -9, -9]).expand(1, 2, 2, 9))
    assert sharp.estimate().center[0, 0, 0].item() == pytest.approx(0.75, abs=1e-3)


def test_constant_field_in_closed_form(model: VGGTNeRF, monkeypatch: pytest.MonkeyPatch) -> None:
    """Density 0.7 and one color: opacity 1 - exp(-0.7 length of the interval), whatever the number of samples."""
    batch, color = random_batch(2), torch.tensor([0.2, 0.5, 0.9])
    drawn = draw_target_rays(batch.target[:, 0], 20, [torch.Generator().manual_seed(seed) for seed in range(2)])

    def constant(samples: ObservedSamples, residual: None) -> FieldOutput:
        return FieldOutput(torch.full_like(samples.offset, 0.7), color.expand(*samples.offset.shape, 3))

    monkeypatch.setattr(model.network.field, "forward", constant)
    with torch.no_grad():
        output = view_of(model, batch).render(drawn.rays)
    assert output.weights.shape[-1] == 5
    length = output.samples.t_ends[..., -1] - output.samples.t_starts[..., 0]
    assert (length > 0).all()
    torch.testing.assert_close(output.opacity, 1 - torch.exp(-0.7 * length))
    torch.testing.assert_close(output.rgb, output.opacity[..., None] * color)


@pytest.mark.parametrize("num_sources", [2, 3, 5])
def test_order_of_sources_changes_nothing(model: VGGTNeRF, num_sources: int) -> None:
    batch = random_batch(1, num_sources)
    turned = replace(batch, source=batch.source[:, list(reversed(range(num_sources)))])
    one, other = image(model, batch), image(model, turned)
    torch.testing.assert_close(one.rgb, other.rgb, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(one.depth, other.depth, atol=1e-3, rtol=1e-4)


def test_chunks_change_nothing(model: VGGTNeRF) -> None:
    batch = random_batch(1)
    one, other = image(model, batch), image(model, batch, chunk=100)
    torch.testing.assert_close(one.rgb, other.rgb, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.depth, other.depth, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(("factor", "error"), [(512.0, 0.0), (1 / 512, 0.0), (500.0, 2e-5), (0.01, 2e-5)])
def test_unit_of_the_scene_changes_nothing(model: VGGTNeRF, factor: float, error: float) -> None:
    """Powers of two round nothing: bit for bit the same."""
    batch = random_batch(1)
    views = (
        replace(part, cameras=part.cameras.scaled(factor), near=part.near * factor, far=part.far * factor)
        for part in (batch.source, batch.target)
    )
    source, target = views
    one, other = image(model, batch), image(model, replace(batch, source=source, target=target))
    torch.testing.assert_close(one.rgb, other.rgb, atol=error, rtol=0)
    torch.testing.assert_close(one.depth, other.depth / factor, atol=error, rtol=0)


def test_a_prior_reaches_the_sweep() -> None:
    torch.manual_seed(0)
    network = GuidedNeRF(config(depth_prior=True)).eval()
    views = random_views(4)
    batch = SceneBatch.stack([SceneBatch(views[:3], views[3:], ("scene",), torch.tensor(0))])
    target = batch.target[:, 0]
    levels = []
    for prior in (None, plane_prior(views.cameras[:3])):
        maps = network._encode(batch.source, None, prior)
        levels.append(network.view(maps, target.cameras, target.near, target.far).levels[0].logits)
    assert not torch.equal(*levels)


def test_a_window_shows_the_same_place() -> None:
    batch = random_batch(1)
    cut = random_window(batch, 10, 12, torch.Generator().manual_seed(3))
    assert cut.target.images.shape[-2:] == cut.target.depth.shape[-2:] == (10, 12)
    middle = torch.tensor([[[5.5, 4.5]]])
    point = cut.target.cameras[:, 0].unproject(middle, torch.full((1, 1), 3.0))
    x, y = batch.target.cameras[:, 0].project(point).pixels[0, 0].floor().long().tolist()
    assert torch.equal(batch.target.images[..., y, x], cut.target.images[..., 4, 5])


def test_two_of_three_windows_reach_an_edge() -> None:
    """Of half the view: pushed back inside from a start between one window before the edge and one behind it."""
    batch = random_batch(1)
    lefts = []
    for seed in range(300):
        cut = random_window(batch, 12, 16, torch.Generator().manual_seed(seed))
        principal = [one.target.cameras.intrinsics[0, 0, 0, 2].item() for one in (batch, cut)]
        lefts.append(round(principal[0] - principal[1]))
    shares = [sum(left == edge for left in lefts) / 300 for edge in (0, 16)]
    assert shares == pytest.approx([17 / 49, 17 / 49], abs=0.08)
    assert set(lefts) == set(range(17))


def test_a_lone_volume_is_regularized_as_one_of_several() -> None:
    torch.manual_seed(0)
    net = VolumeRegularizer(3, 8, levels=2, halves_planes=False)
    cost, centers = torch.rand(2, 3, 8, 10, 6), torch.rand(2, 8, 10, 6)
    both = net(cost, centers).logits
    torch.testing.assert_close(net(cost[:1], centers[:1]).logits, both[:1], atol=1e-5, rtol=1e-5)
    gradients = [torch.autograd.grad(net(cost[:1], centers[:1]).logits.sum(), net.parameters(), allow_unused=True)]
    gradients.append(torch.autograd.grad(net(cost, centers).logits[:1].sum(), net.parameters(), allow_unused=True))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_volumes_are_kept_where_they_are_read_only() -> None:
    """Not with the view: they take as much memory as all else of it. In strips they are those of the whole."""
    for reads in (False, True):
        net = VGGTNeRF(None, GuidedNeRF(config(sample_volume=reads), GuidedSamples(2))).eval()
        found = view_of(net, plane_batch())
        assert [level.features for level in found.levels] == [None, None]
        assert (found.lookup is not None) == reads
    torch.manual_seed(0)
    plain, kept = (VolumeRegularizer(3, 8, levels=2, halves_planes=False, keeps_features=one) for one in (False, True))
    kept.load_state_dict(plain.state_dict())
    cost, centers = torch.rand(1, 3, 32, 10, 6), torch.rand(1, 32, 10, 6)
    whole = kept(cost, centers)
    assert plain(cost, centers).features is None
    assert whole.features.shape == (1, 8, 32, 10, 6)
    blended = (whole.logits.softmax(-1)[:, None] * whole.features).sum(-1)
    torch.testing.assert_close(whole.context, blended)

    def in_strips(compute: Any, count: int, **_: Any) -> list[Any]:
        return [compute(first, first + 8) for first in range(0, count, 8)]

    with mock.patch("models.nerf.guided.cost_volume.in_parts", in_strips):
        strips = kept(cost, centers)
    for name in ("logits", "context", "features"):
        torch.testing.assert_close(getattr(strips, name), getattr(whole, name), atol=1e-5, rtol=1e-5)


def test_a_window_is_swept_as_finely_as_the_view_it_is_from() -> None:
    whole = ring_cameras(1, 512, 640)
    source = ring_cameras(3, 512, 640)[None]
    assert sweep_size(whole, source) == (256, 320)
    assert sweep_size(whole.cropped(100, 200, 256, 320), source) == (128, 160)
    assert sweep_size(whole.resized(256, 320), source) == (256, 320)  # half the size, not half the view


def test_a_step_views_a_window_of_as_many_sweep_pixels_at_every_resolution(model: VGGTNeRF) -> None:
    window = model.network.training_window
    assert window(256, 320) == (128, 160)
    assert window(512, 640) == (256, 320)
    assert window(100, 640) == (100, 160)  # no larger than the view
    large = random_batch(1, 2, height=512, width=640)
    cut = random_window(large, *window(512, 640), torch.Generator().manual_seed(3))
    assert cut.target.images.shape[-2:] == cut.target.depth.shape[-2:] == (256, 320)
    assert sweep_size(cut.target.cameras[:, 0], large.source.cameras) == (128, 160)


def test_sizes() -> None:
    assert working_size(128, 160) == (128, 160)
    assert working_size(512, 640) == (256, 320)
    assert working_size(1200, 1600) == (300, 400)


def test_the_surface_is_what_both_levels_are_sure_of(model: VGGTNeRF) -> None:
    found = view_of(model, plane_batch())
    coarse, fine = (level.estimate() for level in found.levels)
    both = fine.confidence * torch.nn.functional.interpolate(
        coarse.confidence[:, None], fine.confidence.shape[1:], mode="bilinear"
    ).squeeze(1)
    torch.testing.assert_close(found.surface, torch.stack([fine.center, both], dim=1))


def test_colors_on_planes_teach_depth(model: VGGTNeRF) -> None:
    """The loss is least where the plane of `plane_batch`, z = 3 and fraction 1/3, has all the likelihood."""
    batch = plane_batch()
    found = view_of(model, batch)
    truth = draw_target_rays(batch.target[:, 0], 4, [torch.Generator().manual_seed(0)], found.bounds)
    output = found.render(truth.rays)
    centers = torch.linspace(1, 0, 31).expand(1, 24, 32, 31)
    losses = []
    for fraction in (1 / 3, 0.55, 0.1):
        level = level_of(-200 * (centers - fraction).abs(), centers)
        unhidden = replace(found, levels=(level, level), shadows=torch.zeros_like(found.shadows))
        losses.append(unhidden.color_loss(output, truth).item())
    assert losses[0] < 0.5 * min(losses[1:])
    found.color_loss(output, truth).backward()
    assert all(level.logit.weight.grad.abs().max() > 0 for level in (model.network.coarse, model.network.fine))


def test_colors_rendered_from_the_planes_teach_depth_too(model: VGGTNeRF) -> None:
    """As above, by the error of the blend instead of the blend of errors."""
    batch = plane_batch()
    found = view_of(model, batch)
    truth = draw_target_rays(batch.target[:, 0], 4, [torch.Generator().manual_seed(0)], found.bounds)
    output = found.render(truth.rays)
    centers = torch.linspace(1, 0, 31).expand(1, 24, 32, 31)

    losses = []
    for fraction in (1 / 3, 0.55, 0.1):
        level = level_of(-200 * (centers - fraction).abs(), centers)
        unhidden = replace(found, levels=(level, level), shadows=torch.zeros_like(found.shadows))
        losses.append(unhidden.coarse_loss(output, truth).item())
    assert losses[0] < 0.5 * min(losses[1:])
    model.zero_grad()
    found.coarse_loss(output, truth).backward()
    assert all(level.logit.weight.grad.abs().max() > 0 for level in (model.network.coarse, model.network.fine))


def test_it_learns_a_scene() -> None:
    """Sixty steps on a textured plane, with its depth known: sweep and colors find it."""
    torch.manual_seed(0)
    batch = plane_batch()
    model = VGGTNeRF(None, GuidedNeRF(config(), GuidedSamples(5)))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    target = batch.target[:, 0]
    for step in range(60):
        drawn = draw_target_rays(batch.target[:, 0], 256, [torch.Generator().manual_seed(step)])
        view = view_of(model, batch)
        losses = view.losses(view.render(drawn.rays), drawn, ["depth"])
        optimizer.zero_grad()
        (losses["photometric"] + 0.1 * losses["depth"]).backward()
        optimizer.step()
    shown = image(model, batch)
    truth = target.images[0].permute(1, 2, 0)
    assert (shown.rgb - truth).square().mean() < 0.25 * truth.var(unbiased=False)
    assert (shown.depth - target.depth[0]).abs().median() < 0.1


def test_the_nearest_views_that_see_a_point_have_a_say() -> None:
    """Of nine views the six nearest count, farther ones only where nearer ones do not look; in whatever order."""
    cameras, target = ring_cameras(9), ring_cameras(19)[8:9]  # a bit nearer to 3 than to 5: no two are equally far
    pixels = torch.tensor([[[16.0, 12.0], [3.0, 12.0]]])
    inverse = torch.tensor([[[1 / 3.0], [1 / 3.0]]])
    swept = sweep_lines(cameras[None], target, pixels).at(inverse)
    assert swept.visible[0, :, 0].all()
    weights = view_weights(swept)[0, :, 0, 0]
    assert weights.sum() == 6
    assert weights.tolist() == [0, 1, 1, 1, 1, 1, 1, 0, 0]
    hidden = torch.zeros(1, 9, 2, 1)
    hidden[:, 4] = 1
    assert view_weights(swept, hidden)[0, :, 0, 0].sum() == 6.02
    blind = replace(swept, visible=swept.visible & (torch.arange(9) > 2)[None, :, None, None])
    assert view_weights(blind)[0, :, 0, 0].tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1]
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    shuffled = sweep_lines(cameras[order][None], target, pixels).at(inverse)
    maps = torch.randn(1, 9, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(view_weights(shuffled), view_weights(swept)[:, order], rtol=0, atol=0)
    far = torch.cat([maps, torch.randn(1, 2, 3, 6, 8)], dim=1)
    more = Cameras(
        torch.cat([cameras.w2c, cameras.w2c[:1], cameras.w2c[8:]]), cameras.intrinsics[:1].repeat(11, 1, 1), 24, 32
    )
    swept_more = sweep_lines(more[None], target, pixels[:, :1]).at(inverse[:, :1])
    few = sweep_lines(cameras[None], target, pixels[:, :1]).at(inverse[:, :1])
    torch.testing.assert_close(matching_cost(far, swept_more), matching_cost(maps, few))


def test_feature_pixels_decide_how_often_images_are_halved() -> None:
    batch = random_batch(1, 2, height=64, width=80)
    for pixels, size in ((1 << 17, (64, 80)), (5120, (64, 80)), (5119, (32, 40))):
        network = GuidedNeRF(GuidedConfig(feature_pixels=pixels)).eval()
        with torch.no_grad():
            maps = network.encode(batch.source, None)
            target = batch.target[:, 0]
            view = network.view(maps, target.cameras, target.near, target.far)
        assert maps.fine.shape[-2:] == view.guide.shape[-2:] == size
    assert GuidedNeRF(GuidedConfig(feature_pixels=1 << 20)).training_window(800, 800) == (128, 160)
    assert GuidedNeRF(GuidedConfig()).training_window(800, 800) == (512, 640)


def test_points_at_nan_are_seen_nowhere() -> None:
    """Not looked up at NaN, which torch's backward pass on a CPU does not survive."""
    lines = SweepLines(torch.ones(1, 1, 1, 3), torch.ones(1, 1, 1, 3), torch.zeros(1, 1, dtype=torch.long))
    swept = lines.at(torch.tensor([[[0.0, torch.nan, torch.inf]]]))
    assert swept.coordinates[0, 0, 0].tolist() == [[1, 1], [2, 2], [2, 2]]
    assert swept.visible.flatten().tolist() == [True, False, False]
    assert swept.depth_ratio[0, 0, 0, 1].isnan()


def test_volume_is_read_between_the_planes_of_a_pixel() -> None:
    """Features that are the plane's number, then twice that: at a fraction between two planes their mean."""
    centers = torch.linspace(0.8, 0.4, 5).expand(1, 2, 3, 5)
    plane = torch.arange(5.0).expand(1, 1, 2, 3, 5)
    features = torch.cat([plane, 2 * plane], dim=1)
    level = PlaneDistribution(torch.zeros(1, 2, 3, 5), centers, features[..., 0], features)
    found = level.lookup.flatten(2).transpose(1, 2)[:, :2]
    fraction = torch.tensor([[[0.8, 0.75, 0.43], [1.0, 0.0, 0.6]]])
    volume = level.at_samples(found, fraction, 5)
    expected = torch.tensor([[[0.0, 0.5, 3.7], [0.0, 4.0, 2.0]]])
    torch.testing.assert_close(volume[..., 0], expected)
    torch.testing.assert_close(volume[..., 1], 2 * expected)
    torch.testing.assert_close(volume[..., 2], torch.ones(1, 2, 3))  # as likely as all others


def test_a_network_that_reads_the_volume_starts_from_the_one_that_did_not(model: VGGTNeRF) -> None:
    batch, old = plane_batch(), model
    new = VGGTNeRF(None, GuidedNeRF(config(sample_volume=True), GuidedSamples(5))).eval()
    new.network.load_state_dict(new.network.with_new_parts(old.network.state_dict()))
    assert torch.equal(image(old, batch).rgb, image(new, batch).rgb)
    torch.nn.init.normal_(new.network.field.volume_in.weight)
    assert not torch.equal(image(old, batch).rgb, image(new, batch).rgb)
    kept = new.network.with_new_parts(new.network.state_dict())
    assert all(torch.equal(kept[key], value) for key, value in new.network.state_dict().items())
