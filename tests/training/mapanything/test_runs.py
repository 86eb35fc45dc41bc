"""train_mapanything.py on tiny scenes: exact resume, other networks, evaluation, mistakes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.wai.covisibility import main as covisibility_command
from geometry import InputError
from models.mapanything import MapAnything, load_mapanything
from tests.data.wai.scenes import write_wall
from tests.training.commands import command_line
from tests.training.inprocess import outcome_of_mapanything
from tests.training.mapanything.tiny import IMAGES_ONLY, SIZES, tiny_options, write_sizes
from tests.training.vggt.tiny import write_sizes as write_vggt_sizes
from training.checkpoint import read_checkpoint
from training.cli import parse_options
from training.errors import NonFiniteError
from training.mapanything.build import build_task
from training.mapanything.checkpoint import MAPANYTHING_TRAINING
from training.mapanything.options import MapAnythingOptions
from training.mapanything.runs import train_run
from training.mapanything.task import MapAnythingTask


def weights_of(options: MapAnythingOptions) -> dict[str, torch.Tensor]:
    return read_checkpoint(options.run_dir / "checkpoints" / "last.ckpt", MAPANYTHING_TRAINING).weights


@pytest.fixture(scope="module")
def unbroken(small_dtu: Path, tmp_path_factory: pytest.TempPathFactory) -> MapAnythingOptions:
    """Four steps with drawn inputs."""
    options = tiny_options(small_dtu, tmp_path_factory.mktemp("unbroken"), max_steps=4, save_every=2)
    train_run(options)
    return options


def test_resume_after_a_crash_is_exact(
    unbroken: MapAnythingOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, moments, schedule, and the inputs that were drawn."""
    broken = replace(unbroken, basedir=str(tmp_path))
    step = MapAnythingTask.training_step

    def crash_in_the_fourth(self: MapAnythingTask, *arguments: object) -> torch.Tensor:
        if self.global_step == 3:
            raise RuntimeError("power cut")
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(MapAnythingTask, "training_step", crash_in_the_fourth)
        with pytest.raises(RuntimeError, match="power cut"):
            train_run(broken)
    half = broken.run_dir / "checkpoints" / "last.ckpt"
    assert read_checkpoint(half, MAPANYTHING_TRAINING).contents["global_step"] == 2
    train_run(replace(broken, ckpt=str(half)))
    expected = weights_of(unbroken)
    assert [name for name, value in weights_of(broken).items() if not torch.equal(value, expected[name])] == []


def test_finished_weights_load_strictly(unbroken: MapAnythingOptions) -> None:
    loaded = load_mapanything(unbroken.run_dir / "a.safetensors")
    expected = weights_of(unbroken)
    assert all(torch.equal(value, expected[name]) for name, value in loaded.model.state_dict().items())


def test_a_part_with_rate_0_is_bit_equal_after_training(small_dtu: Path, tmp_path: Path) -> None:
    options = tiny_options(small_dtu, tmp_path, part_lrates=("encoder=0", "pose_head=1e-2:1e-4"))
    train_run(options)
    start = build_task(options).model.state_dict()
    same = {name for name, value in weights_of(options).items() if torch.equal(value, start[name])}
    frozen = {name for name in start if name.startswith("encoder.")}
    assert frozen <= same
    assert not [name for name in same - frozen if name.startswith("pose_head.")]


@pytest.fixture(scope="module")
def wai_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes of a wall with their covisibility."""
    root = tmp_path_factory.mktemp("wai")
    for name in ("a", "b", "c"):
        write_wall(root / name, 5)
    covisibility_command([str(root), "--long_side", "32"])
    return root


CONFIGS = sorted((Path(__file__).parents[3] / "configs" / "mapanything").glob("*_*.txt"))
"""But for rooms.txt, which is a documented command and runs as such."""


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_trains_at_toy_size(config: Path, wai_root: Path, tmp_path: Path) -> None:
    """All but sizes and paths is the config's: data sets, aspects, sampling, loss, inputs, rates of parts."""
    base = parse_options(MapAnythingOptions, "test", ["--config", str(config)])
    sizes = write_vggt_sizes(tmp_path) if base.model == "vggt" else write_sizes(tmp_path)
    if base.model == "pi3":
        sizes = write_sizes(tmp_path, **IMAGES_ONLY)
    options = replace(
        base, model_config=str(sizes), model_ckpt="", datadir=(str(wai_root),) * len(base.dataset_name),
        dinov2_ckpt=str(write_dinov2(tmp_path / "dino.pt")) if base.dinov2_ckpt else "",
        len_train=(4,), image_size=40, n_views=(2, 3), max_img_per_gpu=4, eval_views=2, num_val=1, max_steps=2,
        precision="bf16-mixed" if config.stem == "main_stage2" else "32-true",
        eval_inputs=base.eval_inputs[:1], num_workers=0, accelerator="cpu", basedir=str(tmp_path / "runs"),
    )  # fmt: skip
    trainer = train_run(options)
    assert torch.isfinite(trainer.callback_metrics["train/objective"])
    assert (options.run_dir / f"{options.expname}.safetensors").is_file()
    if base.dataset_name[0] == "wai" and base.model == "mapanything":
        assert trainer.callback_metrics["train/scale"] > 0  # the wall is in meters


def write_dinov2(path: Path) -> Path:
    """Weights by a DINOv2's names: one block of the encoder of `tiny.SIZES`, two of its attention over views."""
    model = MapAnything.from_config(SIZES).state_dict()
    encoder = {name.removeprefix("encoder.model."): 0.5 * v for name, v in model.items() if name.startswith("encoder.")}
    blocks = {
        f"blocks.{block + 1}.{name.removeprefix(prefix)}": 0.5 * value
        for block in range(2)
        for name, value in model.items()
        if name.startswith(prefix := f"info_sharing.self_attention_blocks.{block}.")
    }
    torch.save(encoder | blocks | {"norm.weight": torch.ones(16), "mask_token": torch.zeros(1, 16)}, path)
    return path


def test_dinov2_starts_encoder_and_attention_over_views(small_dtu: Path, tmp_path: Path) -> None:
    path = write_dinov2(tmp_path / "dino.pt")
    options = tiny_options(small_dtu, tmp_path)
    plain, started = (build_task(one).model.state_dict() for one in (options, replace(options, dinov2_ckpt=str(path))))
    stored = torch.load(path)
    shared = "info_sharing.self_attention_blocks."
    assert torch.equal(started["encoder.model.blocks.0.mlp.fc1.weight"], stored["blocks.0.mlp.fc1.weight"])
    assert torch.equal(started[f"{shared}1.attn.qkv.weight"], stored["blocks.2.attn.qkv.weight"])
    same = {name for name, value in started.items() if torch.equal(value, plain[name])}
    assert not any(name.startswith(("encoder.", f"{shared}0.", f"{shared}1.")) and name.endswith("weight") and
                   "norm" not in name for name in same)  # fmt: skip
    assert {name for name in started if name.startswith((f"{shared}2.", f"{shared}3.", "pose_head."))} <= same
    torch.save({**stored, "blocks.5.attn.qkv.weight": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"do not fit the network.*1 unexpected"):
        build_task(replace(options, dinov2_ckpt=str(path)))


def test_eval_only_reports_every_preset_beside_baselines(
    unbroken: MapAnythingOptions, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "metrics.json"
    options = replace(
        unbroken, eval_only=True, eval_ckpt=str(unbroken.run_dir / "a.safetensors"), scans=("scan2",), max_groups=2,
        eval_inputs=("images", "everything"), out=str(out), model_config="",
    )  # fmt: skip
    status, errors = outcome_of_mapanything(command_line(options))
    assert status == 0, errors
    metrics = json.loads(out.read_text())
    assert list(metrics["inputs"]) == ["images", "everything"]
    assert set(metrics["baselines"]) == {"constant depth, same cameras", "images of another group"}
    assert metrics["num_groups"] == 2
    images, everything = metrics["inputs"].values()
    assert images != everything
    assert all(value is not None and value >= 0 for value in images.values())
    assert "points" in capsys.readouterr().out


def test_an_objective_that_is_too_large_stops(small_dtu: Path, tmp_path: Path) -> None:
    options = tiny_options(small_dtu, tmp_path, max_objective=1e-3)
    with pytest.raises(NonFiniteError, match=r"step 0: expected a finite loss.*above --max_objective 0.001"):
        train_run(options)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--model", "dust3r"], "--model"),
        (["--loss", "v2"], "--loss"),
        (["--inputs", "video"], "--inputs"),
        (["--eval_inputs", "video"], "--eval_inputs"),
        (["--part_lrates", "encoder"], "--part_lrates"),
        (["--part_lrates", "decoder=1e-5"], "--part_lrates decoder"),
        (["--model", "vggt", "--inputs", "posed"], "--inputs posed"),
        (["--model", "vggt", "--input_overall", "0.5"], "--input_overall"),
        (["--model", "vggt", "--eval_inputs", "posed"], "--eval_inputs posed"),
        (["--inputs", "images", "--input_overall", "0.5"], "--input_overall"),
        (["--model_ckpt", "x.safetensors"], "--model_config"),
        (["--eval_only"], "--eval_only"),
        (["--model", "pi3", "--model_ckpt", __file__, "--model_config", ""], "pi3's own weights are not read"),
        (["--dinov2_ckpt", "x.pt", "--model", "vggt"], "--dinov2_ckpt"),
        (["--aspect", "1", "0.5", "0.01"], "--aspect"),
    ],
)
def test_a_users_mistake_is_one_line_and_leaves_nothing(
    more: list[str], named: str, small_dtu: Path, tmp_path: Path
) -> None:
    status, errors = outcome_of_mapanything([*command_line(tiny_options(small_dtu, tmp_path)), *more])
    assert status == 2, errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert named in errors
    assert not (tmp_path / "runs").exists()
