"""`--quality full`: four positions of the cameras, averaged."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from geometry import SceneBatch, Views
from geometry.turned_views import rolled
from models.nerf.losses import termination_loss
from models.nerf.renderer import TargetView
from models.nerf.samplers import SAMPLERS
from models.nerf.vggt_nerf import RenderedImage, VGGTNeRF, render_image
from models.vggt.frozen import FrozenFeatures
from tests.models.nerf.test_renderer import FINETUNED, GENERAL, TOKENS, renderer_of
from tests.oracle_vggt import OracleVGGT
from tests.scenes import random_batch
from training.nerf.rays import draw_target_rays

contract = pytest.mark.parametrize("sampler", SAMPLERS)


class Backbone(OracleVGGT):
    """Knows the views upright only, and has tokens that say something."""

    def forward(self, images: torch.Tensor) -> FrozenFeatures:
        """See `OracleVGGT`."""
        seen = super().forward(images)
        shape = (*images.shape[:2], *TOKENS.values(), 2, 3)
        tokens = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        return FrozenFeatures(tokens, seen.depth, seen.depth_conf, seen.w2c, seen.intrinsics)


def model_of(sampler: str, batch: SceneBatch, options: dict[str, Any]) -> VGGTNeRF:
    return VGGTNeRF(Backbone(list(batch.source)), renderer_of(sampler, options)).eval()


@torch.no_grad()
def picture(model: VGGTNeRF, batch: SceneBatch, turns: int = 0) -> RenderedImage:
    """Rendered from turned views, and turned back; VGGT has seen them upright."""
    seen = model.frozen_features(batch.source)
    assert seen is not None
    if model.quality == "full":
        maps = model.encode(batch.source)
    else:
        maps = model.network.encode(rolled(batch.source, turns), seen.rolled(turns))
    target = rolled(batch.target[:, 0], turns)
    image = render_image(model.view(maps, target.cameras, target.near, target.far), 200)
    return image.map(lambda values: values.rot90(turns, (0, 1)))


@pytest.mark.parametrize("options", [GENERAL, FINETUNED], ids=["general", "finetuned"])
@contract
def test_full_quality_is_the_mean_of_what_turned_photographs_give(sampler: str, options: dict[str, Any]) -> None:
    batch = random_batch()
    model = model_of(sampler, batch, options)
    four = [picture(model, batch, turns) for turns in range(4)]
    model.quality = "full"
    full = picture(model, batch)
    for name in ("rgb", "opacity"):
        mean = torch.stack([getattr(one, name) for one in four]).mean(0)
        torch.testing.assert_close(getattr(full, name), mean, atol=2e-4, rtol=0)
    weighted = sum(one.depth * one.opacity for one in four) / sum(one.opacity for one in four)
    torch.testing.assert_close(full.depth, weighted, atol=2e-3, rtol=0)
    spread = torch.stack([one.rgb for one in four]).std(0)
    assert spread.max() > 1e-3, "expected a network that sees turned photographs differently"


def test_cameras_that_vggt_sees_roll_as_views_do() -> None:
    views = random_batch().source
    intrinsics = views.cameras.intrinsics.clone()
    intrinsics[..., 0, 2], intrinsics[..., 1, 2] = views.cameras.width / 2, views.cameras.height / 2
    views = replace(views, cameras=replace(views.cameras, intrinsics=intrinsics))
    shape = (*views.images.shape[:2], 1, 1, 6, 8)
    tokens = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    seen = FrozenFeatures(tokens, w2c=views.cameras.w2c, intrinsics=intrinsics)
    for turns in range(5):
        cameras = rolled(views, turns).cameras
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = seen.rolled(turns)
        assert torch.equal(found.w2c, cameras.w2c)
        assert torch.equal(found.intrinsics, cameras.intrinsics)
        assert torch.equal(found.tokens[..., 0, 0], tokens[..., -(turns in (1, 2)), -(turns in (2, 3))])


@torch.no_grad()
def test_depth_loss_of_four_is_their_mean() -> None:
    """Of the guided sampler, whose sweeps see the whole target."""
    batch = random_batch()
    model = model_of("guided", batch, GENERAL)
    seen = model.frozen_features(batch.source)
    assert seen is not None

    def loss(view: TargetView, target: Views) -> float:
        truth = draw_target_rays(target, 40, [torch.Generator().manual_seed(0)], view.bounds)
        return view.depth_loss(view.render(truth.rays), truth).item()

    losses = []
    for turns in range(4):
        maps = model.network.encode(rolled(batch.source, turns), seen.rolled(turns))
        target = rolled(batch.target[:, 0], turns)
        losses.append(loss(model.view(maps, target.cameras, target.near, target.far), target))
    model.quality, target = "full", batch.target[:, 0]
    full = loss(model.view(model.encode(batch.source), target.cameras, target.near, target.far), target)
    assert full == pytest.approx(sum(losses) / 4, rel=2e-5)
    assert max(losses) > 1.0005 * min(losses)


@torch.no_grad()
def test_depth_loss_of_samples_is_that_of_all_four() -> None:
    batch = random_batch()
    model = model_of("hierarchical", batch, GENERAL)
    model.quality, target = "full", batch.target[:, 0]
    view = model.view(model.encode(batch.source), target.cameras, target.near, target.far)
    truth = draw_target_rays(target, 40, [torch.Generator().manual_seed(0)], view.bounds)
    output = view.render(truth.rays)
    assert truth.depth is not None
    expected = termination_loss(output, truth.rays, truth.depth)
    assert view.depth_loss(output, truth).item() == pytest.approx(expected.item())
