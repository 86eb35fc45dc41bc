"""Perceiver, codes, geometry tokens, and what a frozen VGGT gives them: closed forms and invariances."""

import math
from dataclasses import replace

import pytest
import torch

from geometry import InputError
from models.vggt import load_vggt
from models.vggt.frozen import FrozenVGGT
from models.vqa.config import LARGE_PERCEIVER, GeometryConfig, PerceiverConfig, VisualConfig
from models.vqa.geometry_head import RELATIVE_FEATURES, GeometryHead, relative_features
from models.vqa.perceiver import Perceiver
from models.vqa.visual import VisualEncoder, cell_pixels, cell_points, scene_features

PRE_NORM = PerceiverConfig(
    width=8, num_latents=3, num_layers=2, num_heads=2, ffn_dim=12, dropout=0.0, pre_norm=True, self_attention=True,
    stem_dim=6,
)  # fmt: skip


@pytest.mark.parametrize("config", [PRE_NORM, replace(PRE_NORM, pre_norm=False, self_attention=False, stem_dim=0)])
def test_a_perceiver_reads_a_set(config: PerceiverConfig) -> None:
    """The order of tokens, and tokens that are hidden, make no difference; codes are added before the projection."""
    perceiver = Perceiver(config, 5, 7).eval()
    tokens, codes = torch.randn(2, 6, 5), torch.randn(1, 6, 5)
    visible = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    expected = perceiver(tokens + codes, visible)
    torch.testing.assert_close(perceiver(tokens, visible, codes), expected)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(perceiver((tokens + codes)[:, order], visible[:, order]), expected)
    changed = (tokens + codes).clone()
    changed[1, 4:] = 9.0
    assert torch.equal(perceiver(changed, visible), perceiver(tokens + codes, visible))
    found, weights = perceiver.with_attention(tokens, visible, codes)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3))
    assert (weights[1, :, 4:] == 0).all()


def test_the_output_has_the_size_of_words() -> None:
    perceiver = Perceiver(replace(PRE_NORM, width=64, num_latents=16), 5, 256).eval()
    perceiver.output_rms.fill_(0.02)
    found = perceiver(torch.randn(4, 9, 5), torch.ones(4, 9, dtype=torch.bool))
    assert found.square().mean().sqrt().item() == pytest.approx(0.02 * math.sqrt(2 * 64 / (64 + 256)), rel=0.1)


def test_standardized_channels_and_codes_of_views() -> None:
    config = VisualConfig(layers=(1,), channels=4, max_views=3)
    encoder = VisualEncoder(config)
    features = torch.randn(5, 2, 1, 4, 3, 3) * torch.tensor([1.0, 10.0, 0.1, 0.0])[:, None, None] + 3
    mask = torch.ones(5, 2, dtype=torch.bool)
    assert encoder.standardize([(features, mask)]) == 10
    tokens, codes, visible = encoder(features, mask)
    assert tokens.shape == (5, 18, 4)
    assert visible.all()
    torch.testing.assert_close(tokens.mean((0, 1)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(tokens.square().mean((0, 1)), torch.tensor([1.0, 1, 1, 0]), atol=1e-3, rtol=0)
    difference = codes[0, 9:] - codes[0, :9]  # of the same cells in another view
    torch.testing.assert_close(difference, (encoder.view_code[1] - encoder.view_code[0]).expand(9, 4))
    with pytest.raises(InputError, match="expected at most 3, got 4"):
        encoder(features[:, :1].expand(-1, 4, -1, -1, -1, -1), torch.ones(5, 4, dtype=torch.bool))
    with pytest.raises(InputError, match="at least one that is shown"):
        encoder(features, mask & torch.tensor([True, True, True, True, False])[:, None])


def test_pooling_and_merging_by_hand() -> None:
    features = torch.arange(12.0).reshape(1, 1, 1, 1, 3, 4)
    mask = torch.ones(1, 1, dtype=torch.bool)
    pooled, *_ = VisualEncoder(VisualConfig(layers=(0,), channels=1, pooling=2))(features, mask)
    assert pooled.flatten().tolist() == [2.5, 4.5, 8.5, 10.5]
    merged, codes, _ = VisualEncoder(VisualConfig(layers=(0,), channels=1, merging=2))(features, mask)
    assert merged[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 0, 0], [10, 11, 0, 0]]
    assert codes.shape == (1, 4, 4)


def test_cells_show_their_own_pixels() -> None:
    images = torch.rand(1, 2, 3, 8, 12)
    cells = cell_pixels(images, (2, 3), 48)
    assert torch.equal(cells[0, 1, :, 1, 2].reshape(3, 4, 4), images[0, 1, :, 4:, 8:])
    assert cell_pixels(images, (2, 3), 12).shape == (1, 2, 12, 2, 3)  # resized: 2x2 pixels fit


def test_levels_of_a_real_vggt() -> None:
    model, identity = load_vggt("ckpts/vggt_nano.safetensors", heads=("camera", "depth"))
    vggt = FrozenVGGT(model, identity, (0, 3))
    config = VisualConfig(layers=(0, 3), channels=192, has_pixels=True, has_points=True)
    images = torch.rand(1, 2, 3, 32, 32)
    features = scene_features(vggt, config, images)
    assert features.shape == (1, 2, 4, 192, 4, 4)
    assert torch.equal(features[:, :, 2, :192], cell_pixels(images, (4, 4), 192))
    points = features[:, :, 3, :3]
    torch.testing.assert_close(points, cell_points(vggt(images), (4, 4)))
    assert points.norm(dim=2).mean().item() == pytest.approx(1, rel=1e-4)
    assert (features[:, :, 3, 3:] == 0).all()
    with pytest.raises(InputError, match=r"expected layers \[1\]"):
        scene_features(vggt, replace(config, layers=(1,)), images)


def test_relative_geometry_does_not_depend_on_the_world() -> None:
    rotations = torch.linalg.qr(torch.randn(3, 3, 3, dtype=torch.float64))[0]
    rotations = rotations * torch.linalg.det(rotations)[:, None, None]
    centers = torch.randn(3, 3, dtype=torch.float64)
    intrinsics = torch.eye(3, dtype=torch.float64).expand(3, 3, 3) * 50
    size, histogram, limits = torch.full((3, 2), 100.0), torch.rand(3, 16), torch.rand(3, 2)
    rest = (intrinsics, size.double(), histogram.double(), limits.double())
    turn, shift = rotations[1], torch.tensor([4.0, -2.0, 1.0], dtype=torch.float64)
    expected = relative_features(rotations, centers, *rest)
    moved = relative_features(turn @ rotations, centers @ turn.T + shift, *rest)
    torch.testing.assert_close(moved, expected)
    assert expected.shape == (3, RELATIVE_FEATURES)
    assert expected[0, :6].tolist() == pytest.approx([1, 0, 0, 1, 0, 0], abs=1e-12)
    farthest = (centers - centers[0]).norm(dim=-1).max()
    assert expected[0, 9].item() == pytest.approx(math.log1p(farthest))
    doubled = relative_features(rotations, 2 * centers, *rest)
    torch.testing.assert_close(doubled[:, 6:9], expected[:, 6:9])  # directions have no unit


@pytest.mark.parametrize("style", ["relative", "plain"])
def test_unknown_geometry_of_one_sample_leaves_the_others_alone(style: str) -> None:
    head = GeometryHead(GeometryConfig(style, 4), 6)
    count = head.mlp[0].in_features
    features, shown = torch.randn(2, 3, count), torch.ones(2, 3, dtype=torch.bool)
    both = head(features, shown, torch.tensor([True, True]))
    features[1] = torch.nan
    one = head(features, shown, torch.tensor([True, False]))
    assert torch.equal(one[0], both[0])
    assert torch.equal(one[1], head.none)
    one.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in head.parameters())


@pytest.mark.parametrize(("config", "expected"), [(PerceiverConfig(), 80_432_640), (LARGE_PERCEIVER, 1_227_684_352)])
def test_sizes_behind_vggt_1b_and_before_qwen3_4b(config: PerceiverConfig, expected: int) -> None:
    with torch.device("meta"):
        perceiver = Perceiver(config, 2048, 2560)
    assert sum(parameter.numel() for parameter in perceiver.parameters()) == expected
