"""The whole network against outputs and gradients recorded from the reference, and the command that does so."""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geometry.errors import InputError
from models.vggt import VGGT
from tests import goldens

GOLDEN = Path(__file__).parents[2] / "golden"
FIXTURES = ("conv_d64", "vit_d48", "conv_d32_group2")


@pytest.mark.parametrize("fixture", FIXTURES)
def test_outputs_and_gradients_equal_the_record(fixture: str) -> None:
    results = goldens.check_fixture(GOLDEN / fixture)
    assert results
    beyond = [(file, item) for file, items in results.items() for item in items if not item.is_within]
    assert not beyond


def test_every_record_is_compared() -> None:
    results = goldens.check_fixture(GOLDEN / "conv_d64")
    for file in (GOLDEN / "conv_d64").glob("*.outputs.npz"):
        assert {item.name for item in results[file.name]} == set(goldens.read_arrays(file))
    gradients = goldens.read_arrays(GOLDEN / "conv_d64" / "s2_h56_w70.grads.npz")
    compared = {item.name for item in results["s2_h56_w70.grads.npz"]}
    assert compared == {name for name in gradients if not name.startswith("cotangent:")}


def _set_epsilon(blocks: Iterable[nn.Module], eps: float) -> None:
    for block in blocks:
        block.norm1.eps = block.norm2.eps = eps


def _wrong_epsilon_of_frame_blocks(model: VGGT, _: pytest.MonkeyPatch) -> None:
    _set_epsilon(model.aggregator.frame_blocks, 1e-6)


def _wrong_epsilon_of_vit(model: VGGT, _: pytest.MonkeyPatch) -> None:
    _set_epsilon(model.aggregator.patch_embed.blocks, 1e-5)


def _approximate_gelu(_: VGGT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(F, "gelu", partial(F.gelu, approximate="tanh"))


def _resize_without_aligned_corners(_: VGGT, monkeypatch: pytest.MonkeyPatch) -> None:
    _without_aligned_corners(monkeypatch, "interpolate")


def _sample_without_aligned_corners(_: VGGT, monkeypatch: pytest.MonkeyPatch) -> None:
    _without_aligned_corners(monkeypatch, "grid_sample")


def _without_aligned_corners(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    right = getattr(F, name)
    monkeypatch.setattr(F, name, lambda *args, **kwargs: right(*args, **kwargs | {"align_corners": False}))


def _residual_of_unrectified_maps(model: VGGT, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference rectifies in place, so that its skip connection carries relu(x)."""

    def wrong(unit: nn.Module, maps: Tensor) -> Tensor:
        return unit.conv2(F.relu(unit.conv1(F.relu(maps)))) + maps

    monkeypatch.setattr(type(model.depth_head.scratch.refinenet1.resConfUnit1), "forward", wrong)


def _wrong_rotary_base(model: VGGT, _: pytest.MonkeyPatch) -> None:
    model.aggregator.config = replace(model.aggregator.config, rope_freq=99.0)


def _wrong_offset_of_position_embedding(model: VGGT, _: pytest.MonkeyPatch) -> None:
    vit = model.aggregator.patch_embed
    vit.config = replace(vit.config, interpolate_offset=0.1)


Mutation = Callable[[VGGT, pytest.MonkeyPatch], None]


@pytest.mark.parametrize(
    ("fixture", "mutate"),
    [
        ("conv_d64/s2_h56_w70", _wrong_epsilon_of_frame_blocks),
        ("vit_d48/s2_h70_w70", _wrong_epsilon_of_vit),
        ("conv_d64/s2_h56_w70", _approximate_gelu),
        ("conv_d64/s2_h56_w70", _resize_without_aligned_corners),
        ("conv_d64/s2_h56_w70", _sample_without_aligned_corners),
        ("conv_d64/s2_h56_w70", _residual_of_unrectified_maps),
        ("conv_d64/s2_h56_w70", _wrong_rotary_base),
        ("vit_d48/s3_h56_w84", _wrong_offset_of_position_embedding),
    ],
)
def test_goldens_see_a_small_mistake(fixture: str, mutate: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tolerances are tight enough for the mistakes that are easily made and change the outputs least."""
    file = GOLDEN / fixture
    inputs, recorded = (
        goldens.read_arrays(file.with_name(f"{file.name}.{kind}.npz")) for kind in ("inputs", "outputs")
    )
    model = goldens.load_model(file.parent)
    mutate(model, monkeypatch)
    assert not all(item.is_within for item in goldens.check_outputs(model, inputs, recorded))


@pytest.mark.parametrize("axis", ["length", "direction"])
def test_goldens_see_a_wrong_point(axis: str) -> None:
    """The tolerance of points, relative to their length, still sees 2e-4 of it anywhere."""
    expected = np.random.default_rng(0).normal(size=(2, 3, 4, 3))
    wrong = expected.copy()
    if axis == "length":
        wrong[1, 2, 3] *= 1.0002
    else:
        wrong[1, 2, 3] += 2e-4 * np.linalg.norm(wrong[1, 2, 3]) * np.array([0.0, 1.0, 0.0])
    assert goldens.compare("world_points", expected, expected).is_within
    assert not goldens.compare("world_points", expected, wrong).is_within


@pytest.fixture
def small_fixture(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN / "conv_d32_group2", tmp_path / "deep" / "fixture")
    return tmp_path / "deep" / "fixture"


def _status(folder: Path) -> int:
    with pytest.raises(SystemExit) as stop:
        goldens.main([str(folder)])
    return stop.value.code


def _rewrite(folder: Path, **changes: np.ndarray) -> None:
    file = next(folder.glob("*.outputs.npz"))
    np.savez(file, **(goldens.read_arrays(file) | changes))


def test_command_accepts_good_fixtures_at_any_depth(small_fixture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _status(small_fixture.parents[1]) == 0
    assert "0 beyond tolerance" in capsys.readouterr().out


def test_command_reports_a_deviation(small_fixture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    depth = goldens.read_arrays(next(small_fixture.glob("*.outputs.npz")))["depth"]
    _rewrite(small_fixture, depth=depth * 1.001)
    assert _status(small_fixture) == 1
    assert "depth " in next(line for line in capsys.readouterr().out.splitlines() if "BEYOND" in line)


@pytest.mark.parametrize("value", [np.zeros(3, np.float32), np.full((1, 2, 70, 56, 1), np.nan, np.float32)])
def test_command_reports_wrong_shapes_and_nan(small_fixture: Path, value: np.ndarray) -> None:
    _rewrite(small_fixture, depth=value)
    assert _status(small_fixture) == 1


def test_command_reports_an_unknown_output(small_fixture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _rewrite(small_fixture, normals=np.zeros(3, np.float32))
    assert _status(small_fixture) == 1
    assert "unknown output" in capsys.readouterr().out


def test_command_refuses_unusable_input(small_fixture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _status(small_fixture / "nothing") == 2
    (small_fixture.parent / "empty").mkdir()
    assert _status(small_fixture.parent / "empty") == 2
    next(small_fixture.glob("*.outputs.npz")).write_bytes(b"broken")
    assert _status(small_fixture) == 2
    next(small_fixture.glob("*.outputs.npz")).unlink()
    assert _status(small_fixture) == 2
    (small_fixture / "state_dict.safetensors").write_bytes(b"broken")
    assert _status(small_fixture) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert all(line.startswith("error: ") for line in lines)


def test_weights_of_another_network_are_refused(small_fixture: Path) -> None:
    shutil.copy(GOLDEN / "vit_d48" / "state_dict.safetensors", small_fixture)
    with pytest.raises(InputError, match="do not fit"):
        goldens.load_model(small_fixture)


def test_dense_heads_do_not_depend_on_the_chunk_size() -> None:
    model = goldens.load_model(GOLDEN / "conv_d64").double().eval()
    images = torch.from_numpy(goldens.read_arrays(GOLDEN / "conv_d64" / "s3_h84_w56.inputs.npz")["images"]).double()
    with torch.no_grad():
        at_once, one_by_one = (model(images, frames_chunk_size=size) for size in (None, 1))
    torch.testing.assert_close(at_once.depth, one_by_one.depth, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(at_once.world_points, one_by_one.world_points, atol=1e-10, rtol=1e-10)
