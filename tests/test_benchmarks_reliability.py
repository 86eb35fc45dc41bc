"""benchmarks.reliability and the loaded machine of benchmarks.speed: what is counted, planned and compared."""

from pathlib import Path

import pytest
import torch

from benchmarks import speed
from benchmarks.reliability import kills
from benchmarks.reliability.__main__ import main
from benchmarks.reliability.agreement import compared
from benchmarks.reliability.kills import MOMENTS, Occasions, kills_table, planned
from benchmarks.reliability.runs import Run, differences


def test_kills_are_spread_over_all_moments_and_are_the_same_again() -> None:
    occasions = Occasions({"training": 7, "writing a checkpoint": 5, "validation": 1}, 0.5)
    plans = [planned("vqa", number, occasions) for number in range(30)]
    assert plans == [planned("vqa", number, occasions) for number in range(30)]
    assert [plan.moment for plan in plans[:5]] == list(MOMENTS)
    assert {plan.occasion for plan in plans if plan.moment == "training"} >= {1, 7}
    assert max(plan.delay for plan in plans) > 0.5


@pytest.mark.parametrize(("delay", "expected"), [(0.35, "half"), (0.8, "unnamed"), (0.9, "named")])
def test_a_write_is_cut_at_its_place(
    delay: float, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(kills, "_die", die)
    monkeypatch.setattr(Path, "replace", Path.replace)
    whole = tmp_path / "whole"
    torch.save(torch.zeros(1000), whole)
    write = kills._write_or_die(kills.Plan("writing a checkpoint", 1, delay))

    def save() -> None:
        with (tmp_path / "partial").open("wb") as file:
            write(torch.zeros(1000), file)
        (tmp_path / "partial").replace(tmp_path / "last")

    with pytest.raises(KeyboardInterrupt):
        save()
    left = tmp_path / ("last" if expected == "named" else "partial")
    size = whole.stat().st_size // (2 if expected == "half" else 1)
    assert left.stat().st_size == pytest.approx(size, abs=64)


def test_any_bit_that_differs_is_named(tmp_path: Path) -> None:
    runs = [Run((), tmp_path / name) for name in ("a", "b")]
    for run, value in zip(runs, (0.0, -0.0), strict=True):
        run.last.parent.mkdir(parents=True)
        contents = {"state_dict": {"w": torch.tensor(value)}, "epoch": 1, "task": {"commit": run.base.name}}
        torch.save(contents, run.last)
        torch.save(contents | {"state_dict": {}}, run.last.with_name("best.ckpt"))
    assert differences(*runs) == ["last.ckpt: state_dict"]


def test_a_task_without_equal_ends_is_not_hidden() -> None:
    kill = {"moment": "training", "killed": True, "differences": []}
    table = kills_table({"vqa": {"0": kill, "1": kill | {"differences": ["x"]}, "2": kill | {"killed": False}}})
    assert table.splitlines()[-1] == "| vqa | 2 | 2 | 0 | 0 | 1 of 2 |"


def test_machines_disagree_by_their_bounds() -> None:
    theirs = {"vqa_rooms": ({"attention": torch.zeros(10), "answer": torch.tensor([1, 2])}, 1.0)}
    ours = {"vqa_rooms": ({"attention": torch.full((10,), 5e-4), "answer": torch.tensor([1, 3])}, 1.0)}
    close, other = compared("m", theirs, ours)
    assert (close.agrees, other.agrees) == (True, False)
    assert other.largest == 0.5


def test_under_load_all_ways_meet_all_loads(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(speed, "_beside", lambda busy, options, spins: [busy + options.threads])
    speed.print_under_load(speed.SpeedOptions(threads=2))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| libgomp's 300000 looks | 2.00 s | 3.00 s | 4.00 s |"
    assert lines[-1] == "| one thread | 1.00 s | 2.00 s | 3.00 s |"
    tiny = speed.SpeedOptions(width=64, height=32, threads=1, repeats=1)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    assert len(speed.image_seconds(tiny)) == 1


@pytest.mark.parametrize("words", [[], ["--kills", "-1"], ["--kills", "1", "--tasks", "cooking"]])
def test_mistakes_are_one_line(words: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(words)
    assert capsys.readouterr().err.count("\n") == 1
