"""VGGT's depth as an input of the field and as near and far: neutral without it, and what must not change it."""

from dataclasses import replace

import pytest
import torch

from geometry import InputError, SceneBatch, Views
from models.nerf.compositing import RenderOutput
from models.nerf.depth_prior import OFFSET_CHANNELS, DepthPrior, depth_prior, encoded_offsets
from models.nerf.depth_range import DepthRange, automatic_range
from models.nerf.hierarchical.feature_maps import FeatureExtractor
from models.nerf.hierarchical.network import HierarchicalConfig, HierarchicalNeRF, HierarchicalSamples
from models.nerf.renderer import NearFar
from models.nerf.vggt_nerf import VGGTNeRF
from tests.models.nerf.hierarchical.test_network import assert_same_picture, scaled, some_rays
from tests.oracle_vggt import OracleVGGT
from tests.scenes import random_views, slanted_plane_depth


def plane_views(num_views: int = 4) -> Views:
    """Noise images on a slanted plane."""
    views = random_views(num_views)
    return replace(views, depth=slanted_plane_depth(views.cameras))


def plane_batch(num_sources: int = 3) -> SceneBatch:
    """The target stands between its sources."""
    views = plane_views(num_sources + 1)
    sources = [view for view in range(num_sources + 1) if view != 1]
    return SceneBatch.stack([SceneBatch(views[sources], views[1:2], ("plane",), torch.tensor(0))])


def prior_of(source: Views, **errors: float) -> DepthPrior:
    oracle = OracleVGGT([source[0]], **errors)
    return depth_prior(oracle(source.images), source.cameras, 24, 32)


@pytest.fixture
def network() -> HierarchicalNeRF:
    torch.manual_seed(0)
    config = HierarchicalConfig(
        token_layers=0, token_channels=0, feature_channels=8, hidden=12, fused=16, depth_prior=True
    )
    return HierarchicalNeRF(config, HierarchicalSamples(12, 12)).eval()


def render(network: HierarchicalNeRF, batch: SceneBatch, prior: DepthPrior | None) -> RenderOutput:
    with torch.no_grad():
        target = batch.target[:, 0]
        maps = network._encode(batch.source, None, prior)
        return network.view(maps, target.cameras, target.near, target.far).render(some_rays(batch.target))


def test_prior_is_the_true_depth_in_scene_units() -> None:
    source = plane_batch().source
    prior = prior_of(source)
    coarse = slanted_plane_depth(source.cameras[0].resized(12, 16))
    torch.testing.assert_close(prior.depth[0], coarse, rtol=1e-2, atol=0)
    assert prior.residual.item() < 1e-3
    assert (prior.confidence > 0.7).all()


def test_prior_has_half_the_size_of_the_image_rounded_up() -> None:
    source = plane_batch().source
    prior = depth_prior(OracleVGGT([source[0]])(source.images), source.cameras, 9, 11)
    assert prior.depth.shape == prior.confidence.shape == (1, 3, 5, 6)


def test_offsets_by_hand() -> None:
    """Prior depth 2 with confidence 0.8: at it, 1 % behind, far before; then unknown."""
    looked_up = torch.tensor([0.4, 0.8]).expand(1, 1, 4, 2).clone()
    looked_up[..., 3, :] = 0
    encoded = encoded_offsets(looked_up, torch.tensor([[[2.0, 2.02, 0.2, 2.0]]]))[0, 0]
    assert encoded.shape == (4, OFFSET_CHANNELS)
    at, behind, before, unknown = encoded
    torch.testing.assert_close(at, 0.8 * torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1]), atol=1e-5, rtol=0)
    assert behind[0].item() == pytest.approx(0.8 * 0.7616, abs=1e-3)
    assert behind[4].item() == pytest.approx(0.8 * 0.6065, abs=1e-3)
    torch.testing.assert_close(before[:3], torch.full((3,), -0.8))
    assert before[4:7].abs().max() < 1e-6
    assert (unknown == 0).all()


def test_no_prior_is_a_prior_that_knows_nothing(network: HierarchicalNeRF) -> None:
    batch = plane_batch()
    known = prior_of(batch.source)
    unknown = replace(known, confidence=torch.zeros_like(known.confidence))
    without = render(network, batch, None)
    torch.testing.assert_close(render(network, batch, unknown).rgb, without.rgb, atol=1e-6, rtol=0)
    assert (render(network, batch, known).rgb - without.rgb).abs().max() > 1e-3


@pytest.mark.parametrize("factor", [200.0, 0.005])
def test_unit_of_the_scene_changes_only_depth(network: HierarchicalNeRF, factor: float) -> None:
    batch = plane_batch()
    other = replace(batch, source=scaled(batch.source, factor), target=scaled(batch.target, factor))
    prior, far_larger = prior_of(batch.source), prior_of(replace(other.source, depth=batch.source.depth * factor))
    torch.testing.assert_close(far_larger.depth, prior.depth * factor, rtol=2e-3, atol=0)
    same = replace(prior, depth=prior.depth * factor)
    assert_same_picture(render(network, batch, prior), render(network, other, same), depth_scale=factor)


def test_order_of_source_views_does_not_matter(network: HierarchicalNeRF) -> None:
    batch, order = plane_batch(4), [2, 0, 3, 1]
    prior = prior_of(batch.source)
    shuffled = replace(batch, source=batch.source[:, order])
    turned = replace(prior, depth=prior.depth[:, order], confidence=prior.confidence[:, order])
    assert_same_picture(render(network, batch, prior), render(network, shuffled, turned))


def test_depth_whose_scale_cannot_be_known_is_neutral(network: HierarchicalNeRF) -> None:
    """All sources at one place."""
    batch = plane_batch()
    cameras = batch.source.cameras
    still = replace(batch.source, cameras=replace(cameras, w2c=cameras.w2c[:, :1].expand(1, 3, 4, 4)))
    prior = prior_of(still)
    assert torch.isinf(prior.residual).all()
    assert (prior.confidence == 0).all()
    batch = replace(batch, source=still)
    torch.testing.assert_close(render(network, batch, prior).rgb, render(network, batch, None).rgb)


def test_views_that_contradict_each_other_are_trusted_less() -> None:
    source = plane_batch().source
    good, bad = prior_of(source), prior_of(source, noise=0.4)
    assert bad.residual.item() > 0.1
    assert bad.confidence.mean() < 0.5 * good.confidence.mean()


def test_mirrored_cameras_are_not_trusted() -> None:
    """Depth may agree with itself all the same."""
    source = plane_batch().source
    seen = OracleVGGT([source[0]])(source.images)
    mirrored = seen.w2c.clone()
    mirrored[..., :3, 3] *= -1
    good, bad = (depth_prior(replace(seen, w2c=w2c), source.cameras, 24, 32) for w2c in (seen.w2c, mirrored))
    assert good.trust.item() > 0.99
    assert bad.residual.item() < 1e-3
    assert bad.trust.item() == pytest.approx(1 / (1 + (2 / 0.3) ** 2), rel=0.05)
    assert bad.confidence.max() < 0.05


def test_tokens_count_as_much_as_they_are_trusted() -> None:
    torch.manual_seed(0)
    source = plane_batch().source
    extractor = FeatureExtractor(2, 6, 8)
    tokens = torch.rand(1, 3, 2, 6, 4, 5)
    whole, nothing, other = (
        extractor(source, some, trust)
        for some, trust in ((tokens, None), (tokens, torch.zeros(1)), (tokens.flip(3), torch.zeros(1)))
    )
    torch.testing.assert_close(extractor(source, tokens, torch.ones(1)), whole)
    torch.testing.assert_close(nothing, other)
    assert (whole - nothing).abs().max() > 1e-2


def data_range(batch: SceneBatch) -> DepthRange:
    target = batch.target[:, 0]
    return DepthRange.of_data(target.near / 10, target.far * 10)


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05])
def test_automatic_range_holds_the_true_depth(noise: float) -> None:
    batch = plane_batch()
    target = batch.target[:, 0]
    found = automatic_range(
        prior_of(batch.source, noise=noise), batch.source.cameras, target.cameras, data_range(batch)
    )
    assert found.is_auto.all()
    truth = target.depth
    inside = (truth > found.near) & (truth < found.far)
    assert inside.float().mean() > 0.995
    assert found.far - found.near < 3 * (truth.max() - truth.min())


def test_bounds_of_the_data_stay_where_depth_is_of_no_use() -> None:
    batch = plane_batch()
    target, data, cameras = batch.target[:, 0], data_range(batch), batch.source.cameras
    good = prior_of(batch.source)
    turned_away = replace(target.cameras, w2c=torch.diag(torch.tensor([-1.0, 1, -1, 1])) @ target.cameras.w2c)
    useless = [
        (replace(good, residual=torch.tensor([0.2])), target.cameras),
        (replace(good, residual=torch.tensor([torch.inf])), target.cameras),
        (replace(good, confidence=torch.zeros_like(good.confidence)), target.cameras),
        (good, turned_away),
    ]
    for prior, camera in useless:
        found = automatic_range(prior, cameras, camera, data)
        assert not found.is_auto.any()
        assert (found.near, found.far) == (data.near, data.far)


def test_bounds_of_the_data_stay_where_cameras_are_wrong() -> None:
    batch = plane_batch()
    prior, target = prior_of(batch.source), batch.target[:, 0]
    ranges = [
        automatic_range(one, batch.source.cameras, target.cameras, data_range(batch))
        for one in (prior, replace(prior, trust=torch.full((1,), 0.1)))
    ]
    assert [bool(one.is_auto) for one in ranges] == [True, False]
    torch.testing.assert_close(ranges[1].near, data_range(batch).near)


def oracle_model(batch: SceneBatch, near_far: NearFar, **errors: float) -> VGGTNeRF:
    torch.manual_seed(0)
    config = HierarchicalConfig(
        token_layers=1, token_channels=1, feature_channels=8, hidden=8, fused=8, depth_prior=True
    )
    network = HierarchicalNeRF(config, HierarchicalSamples(4, 2), near_far=near_far)
    return VGGTNeRF(OracleVGGT([batch.source[0]], **errors), network)


def test_a_dropped_backbone_has_no_say() -> None:
    """Two backbones that see another depth: dropped, they are the same one."""
    batch = plane_batch()
    target, pictures = batch.target[:, 0], {}
    for noise in (0.0, 0.05):
        model = oracle_model(batch, "data", noise=noise)
        for is_dropped in (False, True):
            with torch.no_grad():
                maps = model.encode(batch.source, drops_backbone=is_dropped)
                view = model.view(maps, target.cameras, target.near, target.far)
                pictures[noise, is_dropped] = view.render(some_rays(batch.target)).rgb
            assert bool((maps.prior.trust == 0).all() and (maps.prior.confidence == 0).all()) == is_dropped
            assert bool(torch.isinf(maps.prior.residual).all()) == is_dropped
    assert torch.equal(pictures[0.0, True], pictures[0.05, True])
    assert (pictures[0.0, False] - pictures[0.05, False]).abs().max() > 1e-4
    assert (pictures[0.0, False] - pictures[0.0, True]).abs().max() > 1e-4


def test_model_finds_its_bounds_and_remembers_depth() -> None:
    batch = plane_batch()
    target = batch.target[:, 0]
    model = oracle_model(batch, "auto")
    first, second = (model.encode(batch.source, batch.names) for _ in range(2))
    assert (model.cache.misses, model.cache.hits) == (1, 1)
    assert torch.equal(first.prior.depth, second.prior.depth)
    bounds = model.view(second, target.cameras, target.near, target.far).bounds
    assert bounds.is_auto.all()
    model.network.near_far = "data"
    bounds = model.view(second, target.cameras, target.near, target.far).bounds
    assert not bounds.is_auto.any()
    assert torch.equal(bounds.near, target.near)
    assert torch.equal(bounds.far, target.far)


def test_no_depth_no_automatic_bounds() -> None:
    batch = plane_batch()
    config = HierarchicalConfig(token_layers=0, token_channels=0, feature_channels=8, hidden=8, fused=8)
    model = VGGTNeRF(None, HierarchicalNeRF(config, HierarchicalSamples(4, 2), near_far="auto"))
    target = batch.target[:, 0]
    with pytest.raises(InputError, match="--near_far auto: expected a VGGT with camera and depth heads"):
        model.view(model.encode(batch.source), target.cameras, target.near, target.far)
