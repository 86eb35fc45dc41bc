"""Scores against numbers worked out by hand."""

import math
from dataclasses import replace

import pytest
import torch
from skimage.metrics import structural_similarity

from data.novel_view.protocols import PROTOCOLS
from data.novel_view.reference import reference_of
from geometry import Views
from models.nerf.vggt_nerf import RenderedImage
from render.scoring import (
    Scores,
    mean_color,
    mean_scores,
    nearest_source,
    score_image,
    score_rendering,
)
from tests.scenes import random_views

MASKED, FULL, CROPPED = (PROTOCOLS[name] for name in ("dtu-nearest3", "full", "llff-nearest3"))


@pytest.fixture
def target() -> Views:
    """24 x 32, depth known in the left half, object in the top-left quarter."""
    depth = torch.zeros(1, 24, 32)
    depth[..., :16] = 600.0
    mask = torch.zeros(1, 24, 32, dtype=torch.bool)
    mask[:, :12, :16] = True
    return replace(random_views(1), depth=depth, mask=mask)


def picture(target: Views) -> torch.Tensor:
    return target.images[0].permute(1, 2, 0).clone()


def test_errors_where_depth_is_unknown_do_not_count(target: Views):
    image = picture(target)
    image[:, 16:] = 1.0
    scores = score_image(image, reference_of(MASKED, target))
    assert scores.psnr > 100
    assert scores.ssim == pytest.approx(1.0)
    assert scores.psnr_object is None
    assert score_image(image, reference_of(FULL, target)).psnr < 20


def test_psnr_over_the_mask_by_hand(target: Views):
    target = replace(target, images=torch.full((1, 3, 24, 32), 0.5))
    image = picture(target)
    image[:12, :16] = 0.6
    # half of the pixels that count are off by 0.1: mse 0.005
    assert score_image(image, reference_of(MASKED, target)).psnr == pytest.approx(-10 * math.log10(0.005), abs=1e-4)
    full = score_image(image, reference_of(FULL, target))
    assert full.psnr == pytest.approx(-10 * math.log10(0.0025), abs=1e-4)
    assert full.psnr_object == pytest.approx(20.0, abs=1e-4)


def test_pixels_that_do_not_count_are_black_in_both(target: Views):
    reference = reference_of(MASKED, target)
    assert reference.mask_kind == "depth"
    assert reference.image[:, 16:].abs().max() == 0
    assert reference.shown(torch.ones(24, 32, 3))[:, 16:].abs().max() == 0
    assert torch.equal(reference.image[:, :16], picture(target)[:, :16])


def test_margins_are_cut_off(target: Views):
    reference = reference_of(CROPPED, target)
    assert reference.image.shape == (20, 26, 3)
    image = picture(target)
    image[:2], image[-2:], image[:, :3], image[:, -3:] = 0.0, 0.0, 0.0, 0.0
    assert score_image(image, reference).psnr > 100


def test_depth_where_it_is_known(target: Views):
    depth = torch.full((24, 32), 1e6)
    depth[:12, :16], depth[12:, :16] = 601.0, 585.0
    rendered = RenderedImage(picture(target), depth, torch.ones(24, 32))
    scores = score_rendering(rendered, reference_of(FULL, target), is_millimeter=True)
    assert scores.depth_abs == pytest.approx(8.0)
    assert (scores.acc_2mm, scores.acc_10mm, scores.acc_20mm) == (0.5, 0.5, 1.0)
    elsewhere = score_rendering(rendered, reference_of(FULL, target), is_millimeter=False)
    assert elsewhere.depth_abs == pytest.approx(8.0)
    assert (elsewhere.acc_2mm, elsewhere.acc_10mm, elsewhere.acc_20mm) == (None, None, None)


def test_nothing_known_gives_none_and_not_nan(target: Views):
    target = replace(target, depth=torch.zeros(1, 24, 32), mask=torch.zeros(1, 24, 32, dtype=torch.bool))
    rendered = RenderedImage(picture(target), torch.ones(24, 32), torch.ones(24, 32))
    scores = score_rendering(rendered, reference_of(MASKED, target), is_millimeter=True)
    assert scores == Scores(psnr=None, ssim=None, lpips=None)  # black and black alike are no SSIM of 1
    assert mean_scores([scores, Scores(20.0, 0.5, 0.1)]) == Scores(20.0, 0.5, 0.1)


def test_ssim_of_mvsnerf_is_reported_beside_ours(target: Views):
    """Old scikit-image took the span of floating-point images to be 2, and so did the numbers published with it."""
    image = (picture(target) + 0.1 * torch.rand(24, 32, 3, generator=torch.Generator().manual_seed(3))).clamp(0, 1)
    reference = reference_of(MASKED, target)
    pair = reference.shown(image).numpy(), reference.image.numpy()
    scores = score_image(image, reference)
    expected = {span: float(structural_similarity(*pair, channel_axis=-1, data_range=span)) for span in (1.0, 2.0)}
    assert scores.ssim == pytest.approx(expected[1.0], abs=1e-6)
    assert scores.ssim_mvsnerf == pytest.approx(expected[2.0], abs=1e-6)
    assert scores.ssim_mvsnerf > scores.ssim


def test_a_picture_is_compared_once_by_lpips_on_the_references_device(target: Views, monkeypatch: pytest.MonkeyPatch):
    devices = []

    def distance(image: torch.Tensor, truth: torch.Tensor) -> float:
        devices.append((image.device.type, truth.device.type))
        return 0.5

    monkeypatch.setattr("render.scoring.lpips_distance", distance)
    monkeypatch.setattr("render.scoring.psnr", lambda *images: 1.0)
    monkeypatch.setattr("render.scoring.ssim", lambda *images: 1.0)
    reference = reference_of(FULL, target.to("meta"))  # a device other than that of what was rendered
    assert score_image(picture(target), reference).lpips == 0.5
    assert devices == [("meta", "meta")]


def test_image_smaller_than_the_ssim_window():
    small = random_views(1, height=6, width=9)
    scores = score_image(picture(small), reference_of(FULL, small))
    assert "smaller than the window" in scores.ssim
    assert scores.psnr > 100


def test_mean_leaves_out_what_is_missing():
    mean = mean_scores([Scores(20.0, 0.5, "unavailable (x)"), Scores(30.0, None, "unavailable (x)", depth_abs=2.0)])
    assert mean == Scores(25.0, 0.5, "unavailable (x)", depth_abs=2.0)


def test_the_nearest_source_is_held_as_the_target_is():
    """Sources that lie on their side beside the target are copied only where there are no others."""
    source = random_views(3, seed=1)
    target = replace(random_views(1, seed=2), cameras=source.cameras[1:2])
    w2c = source.cameras.w2c.clone()
    w2c[1] = source.cameras[1].turned(1).w2c
    w2c[0] = source.cameras[0].turned(3).w2c
    mixed = replace(source, cameras=replace(source.cameras, w2c=w2c))
    assert torch.equal(nearest_source(mixed, target), source.images[2].permute(1, 2, 0))
    w2c[2] = source.cameras[2].turned(2).w2c
    assert torch.equal(nearest_source(mixed, target), source.images[1].permute(1, 2, 0))


def test_baselines_see_no_pixel_of_the_target():
    source = random_views(3, seed=1)
    near_second = replace(random_views(1, seed=2), cameras=source.cameras[1:2])
    assert torch.equal(nearest_source(source, near_second), source.images[1].permute(1, 2, 0))
    color = mean_color(source, near_second)
    assert color.shape == (24, 32, 3)
    assert torch.allclose(color[5, 7], source.images.mean((0, 2, 3)))
    other = replace(near_second, images=torch.zeros_like(near_second.images))
    assert torch.equal(mean_color(source, other), color)
    assert torch.equal(nearest_source(source, other), nearest_source(source, near_second))
