"""What the guided sampler is told of VGGT: tokens in its feature maps, depth in both levels of the sweep."""

from dataclasses import replace

import pytest
import torch

from geometry import SceneBatch
from models.nerf.depth_prior import DepthPrior
from models.nerf.guided.cost_volume import DepthEstimate
from models.nerf.guided.depth_fit import best_matches, fit_views
from models.nerf.guided.depth_splat import SplattedDepth, splat_depth
from models.nerf.guided.image_stem import ImageStem
from models.nerf.guided.network import GuidedConfig, GuidedNeRF, GuidedSamples, GuidedView
from models.nerf.guided.plane_sweep import DisparityRange
from models.nerf.vggt_nerf import render_image
from models.vggt.frozen import FrozenFeatures
from tests.models.nerf.guided.test_network import RANGE, config, plane_prior
from tests.models.nerf.test_depth_prior import plane_batch, plane_views
from tests.oracle_vggt import OracleVGGT
from tests.scenes import random_batch, ring_cameras, slanted_plane_depth
from training.nerf.rays import draw_target_rays

LAYERS, CHANNELS = 2, 10
BOTH = {"depth_prior": True, "fine_depth": True, "token_layers": LAYERS, "token_channels": CHANNELS}


def network(**changes: object) -> GuidedNeRF:
    torch.manual_seed(0)
    return GuidedNeRF(config(**changes), GuidedSamples(3)).eval()


def tokens_for(batch: SceneBatch) -> torch.Tensor:
    shape = (*batch.source.images.shape[:2], LAYERS, CHANNELS, 2, 3)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def seen_by_vggt(batch: SceneBatch) -> FrozenFeatures:
    """True depth and cameras, random tokens."""
    oracle = OracleVGGT([plane_views(), *(batch.source[scene] for scene in range(len(batch.names)))])
    return replace(oracle(batch.source.images), tokens=tokens_for(batch))


def view_of(network: GuidedNeRF, batch: SceneBatch, seen: FrozenFeatures | None, **dropped: bool) -> GuidedView:
    target = batch.target[:, 0]
    return network.view(network.encode(batch.source, seen, **dropped), target.cameras, target.near, target.far)


@torch.no_grad()
def picture(network: GuidedNeRF, batch: SceneBatch, seen: FrozenFeatures | None, **dropped: bool) -> torch.Tensor:
    return render_image(view_of(network, batch, seen, **dropped), 10_000).rgb


@torch.no_grad()
def test_tokens_reach_both_maps_as_far_as_they_are_trusted() -> None:
    batch, stem = random_batch(2), ImageStem(4, token_layers=LAYERS, token_channels=CHANNELS)
    images, tokens = batch.source.images, tokens_for(batch)
    without = stem(images)
    trusted = stem(images, tokens, torch.tensor([0.0, 0.7]))
    for before, after in zip(without, trusted, strict=True):
        assert torch.equal(before[0], after[0])
        assert (before[1] - after[1]).abs().max() > 1e-3
    for one, other in zip(stem(images, tokens), stem(images, tokens, torch.ones(2)), strict=True):
        assert torch.equal(one, other)


@torch.no_grad()
def test_maps_in_parts_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image at a time, as where memory does not suffice for more."""
    batch, stem = random_batch(1), ImageStem(4, token_layers=LAYERS, token_channels=CHANNELS)
    images, tokens, trust = batch.source.images, tokens_for(batch), torch.tensor([0.8])
    whole, sizes, maps = stem(images, tokens, trust), [], stem._maps

    def one_at_most(images: torch.Tensor, *more: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sizes.append((len(images), *(len(one) for one in more)))
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return maps(images, *more)

    monkeypatch.setattr(stem, "_maps", one_at_most)
    for one, other in zip(whole, stem(images, tokens, trust), strict=True):
        torch.testing.assert_close(one, other)
    assert sizes == [(3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)]


def test_backbone_dropout_is_the_path_without_a_vggt() -> None:
    batch, told = plane_batch(), network(**BOTH)
    seen = seen_by_vggt(batch)
    dropped = picture(told, batch, seen, drops_backbone=True)
    assert torch.equal(dropped, picture(told, batch, None))
    assert not torch.equal(dropped, picture(told, batch, seen))


def test_order_of_sources_changes_nothing() -> None:
    batch, told = plane_batch(), network(**BOTH)
    seen = seen_by_vggt(batch)
    turned = replace(batch, source=batch.source[:, [2, 1, 0]])
    other = replace(seen_by_vggt(turned), tokens=seen.tokens[:, [2, 1, 0]])
    difference = (picture(told, batch, seen) - picture(told, turned, other)).abs()
    assert difference.median() < 1e-5
    assert (difference < 1e-3).float().mean() > 0.99  # where two planes are as likely, rounding decides


@pytest.mark.parametrize(
    "parts", [BOTH, {"token_layers": LAYERS, "token_channels": CHANNELS}, {"depth_prior": True, "fine_depth": True}]
)
def test_everything_that_learns_has_a_gradient_in_the_first_step(parts: dict) -> None:
    batch, told = plane_batch(), network(**parts)
    view = view_of(told, batch, seen_by_vggt(batch))
    truth = draw_target_rays(batch.target[:, 0], 200, [torch.Generator().manual_seed(0)], view.bounds)
    sum(view.losses(view.render(truth.rays), truth, ("depth", "color")).values()).backward()
    silent = [name for name, one in told.named_parameters() if one.grad is None or not one.grad.any()]
    parts_told = ("stem.", "coarse.first", "coarse.down", "fine.first", "fine.down", "field.view_in")
    assert not [name for name in silent if name.startswith(parts_told)]
    assert all(one.grad is not None for one in told.parameters())


def test_depth_enters_the_fine_level_at_its_own_resolution() -> None:
    """The levels are swept with 6x8 and 24x32 pixels; VGGT's depth has 12x16."""
    batch, told = plane_batch(), network(depth_prior=True, fine_depth=True)
    prior, target = plane_prior(batch.source.cameras[0]), batch.target[:, 0]
    coarse = replace(prior, depth=prior.depth[..., ::2, ::2], confidence=prior.confidence[..., ::2, ::2])
    sizes, known = [], GuidedNeRF._known

    def spy(*about: object) -> SplattedDepth | None:
        sizes.append(about[-2:])
        return known(*about)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GuidedNeRF, "_known", staticmethod(spy))
        levels = [
            told.view(told._encode(batch.source, None, one), target.cameras, target.near, target.far).levels[1]
            for one in (coarse, None)
        ]
    assert sizes == [(6, 8), (12, 16), (6, 8), (24, 32)]  # with the prior, and without any
    assert not torch.equal(levels[0].logits, levels[1].logits)


def test_each_view_is_fitted_to_what_the_sweep_found() -> None:
    """Inverse depths of the sources are off by a scale and a shift each; the sweep knows two thirds of the pixels."""
    cameras = ring_cameras(4)
    source, target, planes = cameras[[0, 1, 3]][None], cameras[2:3], RANGE
    truth = slanted_plane_depth(target)
    prior = plane_prior(source[0])
    scale, shift = torch.tensor([1.06, 0.95, 1.02])[:, None, None], torch.tensor([-0.02, 0.03, 0.01])[:, None, None]
    wrong = replace(prior, depth=1 / (scale / prior.depth + shift))
    known = torch.rand(truth.shape, generator=torch.Generator().manual_seed(0)) < 0.67
    center = torch.where(known, planes.fraction(1 / truth), 0.9)
    found = DepthEstimate(center, torch.zeros_like(center), torch.where(known, 0.8, 0.02))
    fit = fit_views(source, target, wrong, planes, found)
    errors = []
    for used in (None, fit):
        splat = splat_depth(wrong, source, target, 12, 16, used)
        is_known = splat.confidence > 0.3
        truth_there = slanted_plane_depth(target.resized(12, 16))
        errors.append(((1 / splat.inverse_depth[is_known] / truth_there[is_known]) - 1).abs().mean().item())
    assert errors[1] < 0.25 * errors[0]
    double = DisparityRange(planes.near * 512, planes.far * 512)
    larger = fit_views(
        source.scaled(512.0), target.scaled(512.0), replace(wrong, depth=wrong.depth * 512), double, found
    )
    torch.testing.assert_close(larger.scale, fit.scale, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(larger.shift * 512, fit.shift, rtol=1e-3, atol=1e-4)


def test_a_view_of_which_nothing_is_found_stays_as_it_is() -> None:
    cameras = ring_cameras(4)
    prior, nothing = plane_prior(cameras[:3]), torch.zeros(1, 6, 8)
    fit = fit_views(cameras[:3][None], cameras[3:], prior, RANGE, DepthEstimate(nothing, nothing, nothing))
    assert torch.equal(fit.scale, torch.ones(1, 3))
    assert not fit.shift.any()
    unsure = replace(prior, confidence=prior.confidence * torch.tensor([1.0, 0, 1])[:, None, None])
    half = torch.full((1, 6, 8), 0.5)
    fit = fit_views(cameras[:3][None], cameras[3:], unsure, RANGE, DepthEstimate(half, half, half))
    assert (fit.scale[0, 1].item(), fit.shift[0, 1].item()) == (1, 0)
    assert fit.scale[0, 0] != 1


def test_best_matches_by_hand() -> None:
    """Two views agree on plane 2 of 5 alone, in the left half; the right half no view sees."""
    cost = torch.zeros(1, 3, 4, 8, 5)
    cost[:, -2, :, :, 2] = -1.0
    cost[:, -1, :, :4] = 1.0
    centers = torch.linspace(1, 0, 5).expand(1, 4, 8, 5)
    found = best_matches(cost, centers)
    assert (found.center == 0.5).all()
    assert found.confidence[0, :, :4].min() > 0.9
    assert not found.confidence[0, :, 4:].any()


def test_splat_at_another_size_mixes_nothing_unknown() -> None:
    inverse = torch.tensor([[[0.5, 0.0], [0.5, 0.25]]])
    confidence = torch.tensor([[[0.8, 0.0], [0.8, 0.4]]])
    finer = SplattedDepth(inverse, torch.zeros_like(inverse), confidence).resized(4, 4)
    torch.testing.assert_close(finer.inverse_depth[0, 0, :3], torch.full((3,), 0.5))
    assert finer.confidence[0, 0, 3] == 0
    assert finer.inverse_depth[0, 0, 3] == 0
    middle = finer.inverse_depth[0, 3, 1:3]
    assert ((middle > 0.25) & (middle <= 0.5)).all()
    assert finer.resized(4, 4) is finer


def test_a_network_that_is_told_more_starts_from_the_one_that_was_told_less() -> None:
    """Bit for bit with tokens; with fine depth up to rounding, and VGGT's depth aligned view by view."""
    batch, old = plane_batch(), network(depth_prior=True)
    seen = seen_by_vggt(batch)
    with_tokens = network(depth_prior=True, token_layers=LAYERS, token_channels=CHANNELS)
    with_tokens.load_state_dict(with_tokens.with_new_parts(old.state_dict()))
    assert torch.equal(picture(old, batch, seen), picture(with_tokens, batch, seen))
    both = network(**BOTH)
    both.load_state_dict(both.with_new_parts(old.state_dict()))
    torch.testing.assert_close(picture(old, batch, None), picture(both, batch, None), atol=1e-5, rtol=0)
    kept = both.with_new_parts(both.state_dict())
    assert all(torch.equal(kept[key], value) for key, value in both.state_dict().items())


def test_configs() -> None:
    assert not GuidedConfig().reads_tokens
    assert not network().uses_backbone
    told = network(token_layers=LAYERS, token_channels=CHANNELS)
    assert told.reads_tokens
    assert told.reads_depth  # to know how far tokens are to be trusted
    with pytest.raises(ValueError, match="--fine_depth: expected --depth_prior beside it"):
        GuidedConfig(fine_depth=True)


def test_a_prior_of_no_confidence_says_nothing_in_the_fine_level() -> None:
    batch, told = plane_batch(), network(depth_prior=True, fine_depth=True)
    target = batch.target[:, 0]
    prior: DepthPrior = plane_prior(batch.source.cameras[0]).dropped()
    with torch.no_grad():
        one, other = (
            told.view(told._encode(batch.source, None, known), target.cameras, target.near, target.far).levels[1]
            for known in (prior, None)
        )
    assert torch.equal(one.logits, other.logits)
