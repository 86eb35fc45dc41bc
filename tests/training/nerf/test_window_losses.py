"""Losses of image windows: closed forms, where windows lie, what is refused."""

from pathlib import Path

import pytest
import torch

import training.metrics
from data.novel_view.datamodule import NovelViewSpec, SceneDataModule
from data.novel_view.dataset import MultiViewDataset
from data.novel_view.sampler import SampleKey
from geometry import InputError, SceneBatch
from training.metrics import ssim
from training.nerf.options import GeneralOptions
from training.nerf.rays import draw_target_rays, draw_target_windows, scene_generators
from training.nerf.window_losses import window_losses


def rays_of(image: torch.Tensor) -> torch.Tensor:
    """An image 3 height width as one window of rays."""
    return image.flatten(1).T[None]


def test_ssim_is_that_of_the_metric() -> None:
    truth, noise = torch.rand(3, 16, 16), torch.rand(3, 16, 16)
    near = 0.8 * truth + 0.2 * noise
    loss = window_losses(rays_of(near), rays_of(truth), 16, ["ssim"])["ssim"]
    assert loss.item() == pytest.approx(1 - ssim(near.permute(1, 2, 0), truth.permute(1, 2, 0)), abs=1e-4)
    assert window_losses(rays_of(truth), rays_of(truth), 16, ["ssim"])["ssim"].abs() < 1e-6


def test_gradients_ignore_brightness_and_see_slopes_at_all_scales() -> None:
    flat = torch.full((3, 16, 16), 0.3)
    assert window_losses(rays_of(flat), rays_of(flat + 0.4), 16, ["gradient"])["gradient"].abs() < 1e-6
    # 0.01 per pixel to the right is 0.02 and 0.04 between neighbors at half and quarter size
    slope = flat + 0.01 * torch.arange(16)
    assert window_losses(rays_of(flat), rays_of(slope), 16, ["gradient"])["gradient"].item() == pytest.approx(0.07)


def test_two_windows_are_two_images() -> None:
    one, other, truth = torch.rand(3, 8, 8), torch.rand(3, 8, 8), torch.rand(3, 8, 8)
    both = window_losses(
        torch.cat([rays_of(one), rays_of(other)], 1), rays_of(truth).repeat(1, 2, 1), 8, ["ssim", "gradient"]
    )
    each = [window_losses(rays_of(image), rays_of(truth), 8, ["ssim", "gradient"]) for image in (one, other)]
    for name, value in both.items():
        assert value.item() == pytest.approx((each[0][name] + each[1][name]).item() / 2, rel=1e-5)


def test_perceptual_loss_where_the_network_is_and_a_named_refusal_where_it_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    truth = torch.rand(3, 8, 8)
    with monkeypatch.context() as patch:
        patch.setattr(
            "training.nerf.window_losses.lpips_metric", lambda device=None: lambda x, y: (x - y).abs().mean((1, 2, 3))
        )
        loss = window_losses(rays_of(truth * 0), rays_of(truth), 8, ["perceptual"])["perceptual"]
        assert loss.item() == pytest.approx(2 * truth.mean().item(), rel=1e-4)
        options(window_rays=8, perceptual_loss=0.1)
    monkeypatch.setattr("training.nerf.window_losses.lpips_metric", lambda device=None: "unavailable (no network)")
    with pytest.raises(InputError, match=r"--perceptual_loss: .* got unavailable \(no network\)"):
        options(window_rays=8, perceptual_loss=0.1)
    assert training.metrics.lpips_metric is not None


def options(**changes: object) -> GeneralOptions:
    return GeneralOptions(vggt_ckpt="none", **changes)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ssim_loss": 0.1}, "--ssim_loss: expected --window_rays beside it, got none"),
        ({"gradient_loss": 0.1}, "--gradient_loss: expected --window_rays beside it, got none"),
        ({"window_rays": 7}, "--window_rays 7: expected at least 8 pixels"),
        ({"window_rays": 33}, "--window_rays 33: .*--rays_per_step 1024"),
        ({"window_rays": -1}, "--window_rays: expected 0 or more"),
        ({"far_sources": 1.5}, "--far_sources: expected 0 to 1, got 1.5"),
        ({"mirrors": -0.1}, "--mirrors: expected 0 to 1, got -0.1"),
        ({"rolls": 2.0}, "--rolls: expected 0 to 1, got 2.0"),
        ({"color_jitter": -0.1}, "--color_jitter: expected 0 or more"),
        ({"color_jitter": 0.1, "white_bkgd": True}, "--color_jitter: expected no --white_bkgd"),
        ({"mix_side": 320}, "--mix_side 320: expected --mix beside it"),
        ({"mix_side": 4, "mix": ("colmap:/x:0.5",)}, "--mix_side: expected at least 8 pixels"),
        ({"mix": ("colmap:/x",)}, "--mix: expected <dataset_name>:<datadir>:<share>"),
    ],
)
def test_what_cannot_act_is_refused_by_name(given: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        options(**given)


@pytest.fixture(scope="module")
def batch(small_dtu: Path) -> SceneBatch:
    spec = NovelViewSpec(dataset_name="dtu", datadir=str(small_dtu), is_per_scene=False, n_views=(2, 2))
    dataset = MultiViewDataset(SceneDataModule(spec).train_targets, is_random=True)
    return SceneBatch.stack([dataset[SampleKey(item, 2, seed=item)] for item in (0, 25)])


def test_windows_of_rays_are_parts_of_the_image(batch: SceneBatch) -> None:
    target = batch.target[:, 0]
    drawn = draw_target_windows(target, 3, 8, scene_generators(batch))
    assert drawn.rgb.shape == (2, 192, 3)
    pixels = drawn.pixels.reshape(2, 3, 8, 8, 2)
    corner = pixels[:, :, :1, :1]
    grid = torch.stack(torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="xy"), dim=-1)
    assert torch.equal(pixels - corner, grid.expand_as(pixels))
    for scene in range(2):
        x, y = (int(value) for value in corner[scene, 1, 0, 0] - 0.5)
        window = drawn.rgb[scene].reshape(3, 8, 8, 3)[1].permute(2, 0, 1)
        assert torch.equal(window, target.images[scene, :, y : y + 8, x : x + 8])
        depth = drawn.depth[scene].reshape(3, 8, 8)[1]
        assert torch.equal(depth, target.depth[scene, y : y + 8, x : x + 8])
    again = draw_target_windows(target, 3, 8, scene_generators(batch))
    assert torch.equal(again.pixels, drawn.pixels)
    many = draw_target_windows(target, 60, 8, scene_generators(batch)).pixels.reshape(2, 60, 64, 2)
    # at the edges more often than anywhere else
    assert ((many[:, :, 0, 0] == 0.5).float().mean() > 0.1).item()
    assert ((many[:, :, -1, 0] == 39.5).float().mean() > 0.1).item()


def test_scattered_rays_are_drawn_as_ever(batch: SceneBatch) -> None:
    """Seeded runs go on with the same pixels."""
    drawn = draw_target_rays(batch.target[:, 0], 3, [torch.Generator().manual_seed(seed) for seed in (1, 2)])
    flat = [torch.randint(32 * 40, (3,), generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    assert torch.equal(drawn.pixels[..., 1] - 0.5, torch.stack(flat) // 40)
    assert torch.equal(drawn.pixels[..., 0] - 0.5, torch.stack(flat) % 40)
