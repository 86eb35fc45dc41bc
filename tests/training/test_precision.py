"""Precisions: every task learns in each of them; validation and evaluation compute in the one of the run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from geometry import InputError
from render.evaluate import evaluate
from render.loading import precision_for
from render.options import EvaluateOptions, RenderOptions
from tests.render.tiny import write_backbone
from tests.training.commands import tiny_arguments
from tests.training.vggt.tiny import tiny_options
from training.cli import parse_options
from training.nerf.checkpoint import NERF, read_nerf_checkpoint
from training.nerf.options import FinetuneOptions, GeneralOptions
from training.nerf.runs import finetune_run, general_run
from training.options import RunOptions
from training.precision import autocast_of, resolved_precision
from training.vggt.build import build_vggt_data
from training.vggt.checkpoint import VGGT_TRAINING, load_weights
from training.vggt.evaluation import score_all
from training.vggt.runs import train_run

CPU = torch.device("cpu")
MIXED = pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
GUIDED = ("--sampler", "guided", "--sweep_planes", "12", "--N_guided", "3", "--color_loss", "0.1", "--depth_prior")


def general_options(data: Path, base: Path, *more: str) -> GeneralOptions:
    arguments = ("--max_steps", "3", "--n_views", "2", *more)
    return parse_options(GeneralOptions, "test", tiny_arguments("train_general.py", data, base, *arguments)[2:])


@pytest.fixture(scope="module")
def guided_start(small_dtu: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guided general model in float32 to fine-tune, behind a backbone with depth."""
    base = tmp_path_factory.mktemp("precision")
    backbone = write_backbone(base / "heads.json", with_depth=True)
    options = general_options(small_dtu, base / "runs", *GUIDED, "--vggt_ckpt", f"random:{backbone}")
    general_run(options)
    return options.run_dir / "checkpoints" / "last.ckpt"


def hierarchical(data: Path, base: Path, start: Path, precision: str) -> Any:
    options = general_options(data, base, "--precision", precision)
    return options, general_run(options)


def guided(data: Path, base: Path, start: Path, precision: str) -> Any:
    vggt = str(read_nerf_checkpoint(start).record.vggt.source)
    options = general_options(data, base, *GUIDED, "--vggt_ckpt", vggt, "--precision", precision)
    return options, general_run(options)


def guided_with_tokens(data: Path, base: Path, start: Path, precision: str) -> Any:
    vggt = str(read_nerf_checkpoint(start).record.vggt.source)
    more = (*GUIDED, "--vggt_layers", "0", "1", "--fine_depth", "--vggt_ckpt", vggt, "--precision", precision)
    options = general_options(data, base, *more)
    return options, general_run(options)


def finetune(data: Path, base: Path, start: Path, precision: str, *field: str) -> Any:
    more = ("--init_from", str(start), "--scans", "scan2", "--N_guided", "3", "--n_views", "2", "--color_loss", "0.1")
    arguments = tiny_arguments("train_finetune.py", data, base, *more, *field, "--precision", precision)
    options = parse_options(FinetuneOptions, "test", [*arguments[2:], *(() if field else ("--max_steps", "3"))])
    return options, finetune_run(options)


def finetune_with_field(data: Path, base: Path, start: Path, precision: str) -> Any:
    field = ("--scene_field", "8", "--scene_field_steps", "3", "--warmup_steps", "1", "--max_steps", "6")
    return finetune(data, base, start, precision, *field)


def vggt(data: Path, base: Path, start: Path, precision: str) -> Any:
    options = tiny_options(data, base, precision=precision, ema=0.5, max_steps=3)
    return options, train_run(options)


def vggt_in_parts(data: Path, base: Path, start: Path, precision: str) -> Any:
    options = tiny_options(data, base, precision=precision, accumulate=2, max_steps=3, point_weight=1.0)
    return options, train_run(options)


@MIXED
@pytest.mark.parametrize(
    "train", [hierarchical, guided, guided_with_tokens, finetune, finetune_with_field, vggt, vggt_in_parts]
)
def test_every_task_learns_in_every_precision(
    train: Callable[..., Any], precision: str, small_dtu: Path, guided_start: Path, tmp_path: Path
) -> None:
    """16-mixed of train_vggt died at the first step: gradients were divided by the scale twice."""
    options, trainer = train(small_dtu, tmp_path / "runs", guided_start, precision)
    assert trainer.precision == precision
    contents = torch.load(options.run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    assert (contents.get(NERF.key) or contents[VGGT_TRAINING.key])["options"]["precision"] == precision
    assert all(bool(torch.isfinite(value).all()) for value in contents["state_dict"].values())
    skipped = contents["skipped_steps"]["by_scaler"]
    assert contents["skipped_steps"]["non_finite"] == 0
    assert skipped < 3  # otherwise nothing was learned
    steps = {int(state["step"]) for state in contents["optimizer_states"][0]["state"].values()}
    assert steps == {3 - skipped}
    assert contents["lr_schedulers"][0]["last_epoch"] == 3 - skipped
    assert ("MixedPrecision" in contents) == (precision == "16-mixed")


@MIXED
def test_validation_and_evaluation_agree(
    precision: str, small_dtu: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The same views, by two commands: training validates under autocast, so evaluation does."""
    more = ("--precision", precision, "--num_val", "4", "--scans", "scan2", "--val_protocol", "full")
    options = general_options(small_dtu, tmp_path / "runs", *more)
    validated = general_run(options).callback_metrics["val/psnr"].item()
    assert capsys.readouterr().err.count(f"note: --precision {precision} on a CPU: 32-true is faster there\n") == 1
    asked = EvaluateOptions(
        **{"ckpt": str(options.run_dir / "checkpoints" / "last.ckpt"), "datadir": str(small_dtu), "scans": ("scan2",)},
        **{"n_views": 2, "protocol": "full", "out": str(tmp_path / "out"), "device": "cpu"},
    )
    metrics = evaluate(asked)
    assert len(metrics["views"]) == 4
    assert metrics["settings"]["precision"] == precision
    assert metrics["mean"]["psnr"] == pytest.approx(validated, abs=1e-4)
    single = evaluate(replace(asked, precision="32-true", out=str(tmp_path / "single")))
    assert single["settings"]["precision"] == "32-true"
    assert single["mean"]["psnr"] != pytest.approx(validated, abs=1e-4)


def test_validation_and_evaluation_of_vggt_agree(small_dtu: Path, tmp_path: Path) -> None:
    options = tiny_options(small_dtu, tmp_path, precision="bf16-mixed", max_steps=3, num_val=3)
    validated = train_run(options).callback_metrics["val/depth_absrel"].item()
    model, _ = load_weights(str(options.run_dir / "checkpoints" / "last.ckpt"))
    data = build_vggt_data(options, model.config.aggregator.patch_size)
    evaluated, single = (
        score_all(replace(options, precision=one), model, data, CPU, tmp_path / "pictures")["mean"].means()
        for one in ("bf16-mixed", "32-true")
    )
    assert evaluated["depth_absrel"] == pytest.approx(validated, rel=1e-6)
    assert single["depth_absrel"] != pytest.approx(validated, rel=1e-6)


def test_auto_depends_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolved_precision("auto", CPU) == "32-true"
    assert resolved_precision("16-mixed", CPU) == "16-mixed"
    gpu = torch.device("cuda")
    monkeypatch.setattr("training.precision.is_gpu", lambda device: device == gpu)
    for has_bfloat16, expected in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has_bfloat16: has)
        assert resolved_precision("auto", gpu) == expected
        assert resolved_precision("auto", CPU) == "32-true"


def test_the_precision_of_an_evaluation(guided_start: Path) -> None:
    record = read_nerf_checkpoint(guided_start).record
    record.options["precision"] = "bf16-mixed"
    for asked, expected in (("trained", "bf16-mixed"), ("auto", "32-true"), ("16-mixed", "16-mixed")):
        assert precision_for(RenderOptions(ckpt=str(guided_start), precision=asked), record, CPU) == expected
    del record.options["precision"]  # of a checkpoint from before the option
    assert precision_for(RenderOptions(ckpt=str(guided_start)), record, CPU) == "32-true"
    with pytest.raises(InputError, match=r"^--precision: expected one of trained, 32-true, .* got '8-bit'"):
        RenderOptions(ckpt=str(guided_start), precision="8-bit")
    with pytest.raises(InputError, match=r"^--precision: .* got 'trained'"):
        RunOptions(precision="trained")


def test_autocast_of_a_precision() -> None:
    matrix = torch.rand(3, 3)
    for precision, dtype in (
        ("32-true", torch.float32), ("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16)
    ):  # fmt: skip
        with autocast_of(precision, CPU):
            assert (matrix @ matrix).dtype == dtype


def test_resuming_in_another_precision_stops_by_name(guided_start: Path) -> None:
    """The record holds what `auto` came to."""
    record = read_nerf_checkpoint(guided_start).record
    again = dict(record.options, ckpt=str(guided_start), precision="bf16-mixed")
    again = {name: tuple(value) if isinstance(value, list) else value for name, value in again.items()}
    with pytest.raises(InputError, match=r"^--precision: .* started with '32-true', got 'bf16-mixed'"):
        general_run(GeneralOptions(**again))
    general_run(GeneralOptions(**dict(again, precision="auto", max_steps=4)))
