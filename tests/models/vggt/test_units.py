"""Parts of the network against values recorded from the reference, and against closed forms.

Everything runs in float64 for the reason given in `tests.goldens`.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from geometry.errors import InputError
from models.vggt.attention import patch_positions, rotary_angles, rotate
from models.vggt.config import CameraHeadConfig, DPTConfig
from models.vggt.heads import dpt_blocks
from models.vggt.heads.activations import CONFIDENCE_ACTIVATIONS, POSE_ACTIVATIONS, VALUE_ACTIVATIONS
from models.vggt.heads.camera_head import CameraHead
from models.vggt.heads.correlation import correlate, feature_pyramid, sample_maps
from models.vggt.heads.dpt_blocks import FeatureFusion, resize_maps
from models.vggt.heads.dpt_head import DPTHead
from models.vggt.heads.track_head import embed_flow
from models.vggt.heads.updateformer import CrossAttentionBlock, SelfAttentionBlock
from models.vggt.layers import Block, PatchEmbed, SwiGLU
from models.vggt.pose_encoding import (
    decode_pose,
    encode_pose,
    inverse_se3,
    quaternion_from_rotation,
    rotation_from_quaternion,
    unproject_depth,
)
from models.vggt.sincos import image_plane_grid, sincos_map
from models.vggt.vit import resize_position_embedding

UNITS = Path(__file__).parents[2] / "golden" / "units"


def record(name: str) -> dict[str, Tensor]:
    with np.load(UNITS / f"{name}.npz") as file:
        values = {key: torch.from_numpy(file[key]) for key in file.files}
    return {key: value.double() if value.is_floating_point() else value for key, value in values.items()}


def weights(values: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}


def close(got: Tensor, expected: Tensor, atol: float = 2e-6, rtol: float = 1e-5) -> None:
    """Position codes, grids and resized embeddings are float32 by design."""
    torch.testing.assert_close(got.double(), expected.double(), atol=atol, rtol=rtol)


def test_rotary_positions() -> None:
    values = record("rope")
    grid = patch_positions(3, 4, 0, torch.device("cpu")) - 1
    assert torch.equal(grid, values["grid_positions_h3_w4"][0])
    positions = values["positions"][0]
    assert torch.equal(patch_positions(3, 4, 2, torch.device("cpu")), positions)
    for base in (100, 25):
        angles = rotary_angles(positions, 16, base=float(base))
        close(rotate(values["tokens"], angles), values[f"rotated_freq{base}"])
    angles = rotary_angles(positions, 12, base=100.0)
    close(rotate(values["tokens_hd12"], angles), values["rotated_hd12_freq100"])


def test_rotation_keeps_lengths_and_depends_on_offsets_only() -> None:
    query, key = torch.randn(2, 1, 1, 1, 16, generator=torch.Generator().manual_seed(0)).double()

    def score(query_at: tuple[int, int], key_at: tuple[int, int]) -> Tensor:
        angles = [rotary_angles(torch.tensor([at]), 16, base=100.0) for at in (query_at, key_at)]
        return (rotate(query, angles[0]) * rotate(key, angles[1])).sum()

    close(score((3, 5), (1, 9)), score((7, 2), (5, 6)), atol=1e-5)
    close(rotate(query, rotary_angles(torch.tensor([[4, 7]]), 16, base=100.0)).norm(), query.norm())


def test_block() -> None:
    values = record("block")
    block = Block(32, 2, init_values=0.01, qk_norm=True).double()
    block.load_state_dict(weights(values, "w:"))
    angles = rotary_angles(values["positions"][0], 16, base=100.0)
    close(block.attn(values["x"], angles), values["attn_out"])
    close(block(values["x"], angles), values["block_out"])


def test_block_without_layer_scale_and_bias_has_no_such_keys() -> None:
    block = Block(8, 2, init_values=None, qkv_bias=False, proj_bias=False, ffn_bias=False, ffn_layer="identity")
    assert set(block.state_dict()) == {
        "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "attn.qkv.weight", "attn.proj.weight",
    }  # fmt: skip


def test_gated_feed_forward_width_and_value() -> None:
    layer = SwiGLU(48, 192).double()
    assert layer.w12.weight.shape == (256, 48)
    assert layer.w3.weight.shape == (48, 128)
    values = torch.randn(3, 48, dtype=torch.float64)
    gate, value = (values @ layer.w12.weight.T + layer.w12.bias).split(128, dim=-1)
    close(layer(values), (gate / (1 + (-gate).exp()) * value) @ layer.w3.weight.T + layer.w3.bias)


def test_patch_embedding_refuses_partial_patches() -> None:
    with pytest.raises(InputError, match="multiples of 14, got 28x30"):
        PatchEmbed(14, 8)(torch.zeros(1, 3, 28, 30))


@pytest.mark.parametrize(
    ("name", "width", "height", "aspect"),
    [
        ("w5_h4_a1.25", 5, 4, 1.25),
        ("w7_h3_aauto", 7, 3, 7 / 3),
        ("w4_h6_a0.6667", 4, 6, 2 / 3),
        ("w1_h5_a0.2", 1, 5, 0.2),
    ],
)
def test_position_map(name: str, width: int, height: int, aspect: float) -> None:
    values = record("dpt_parts")
    u, v = image_plane_grid(height, width, aspect, torch.device("cpu"))
    grid = torch.stack(torch.meshgrid(u, v, indexing="xy"), dim=-1)
    close(grid, values[f"uv_{name}"])
    close(sincos_map(u, v, 16, base=100.0).permute(1, 2, 0), values[f"embed16_{name}"])


def test_position_map_with_another_base() -> None:
    u, v = image_plane_grid(4, 5, 1.25, torch.device("cpu"))
    close(sincos_map(u, v, 8, base=10000.0).permute(1, 2, 0), record("dpt_parts")["embed8_omega10000_w5_h4"])


def test_fusion_of_pyramid_levels() -> None:
    values = record("dpt_parts")
    fusion = FeatureFusion(6).double()
    fusion.load_state_dict(weights(values, "w:"))
    before = values["rcu_in"].clone()
    close(fusion.resConfUnit1(values["rcu_in"]), values["rcu_out"])
    assert torch.equal(values["rcu_in"], before)
    close(fusion(values["fuse_in0"], values["fuse_in1"], size=(7, 9)), values["fuse_out_size_7x9"])
    close(fusion(values["fuse_in0"], values["fuse_in1"]), values["fuse_out_default"])


def test_large_resizes_are_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.randn(5, 2, 3, 4, dtype=torch.float64)
    whole = resize_maps(maps, 6, 7)
    monkeypatch.setattr(dpt_blocks, "MAX_RESIZE_ELEMENTS", 2 * 6 * 7 * 2)
    close(resize_maps(maps, 6, 7), whole)


def test_activations() -> None:
    values = record("activations")
    channels_last = values["x"].movedim(1, -1)
    for name, activation in VALUE_ACTIVATIONS.items():
        close(activation(channels_last[..., :-1]), values[f"pts_{name}"])
    for name, activation in CONFIDENCE_ACTIVATIONS.items():
        close(activation(channels_last[..., -1]), values[f"conf_{name}"])
    for name, activation in POSE_ACTIVATIONS.items():
        head = CameraHead(8, CameraHeadConfig(1, num_heads=2, trans_act=name, quat_act=name, fl_act=name))
        close(head._activate(values["pose"]), values[f"pose_{name}"])
        close(activation(values["pose"]), values[f"pose_{name}"])
    mixed = CameraHead(8, CameraHeadConfig(1, num_heads=2))
    close(mixed._activate(values["pose"]), values["pose_mixed_linear_linear_relu"])


def test_poses() -> None:
    values = record("geometry")
    close(rotation_from_quaternion(values["quat_xyzw_unnormalised"]), values["rotmat"])
    close(quaternion_from_rotation(values["rotmat"]), values["quat_back_standardised"])
    close(quaternion_from_rotation(values["special_rotmat"]), values["special_quat"])
    height, width = values["image_hw"].tolist()
    encoding = encode_pose(values["extrinsics"], values["intrinsics"], height, width)
    close(encoding, values["pose_encoding"])
    decoded = decode_pose(values["pose_encoding"], height, width)
    close(decoded.extrinsics, values["decoded_extrinsics"])
    close(decoded.intrinsics, values["decoded_intrinsics"])


def test_pose_encoding_by_hand() -> None:
    """A quarter turn from x to y; a field of view of 90 degrees, where the focal length is half the height."""
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    close(rotation_from_quaternion(torch.tensor([0.0, 0, 1, 1], dtype=torch.float64)), quarter)
    close(quaternion_from_rotation(quarter), torch.tensor([0.0, 0, 0.5**0.5, 0.5**0.5]))
    intrinsics = torch.tensor([[35.0, 0, 35], [0, 28, 28], [0, 0, 1]], dtype=torch.float64)
    extrinsics = torch.cat([quarter, quarter.new_tensor([[1.0], [2.0], [3.0]])], dim=1)
    encoding = encode_pose(extrinsics, intrinsics, 56, 70)
    close(encoding, torch.tensor([1, 2, 3, 0, 0, 0.5**0.5, 0.5**0.5, math.pi / 2, math.pi / 2]))
    close(decode_pose(encoding, 56, 70).intrinsics, intrinsics, atol=1e-4)


def test_decoding_undoes_encoding() -> None:
    values = record("geometry")
    decoded = decode_pose(encode_pose(values["extrinsics"], values["intrinsics"], 56, 70), 56, 70)
    close(decoded.extrinsics, values["extrinsics"], atol=1e-5)
    close(decoded.intrinsics[..., 0, 0], values["intrinsics"][..., 0, 0], rtol=1e-4)
    assert math.isinf(decode_pose(torch.tensor([0.0, 0, 0, 0, 0, 0, 1, 0, 1]), 10, 10).intrinsics[1, 1].item())


def test_inverse_and_unprojection() -> None:
    values = record("geometry")
    motions = torch.cat([values["extrinsics"].flatten(0, 1)])
    close(inverse_se3(motions), values["inverse_se3"])
    close(inverse_se3(inverse_se3(motions))[:, :3], motions, atol=1e-5)
    points = unproject_depth(values["depth"], values["unproject_extrinsics"], values["unproject_intrinsics"])
    close(points, values["unprojected"], atol=1e-5)


def test_position_embedding_of_the_vision_transformer() -> None:
    values = record("vit_pos_embed")
    stored = values["pos_embed_grid5"]
    assert torch.equal(stored, values["h70_w70"])
    for name, expected in values.items():
        *_, height, width = name.split("_")
        if name in ("pos_embed_grid5", "h70_w70"):
            continue
        rows, cols = int(height[1:]) // 14, int(width[1:]) // 14
        offset = 0.1 if name.startswith("dinov2default") else 0.0
        close(resize_position_embedding(stored, rows, cols, antialias=not offset, offset=offset), expected)


def test_tracker_parts() -> None:
    values = record("tracker_parts")
    close(embed_flow(values["xy"], 8), values["flow_embed_C8"], atol=1e-5)
    grid = sincos_map(torch.arange(5.0), torch.arange(3.0), 12, base=10000.0)
    close(grid, values["sincos2d_D12_h3_w5"][0])
    pyramid = feature_pyramid(values["fmaps"], 3)
    close(correlate(pyramid, values["targets"], values["coords"], radius=2), values["corr_L3_r2"], atol=1e-5)
    sampled = sample_maps(values["fmaps"][:, 0], values["coords"][:, 0], padding="border")
    close(sampled, values["sampled_features"], atol=1e-5)


def test_tracker_attention_blocks() -> None:
    values = record("tracker_parts")
    attend = SelfAttentionBlock(12, 3).double()
    attend.load_state_dict(weights(values, "w:attn."))
    close(attend(values["x"]), values["attn_block_out"])
    cross = CrossAttentionBlock(12, 3).double()
    cross.load_state_dict(weights(values, "w:cross."))
    close(cross(values["x"], values["context"]), values["cross_block_out"])


def test_a_dense_head_keeps_nothing_for_the_backward_pass_that_it_computes_again() -> None:
    """The same maps and gradients, in double precision up to the order of sums; less memory, whatever the views."""
    config = DPTConfig(patch_size=4, features=8, out_channels=(8, 8, 8, 8), intermediate_layer_idx=(0, 0, 1, 1))
    torch.manual_seed(0)
    head = DPTHead(12, config).double().train()
    tokens = torch.randn(2, 1, 5, 1 + 6, 12, dtype=torch.float64)
    outputs, gradients, kept = {}, {}, {}
    for recomputes in (False, True):
        head.recompute_in_training = recomputes
        head.zero_grad()
        layers = tokens.clone().requires_grad_()
        held: list[int] = []
        pack = lambda tensor, held=held: (held.append(tensor.nbytes), tensor)[1]  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            values, confidence = head({0: layers[0], 1: layers[1]}, 1, (8, 12))
        (values.square().sum() + confidence.sum()).backward()
        outputs[recomputes] = torch.cat([values.flatten(), confidence.flatten()])
        gradients[recomputes] = [layers.grad, *(parameter.grad for parameter in head.parameters())]
        kept[recomputes] = sum(held)
    torch.testing.assert_close(outputs[True], outputs[False], atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(gradients[True], gradients[False], atol=1e-10, rtol=1e-8)
    assert kept[True] < kept[False] / 4
    head.eval()
    evaluated = [head({0: tokens[0], 1: tokens[1]}, 1, (8, 12)) for head.recompute_in_training in (False, True)]
    assert torch.equal(evaluated[0].values, evaluated[1].values)
