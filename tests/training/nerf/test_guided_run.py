"""The guided sampler through the scripts: train, evaluate, fine-tune; what it refuses."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import render.evaluate
import render.video
from geometry import InputError, SceneBatch
from models.nerf.guided.scene_field import Surfaces
from render.evaluate import evaluate
from render.loading import load_for
from render.options import EvaluateOptions, RenderOptions
from tests.render.tiny import write_backbone
from tests.training.commands import tiny_arguments
from tests.training.inprocess import outcome_of_finetune, outcome_of_general
from training.checkpoint import EMA_KEY, AtomicCheckpointIO
from training.cli import parse_options
from training.nerf.build import build_data
from training.nerf.checkpoint import read_nerf_checkpoint
from training.nerf.finetune import SceneFieldTask
from training.nerf.options import FinetuneOptions, GeneralOptions
from training.nerf.task import NerfTask, SceneTask
from training.run_task import RunTask

GUIDED = (
    "--vggt_ckpt",
    "none",
    "--sampler",
    "guided",
    "--sweep_planes",
    "12",
    "--N_guided",
    "3",
    "--n_views",
    "2",
    "3",
)


def test_train_evaluate_finetune(small_dtu: Path, tmp_path: Path) -> None:
    base = tmp_path / "runs"
    common = (*GUIDED, "--depth_loss", "0.1", "--save_every", "3", "--max_steps", "3", "--ema", "0.5")
    status, errors = outcome_of_general(
        tiny_arguments("train_general.py", small_dtu, base, *common, "--expname", "whole")
    )
    assert status == 0, errors
    last = base / "whole" / "checkpoints" / "last.ckpt"
    whole = read_nerf_checkpoint(last)
    record, averaged = whole.record, whole.contents[EMA_KEY]
    density = "network.field.density.0.weight"
    assert set(averaged) == set(whole.weights)
    assert torch.equal(whole.network().state_dict()[density], averaged[density])
    assert not torch.equal(whole.contents["state_dict"][f"model.{density}"], averaged[density])
    spec = record.renderer
    assert (spec.sampler, spec.config.sweep_planes, spec.samples.N_guided) == ("guided", 12, 3)
    metrics = evaluate(
        EvaluateOptions(
            ckpt=str(last),
            datadir=str(small_dtu),
            scans=("scan2",),
            protocol="dtu-nearest3",
            out=str(tmp_path / "out"),
            device="cpu",
            N_guided=4,
        )
    )
    assert (metrics["settings"]["sampler"], metrics["settings"]["N_guided"]) == ("guided", 4)
    assert metrics["mean"]["psnr"] > 3
    with pytest.raises(InputError, match=r"--N_samples 8: belongs to --sampler hierarchical; .*last.ckpt has"):
        load_for(RenderOptions(ckpt=str(last), N_samples=8), read_nerf_checkpoint(last), torch.device("cpu"))
    other = tiny_arguments("train_general.py", small_dtu, base, "--vggt_ckpt", "none", "--init_from", str(last))
    assert (
        "expected a general checkpoint with --sampler hierarchical, got a general one" in outcome_of_general(other)[1]
    )
    more = ("--expname", "f", "--scans", "scan2", "--init_from", str(last), "--max_steps", "3", "--N_guided", "3")
    status, errors = outcome_of_finetune(tiny_arguments("train_finetune.py", small_dtu, base, *more))
    assert status == 0, errors
    assert read_nerf_checkpoint(base / "f" / "checkpoints" / "last.ckpt").record.renderer.sampler == "guided"


resume = RunTask.resume


@contextmanager
def stopped_at_save(number: int) -> Iterator[None]:
    """A run in the block ends right after it has written that checkpoint, counted from 1."""

    class Stopped(Exception):
        pass

    saves, save = iter(range(1, 100)), AtomicCheckpointIO.save_checkpoint

    def save_and_stop(self: AtomicCheckpointIO, *args: object, **kwargs: object) -> None:
        save(self, *args, **kwargs)
        if next(saves) == number:
            raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AtomicCheckpointIO, "save_checkpoint", save_and_stop)
        with pytest.raises(Stopped):
            yield


def stopped_and_resumed(
    outcome: Callable[[list[str]], tuple[int, str]], command: dict[str, list[str]], base: Path, *, save_number: int = 1
):
    """Checkpoints of an unbroken run and of one that stopped at one of its saves and was taken up again."""
    last = {name: base / name / "checkpoints" / "last.ckpt" for name in command}
    status, errors = outcome(command["whole"])
    assert status == 0, errors
    with stopped_at_save(save_number):
        outcome(command["broken"])
    status, errors = outcome([*command["broken"], "--ckpt", str(last["broken"])])
    assert status == 0, errors
    return (read_nerf_checkpoint(last[name]).contents for name in ("whole", "broken"))


def require_equal(one: dict, other: dict) -> None:
    assert one["global_step"] == other["global_step"]
    torch.testing.assert_close(one["state_dict"], other["state_dict"], rtol=0, atol=0)
    torch.testing.assert_close(one["optimizer_states"], other["optimizer_states"], rtol=0, atol=0)


def test_resume_is_exact(small_dtu: Path, tmp_path: Path) -> None:
    """Stopped after two of four steps and taken up again: weights and the optimizer's moments bit for bit the same."""
    base = tmp_path / "runs"
    common = (*GUIDED, "--depth_loss", "0.1", "--save_every", "2", "--max_steps", "4")
    command = {
        name: tiny_arguments("train_general.py", small_dtu, base, *common, "--expname", name)
        for name in ("whole", "broken")
    }
    require_equal(*stopped_and_resumed(outcome_of_general, command, base))


@pytest.fixture(scope="module")
def guided_general(small_dtu: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A general checkpoint that a field of a scene can be learned from."""
    tmp_path = tmp_path_factory.mktemp("guided_general")
    base, start = tmp_path / "runs", tmp_path / "start.ckpt"
    vggt = f"random:{write_backbone(tmp_path / 'heads.json', with_depth=True)}"
    general = (*GUIDED, "--vggt_ckpt", vggt, "--depth_prior", "--max_steps", "3", "--expname", "g")
    assert outcome_of_general(tiny_arguments("train_general.py", small_dtu, base, *general))[0] == 0
    return (base / "g" / "checkpoints" / "last.ckpt").rename(start)


@pytest.mark.parametrize(
    ("save_number", "part"),
    [(1, "scene_field"), (2, "scene_field"), (3, "finetune")],
    ids=["first", "between", "second"],
)
def test_resume_of_finetuning_with_a_scene_field_is_exact(
    save_number: int, part: str, guided_general: Path, small_dtu: Path, tmp_path: Path
) -> None:
    """Stopped while the field learns, when it has learned, or while the rest learns; taken up again by one command."""
    base, start = tmp_path / "runs", guided_general
    common = ("--init_from", str(start), "--scans", "scan2", "--N_guided", "3", "--n_views", "2", "--color_loss", "0.1")
    common += ("--scene_field", "8", "--scene_field_steps", "3", "--warmup_steps", "1", "--max_steps", "6")
    command = {
        name: tiny_arguments("train_finetune.py", small_dtu, base, *common, "--save_every", "2", "--expname", name)
        for name in ("whole", "broken")
    }
    tasks = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunTask, "resume", lambda self, start: (tasks.append(self.task), resume(self, start))[1])
        one, other = stopped_and_resumed(outcome_of_finetune, command, base, save_number=save_number)
    assert tasks == [part]
    require_equal(one, other)
    if save_number > 1:
        return
    begun = read_nerf_checkpoint(start).contents["state_dict"]
    name = next(name for name in begun if name.startswith("model.network.coarse") and name.endswith("weight"))
    assert (one["state_dict"][name] - begun[name]).abs().max() > 0
    assert one["state_dict"]["model.network.scene_field.grids.0"].abs().max() > 0
    learned = [int(state["step"]) for state in one["optimizer_states"][0]["state"].values()]
    assert set(learned) == {3}
    assert one["global_step"] == 3
    longer = [*command["whole"], "--expname", "short", "--max_steps", "-1", "--scene_field_steps", "4000"]
    status, errors = outcome_of_finetune(longer)
    assert status != 0
    assert "--scene_field_steps 4000 and as many --warmup_steps 1 behind them: expected fewer than the run's" in errors
    last = base / "whole" / "checkpoints" / "last.ckpt"
    contents = torch.load(last, weights_only=True)
    del contents["state_dict"]["model.network.scene_field.grids.0"]
    torch.save(contents, last)
    status, errors = outcome_of_finetune([*command["whole"], "--ckpt", str(last)])
    assert status != 0
    assert "expected the weights of this architecture" in errors


def test_options_of_the_other_sampler_stop_every_command(
    guided_general: Path, small_dtu: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """By name, in both trainings, in the evaluation and in the video."""
    named = "error: --N_samples 7: belongs to --sampler hierarchical; "
    where = ["--datadir", str(small_dtu), "--N_samples", "7", "--N_guided", "2"]
    status, errors = outcome_of_general(
        ["python", "train_general.py", "--config", "configs/nerf/dtu_guided.txt", *where]
    )
    assert (status, errors.startswith(named), errors.count("\n")) == (2, True, 1)
    command = ["python", "train_finetune.py", "--init_from", str(guided_general), "--scans", "scan2", *where]
    status, errors = outcome_of_finetune(command)
    assert (status, errors.startswith(named), errors.count("\n")) == (2, True, 1)
    rendered = ["--ckpt", str(guided_general), *where, "--device", "cpu"]
    for main, own in (
        (render.evaluate.main, ["--scans", "scan2", "--out", str(tmp_path / "out")]),
        (render.video.main, ["--scan", "scan2", "--out", str(tmp_path / "video.mp4")]),
    ):
        with pytest.raises(SystemExit):
            main([*rendered, *own])
        errors = capsys.readouterr().err
        assert (errors.startswith(named), errors.count("\n")) == (True, 1)


def test_options_that_came_later_count_as_their_defaults(small_dtu: Path, tmp_path: Path) -> None:
    base = tmp_path / "runs"
    command = tiny_arguments("train_general.py", small_dtu, base, *GUIDED, "--max_steps", "3", "--expname", "old")
    assert outcome_of_general(command)[0] == 0
    last = base / "old" / "checkpoints" / "last.ckpt"
    contents = torch.load(last, weights_only=True)
    record = contents["vggt_nerf"]["options"]
    del record["muon_lrate"]
    assert record["imgScale_train"] == [1.0]
    record["imgScale_train"] = 1.0  # as it was when it took one value only
    torch.save(contents, last)
    longer = [*command, "--ckpt", str(last), "--max_steps", "4"]
    assert outcome_of_general(longer)[0] == 0
    status, errors = outcome_of_general([*longer, "--muon_lrate", "1e-3"])
    assert status != 0
    assert "--muon_lrate" in errors


def test_options_without_effect_may_differ(small_dtu: Path, tmp_path: Path) -> None:
    """A fine-tuning without a scene's field, begun when that had another default of its steps."""
    base, start = tmp_path / "runs", tmp_path / "start.ckpt"
    command = tiny_arguments("train_general.py", small_dtu, base, *GUIDED, "--max_steps", "3", "--expname", "g")
    assert outcome_of_general(command)[0] == 0
    (base / "g" / "checkpoints" / "last.ckpt").rename(start)
    more = ("--scans", "scan2", "--N_guided", "3", "--n_views", "2", "--expname", "f")
    command = tiny_arguments("train_finetune.py", small_dtu, base, *more, "--init_from", str(start), "--max_steps", "3")
    assert outcome_of_finetune(command)[0] == 0
    last = base / "f" / "checkpoints" / "last.ckpt"
    contents = torch.load(last, weights_only=True)
    contents["vggt_nerf"]["options"] |= {"scene_field_steps": 400, "surface_loss": 0.1}
    torch.save(contents, last)
    longer = tiny_arguments("train_finetune.py", small_dtu, base, *more, "--ckpt", str(last), "--max_steps", "4")
    assert outcome_of_finetune(longer)[0] == 0
    status, errors = outcome_of_finetune([*longer, "--scene_field_steps", "400"])
    assert (status, errors) == (2, "error: --scene_field_steps 400: has no effect without --scene_field\n")


def test_muon_and_several_scales(small_dtu: Path, tmp_path: Path) -> None:
    more = ("--muon_lrate", "1e-2", "--imgScale_train", "0.5", "1", "--max_steps", "3", "--expname", "m")
    command = tiny_arguments("train_general.py", small_dtu, tmp_path / "runs", *GUIDED, *more)
    assert outcome_of_general(command)[0] == 0
    checkpoint = read_nerf_checkpoint(tmp_path / "runs" / "m" / "checkpoints" / "last.ckpt")
    assert len(checkpoint.contents["optimizer_states"][0]["inner"]) == 2
    assert checkpoint.record.options["imgScale_train"] == [0.5, 1.0]


def test_a_vggt_without_depth_is_of_no_use() -> None:
    with pytest.raises(InputError, match="--sampler guided uses only the depth"):
        GeneralOptions(sampler="guided")
    with pytest.raises(InputError, match="--sampler"):
        GeneralOptions(sampler="fast")
    GeneralOptions(sampler="guided", vggt_ckpt="none")
    GeneralOptions(sampler="guided", depth_prior=True)


def test_only_a_checkpoint_of_the_same_part_is_resumed(guided_general: Path, small_dtu: Path, tmp_path: Path) -> None:
    """A general checkpoint is no run to resume, nor is one of the scene's field without `--scene_field`."""
    more = ("--scans", "scan2", "--N_guided", "3", "--n_views", "2", "--max_steps", "5", "--color_loss", "0.1")
    field = ("--scene_field", "8", "--scene_field_steps", "3", "--warmup_steps", "1", "--expname", "part")
    command = tiny_arguments("train_finetune.py", small_dtu, tmp_path / "runs", *more)
    for own in ((), field):
        status, errors = outcome_of_finetune([*command, *own, "--ckpt", str(guided_general)])
        assert (status, errors.count("\n")) == (2, 1)
        assert "checkpoint, got a general one" in errors
    with stopped_at_save(1):
        outcome_of_finetune([*command, *field, "--init_from", str(guided_general)])
    last = tmp_path / "runs" / "part" / "checkpoints" / "last.ckpt"
    for own, expected in (
        (["--expname", "part", "--warmup_steps", "1"], "--ckpt: expected a finetune checkpoint, got a scene_field one"),
        ([*field, "--scene_field", "9"], "--scene_field: the run to resume was started with 8, got 9"),
    ):
        status, errors = outcome_of_finetune([*command, *own, "--ckpt", str(last)])
        assert (status, errors.count("\n")) == (2, 1)
        assert expected in errors
    with pytest.raises(InputError, match=r"last.ckpt: expected a radiance field, got the first part of a fine-tuning"):
        read_nerf_checkpoint(last)


def test_the_second_part_goes_on_in_the_data(guided_general: Path, small_dtu: Path, tmp_path: Path) -> None:
    """Both parts together see the samples that one run of as many steps sees."""
    seen = []
    more = ("--init_from", str(guided_general), "--scans", "scan2", "--N_guided", "3", "--n_views", "2")
    more += ("--scene_field", "8", "--scene_field_steps", "3", "--warmup_steps", "1", "--max_steps", "6")
    command = tiny_arguments("train_finetune.py", small_dtu, tmp_path / "runs", *more)
    with pytest.MonkeyPatch.context() as patch:
        for task in (SceneFieldTask, NerfTask):
            step = task.training_step

            def spy(self: SceneTask, batch: SceneBatch, index: int, step: Callable = step) -> torch.Tensor:
                seen.append((self.task, batch.target.ids.tolist(), batch.seeds.tolist()))
                return step(self, batch, index)

            patch.setattr(task, "training_step", spy)
        status, errors = outcome_of_finetune(command)
    assert status == 0, errors
    assert [task for task, *_ in seen] == ["scene_field"] * 3 + ["finetune"] * 3
    data = build_data(parse_options(FinetuneOptions, "test", command[2:]), is_per_scene=True)
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, global_step=0, accelerator=None)
    expected = [(batch.target.ids.tolist(), batch.seeds.tolist()) for batch in islice(data.train_dataloader(), 6)]
    assert [tuple(sample) for _, *sample in seen] == expected


def test_photographs_with_surroundings(
    guided_general: Path, small_dtu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--near_far open` with a field of the scene, whose surfaces are looked for in two views, or in none."""
    looks: dict[str, Surfaces] = {}

    def spy(self: SceneFieldTask, see: Callable = SceneFieldTask.see_surfaces) -> Surfaces:
        return looks.setdefault(self.options.expname, see(self))

    monkeypatch.setattr(SceneFieldTask, "see_surfaces", spy)
    more = ("--init_from", str(guided_general), "--scans", "scan2", "--N_guided", "3", "--n_views", "2")
    more += ("--scene_field", "8", "--scene_field_steps", "2", "--warmup_steps", "1", "--max_steps", "4")
    for name, option in (("two", ("--surface_views", "2")), ("none", ("--surface_loss", "0"))):
        arguments = (*more, "--near_far", "open", "--expname", name, *option)
        status, errors = outcome_of_finetune(
            tiny_arguments("train_finetune.py", small_dtu, tmp_path / "runs", *arguments)
        )
        assert status == 0, errors
    known = {name: seen.maps[:, 1].flatten(1).amax(1) > 0 for name, seen in looks.items()}
    assert (known["two"].sum().item(), known["none"].sum().item()) == (2, 0)
    assert looks["two"].ids.tolist() == looks["none"].ids.tolist()
    checkpoint = read_nerf_checkpoint(tmp_path / "runs" / "two" / "checkpoints" / "last.ckpt")
    assert checkpoint.network().network.scene_field.is_open
    with pytest.raises(InputError, match="--near_far data: the field of this scene was learned with --near_far open"):
        checkpoint.network(near_far="data")
