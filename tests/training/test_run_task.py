"""Steps with numbers that are not finite: stopped at, or skipped as if they had never been; what validation counts."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nan

from data.seeds import share_of_process
from geometry import InputError
from tests.training.toy import TOY, Numbers, ToyTask
from training.checkpoint import read_checkpoint
from training.errors import NonFiniteError
from training.options import RunOptions
from training.precision import PRECISIONS
from training.run_task import RunTask
from training.trainer import fit

WAYS = pytest.mark.parametrize("parts", [0, 1, 3], ids=["automatic", "manual", "accumulated"])


def options_of(tmp_path: Path, steps: int, **changes: Any) -> RunOptions:
    values = {"basedir": str(tmp_path), "accelerator": "cpu", "max_steps": steps, "save_every": 2, "num_workers": 0}
    return RunOptions(**(values | {"lrate_final": 0.0} | changes))


def trained(options: RunOptions, numbers: list[float], parts: int = 0) -> tuple[ToyTask, dict[str, Any]]:
    """The task after a run, and its last checkpoint."""
    task = ToyTask(options, parts=parts)
    if options.ckpt:
        task.resume(read_checkpoint(Path(options.ckpt), TOY))
    fit(options, task, Numbers(numbers))
    return task, read_checkpoint(options.run_dir / "checkpoints" / "last.ckpt", TOY).contents


def assert_same_learning(one: dict[str, Any], other: dict[str, Any]) -> None:
    for name in ("state_dict", "optimizer_states", "lr_schedulers"):
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0)


@WAYS
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_skipped_step_leaves_no_trace(
    precision: str, parts: int, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Weights, moments and schedule are those of a run that never met the number."""
    options = options_of(tmp_path, 4, precision=precision, expname="a", skip_non_finite=2)
    task, found = trained(options, [0.5, nan, 0.25, 0.125], parts)
    _, expected = trained(options_of(tmp_path, 3, precision=precision, expname="b"), [0.5, 0.25, 0.125], parts)
    assert_same_learning(found, expected)
    assert (found["global_step"], found["lr_schedulers"][0]["last_epoch"]) == (4, 3)
    assert task.skipped == found["skipped_steps"] == {"non_finite": 1, "by_scaler": 0}
    printed = capsys.readouterr().out
    assert "step 1: expected a finite loss, got nan for" in printed
    assert "number nan: skipped, 1 of at most 2" in printed
    assert "4 steps, of which 1 were skipped for numbers that are not finite" in printed


@WAYS
def test_a_gradient_that_overflows_float16_is_the_scalers_to_skip(parts: int, tmp_path: Path) -> None:
    """Twice the scale of 65536 is too much; half of it is twice too much for the second number of 16."""
    few = max(1, parts)
    numbers = [1.0, 4.0 * few**0.5, 1.0, 1.0]
    options = options_of(tmp_path, 4, precision="16-mixed", expname="a")
    task, found = trained(options, numbers, parts)
    skipped = task.skipped["by_scaler"]
    assert skipped >= 1
    assert task.skipped["non_finite"] == 0
    assert found["skipped_steps"] == task.skipped
    assert found["lr_schedulers"][0]["last_epoch"] == 4 - skipped
    assert {int(state["step"]) for state in found["optimizer_states"][0]["state"].values()} == {4 - skipped}
    assert found["MixedPrecision"]["scale"] == 65536 / 2**skipped


@WAYS
@pytest.mark.parametrize("limit", [0, 1])
def test_one_more_than_the_limit_stops_by_name(limit: int, parts: int, tmp_path: Path) -> None:
    options = options_of(tmp_path, 4, skip_non_finite=limit)
    with pytest.raises(
        NonFiniteError, match=rf"^step {limit + 1}: .* number inf .*--skip_non_finite {limit}"
    ) as caught:
        trained(options, [1.0, *([nan] * limit), torch.inf, 1.0], parts)
    assert "\n" not in str(caught.value)


def test_a_finite_loss_with_a_gradient_that_is_none_is_skipped_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def spoil(self: ToyTask) -> None:
        if self.global_step == 1:
            self.model.weight.grad.fill_(nan)

    monkeypatch.setattr(ToyTask, "on_after_backward", spoil)
    _, found = trained(options_of(tmp_path, 4, expname="a", skip_non_finite=1), [0.5, 3.0, 0.25, 2.0])
    assert "step 1: expected a finite gradient of the toy, got nan for number 3.0: skipped" in capsys.readouterr().out
    monkeypatch.undo()
    assert_same_learning(found, trained(options_of(tmp_path, 3, expname="b"), [0.5, 0.25, 2.0])[1])


@WAYS
@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_the_count_survives_a_resume(precision: str, parts: int, tmp_path: Path) -> None:
    numbers = [0.5, nan, 0.25, nan, 0.125]
    whole = options_of(tmp_path, 5, precision=precision, expname="whole", skip_non_finite=2)
    _, expected = trained(whole, numbers, parts)
    begun = options_of(tmp_path, 2, precision=precision, expname="begun", skip_non_finite=1)
    trained(begun, numbers, parts)
    last = str(begun.run_dir / "checkpoints" / "last.ckpt")
    again = options_of(tmp_path, 5, precision=precision, expname="begun", skip_non_finite=1, ckpt=last)
    with pytest.raises(NonFiniteError, match=r"^step 3: .*--skip_non_finite 1"):
        trained(again, numbers, parts)
    more = options_of(tmp_path, 5, precision=precision, expname="begun", skip_non_finite=2, ckpt=last)
    _, found = trained(more, numbers, parts)
    assert_same_learning(found, expected)
    assert found["skipped_steps"] == expected["skipped_steps"] == {"non_finite": 2, "by_scaler": 0}


def test_the_world_is_compared_on_resume_not_how_it_was_asked_for(tmp_path: Path) -> None:
    theirs = ToyTask(options_of(tmp_path, 2, devices=4)).record()
    ToyTask(options_of(tmp_path, 2, devices=2, num_nodes=2)).require_same_run(theirs)
    with pytest.raises(InputError, match=r"^--devices x --num_nodes: .* with 4 processes, got 2"):
        ToyTask(options_of(tmp_path, 2, devices=2)).require_same_run(theirs)
    ToyTask(options_of(tmp_path, 2)).require_same_run(ToyTask(options_of(tmp_path, 2, devices=1)).record())


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize(("num_items", "world_size"), [(3, 2), (4, 2), (1, 3), (7, 4), (13, 2)])
def test_what_fills_up_the_last_turn_of_a_validation_does_not_count(
    num_items: int, world_size: int, batch_size: int
) -> None:
    counted = []
    for rank in range(world_size):
        data = SimpleNamespace(num_val_items=num_items)
        task = SimpleNamespace(trainer=SimpleNamespace(world_size=world_size, global_rank=rank, datamodule=data))
        mine = share_of_process(range(num_items), rank, world_size)
        for index, first in enumerate(range(0, len(mine), batch_size)):
            batch = mine[first : first + batch_size]
            counted += batch[: RunTask.num_counted(task, index, len(batch), batch_size=batch_size)]
    assert sorted(counted) == list(range(num_items))
