"""train_occupancy.py on tiny worlds: exact resume, what ends a run, what stays, evaluation, every flag's right way."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.commands import command_line
from tests.training.inprocess import outcome_of_occupancy
from tests.training.occupancy.tiny import OCCWORLD, tiny_options
from training.checkpoint import read_checkpoint
from training.cli import parse_options
from training.occupancy.build import build_data, build_task
from training.occupancy.checkpoint import OCCUPANCY_TRAINING, load_weights, newest_checkpoint
from training.occupancy.options import TRANSFORMER, OccupancyOptions
from training.occupancy.runs import train_run
from training.occupancy.task import OccupancyTask


def checkpoints(options: OccupancyOptions) -> Path:
    return options.run_dir / "checkpoints"


def weights_of(options: OccupancyOptions, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    return read_checkpoint(checkpoints(options) / name, OCCUPANCY_TRAINING).weights


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name, value in one.items() if not torch.equal(value, other[name])]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> OccupancyOptions:
    """Five steps of two epochs, all augmentation on, checkpoints of each epoch kept but only the newest."""
    options = tiny_options(
        tmp_path_factory.mktemp("unbroken"), max_steps=5, num_worlds=4, save_every=1, keep_every=1, keep=1,
        aug_flip=0.5, aug_rotation=20.0, aug_scale=(0.9, 1.1), aug_voxel_dropout=0.05, aug_voxel_flip=0.02,
    )  # fmt: skip
    train_run(options)
    return options


def test_sigterm_saves_and_ends_well_and_resume_is_exact(
    unbroken: OccupancyOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """In the middle of an epoch; `--resume` finds the checkpoint by itself."""
    broken = replace(unbroken, basedir=str(tmp_path))
    step = OccupancyTask.training_step

    def asked_in_the_third(self: OccupancyTask, *arguments: object) -> torch.Tensor:
        if self.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *arguments)  # type: ignore[arg-type]

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(OccupancyTask, "training_step", asked_in_the_third)
        assert outcome_of_occupancy(command_line(broken))[0] == 0
    assert signal.getsignal(signal.SIGTERM) is before
    assert "SIGTERM: stopped after step 3" in capsys.readouterr().out
    assert not (broken.run_dir / "a.safetensors").exists()
    assert read_checkpoint(checkpoints(broken) / "last.ckpt", OCCUPANCY_TRAINING).contents["global_step"] == 3
    status, errors = outcome_of_occupancy([*command_line(broken), "--resume", "--num_workers", "0"])
    assert status == 0, errors
    assert differing(weights_of(broken), weights_of(unbroken)) == []


def test_only_so_many_checkpoints_stay_and_nothing_else_goes(unbroken: OccupancyOptions, tmp_path: Path) -> None:
    names = {path.name for path in checkpoints(unbroken).iterdir()}
    assert names == {"last.ckpt", "last.ckpt.previous", "best.ckpt", "step_0000005.ckpt"}
    kept = tmp_path / "mine.ckpt"
    kept.write_bytes((checkpoints(unbroken) / "step_0000005.ckpt").read_bytes())
    other = replace(unbroken, basedir=str(tmp_path), ckpt=str(kept), keep_every=0)
    train_run(other)
    assert kept.is_file()  # small as it is
    assert differing(weights_of(other), weights_of(unbroken)) == []


def test_the_newest_checkpoint_has_made_the_most_steps(unbroken: OccupancyOptions, tmp_path: Path) -> None:
    """Not the last of the alphabet, not the youngest file, not one that is none."""
    last = checkpoints(unbroken) / "last.ckpt"
    (tmp_path / "epoch_10.ckpt").write_bytes(last.read_bytes())
    torch.save(read_checkpoint(last, OCCUPANCY_TRAINING).contents | {"global_step": 4}, tmp_path / "epoch_9.ckpt")
    (tmp_path / "zzz.ckpt").write_bytes(b"cut off")
    assert newest_checkpoint(tmp_path).name == "epoch_10.ckpt"
    assert (tmp_path / "zzz.ckpt").is_file()


def test_without_validation_training_goes_on(tmp_path: Path) -> None:
    """One warning, rates that fall to their floor, the last checkpoint as the best."""
    options = tiny_options(tmp_path, num_val_worlds=0, max_steps=3)
    status, errors = outcome_of_occupancy(command_line(options))
    assert status == 0, errors
    assert errors.count("no validation windows") == 1
    assert differing(weights_of(options, "best.ckpt"), weights_of(options)) == []
    schedule = read_checkpoint(checkpoints(options) / "last.ckpt", OCCUPANCY_TRAINING).contents["lr_schedulers"][0]
    optimizer = read_checkpoint(checkpoints(options) / "last.ckpt", OCCUPANCY_TRAINING).contents["optimizer_states"][0]
    assert schedule["last_epoch"] == 3
    assert optimizer["param_groups"][0]["lr"] == pytest.approx(options.lrate_final)


def test_frozen_parts_are_bit_equal_after_training(tmp_path: Path) -> None:
    options = tiny_options(tmp_path, freeze=("motion",), motion="predicted")
    train_run(options)
    start = build_task(options, build_data(options)).model.state_dict()
    changed = differing(weights_of(options), start)
    assert changed
    assert not [name for name in changed if name.startswith("motion.")]


def test_occworld_trains_in_two_stages(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The tokenizer stays as it is in the second, which reports plans by both conventions."""
    sizes = tmp_path / "sizes.json"
    sizes.write_text(json.dumps(OCCWORLD))
    first = tiny_options(
        tmp_path, model="occworld", model_config=str(sizes), steps_per_window=0, restart_after=1, max_steps=3,
        schedule="occworld",
    )  # fmt: skip
    task_weights = weights_of(first) if train_run(first).state.finished else {}
    counters = read_checkpoint(checkpoints(first) / "last.ckpt", OCCUPANCY_TRAINING).contents["unused_steps"]
    assert len(counters) == 16
    assert max(counters) <= 1
    second = replace(first, expname="b", stage=TRANSFORMER, init_from=str(first.run_dir / "a.safetensors"), max_steps=2)
    train_run(second)
    changed = differing(weights_of(second), task_weights)
    assert changed
    assert not [name for name in changed if name.startswith("vae.")]
    out = tmp_path / "metrics.json"
    evaluated = replace(
        second, init_from="", eval_only=True, eval_ckpt=str(second.run_dir / "b.safetensors"), out=str(out)
    )
    status, errors = outcome_of_occupancy(command_line(evaluated))
    assert status == 0, errors
    rows = json.loads(out.read_text())["rows"]
    assert list(rows)[:3] == ["model", "model without plan", "model with another's plan"]
    plan = rows["model"]["planning"]
    assert plan["l2_prefix_mean"][1] == pytest.approx((plan["l2_at"][0] + plan["l2_at"][1]) / 2, rel=1e-5)


@pytest.mark.parametrize("model", ["simple", "sixdof"])
def test_the_guides_models_train_by_the_same_command(model: str, tmp_path: Path) -> None:
    sizes = tmp_path / "sizes.json"
    sizes.write_text('{"width": 4, "latent": 8}')
    options = tiny_options(tmp_path, model=model, model_config=str(sizes), steps_per_window=0, max_steps=1)
    trainer = train_run(options)
    assert torch.isfinite(trainer.callback_metrics["train/objective"])
    assert ("train/place" in trainer.callback_metrics) == (model == "sixdof")


def test_eval_only_writes_every_row(unbroken: OccupancyOptions, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "metrics.json"
    weights = unbroken.run_dir / "a.safetensors"
    options = replace(unbroken, eval_only=True, eval_ckpt=str(weights), out=str(out), occ_threshold=0.4)
    status, errors = outcome_of_occupancy(command_line(options))
    assert status == 0, errors
    metrics = json.loads(out.read_text())
    names = ["empty", "persistence", "mean map", "constant-velocity warp", "true-motion warp"]
    assert list(metrics["rows"]) == ["model", "model without plan", "model with another's plan", *names]
    assert (metrics["num_windows"], metrics["threshold"]) == (2, 0.4)
    assert metrics["rows"]["persistence"]["strata"]["changed"]["iou"] == 0
    assert len(metrics["rows"]["model"]["iou_per_step"]["non_ground"]) == 2
    assert out.with_suffix(".png").is_file()
    assert "true-motion warp" in capsys.readouterr().out
    loaded = load_weights(str(weights))
    assert (loaded.plan.history, loaded.plan.future) == (2, 2)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--num_val_worlds", "0"], "--eval_split test: expected windows"),
        (["--history", "3"], "--history: the weights"),
        (["--voxel", "2", "2", "4"], "grid: the weights"),
    ],
)
def test_eval_only_refuses_other_data_than_the_weights(
    more: list[str], named: str, unbroken: OccupancyOptions, tmp_path: Path
) -> None:
    out = tmp_path / "metrics.json"
    options = replace(unbroken, eval_only=True, eval_ckpt=str(unbroken.run_dir / "a.safetensors"), out=str(out))
    status, errors = outcome_of_occupancy([*command_line(options), *more])
    assert status == 2
    assert errors.startswith("error: ")
    assert named in errors
    assert not list(tmp_path.iterdir())


def test_a_misspelt_key_of_a_config_stops(tmp_path: Path) -> None:
    config = tmp_path / "config.txt"
    config.write_text("focal_alfa = 0.9\n")
    status, errors = outcome_of_occupancy(["--config", str(config)])
    assert status == 2
    assert "focal_alfa" in errors


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--wandb"], "--wandb"),
        (["--batch_size", "0"], "--batch_size"),
        (["--lr", "0"], "--lrate"),
        (["--num_epochs", "0"], "--num_epochs"),
        (["--resume"], "--resume"),
        (["--resume_from", "missing.ckpt"], "missing.ckpt"),
        (["--resume", "--from_scratch"], "--from_scratch and --resume"),
        (["--resume", "--ckpt", "x.ckpt"], "--resume and --ckpt"),
        (["--init_allow", "motion"], "--init_allow motion"),
        (["--eval_only"], "--eval_only"),
        (["--eval_only", "--eval_split", "train"], "--eval_split"),
        (["--aug_point_noise", "0.05"], "--aug_point_noise"),
        (["--model_type", "vae"], "--model"),
        (["--model", "simple"], "--steps_per_window"),
        (["--model", "occworld", "--steps_per_window", "0", "--stage", "transformer"], "--stage transformer"),
        (["--use_transformer"], "--use_transformer"),
        (["--focal_alpha", "much"], "--focal_alpha"),
        (["--occ_threshold", "1"], "--occ_threshold"),
        (["--freeze", "vae"], "--freeze vae"),
        (["--freeze", "*"], "--freeze *"),
        (["--restart_after", "3"], "--restart_after"),
        (["--levels", "9"], "--levels 9"),
        (["--eval_only", "--ckpt", "a", "--eval_ckpt", "b"], "--ckpt and --eval_ckpt"),
        (["--eval_only", "--eval_ckpt", "ckpts/occupancy_world.safetensors", "--out", "a.png"], "--out a.png"),
        (["--precision", "fp8"], "--precision"),
        (["--voxel", "4", "4"], "--voxel"),
        (["--schedule", "step"], "--schedule"),
        (["--accelerator", "gpu"], "--accelerator gpu"),
    ],
)
def test_a_users_mistake_is_one_line_and_leaves_nothing(more: list[str], named: str, tmp_path: Path) -> None:
    status, errors = outcome_of_occupancy([*command_line(tiny_options(tmp_path / "runs")), *more])
    assert status == 2, errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert named in errors
    assert not (tmp_path / "runs").exists()


def test_weights_that_do_not_fit_stop_unless_their_prefix_may_differ(
    unbroken: OccupancyOptions, tmp_path: Path
) -> None:
    options = replace(
        unbroken, basedir=str(tmp_path), future=1, init_from=str(unbroken.run_dir / "a.safetensors"), max_steps=1
    )
    status, errors = outcome_of_occupancy(command_line(options))
    assert status == 2
    assert "motion.decode" in errors
    allowed = replace(options, init_allow=("motion", "unet.conditions"))
    train_run(allowed)
    task = build_task(allowed, build_data(allowed))
    kept = load_weights(str(unbroken.run_dir / "a.safetensors")).network.state_dict()
    assert torch.equal(task.model.state_dict()["unet.out.weight"], kept["unet.out.weight"])


def test_the_guides_values_are_the_defaults() -> None:
    options = parse_options(OccupancyOptions, "test", [])
    assert (options.history, options.future, options.batch_size, options.num_epochs) == (4, 6, 3, 50)
    assert (options.lrate, options.lrate_final, options.weight_decay, options.grad_clip) == (1e-4, 1e-6, 0.01, 35)
    assert (options.warmup_steps, options.warmup_ratio, options.seed, options.keep_every, options.keep) == (
        *(100, 0.1, 42, 5),
        3,
    )
    weights = options.occupancy_weights
    assert (weights.focal, weights.alpha, weights.gamma, weights.dice, weights.mean_match) == (1, 0.99, 2, 1, 10)
    assert (weights.lovasz, weights.recall) == (0, 0)
    poses = options.pose_weights
    assert (poses.pose, poses.uncertainty, poses.relocalization, poses.place) == (0.5, 0.1, 0.2, 0.1)
    assert (options.quantizer_weight, options.class_weight, options.planning_weight) == (1, 10, 0.1)
    assert parse_options(OccupancyOptions, "test", ["--focal_alpha", "dynamic"]).occupancy_weights.alpha is None
