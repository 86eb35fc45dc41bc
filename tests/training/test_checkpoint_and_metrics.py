"""Checkpoints that must be refused, non-finite training, metrics by hand."""

import json
import math
import os
import pickle
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from skimage.metrics import structural_similarity

from geometry import InputError, Terminated, one_line_errors
from tests.render.tiny import write_backbone, write_checkpoint
from tests.scenes import random_batch
from tests.training.commands import tiny_arguments
from tests.training.inprocess import outcome_of_finetune, outcome_of_general
from training.checkpoint import AtomicCheckpointIO
from training.cli import parse_options
from training.errors import NonFiniteError
from training.metrics import depth_errors, lpips_distance, lpips_metric, psnr, ssim
from training.nerf.build import build_general_task
from training.nerf.checkpoint import load_model, read_nerf_checkpoint
from training.nerf.options import GeneralOptions


class _Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("option", ["--ckpt", "--init_from"])
@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(option: str, is_zip: bool, small_dtu: Path, tmp_path: Path) -> None:
    bomb, path = tmp_path / "exploded", tmp_path / "evil.ckpt"
    payload = {"state_dict": {}, "vggt_nerf": {}, "x": _Payload(bomb)}
    if is_zip:
        torch.save(payload, path)
    else:
        path.write_bytes(pickle.dumps(payload))
    status, errors = outcome_of_general(
        tiny_arguments("train_general.py", small_dtu, tmp_path / "runs", option, str(path))
    )
    assert status == 2
    assert "evil.ckpt" in errors
    assert errors.count("\n") == 1
    assert not bomb.exists()
    assert not (tmp_path / "runs").exists()


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    whole = write_checkpoint(tmp_path / "whole.ckpt")
    (tmp_path / "cut.ckpt").write_bytes(whole.read_bytes()[:5000])
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    for name in ("cut", "foreign", "text", "absent"):
        with pytest.raises(InputError, match=f"{name}.ckpt") as caught:
            read_nerf_checkpoint(tmp_path / f"{name}.ckpt")
        assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_backbone_is_refused(small_dtu: Path, tmp_path: Path) -> None:
    start = write_checkpoint(tmp_path / "start.ckpt")
    backbone = write_backbone(tmp_path / "backbone.json")
    command = tiny_arguments("train_general.py", small_dtu, tmp_path / "runs", "--init_from", str(start))
    status, errors = outcome_of_general([*command, "--vggt_ckpt", f"random:{backbone}:7"])
    assert (status, errors.count("\n")) == (2, 1)
    assert "sha256" in errors
    command = tiny_arguments("train_finetune.py", small_dtu, tmp_path / "runs", "--init_from", str(start))
    status, errors = outcome_of_finetune([*command, "--scans", "scan2", "--vggt_ckpt", f"random:{backbone}:7"])
    assert (status, errors.count("\n")) == (2, 1)
    assert "sha256" in errors
    with pytest.raises(InputError, match="sha256"):
        load_model(start, vggt_ckpt=f"random:{backbone}:7")
    assert not (tmp_path / "runs").exists()


def test_weights_of_another_architecture_are_named(small_dtu: Path, tmp_path: Path) -> None:
    start = write_checkpoint(tmp_path / "start.ckpt")
    command = tiny_arguments("train_general.py", small_dtu, tmp_path / "runs", "--init_from", str(start))
    backbone = tmp_path / "start.json"
    status, errors = outcome_of_general([*command, "--vggt_ckpt", f"random:{backbone}", "--hidden", "10"])
    assert (status, errors.count("\n")) == (2, 1)
    assert "network.aggregation" in errors


def test_loading_gives_back_the_weights(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "a.ckpt")
    model, record = load_model(path)
    saved = read_nerf_checkpoint(path).contents["state_dict"]
    assert all(torch.equal(saved[f"model.{name}"], value) for name, value in model.state_dict().items())
    assert not model.training
    json.dumps(record.to_plain())  # plain values only


def test_an_interrupted_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, writer = tmp_path / "last.ckpt", AtomicCheckpointIO()
    path.write_text("old")

    def fail(contents: object, file: object) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(KeyboardInterrupt):
        writer.save_checkpoint({}, path)
    assert path.read_text() == "old"


def tiny_task(tmp_path: Path, **options: object):
    backbone = write_backbone(tmp_path / "b.json")
    sizes = {"feature_channels": 8, "hidden": 8, "fused": 8, "N_samples": 4, "N_importance": 2, "rays_per_step": 8}
    return build_general_task(
        GeneralOptions(vggt_ckpt=f"random:{backbone}", vggt_image_size=0, **{**sizes, **options}), {}
    )


def test_a_loss_that_is_not_finite_stops_with_the_batch_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = tiny_task(tmp_path)
    strategy = SimpleNamespace(reduce=lambda tensor, reduce_op: tensor)
    monkeypatch.setattr(type(task), "trainer", SimpleNamespace(strategy=strategy, precision_plugin=None))
    with torch.no_grad():
        task.model.network.field.density[-1].bias.fill_(float("nan"))
    task.log_dict = lambda *_: None
    task.training_step(random_batch(1), 0).backward()
    with pytest.raises(NonFiniteError, match=r"step 0: expected a finite loss.*scene0.*target views \[3\].*seeds"):
        task.on_before_optimizer_step(task.build_optimizer())


def test_frozen_backbone_is_in_no_checkpoint_and_no_optimizer(tmp_path: Path) -> None:
    task = tiny_task(tmp_path)
    assert all(name.startswith("model.network.") for name in task.state_dict())
    optimized = sum(parameter.numel() for group in task.build_optimizer().param_groups for parameter in group["params"])
    assert optimized == sum(parameter.numel() for parameter in task.model.network.parameters())


def test_psnr_by_hand() -> None:
    truth = torch.full((4, 5, 3), 0.5)
    assert psnr(truth + 0.1, truth) == pytest.approx(20.0, abs=1e-4)
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[1, 2] = True
    wrong_elsewhere = torch.where(mask[..., None], truth + 0.01, truth + 0.4)
    assert psnr(wrong_elsewhere, truth, mask) == pytest.approx(40.0, abs=1e-3)
    assert math.isnan(psnr(truth, truth, torch.zeros_like(mask)))


def test_ssim_of_the_same_and_of_another_image() -> None:
    image = torch.rand(16, 16, 3, generator=torch.Generator().manual_seed(0))
    assert ssim(image, image) == pytest.approx(1.0)
    assert ssim(1 - image, image) < 0


@pytest.mark.parametrize("data_range", [1.0, 2.0])
def test_ssim_is_scikit_images(data_range: float) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(19, 26, 3, generator=generator)
    other = (image + 0.2 * torch.rand(19, 26, 3, generator=generator)).clamp(0, 1)
    expected = structural_similarity(image.numpy(), other.numpy(), channel_axis=-1, data_range=data_range)
    assert ssim(image, other, data_range) == pytest.approx(float(expected), abs=1e-6)


def test_lpips_network_is_built_once_and_absent_weights_are_no_crash(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    built = []

    class Network(torch.nn.Module):
        def __init__(self, **how: object) -> None:
            super().__init__()
            built.append(how)
            if len(built) == 1:
                sys.stdout.write("Downloading: weights\n")  # as torch.hub does before it tries
                raise OSError("no weights here")
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            return (one - other).abs().mean() * self.weight

    monkeypatch.setattr("lpips.LPIPS", Network)
    lpips_metric.cache_clear()
    black, white = torch.zeros(8, 8, 3), torch.ones(8, 8, 3)
    try:
        assert [lpips_distance(black, white) for _ in range(2)] == ["unavailable (OSError: no weights here)"] * 2
        assert capsys.readouterr().out == ""
        lpips_metric.cache_clear()
        assert [lpips_distance(black, white) for _ in range(2)] == [2.0, 2.0]  # images in [-1, 1]
        assert len(built) == 2
        on_meta = lpips_metric(torch.device("meta"))
        assert on_meta is lpips_metric(torch.device("meta"))
        assert (on_meta.weight.device.type, len(built)) == ("meta", 2)
        assert lpips_distance(black, white) == 2.0  # the network on the CPU has stayed there
    finally:
        lpips_metric.cache_clear()


def test_depth_errors_by_hand() -> None:
    truth = torch.tensor([[10.0, 20.0, 0.0]])
    errors = depth_errors(torch.tensor([[11.0, 24.0, 99.0]]), truth, truth > 0, thresholds=(2.0, 5.0))
    assert errors.mean_abs == pytest.approx(2.5)
    assert errors.accuracy == (0.5, 1.0)


def test_lpips_is_a_number_or_says_why_not() -> None:
    image = torch.rand(32, 32, 3)
    distance = lpips_distance(image, image)
    assert distance == pytest.approx(0.0, abs=1e-6) if isinstance(distance, float) else "unavailable (" in distance


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--seed", "9"], "--seed"),
        (["--lrate", "3e-4"], "--lrate"),
        (["--scans", "scan3"], "--scans"),
        (["--N_samples", "9"], "--N_samples"),
    ],
)
def test_resuming_with_other_options_stops_by_name(
    change: list[str], named: str, small_dtu: Path, tmp_path: Path
) -> None:
    checkpoint = write_checkpoint(tmp_path / "start.ckpt")
    contents = torch.load(checkpoint, weights_only=True)
    backbone = f"random:{tmp_path / 'start.json'}"
    command = tiny_arguments("train_general.py", small_dtu, tmp_path / "runs", "--vggt_ckpt", backbone)
    options = parse_options(GeneralOptions, "test", command[2:])
    contents["vggt_nerf"]["options"] = {
        name: list(value) if isinstance(value, tuple) else value for name, value in asdict(options).items()
    }
    torch.save(contents, checkpoint)
    status, errors = outcome_of_general([*command, "--ckpt", str(checkpoint), *change])
    assert (status, errors.count("\n")) == (2, 1)
    assert errors.startswith(f"error: {named}:")
    assert not (tmp_path / "runs").exists()


def test_an_error_in_a_loading_process_is_one_line(capsys: pytest.CaptureFixture) -> None:
    @one_line_errors
    def main() -> None:
        raise InputError(
            "Caught InputError in worker 0.\nTraceback ...\ngeometry.errors.InputError: a.png: truncated\n"
        )

    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err == "error: a.png: truncated\n"


@pytest.mark.parametrize(("kind", "status"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_ctrl_c_is_one_line(kind: type[KeyboardInterrupt], status: int, capsys: pytest.CaptureFixture) -> None:
    @one_line_errors
    def main() -> None:
        raise kind

    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == status
    assert capsys.readouterr().err == "interrupted\n"
