"""Sizes: VGGT-1B's keys and shapes, what a configuration may hold, and what it may not."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from geometry.errors import InputError
from models.vggt import VGGT, VGGTConfig

GOLDEN = Path(__file__).parents[2] / "golden"
TINY = Path(__file__).parents[3] / "models" / "vggt" / "configs" / "tiny.json"


def tiny() -> dict[str, Any]:
    return json.loads(TINY.read_text())


def test_default_network_has_the_keys_and_shapes_of_vggt_1b() -> None:
    with gzip.open(GOLDEN / "vggt_1b_state_dict.txt.gz", "rt") as file:
        lines = file.read().splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    expected = {key: (tuple(int(n) for n in shape.strip("()").split(",") if n), dtype) for key, shape, dtype in rows}
    assert len(expected) == 1797
    with torch.device("meta"):
        model = VGGT()
    got = {k: (tuple(v.shape), str(v.dtype).removeprefix("torch.")) for k, v in model.state_dict().items()}
    assert got == expected
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_256_537_516
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["aggregator.patch_embed.mask_token"]
    assert not list(model.buffers())


def test_hub_constructor_arguments_are_understood() -> None:
    assert VGGTConfig.read({"img_size": 518, "patch_size": 14, "embed_dim": 1024}) == VGGTConfig()
    assert VGGTConfig.read({"enable_track": False, "enable_point": False}).heads == ("camera", "depth")
    with pytest.raises(InputError, match="is 1024 wide"):
        VGGTConfig.read({"embed_dim": 768})
    with pytest.raises(InputError, match="unknown key 'embed_dims'"):
        VGGTConfig.read({"embed_dims": 1024})


def test_tiny_network_runs_at_any_multiple_of_the_patch() -> None:
    output = VGGT.from_config(TINY).eval()(torch.rand(3, 3, 28, 42), keep_layers=[1])
    assert output.depth is not None
    assert output.depth.shape == (1, 3, 28, 42, 1)
    assert output.world_points.shape == (1, 3, 28, 42, 3)
    assert output.pose_enc.shape == (1, 3, 9)
    assert output.track is None
    assert {layer: tuple(tokens.shape) for layer, tokens in output.tokens.items()} == {1: (1, 3, 11, 192)}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("heads",), {}, "unknown key 'heads' in the config"),
        (("aggregator", "width"), 3, "unknown key 'width' in aggregator"),
        (("aggregator", "vit", "dept"), 3, "unknown key 'dept' in aggregator.vit"),
        (("depth_head", "feature"), 3, "unknown key 'feature' in depth_head"),
        (("aggregator", "depth"), "4", "aggregator.depth must be int, got '4'"),
        (("aggregator", "qk_norm"), 1, "aggregator.qk_norm must be bool, got 1"),
        (("aggregator", "embed_dim"), 97, "97"),
        (("aggregator", "vit", "embed_dim"), 48, "is 48 wide"),
        (("aggregator", "aa_block_size"), 3, "depth must be divisible by 3, got 4"),
        (("aggregator", "aa_order"), ["frame"], "aa_order"),
        (("aggregator", "patch_embed"), "resnet", "vit must be given exactly when"),
        (("aggregator", "vit"), 3, "aggregator.vit must be a JSON object"),
        (("aggregator", "vit", "block_chunks"), 2, "block_chunks must be 0, got 2"),
        (("aggregator", "vit", "ffn_layer"), "gelu", "ffn_layer"),
        (("camera_head", "fl_act"), "tanh", "camera_head.fl_act must be one of"),
        (("camera_head", "num_heads"), 5, "divisible by 5, got 192"),
        (("depth_head", "activation"), "tanh", "activation must be one of"),
        (("depth_head", "intermediate_layer_idx"), [0, 1, 2, 4], "must lie in 0..3, got 4"),
        (("depth_head", "intermediate_layer_idx"), [0, 1], "4 entries"),
        (("depth_head", "out_channels"), [16, 24, 30, 32], "divisible by 4, got 30"),
        (("depth_head", "patch_size"), 16, "patch_size must equal aggregator.patch_size 14, got 16"),
        (("depth_head", "feature_only"), True, "feature_only must be false"),
        (("depth_head", "output_dim"), 1, "at least 2"),
        (("track_head",), {"feature_extractor": {"features": 128}}, "intermediate_layer_idx must lie in 0..3"),
        (("track_head",), {"tracker": {"latent_dim": 64}}, "must equal tracker.latent_dim"),
    ],
)
def test_bad_configurations_are_refused_by_name(path: tuple[str, ...], value: Any, message: str) -> None:
    config = tiny()
    section = config
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    with pytest.raises(InputError, match=message) as error:
        VGGTConfig.read(config)
    assert "\n" not in str(error.value)


def test_unreadable_configurations_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    for name, message in (("absent.json", "cannot be read"), ("broken.json", "not valid JSON")):
        with pytest.raises(InputError, match=message):
            VGGT.from_config(tmp_path / name)


@pytest.mark.parametrize("ffn_layer", ["mlp", "swiglu", "swiglufused", "identity"])
def test_family_members_run(ffn_layer: str) -> None:
    """Another patch size, gated feed-forward, no registers, no biases, no rotary positions, trained blocks."""
    config = tiny()
    config["aggregator"] |= {"patch_size": 8, "img_size": 32, "num_register_tokens": 0, "rope_freq": 0}
    config["aggregator"] |= {"qkv_bias": False, "proj_bias": False, "ffn_bias": False, "init_values": None}
    config["aggregator"]["vit"] |= {"ffn_layer": ffn_layer, "qk_norm": True, "interpolate_offset": 0.1}
    model = VGGT.from_config(config | {"point_head": None}).train()
    output = model(torch.rand(2, 1, 3, 24, 16))
    assert output.depth.shape == (2, 1, 24, 16, 1)
    assert output.world_points is None
    output.depth.sum().backward()
    assert model.aggregator.patch_embed.pos_embed.grad.abs().sum() > 0


def test_bad_inputs_are_refused() -> None:
    model = VGGT.from_config(TINY).eval()
    for shape, message in (((1, 2, 4, 28, 28), "3 channels"), ((1, 2, 3, 28, 30), "multiples of 14")):
        with pytest.raises(InputError, match=message):
            model(torch.rand(shape))
    with pytest.raises(InputError, match="no track head"):
        model(torch.rand(1, 2, 3, 28, 28), torch.rand(1, 4, 2))
    with pytest.raises(InputError, match=r"layers must lie in 0\.\.3"):
        model(torch.rand(1, 2, 3, 28, 28), keep_layers=[4])
