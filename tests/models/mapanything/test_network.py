"""What the network does whatever its weights: order of views, unused inputs, chunks, sizes, strict loading."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from geometry.errors import InputError
from models.mapanything import GeometricInputs, MapAnything, MapAnythingConfig, load_mapanything, weights
from models.mapanything.config import config_of_weights
from models.mapanything.inputs import encoded_depth, encoded_poses, log_length
from tests.training.mapanything.tiny import IMAGES_ONLY, SIZES

VIEWS = 3


def network(**changes: object) -> MapAnything:
    torch.manual_seed(0)
    model = MapAnything.from_config(SIZES | changes).eval()
    for name, parameter in model.named_parameters():  # zero biases would hide features that leak
        if name.endswith("bias"):
            torch.nn.init.uniform_(parameter, -0.3, 0.3)
    return model


def given(has_geometry: bool = True) -> GeometricInputs:
    """Two samples of noise; all is known or only the images."""
    generator = torch.Generator().manual_seed(1)
    blank = GeometricInputs.of_images(torch.rand(2, VIEWS, 3, 16, 24, generator=generator))
    flags = torch.full((2, VIEWS), has_geometry)
    rays = torch.nn.functional.normalize(torch.randn(2, VIEWS, 16, 24, 3, generator=generator), dim=-1)
    return replace(
        blank,
        rays=rays,
        depth_along_ray=1 + torch.rand(2, VIEWS, 16, 24, generator=generator),
        quaternions=torch.nn.functional.normalize(torch.randn(2, VIEWS, 4, generator=generator), dim=-1),
        translations=torch.randn(2, VIEWS, 3, generator=generator),
        has_rays=flags, has_depth=flags, has_pose=flags, shows_depth_scale=flags, shows_pose_scale=flags,
    )  # fmt: skip


def test_released_sizes_are_built_and_read_back_from_shapes() -> None:
    with torch.device("meta"):
        model = MapAnything()
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = config_of_weights(shapes)
    assert replace(found, init_values=model.config.init_values) == model.config
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(1.23e9, rel=0.02)
    assert shapes["info_sharing.self_attention_blocks.15.mlp.w12.weight"] == (8192, 1536)
    assert not [name for name in shapes if "mask_token" in name or name.startswith("encoder.model.norm")]


def test_other_views_may_come_in_any_order() -> None:
    model, inputs = network(), given()
    order = [0, 2, 1]
    with torch.no_grad():
        plain, permuted = model(inputs), model(inputs.map(lambda one: one[:, order]))
    torch.testing.assert_close(permuted.points, plain.points[:, order], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(permuted.scale, plain.scale)
    first = [1, 0, 2]
    with torch.no_grad():
        other = model(inputs.map(lambda one: one[:, first]))
    assert (other.points_cam - plain.points_cam[:, first]).abs().max() > 1e-3  # view 0 is marked


def test_without_a_reference_view_no_view_is_special() -> None:
    model, inputs = network(**IMAGES_ONLY), given(has_geometry=False)
    order = [2, 0, 1]
    with torch.no_grad():
        plain, permuted = model(inputs), model(inputs.map(lambda one: one[:, order]))
    torch.testing.assert_close(permuted.points, plain.points[:, order], atol=1e-5, rtol=1e-4)
    assert plain.scale is None


def test_what_is_not_used_does_not_matter() -> None:
    model, inputs = network(), given(has_geometry=False)
    with torch.no_grad():
        expected = model(GeometricInputs.of_images(inputs.images))
        assert torch.equal(model(inputs).points, expected.points)
        for name in ("has_rays", "has_depth", "has_pose"):
            flags = torch.tensor([[False, True, False], [False] * 3])
            output = model(replace(inputs, **{name: flags}))
            assert not torch.allclose(output.points[0], expected.points[0])  # it is used
            torch.testing.assert_close(output.points[1], expected.points[1])  # of one sample only


def test_the_head_in_parts_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = network(), given()
    with torch.no_grad():
        torch.testing.assert_close(
            model(inputs, images_at_a_time=1).points, model(inputs, images_at_a_time=None).points, atol=1e-6, rtol=1e-5
        )


def test_recomputing_changes_no_gradient() -> None:
    gradients = []
    for enabled in (False, True):
        model = network().train()
        model.set_checkpointing(enabled)
        model(given()).points.square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert len(gradients[0]) == len(gradients[1])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_lengths_by_hand() -> None:
    torch.testing.assert_close(
        log_length(torch.tensor([[3.0, 4.0]])), torch.tensor([[0.6, 0.8]]) * torch.log(torch.tensor(6.0))
    )
    depth = torch.tensor([[[[1.0, 3.0, 0.0]]]])
    found = encoded_depth(depth, torch.ones(1, 1, dtype=torch.bool))
    torch.testing.assert_close(found.values, torch.log1p(depth / 2))
    torch.testing.assert_close(found.log_mean, torch.log(torch.tensor([[2.0]])))
    quarter = torch.tensor([0.0, 0.0, 0.5**0.5, -(0.5**0.5)])  # w < 0
    quaternions = torch.stack([torch.tensor([0.0, 0, 0, 1]), quarter])[None]
    translations = torch.tensor([[[1.0, 0, 0], [1.0, 0, 4.0]]])
    everywhere = torch.ones(1, 2, dtype=torch.bool)
    poses = encoded_poses(quaternions, translations, everywhere)
    torch.testing.assert_close(poses.translations, torch.tensor([[[0.0, 0, 0], [0, 0, 1]]]))
    torch.testing.assert_close(poses.quaternions[0, 1], quarter)
    canonical = encoded_poses(quaternions, translations, everywhere, is_canonical=True)
    torch.testing.assert_close(canonical.quaternions[0, 1], -quarter)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    state = network().state_dict()
    path = tmp_path / "model.safetensors"
    save_file(state, path)
    return path, state


def test_a_file_without_sizes_loads_under_any_of_upstreams_names(
    saved: tuple[Path, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Heads are 64 wide then; the licence of released weights is said."""
    path, state = saved
    renamed = {name.replace("scratch.layer2_rn.", "input_process.1.1."): value for name, value in state.items()}
    renamed["encoder.model.mask_token"] = torch.zeros(1, 16)
    save_file(renamed, path)
    monkeypatch.setattr(weights, "locate_weights", lambda source: (path, None))
    loaded = load_mapanything("facebook/map-anything")
    assert "CC BY-NC 4.0" in capsys.readouterr().err
    assert loaded.model.config.heads == 1
    assert all(torch.equal(value, state[name]) for name, value in loaded.model.state_dict().items())


@pytest.mark.parametrize(("change", "message"), [("missing", "1 missing"), ("unexpected", "1 unexpected")])
def test_weights_load_strictly(saved: tuple[Path, dict[str, Tensor]], change: str, message: str) -> None:
    path, state = saved
    changed = dict(state)
    if change == "missing":
        del changed["fusion_norm_layer.bias"]
    else:
        changed["decoder.weight"] = torch.zeros(1)
    save_file(changed, path)
    with pytest.raises(InputError, match=message):
        load_mapanything(path)


def test_impossible_sizes_are_named() -> None:
    for changes, named in (({"taps": (2, 1)}, "taps"), ({"blocks": 5}, "blocks"), ({"heads": 3}, "sharing_dim")):
        with pytest.raises(InputError, match=named):
            MapAnythingConfig.read(SIZES | changes)
