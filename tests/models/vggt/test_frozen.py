"""The frozen extractor: invisible, immovable in mode, independent of image size and batch; and its cache."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from geometry.errors import InputError
from models.vggt import FeatureCache, FrozenFeatures, FrozenVGGT, load_vggt
from models.vggt.frozen import default_layers
from models.vggt.pose_encoding import decode_pose

SOURCE = f"random:{Path(__file__).parents[3] / 'models' / 'vggt' / 'configs' / 'tiny.json'}"


@pytest.fixture(scope="module")
def frozen() -> FrozenVGGT:
    return FrozenVGGT.load(SOURCE, heads=("camera", "depth"))


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


class Owner(nn.Module):
    """A network that trains one layer on frozen features."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = FrozenVGGT.load(SOURCE)
        self.layer = nn.Linear(self.frozen.channels, 2)

    def forward(self, views: Tensor) -> Tensor:
        return self.layer(self.frozen(views).tokens.movedim(3, -1))


def test_it_is_invisible_to_checkpoints_and_optimizers() -> None:
    owner = Owner()
    assert set(owner.state_dict()) == {"layer.weight", "layer.bias"}
    assert {name for name, _ in owner.named_parameters()} == {"layer.weight", "layer.bias"}
    assert not list(owner.frozen.buffers())
    assert [name for name, _ in owner.named_modules()] == ["", "frozen", "layer"]


def test_training_its_owner_leaves_it_untouched() -> None:
    owner = Owner().train()
    inner = owner.frozen._vggt[0]
    before = {key: value.clone() for key, value in inner.state_dict().items()}
    assert owner.training
    assert not owner.frozen.training
    assert not any(module.training for module in inner.modules())
    optimizer = torch.optim.AdamW(owner.parameters(), lr=0.1)
    views = images(1, 2, 3, 28, 28).requires_grad_()
    owner(views).square().mean().backward()
    optimizer.step()
    assert views.grad is None
    assert owner.layer.weight.grad is not None
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in inner.parameters())
    assert all(torch.equal(value, before[key]) for key, value in inner.state_dict().items())


def test_it_moves_with_its_owner() -> None:
    owner = Owner().to(torch.bfloat16)
    assert {parameter.dtype for parameter in owner.frozen._vggt[0].parameters()} == {torch.bfloat16}
    features = owner.frozen(images(1, 2, 3, 28, 28))
    assert features.tokens.dtype == torch.float32
    assert {parameter.device.type for parameter in owner.to("meta").frozen._vggt[0].parameters()} == {"meta"}


@pytest.mark.parametrize(("height", "width"), [(28, 42), (29, 42), (31, 57), (5, 90), (14, 14)])
def test_any_image_size(frozen: FrozenVGGT, height: int, width: int) -> None:
    features = frozen(images(1, 2, 3, height, width))
    rows, cols = -(-height // 14), -(-width // 14)
    assert features.tokens.shape == (1, 2, 4, 192, rows, cols)
    assert features.depth.shape == features.depth_conf.shape == (1, 2, height, width)
    assert features.w2c.shape == (1, 2, 4, 4)
    assert not features.tokens.requires_grad
    middle = torch.tensor([width / 2, height / 2]).expand(1, 2, 2)
    torch.testing.assert_close(features.intrinsics[..., :2, 2], middle)


def test_working_size() -> None:
    assert FrozenVGGT.load(SOURCE).working_size(512, 640) == (518, 644)
    scaled = FrozenVGGT.load(SOURCE, image_size=518)
    assert scaled.working_size(512, 640) == (420, 518)
    assert scaled.working_size(3, 900) == (14, 518)
    assert FrozenVGGT.load(SOURCE, image_size=56)(images(1, 1, 3, 300, 150)).tokens.shape[-2:] == (4, 2)


def test_features_equal_the_networks_own(frozen: FrozenVGGT) -> None:
    views = images(1, 2, 3, 42, 28)
    model = load_vggt(SOURCE, heads=("camera", "depth")).model
    with torch.no_grad():
        output = model(views, keep_layers=range(4))
    features = frozen(views)
    for layer in range(4):
        patches = output.tokens[layer][:, :, output.patch_start :]
        for row, col in ((0, 0), (1, 0), (2, 1)):
            assert torch.equal(features.tokens[:, :, layer, :, row, col], patches[:, :, row * 2 + col])
    assert torch.equal(features.depth, output.depth[..., 0])
    extrinsics, intrinsics = decode_pose(output.pose_enc, 42, 28)
    assert torch.equal(features.w2c[..., :3, :], extrinsics)
    assert torch.equal(features.w2c[..., 3, :], torch.tensor([0.0, 0, 0, 1]).expand(1, 2, 4))
    torch.testing.assert_close(features.intrinsics, intrinsics)


def test_a_pixel_keeps_its_ray_when_the_network_sees_another_size() -> None:
    """Rays through the image's corners depend on the fields of view alone, not on the size of the image."""
    resizing = FrozenVGGT.load(SOURCE, heads=("camera",), image_size=28)
    views = images(1, 1, 3, 28, 28).repeat_interleave(3, dim=-2).repeat_interleave(2, dim=-1)
    extent = torch.tensor([[56.0], [84.0], [1.0]])
    model = load_vggt(SOURCE, heads=("camera",)).model
    height, width = resizing.working_size(84, 56)
    small = torch.nn.functional.interpolate(views[0], (height, width), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = decode_pose(model(small).pose_enc, height, width).intrinsics[0, 0]
    got = resizing(views).intrinsics[0, 0]
    torch.testing.assert_close(got / extent, expected / torch.tensor([[width], [height], [1.0]]))


def test_scenes_of_a_batch_do_not_mix(frozen: FrozenVGGT) -> None:
    views = images(2, 3, 3, 28, 42)
    together = frozen(views)
    for index in range(2):
        alone = frozen(views[index : index + 1])
        for name in ("tokens", "depth", "depth_conf", "w2c", "intrinsics"):
            torch.testing.assert_close(
                getattr(together, name)[index : index + 1], getattr(alone, name), atol=1e-5, rtol=1e-4
            )


def test_order_of_later_views_only_reorders(frozen: FrozenVGGT) -> None:
    views = images(1, 3, 3, 28, 28)
    order = [0, 2, 1]
    torch.testing.assert_close(frozen(views[:, order]).tokens, frozen(views).tokens[:, order], atol=1e-5, rtol=1e-4)


def test_layers_are_given_in_the_order_asked_for() -> None:
    views = images(1, 1, 3, 28, 28)
    every = FrozenVGGT.load(SOURCE)(views)
    some = FrozenVGGT.load(SOURCE, layers=(3, 1))(views)
    assert torch.equal(some.tokens, every.tokens[:, :, [3, 1]])
    assert (some.depth, some.w2c, some.intrinsics) == (None, None, None)


def test_default_layers() -> None:
    assert default_layers(24) == (4, 11, 17, 23)
    assert default_layers(12) == (2, 5, 8, 11)
    assert default_layers(4) == (0, 1, 2, 3)
    assert default_layers(1) == (0,)


@pytest.mark.parametrize("value", [1.01, -0.01, float("nan"), float("inf")])
def test_values_outside_the_range_are_refused(frozen: FrozenVGGT, value: float) -> None:
    views = images(1, 1, 3, 28, 28)
    views[0, 0, 1, 5, 5] = value
    with pytest.raises(InputError, match=r"finite and in \[0, 1\]"):
        frozen(views)


def test_impossible_settings_are_refused() -> None:
    for layers in ((), (4,), (-1,)):
        with pytest.raises(InputError, match=r"layers must be one or more of 0\.\.3"):
            FrozenVGGT.load(SOURCE, layers=layers)
    with pytest.raises(InputError, match="heads must be out of camera, depth, got point"):
        FrozenVGGT.load(SOURCE, heads=("point",))
    with pytest.raises(InputError, match="image_size must be at least one patch of 14 pixels, got 9"):
        FrozenVGGT.load(SOURCE, image_size=9)
    with pytest.raises(InputError, match="heads must be out of camera, depth, got point"):
        FrozenVGGT(*load_vggt(SOURCE), layers=(0,))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu() -> None:
    device = torch.device("cuda")
    frozen = FrozenVGGT.load(SOURCE, heads=("camera", "depth"))
    views = images(1, 2, 3, 56, 42)
    expected, got = frozen(views), frozen.to(device)(views.to(device))
    assert got.tokens.device.type == got.depth.device.type == device.type
    assert got.depth.dtype == got.intrinsics.dtype == torch.float32
    difference = (got.tokens.float().cpu() - expected.tokens).norm() / expected.tokens.norm()
    assert difference < 2e-2
    torch.testing.assert_close(got.w2c.cpu(), expected.w2c, atol=5e-2, rtol=0)


def features_of_bytes(number: int) -> FrozenFeatures:
    return FrozenFeatures(torch.zeros(1, 1, 1, 1, 1, number // 4))


def test_cache_computes_once_and_forgets_the_least_recent() -> None:
    cache = FeatureCache(max_bytes=100)
    first = cache.get("a", lambda: features_of_bytes(40))
    assert cache.get("a", lambda: pytest.fail("computed twice")) is first
    cache.get("b", lambda: features_of_bytes(40))
    cache.get("a", lambda: pytest.fail("computed twice"))
    cache.get("c", lambda: features_of_bytes(40))
    assert (cache.hits, cache.misses, len(cache), cache.num_bytes) == (2, 3, 2, 80)
    assert cache.get("a", lambda: pytest.fail("the most recent went first")) is first
    cache.get("b", lambda: features_of_bytes(40))
    assert cache.misses == 4


def test_cache_does_not_keep_what_is_too_large() -> None:
    cache = FeatureCache(max_bytes=100)
    cache.get("small", lambda: features_of_bytes(60))
    assert cache.get("large", lambda: features_of_bytes(400)).num_bytes == 400
    assert (len(cache), cache.num_bytes) == (1, 60)
    cache.clear()
    assert (len(cache), cache.num_bytes) == (0, 0)
    with pytest.raises(InputError, match="max_bytes"):
        FeatureCache(-1)
