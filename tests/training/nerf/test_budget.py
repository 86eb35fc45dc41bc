"""How many steps fit into a time: closed forms, a fake clock, and that the run is the one of as many steps."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from geometry import InputError
from tests.render.tiny import write_backbone
from tests.training.commands import tiny_arguments
from tests.training.inprocess import outcome_of_finetune, outcome_of_general
from training.cli import parse_options
from training.nerf import budget
from training.nerf.budget import StepTimes, limited, within
from training.nerf.checkpoint import read_nerf_checkpoint
from training.nerf.options import FinetuneOptions

LONG = FinetuneOptions(
    init_from="c.ckpt", scene_field=8, max_steps=1000, scene_field_steps=400, warmup_steps=50, minutes=5.0
)
TIMES = StepTimes(step=1.0, field_step=0.25, surfaces=30.0)


def steps(options: FinetuneOptions) -> tuple[int, int, int]:
    return options.max_steps, options.scene_field_steps, options.warmup_steps


def test_all_steps_where_there_is_time() -> None:
    """700 s of steps and 30 s before them; a twentieth is spare."""
    assert steps(within(LONG, 730 / 0.95 + 1, TIMES)) == (1000, 400, 50)
    assert within(LONG, 1e9, TIMES).minutes == 0


def test_both_parts_and_the_warmup_are_shortened_alike() -> None:
    assert steps(within(LONG, (350 + 30) / 0.95 + 1e-6, TIMES)) == (500, 200, 25)
    alone = FinetuneOptions(init_from="c.ckpt", max_steps=1000, warmup_steps=50, minutes=5.0)
    assert steps(within(alone, 100 / 0.95 + 1e-6, StepTimes(step=1.0))) == (100, 200, 5)  # 200: the unused default


def test_a_few_steps_are_taken_in_any_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert steps(within(LONG, 10.0, TIMES)) == (40, 20, 2)
    warning = capsys.readouterr().err
    assert "--minutes 5: too few" in warning
    assert "40 steps will take about 0.9 minutes" in warning  # 30 + 20 + 5 s
    within(LONG, 600.0, TIMES)
    assert not capsys.readouterr().err


def test_a_field_of_few_views_learns_for_less_long() -> None:
    """The steps of the rest stay: 600 of 1000."""
    per_view = replace(LONG, scene_field_steps_per_view=30)
    assert steps(limited(per_view, 10)) == (900, 300, 50)
    assert limited(per_view, 14) == per_view
    assert limited(LONG, 1) == LONG


def test_minutes_need_a_largest_number_of_steps() -> None:
    with pytest.raises(InputError, match="--minutes 5: expected --max_steps beside it"):
        FinetuneOptions(init_from="c.ckpt", minutes=5.0)


@pytest.fixture(scope="module")
def general(small_dtu: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("budget")
    vggt = f"random:{write_backbone(base / 'heads.json', with_depth=True)}"
    shapes = "--sampler guided --sweep_planes 12 --N_guided 2 --feature_channels 8 --hidden 8 --fused 8 --depth_prior"
    more = (*shapes.split(), "--vggt_ckpt", vggt, "--max_steps", "3", "--expname", "general")
    status, errors = outcome_of_general(tiny_arguments("train_general.py", small_dtu, base, *more))
    assert status == 0, errors
    return base / "general" / "checkpoints" / "last.ckpt"


def test_the_run_is_that_of_so_many_steps(
    general: Path, small_dtu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Measuring leaves no trace; a resumed run keeps its number of steps, whatever the clock says now."""
    ticks, measured = itertools.count(1), []

    def slow(*about: Any) -> StepTimes:
        """By a clock that counts its readings; then, for a plan of five steps each, of a very slow machine."""
        measured.append(real(*about[:3], clock=lambda: float(next(ticks))))
        return StepTimes(5.5e6, 5.5e6)

    real = budget.measured
    monkeypatch.setattr(budget, "measured", slow)
    monkeypatch.setattr(budget, "_LEAST", 2)
    common = "--scans scan2 --n_views 2 --N_guided 2 --color_loss 0.1 --scene_field 8 --surface_views 2 --save_every 2"
    common = (*common.split(), "--init_from", str(general))

    def run(name: str, *more: str) -> Path:
        command = tiny_arguments("train_finetune.py", small_dtu, tmp_path, *common, "--expname", name, *more)
        status, errors = outcome_of_finetune(command)
        assert status == 0, errors
        return tmp_path / name / "checkpoints" / "last.ckpt"

    most = ("--max_steps", "20", "--scene_field_steps", "10", "--warmup_steps", "4", "--minutes", "1e6")
    fitted = run("fitted", *most)
    assert measured == [StepTimes(1.0, 1.0, surfaces=1.0)]
    assert "--minutes 1e+06: 10 steps, 5 of them" in capsys.readouterr().out
    record = read_nerf_checkpoint(fitted).record.options
    given = run("given", "--max_steps", "10", "--scene_field_steps", "5", "--warmup_steps", "2")
    one, other = (torch.load(path, weights_only=True)["state_dict"] for path in (fitted, given))
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
    resumed = run("fitted", *most, "--ckpt", str(fitted))
    assert read_nerf_checkpoint(resumed).record.options == record | {"ckpt": str(fitted)}
    config = tmp_path / "fitted" / "config.txt"
    written = parse_options(FinetuneOptions, "test", ["--config", str(config)])
    assert (*steps(written), written.minutes) == (10, 5, 2, 0)
    assert len(measured) == 1


def test_only_the_general_model_looks_for_surfaces() -> None:
    def looks(**options: Any) -> tuple[int, int]:
        return budget.views_to_look_at(FinetuneOptions(init_from="x", scene_field=8, **options), 30)

    assert (looks(), looks(surface_views=12), looks(surface_views=1)) == ((30, 2), (12, 2), (1, 1))
    assert looks(surface_loss=0.0) == looks(surfaces="points") == (0, 0)
