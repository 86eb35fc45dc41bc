"""Whole runs of train_vggt.py: files, exact resume, freezing, fine-tuning, two processes, evaluation, export."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from geometry import InputError
from models.vggt import VGGT, load_vggt
from tests.processes import launched
from tests.training.commands import command_line
from tests.training.inprocess import outcome_of_vggt
from tests.training.vggt.tiny import assert_same_tensors, contents_of, tiny_options
from training.checkpoint import EMA_KEY, read_checkpoint
from training.errors import NonFiniteError
from training.vggt.build import build_vggt_task
from training.vggt.checkpoint import VGGT_TRAINING, load_weights
from training.vggt.options import VGGTOptions
from training.vggt.runs import train_run
from training.vggt.task import VGGTTask

METRIC_KEYS = {"depth_absrel", "depth_delta125", "auc5", "auc15", "auc30", "point_error", "baselines"}


@pytest.fixture(scope="module")
def unbroken(small_dtu: Path, tmp_path_factory: pytest.TempPathFactory) -> VGGTOptions:
    """A run of 6 steps over more than one epoch, with averaged weights, that was never interrupted."""
    base = tmp_path_factory.mktemp("unbroken_vggt")
    options = tiny_options(
        small_dtu,
        base,
        max_steps=6,
        save_every=3,
        val_every=5,
        num_val=2,
        ema=0.9,
        point_weight=1.0,
        accumulate=2,
        len_train=(5,),
    )
    train_run(options)
    return options


def test_run_folder(unbroken: VGGTOptions) -> None:
    names = {path.relative_to(unbroken.run_dir).as_posix() for path in unbroken.run_dir.rglob("*") if path.is_file()}
    expected = {"config.txt", "checkpoints/last.ckpt", "checkpoints/best.ckpt", "a.safetensors", "a.json"}
    assert expected | {"validation/step_0000005_0.png", "validation/step_0000005_1.png"} <= names
    assert not [name for name in names if name.endswith(".partial")]


def test_a_limit_of_n_runs_exactly_n(unbroken: VGGTOptions) -> None:
    """The reference runs one batch more."""
    contents = contents_of(unbroken)
    assert contents["global_step"] == 6
    states = contents["optimizer_states"][0]["state"].values()
    assert {int(state["step"]) for state in states} == {6}
    assert contents["lr_schedulers"][0] == {"last_epoch": 6}


def test_the_exported_weights_are_the_averaged_ones(unbroken: VGGTOptions) -> None:
    contents = contents_of(unbroken)
    model, _ = load_vggt(unbroken.run_dir / "a.safetensors")
    from_checkpoint, identity = load_weights(str(unbroken.run_dir / "checkpoints" / "last.ckpt"))
    assert_same_tensors(model.state_dict(), from_checkpoint.state_dict())
    assert len(identity.sha256) == 64
    for name, value in contents[EMA_KEY].items():
        assert torch.equal(model.state_dict()[name], value)
    assert not torch.equal(contents["state_dict"]["model.camera_head.embed_pose.weight"], value)
    assert model.config.heads == ("camera", "depth", "point")
    json.dumps(contents[VGGT_TRAINING.key])


def test_resume_after_a_crash_is_exact(unbroken: VGGTOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, average, moments, schedule, epoch and step: the reference restarts its epochs at 0."""
    options = replace(unbroken, basedir=str(tmp_path / "runs"), expname="b")
    step = VGGTTask.training_step

    def crash_in_the_fifth(self: VGGTTask, *arguments: object) -> None:
        if self.global_step == 4:
            raise RuntimeError("power cut")
        step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(VGGTTask, "training_step", crash_in_the_fifth)
        with pytest.raises(RuntimeError, match="power cut"):
            train_run(options)
    last = options.run_dir / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 3
    train_run(replace(options, ckpt=str(last)))
    one, two = contents_of(options), contents_of(unbroken)
    assert_same_tensors(one["state_dict"], two["state_dict"])
    assert_same_tensors(one[EMA_KEY], two[EMA_KEY])
    assert one["epoch"] == two["epoch"] > 0
    for key, state in one["optimizer_states"][0]["state"].items():
        assert torch.equal(state["exp_avg_sq"], two["optimizer_states"][0]["state"][key]["exp_avg_sq"])


def test_a_run_older_than_an_option_goes_on_as_it_was(unbroken: VGGTOptions) -> None:
    """Blur was always on and portraits were turned, so that going on without would be another run."""
    checkpoint = read_checkpoint(unbroken.run_dir / "checkpoints" / "last.ckpt", VGGT_TRAINING)
    newer = ("blur", "turn_portraits", "num_tracks", "frame_sampling")
    older = {name: value for name, value in checkpoint.record.options.items() if name not in newer}
    checkpoint = replace(checkpoint, record=replace(checkpoint.record, options=older | {"expand_ratio": 3.0}))
    resume = lambda **changes: build_vggt_task(replace(unbroken, ckpt="", **changes)).resume(checkpoint)  # noqa: E731
    with pytest.raises(InputError, match=r"^--blur: the run to resume was started with True, got False"):
        resume()
    with pytest.raises(InputError, match=r"^--frame_sampling: the run to resume drew frames of dtu nearby:3, got unif"):
        resume(blur=True, turn_portraits=True, expand_ratio=(), frame_sampling=("uniform",))
    resume(blur=True, turn_portraits=True)
    resume(blur=True, turn_portraits=True, expand_ratio=(), frame_sampling=("nearby:3",))


def test_resuming_with_other_options_stops_by_name(unbroken: VGGTOptions) -> None:
    last = str(unbroken.run_dir / "checkpoints" / "last.ckpt")
    for changes in ({"seed": 3}, {"depth_weight": 2.0}, {"ema": 0.0}):
        with pytest.raises(InputError, match=f"^--{next(iter(changes))}:"):
            build_vggt_task(replace(unbroken, ckpt=last, **changes))


@pytest.fixture(scope="module")
def big_batch(small_dtu: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[VGGTOptions, float]:
    """Two steps of four groups each in one process at once, and the objective it logged last."""
    base = tmp_path_factory.mktemp("big_batch")
    options = tiny_options(small_dtu, base, n_views=(2,), max_img_per_gpu=8, max_steps=2)
    return options, train_run(options).callback_metrics["train/objective"].item()


def assert_nearly_equal_weights(options: VGGTOptions, expected: VGGTOptions) -> None:
    """Not bit-equal: sums in another order, which Adam amplifies where gradients vanish."""
    weights = contents_of(expected)["state_dict"]
    for name, value in contents_of(options)["state_dict"].items():
        torch.testing.assert_close(value, weights[name], atol=3e-4, rtol=1e-3, msg=name)


def test_parts_of_a_batch_equal_the_big_batch(big_batch: tuple[VGGTOptions, float], tmp_path: Path) -> None:
    """The objective that is logged is the same too: the reference divides it by the number of parts."""
    whole, logged = big_batch
    options = replace(whole, basedir=str(tmp_path), accumulate=3)
    assert train_run(options).callback_metrics["train/objective"].item() == pytest.approx(logged, rel=1e-4)
    assert_nearly_equal_weights(options, whole)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_equal_the_big_batch(strategy: str, big_batch: tuple[VGGTOptions, float], tmp_path: Path) -> None:
    whole, _ = big_batch
    options = replace(
        whole, basedir=str(tmp_path), max_img_per_gpu=4, devices=2, strategy=strategy, accumulate=2, checkpointing=False
    )
    results = launched([sys.executable, "train_vggt.py", *command_line(options)])
    assert [result.returncode for result in results] == [0, 0], results
    assert_nearly_equal_weights(options, whole)
    assert (options.run_dir / "a.safetensors").is_file()


def test_frozen_weights_are_bit_equal_after_training(small_dtu: Path, unbroken: VGGTOptions, tmp_path: Path) -> None:
    start = str(unbroken.run_dir / "a.safetensors")
    options = tiny_options(
        small_dtu, tmp_path, vggt_config="", vggt_ckpt=start, freeze=("*aggregator*",), accumulate=2, ema=0.5
    )
    train_run(options)
    before, after = load_file(start), load_file(options.run_dir / "a.safetensors")
    assert [
        name for name in after if name.startswith("aggregator") and not torch.equal(before[name], after[name])
    ] == []
    assert [name for name in after if name.startswith("depth_head") and not torch.equal(before[name], after[name])]
    assert not [name for name in after if name.startswith("point_head")]  # no weight in the objective, no head


@pytest.mark.parametrize("changes", [{"lora_rank": 2}, {"bias_only": True}], ids=lambda changes: next(iter(changes)))
def test_fine_tuning_of_few_parameters_is_exported_as_a_plain_network(
    changes: dict, small_dtu: Path, unbroken: VGGTOptions, tmp_path: Path
) -> None:
    start = str(unbroken.run_dir / "checkpoints" / "last.ckpt")
    options = tiny_options(small_dtu, tmp_path, init_from=start, vggt_config="", point_weight=1.0, **changes)
    train_run(options)
    before = load_weights(start)[0].state_dict()
    model, _ = load_vggt(options.run_dir / "a.safetensors")
    assert_same_tensors(
        model.state_dict(), load_weights(str(options.run_dir / "checkpoints" / "last.ckpt"))[0].state_dict()
    )
    changed = {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}
    inside = {name for name in changed if name.startswith("aggregator.")}
    assert inside
    assert all(name.endswith("bias" if "bias_only" in changes else "weight") for name in inside)


def test_a_number_that_is_none_stops_before_the_step(
    small_dtu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference logs an error and steps with what gradients there are."""
    options = tiny_options(small_dtu, tmp_path)
    monkeypatch.setattr(VGGTTask, "manual_backward", lambda self, loss: (loss * float("nan")).backward())
    stepped = []
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure: (closure(), stepped.append(1)))
    with pytest.raises(NonFiniteError, match=r"step 0: expected a finite gradient of aggregator, got nan.*dtu/scan"):
        train_run(options)
    assert stepped == []


def test_eval_only_writes_the_agreed_keys(unbroken: VGGTOptions, small_dtu: Path, tmp_path: Path) -> None:
    out = tmp_path / "m" / "metrics.json"
    config = tmp_path / "c.txt"
    config.write_text(
        "dataset_name = [procedural, co3d]\ndatadir = [-, nowhere]\nlen_train = [5, 6]\nimage_size = 40\n"
        f"eval_ckpt = {unbroken.run_dir / 'a.safetensors'}\n"
    )
    command = ["python", "train_vggt.py", "--eval_only", "--config", str(config), "--dataset_name", "dtu"]
    command += ["--datadir", str(small_dtu), "--scans", "scan2", "--out", str(out), "--max_groups", "3"]
    status, errors = outcome_of_vggt([*command, "--accelerator", "cpu", "--num_workers", "0"])
    assert status == 0, errors
    metrics = json.loads(out.read_text())
    assert metrics.keys() >= METRIC_KEYS
    assert metrics["baselines"].keys() == {"mean_depth_absrel", "identity_auc30"}
    assert metrics["num_groups"] == 3
    assert metrics["protocol"]["name"] == "neighbours"
    assert [len(group) for group in metrics["protocol"]["frames"]["dtu/scan2/light3"]] == [4, 4, 4]
    assert 0 < metrics["depth_absrel"] < 10
    assert 0 < metrics["baselines"]["mean_depth_absrel"] < 1
    assert list(metrics["scenes"]) == ["dtu/scan2/light3"]
    assert len(list((tmp_path / "m" / "metrics_pictures").glob("*.png"))) == 3


def test_a_protocol_of_published_figures_is_reported_by_name(
    unbroken: VGGTOptions, small_dtu: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Ten random frames of every sequence, histogram AUC beside the exact one, frames and seed on record."""
    out = tmp_path / "metrics.json"
    command = ["python", "train_vggt.py", "--eval_only", "--eval_ckpt", str(unbroken.run_dir / "a.safetensors")]
    command += ["--dataset_name", "dtu", "--datadir", str(small_dtu), "--image_size", "40", "--num_workers", "0"]
    command += ["--accelerator", "cpu", "--eval_protocol", "co3d-random10", "--out", str(out), "--scans"]
    status, errors = outcome_of_vggt([*command, "scan2", "scan3"])
    assert status == 0, errors
    printed = capsys.readouterr().out
    assert "protocol co3d-random10\n" in printed
    assert "hAUC@30" in printed
    metrics = json.loads(out.read_text())
    assert (metrics["protocol"]["name"], metrics["protocol"]["seed"]) == ("co3d-random10", 0)
    frames = metrics["protocol"]["frames"]
    assert set(frames) == {"dtu/scan2/light3", "dtu/scan3/light3"} == set(metrics["scenes"])
    assert all(len(set(group)) == 10 for groups in frames.values() for group in groups)
    assert (metrics["num_groups"], metrics["views_per_group"]) == (2, 10)
    means = [metrics["scenes"][name]["histogram_auc30"] for name in frames]
    assert metrics["histogram_auc30"] == pytest.approx(sum(means) / 2)
    assert metrics["category_mean"]["histogram_auc30"] == pytest.approx(sum(means) / 2)
    assert 0 <= metrics["auc30"] <= metrics["histogram_auc30"] <= 1
    assert set(metrics["categories"]) == {"dtu/scan2", "dtu/scan3"}
    assert outcome_of_vggt([*command, "scan3"])[0] == 0
    assert json.loads(out.read_text())["protocol"]["frames"] == {"dtu/scan3/light3": frames["dtu/scan3/light3"]}


def test_motions_are_reported_apart(unbroken: VGGTOptions, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "motions.json"
    command = ["python", "train_vggt.py", "--eval_only", "--eval_ckpt", str(unbroken.run_dir / "a.safetensors")]
    command += ["--dataset_name", "procedural", "--datadir", "-", "--image_size", "40", "--num_workers", "0"]
    command += ["--accelerator", "cpu", "--eval_protocol", "procedural-motions", "--max_groups", "6", "--out", str(out)]
    status, errors = outcome_of_vggt(command)
    assert status == 0, errors
    metrics = json.loads(out.read_text())
    kinds = {f"procedural/{kind}" for kind in ("rig", "orbit", "parallel", "pan", "room", "rolled")}
    assert set(metrics["scenes"]) == kinds == set(metrics["protocol"]["frames"])
    assert all(0 <= scene["auc30"] <= 1 and scene["depth_absrel"] > 0 for scene in metrics["scenes"].values())
    printed = capsys.readouterr().out
    assert all(f"\n{kind} " in printed for kind in kinds)


def test_cameras_of_the_matches_are_evaluated_by_name(
    small_dtu: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "metrics.json"
    command = ["python", "train_vggt.py", "--eval_only", "--eval_ckpt", "ckpts/vggt_nano.safetensors"]
    command += ["--dataset_name", "dtu", "--datadir", str(small_dtu), "--scans", "scan2", "--image_size", "80"]
    command += ["--accelerator", "cpu", "--num_workers", "0", "--max_groups", "1", "--out", str(out)]
    status, errors = outcome_of_vggt([*command, "--camera_matches"])
    assert status == 0, errors
    metrics = json.loads(out.read_text())
    assert (metrics["camera_source"], metrics["point_source"]) == ("matches", "depth and cameras")
    assert 0 <= metrics["matched_cameras"] <= 1
    assert "matched\n" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"--camera_matches .*--eval_only"):
        VGGTOptions(camera_matches=True)


def test_eval_only_without_depth_says_so(
    unbroken: VGGTOptions, small_dtu: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = tmp_path / "data"
    for path in sorted(small_dtu.rglob("*")):
        if "Depths" not in path.parts:
            target = data / path.relative_to(small_dtu)
            target.mkdir(parents=True, exist_ok=True) if path.is_dir() else target.symlink_to(path)
    out = tmp_path / "metrics.json"
    options = replace(
        unbroken, eval_only=True, datadir=(str(data),), scans=("scan2",), max_groups=1, out=str(out),
        init_from=str(unbroken.run_dir / "checkpoints" / "best.ckpt"), vggt_config="",
    )  # fmt: skip
    assert outcome_of_vggt(["python", "train_vggt.py", *command_line(options)])[0] == 0
    assert "no depth maps" in capsys.readouterr().out
    metrics = json.loads(out.read_text())
    assert metrics["depth_absrel"] is metrics["point_error"] is metrics["baselines"]["mean_depth_absrel"] is None
    assert metrics["auc30"] is not None


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--out", "{}"], "--out {}: expected a file name, got a folder"),
        (["--out", "{}/file/metrics.json"], "--out {}/file/metrics.json: expected a folder that can be written"),
        (["--accelerator", "hope"], "--accelerator hope: not possible here"),
        (["--camera_matches"], "a.safetensors: expected a network with a match stem"),
        (["--dataset_name", "dtuu"], "expected some of blendedmvs, blender, co3d, colmap"),
        (["--ckpt", "{}/other.ckpt"], "other.ckpt: expected a record of this version"),
        (
            ["--ckpt", "{}/empty.ckpt"],
            "empty.ckpt: expected a record of this version, got one without or with other 'lora_alpha'",
        ),
    ],
)
def test_a_mistake_in_an_evaluation_is_one_line_before_the_work(
    more: list[str], named: str, unbroken: VGGTOptions, small_dtu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    torch.save({"state_dict": {}, VGGT_TRAINING.key: 5}, tmp_path / "other.ckpt")
    record = {"config": {}, "start": "", "start_sha256": "", "options": {}, "commit": ""}
    torch.save({"state_dict": {}, VGGT_TRAINING.key: record}, tmp_path / "empty.ckpt")
    command = ["python", "train_vggt.py", "--eval_only", "--eval_ckpt", str(unbroken.run_dir / "a.safetensors")]
    command += ["--image_size", "40", "--num_workers", "0", "--dataset_name", "dtu", "--datadir", str(small_dtu)]
    command += ["--out", str(tmp_path / "m.json"), "--accelerator", "cpu", *(one.format(tmp_path) for one in more)]
    monkeypatch.setattr(VGGT, "forward", lambda *arguments, **more: pytest.fail("it began"))
    status, errors = outcome_of_vggt(command)
    assert status == 2, errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert named.format(tmp_path) in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.ckpt", "file", "other.ckpt"]


def test_export_in_half_precision_loads_back(unbroken: VGGTOptions, tmp_path: Path) -> None:
    start, out = unbroken.run_dir / "checkpoints" / "last.ckpt", tmp_path / "w" / "small.safetensors"
    command = ["python", "train_vggt.py", "--export", str(out), "--init_from", str(start)]
    assert outcome_of_vggt([*command, "--export_dtype", "float16"])[0] == 0
    model, _ = load_vggt(out)
    for name, value in load_weights(str(start))[0].state_dict().items():
        assert torch.equal(model.state_dict()[name], value.half().float())
    assert out.stat().st_mode == out.with_suffix(".json").stat().st_mode
    assert out.stat().st_size < 0.6 * (unbroken.run_dir / "a.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--datadir", "/nowhere"], "--datadir"),
        (["--dataset_name", "dtu", "co3d"], "--datadir"),
        (["--len_train", "1", "2", "3"], "--len_train"),
        (["--image_size", "41"], "--image_size"),
        (["--max_img_per_gpu", "1"], "--max_img_per_gpu"),
        (["--camera_weight", "0", "--depth_weight", "0"], "--camera_weight"),
        (["--freeze", "*encoder*"], "--freeze *encoder*"),
        (["--vggt_ckpt", "x.safetensors"], "--vggt_config"),
        (["--ema", "1"], "--ema"),
        (["--export", "x.safetensors"], "--export"),
        (["--eval_only"], "--eval_only"),
        (["--init_from", "absent.ckpt"], "absent.ckpt"),
        (["--strategy", "hope"], "--strategy hope"),
        (["--strategy", "fsdp", "--ema", "0.9"], "--ema and --strategy fsdp"),
        (["--export_dtype", "int8"], "--export_dtype"),
    ],
)
def test_a_users_mistake_is_one_line_and_leaves_nothing(
    more: list[str], named: str, small_dtu: Path, tmp_path: Path
) -> None:
    command = command_line(tiny_options(small_dtu, tmp_path))
    status, errors = outcome_of_vggt(["python", "train_vggt.py", *command, *more])
    assert status == 2, errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert named in errors
    assert not (tmp_path / "runs").exists()
