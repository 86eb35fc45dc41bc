"""What the sensor model does to frames: in range, seeded, another for every frame; parts in closed form."""

import numpy as np
import pytest
import torch

from data.multi_view import sensor
from data.multi_view.sensor import photographed


def _only(monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    """Everything off but what is given."""
    off = {
        **dict.fromkeys(("GROUP_EXPOSURE", "FRAME_EXPOSURE", "GROUP_BALANCE", "FRAME_BALANCE"), 0.0),
        **dict.fromkeys(("DEFOCUS_SHARE", "SHAKE_SHARE", "JPEG_SHARE"), 0.0),
        **dict.fromkeys(("SHOT_NOISE", "READ_NOISE"), (1e-12, 1e-12)),
    }
    for name, value in (off | changes).items():
        monkeypatch.setattr(sensor, name, value)


def _images() -> torch.Tensor:
    coarse = torch.rand(3, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, scale_factor=4)


def test_frames_differ_stay_in_range_and_depend_on_the_seed():
    image = _images()[:1].expand(3, 3, 24, 32)
    before = image.clone()
    taken = photographed(image, np.random.default_rng(1))
    assert torch.equal(image, before)
    assert taken.shape == image.shape
    assert taken.dtype == torch.float32
    assert taken.min() >= 0
    assert taken.max() <= 1
    assert (taken[0] - taken[1]).abs().mean() > 0.01
    assert torch.equal(taken, photographed(image, np.random.default_rng(1)))
    assert not torch.equal(taken, photographed(image, np.random.default_rng(2)))


def test_a_perfect_sensor_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    _only(monkeypatch)
    torch.testing.assert_close(photographed(_images(), np.random.default_rng(0)), _images(), atol=1e-4, rtol=0)


def test_exposure_is_a_factor_on_light_and_clips(monkeypatch: pytest.MonkeyPatch):
    _only(monkeypatch, FRAME_EXPOSURE=1.0)
    level = torch.full((4, 3, 8, 8), 0.5)
    taken = photographed(level, np.random.default_rng(0))
    stops = 2.2 * torch.log2(taken[:, 0, 0, 0] / 0.5)
    assert stops.std() > 0.3
    torch.testing.assert_close(taken, taken[:, :1, :1, :1].expand_as(taken), atol=1e-4, rtol=0)
    bright = photographed(torch.full((40, 3, 8, 8), 0.9), np.random.default_rng(0))
    assert (bright == 1).any()


def test_white_balance_tints(monkeypatch: pytest.MonkeyPatch):
    _only(monkeypatch, GROUP_BALANCE=0.2)
    taken = photographed(torch.full((2, 3, 8, 8), 0.4), np.random.default_rng(0))
    assert (taken[0, 0] - taken[0, 2]).abs().min() > 0.005
    torch.testing.assert_close(taken[0], taken[1], atol=1e-4, rtol=0)  # of the group, not of a frame


def test_noise_grows_with_light(monkeypatch: pytest.MonkeyPatch):
    _only(monkeypatch, SHOT_NOISE=(1e-3, 1e-3), READ_NOISE=(1e-3, 1e-3))
    for level in (0.2, 0.6):
        taken = photographed(torch.full((1, 3, 100, 100), level), np.random.default_rng(0)) ** 2.2
        expected = np.sqrt(1e-3 * level**2.2 + 1e-6)
        assert taken.std().item() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("kind", ["DEFOCUS_SHARE", "SHAKE_SHARE", "JPEG_SHARE"])
def test_blur_and_compression_lose_detail_and_keep_the_mean(kind: str, monkeypatch: pytest.MonkeyPatch):
    _only(monkeypatch, **{kind: 1.0}, SHAKE=(3.0, 3.0), DEFOCUS=(0.8, 0.8))
    images = _images()
    taken = photographed(images, np.random.default_rng(0))
    assert (taken - images).abs().mean() > 0.005
    power = 1.0 if kind == "JPEG_SHARE" else 2.2  # light is blurred, files are compressed
    assert (taken**power).mean().item() == pytest.approx((images**power).mean().item(), rel=0.03)
    if kind != "JPEG_SHARE":
        assert (taken**2.2).std() < 0.98 * (images**2.2).std()
