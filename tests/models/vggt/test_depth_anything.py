"""Depth Anything 3 behind the frozen extractor's interface: its computation, names, strictness, and a field on it."""

import json
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from geometry.errors import InputError
from models.vggt import VGGT, FrozenVGGT, backbones, load_vggt
from models.vggt.backbones import load_licensed_vggt, load_network
from models.vggt.config import MissingHeadError
from models.vggt.depth_anything import DepthAnything3, DepthAnythingConfig, reference_first
from models.vggt.pose_encoding import decode_pose
from training.backbone import load_backbone
from training.vggt.checkpoint import load_weights

CONFIGS = Path(__file__).parents[3] / "models" / "vggt" / "configs"
TINY = CONFIGS / "da3_tiny.json"


@pytest.fixture(scope="module")
def network() -> DepthAnything3:
    torch.manual_seed(3)
    model = DepthAnything3(DepthAnythingConfig.read(TINY)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def _attention(block: torch.nn.Module, tokens: Tensor, positions: Tensor | None) -> Tensor:
    """Softmax attention written out over heads, with rotations of complex pairs."""
    attn = block.attn
    heads, width = attn.num_heads, tokens.shape[-1] // attn.num_heads
    query, key, value = (part.unflatten(-1, (heads, width)) for part in attn.qkv(tokens).chunk(3, -1))
    query, key = attn.q_norm(query), attn.k_norm(key)
    if positions is not None:
        quarter = width // 4
        speeds = 100.0 ** (-torch.arange(quarter, dtype=torch.float64) * 2 / (width // 2))
        turn = torch.exp(1j * positions[:, :, None].double() * speeds)  # token axis quarter

        def turned(values: Tensor) -> Tensor:
            axes = values.unflatten(-1, (2, 2, quarter))
            spun = torch.complex(axes[..., 0, :], axes[..., 1, :]) * turn[:, None]
            return torch.stack([spun.real, spun.imag], -2).flatten(-3)

        query, key = turned(query), turned(key)
    weights = torch.einsum("bqhc,bkhc->bhqk", query, key).div(width**0.5).softmax(-1)
    return attn.proj(torch.einsum("bhqk,bkhc->bqhc", weights, value).flatten(2))


def _reference(model: DepthAnything3, views: Tensor) -> dict[int, Tensor]:
    """The transformer view by view, for two views, as the paper and the public code describe it."""
    config, net = model.config, model.backbone["pretrained"]
    mean, std = torch.tensor([0.485, 0.456, 0.406]).double(), torch.tensor([0.229, 0.224, 0.225]).double()
    normalized = ((views.movedim(2, -1) - mean) / std).movedim(-1, 2)
    rows, cols = views.shape[-2] // 14, views.shape[-1] // 14
    side = config.img_size // 14
    grid = net.pos_embed[:, 1:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=((rows + 0.1) / side, (cols + 0.1) / side), mode="bicubic")
    places = torch.cat([net.pos_embed[0, :1].float(), grid[0].flatten(1).T]).double()
    spots = torch.tensor([[0, 0]] + [[row + 1, col + 1] for row in range(rows) for col in range(cols)])
    states = [
        torch.cat([net.cls_token[0], net.patch_embed.proj(normalized[0, view][None]).flatten(2)[0].T]) + places
        for view in range(2)
    ]
    own, found = states, {}
    for index, block in enumerate(net.blocks):
        if index == config.alt_start:
            states = [torch.cat([net.camera_token[0, min(view, 1)][None], states[view][1:]]) for view in range(2)]
        later = index >= config.alt_start
        together = later and index % 2 == 1
        groups = [torch.cat(states)] if together else states
        done = []
        for group in groups:
            positions = spots if not together else torch.cat([spots.clamp(max=1)] * 2)
            tokens = group[None]
            tokens = tokens + block.ls1(_attention(block, block.norm1(tokens), positions if later else None))
            done.append((tokens + block.ls2(block.mlp(block.norm2(tokens))))[0])
        states = list(done[0].chunk(2)) if together else done
        own = own if together else states
        found[index] = torch.stack([torch.cat([a, net.norm(b)], -1) for a, b in zip(own, states, strict=True)])[None]
    return found


def test_tokens_are_those_of_the_description(network: DepthAnything3) -> None:
    views = images(1, 2, 3, 28, 42).double()
    with torch.no_grad():
        output, expected = network(views, keep_layers=range(6)), _reference(network, views)
    assert list(output.tokens) == list(range(6))
    for layer, tokens in output.tokens.items():
        torch.testing.assert_close(tokens, expected[layer], rtol=1e-6, atol=1e-6)


def test_the_reference_view_goes_first_and_results_come_back_in_order(network: DepthAnything3) -> None:
    """Of class tokens that differ in length alone, the middle length is chosen; order of input changes nothing."""
    direction = F.normalize(images(1, 1, 8, seed=2).double(), dim=-1)
    assert reference_first(direction * torch.tensor([[[1.0], [9.0], [5.0], [2.0]]])).tolist() == [[2, 0, 1, 3]]
    views = images(1, 4, 3, 28, 28, seed=5).double()
    turned = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        straight, mixed = network(views), network(views[:, turned])
        chosen = reference_first(network.backbone["pretrained"]._embedded(views)[:, :, 0])
    torch.testing.assert_close(mixed.depth, straight.depth[:, turned])
    assert chosen[0, 0] in range(4)
    straight_w2c, mixed_w2c = (decode_pose(one.pose_enc, 28, 28).extrinsics[0] for one in (straight, mixed))
    rotations = straight_w2c[turned, :, :3] @ straight_w2c[turned[0], :, :3].T
    torch.testing.assert_close(mixed_w2c[:, :, :3], rotations)


def test_cameras_are_inverted_and_relative_to_the_first(network: DepthAnything3) -> None:
    tokens = images(1, 3, 64, seed=7).double()
    encoding = network.cam_dec(tokens)
    extrinsics, intrinsics = decode_pose(encoding, 28, 42)
    torch.testing.assert_close(extrinsics[0, 0], torch.eye(4).double()[:3], rtol=0, atol=1e-12)
    hidden = network.cam_dec.backbone(tokens)
    centers = network.cam_dec.fc_t(hidden)[0]
    found = -(extrinsics[0, :, :, :3].mT @ extrinsics[0, :, :, 3:])[..., 0]
    torch.testing.assert_close(found.norm(dim=-1), (centers - centers[0]).norm(dim=-1), rtol=1e-9, atol=1e-9)
    assert bool((intrinsics[..., 0, 0] > 0).all())


def _published(folder: Path, model: DepthAnything3) -> Path:
    """A folder as the hub has it: wrapped names, the ray branch and the camera encoder beside."""
    state = {f"model.{key}": value.float().contiguous() for key, value in model.state_dict().items()}
    extra = ("model.cam_enc.token_norm.weight", "model.head.scratch.refinenet1_aux.out_conv.weight")
    save_file(state | {key: torch.ones(2) for key in extra}, folder / "model.safetensors")
    (folder / "config.json").write_text(TINY.read_text())
    return folder


def test_published_folders_load_strictly(network: DepthAnything3, tmp_path: Path) -> None:
    folder = _published(tmp_path, network)
    frozen = FrozenVGGT.load(folder, heads=("camera", "depth"))
    assert (frozen.depth, frozen.channels, frozen.has_depth) == (6, 64, True)
    views = images(1, 3, 3, 30, 40)
    features = frozen(views)
    assert features.tokens.shape == (1, 3, 4, 64, 3, 3)
    assert features.depth.shape == (1, 3, 30, 40)
    torch.testing.assert_close(features.w2c[0, 0], torch.eye(4), rtol=0, atol=1e-5)
    assert FrozenVGGT.load(folder)(views).depth is None
    with pytest.raises(InputError, match="expected a VGGT's, got da3-tiny's"):
        load_vggt(folder)
    with pytest.raises(MissingHeadError, match="has no point head"):
        load_network(folder, heads=("point",))
    broken = {f"model.{key}": value.float() for key, value in network.state_dict().items()}
    broken.pop("model.cam_dec.fc_t.bias")
    save_file(broken | {"model.other.weight": torch.ones(1)}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"1 missing: cam_dec\.fc_t\.bias; 1 unexpected: model\.other\.weight"):
        load_network(folder, heads=("camera", "depth"))


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("net", "rope_start", 3, r"net\.rope_start must be 2"),
        ("net", "name", "vith", r"net\.name must be one of vits, vitb, vitl, vitg"),
        ("net", "name", ["vitb"], r"net\.name must be one of vits, vitb, vitl, vitg, got \['vitb'\]"),
        ("net", "ffn_layer", "relu", "ffn_layer must be one of"),
        ("net", "num_heads", 16, "head width must be divisible by 4, got"),
        ("net", "img_size", 7, r"img_size must be a patch \(14\) or more, got 7"),
        ("net", "alt_start", None, r"net must have alt_start"),
        ("head", "activation", "sigmoid", r"head\.activation must be 'exp'"),
        ("head", "colour", 1, "colour"),
    ],
)
def test_other_networks_are_refused(tmp_path: Path, section: str, key: str, value: object, message: str) -> None:
    raw = json.loads(TINY.read_text())
    raw["config"][section][key] = value
    if value is None:
        del raw["config"][section][key]
    (tmp_path / "da3.json").write_text(json.dumps(raw))
    with pytest.raises(InputError, match=message):
        load_network(f"random:{tmp_path / 'da3.json'}", heads=())


def test_full_size_on_a_gpu_of_fake_tensors() -> None:
    """DA3-Base: a ViT-B of 86.6 million weights with normalized queries, and its two heads."""
    with FakeTensorMode(), torch.device("cuda"):
        model = DepthAnything3(DepthAnythingConfig.read(CONFIGS / "da3_base.json"))
        output = model(torch.empty(1, 3, 3, 280, 504), keep_layers=(11,))
    transformer = sum(parameter.numel() for parameter in model.backbone.parameters())
    blocks = 12 * (12 * 768**2 + (3 + 1 + 4 + 1) * 768 + 6 * 768) + 8 * 4 * 64
    assert transformer == blocks + (3 * 14**2 + 1) * 768 + (1370 + 1 + 2) * 768 + 2 * 768
    assert model.config.license_terms == "Apache-2.0"
    assert output.tokens[11].shape == (1, 3, 1 + 20 * 36, 1536)
    assert (output.depth.shape, output.pose_enc.shape) == ((1, 3, 280, 504, 1), (1, 3, 9))
    assert output.depth.device.type == "cuda"


def test_license_of_published_weights_is_told(
    network: DepthAnything3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _published(tmp_path, network)
    load_backbone(str(folder), 56, wants_depth=True)
    assert "license" not in capsys.readouterr().err
    monkeypatch.setattr(DepthAnythingConfig, "license_terms", "Apache-2.0")
    _, record = load_backbone(str(folder), 56, wants_depth=True)
    assert f"license of the weights {folder}: Apache-2.0" in capsys.readouterr().err
    assert record.heads == ("camera", "depth")


def test_the_license_of_a_vggt_is_told_by_the_size_of_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Random weights have none; training from published ones is told, as reading them is."""
    (tmp_path / "a.json").write_text((CONFIGS / "tiny.json").read_text())
    random = f"random:{tmp_path / 'a.json'}"
    model = load_licensed_vggt(random, heads=None).model
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    monkeypatch.setattr(backbones, "_PUBLISHED_VGGT", tuple(cast("VGGT", model).sizes[:3]))
    load_weights(random)
    assert "license" not in capsys.readouterr().err
    load_weights(str(tmp_path / "a.safetensors"))
    assert "license of the weights" in capsys.readouterr().err
