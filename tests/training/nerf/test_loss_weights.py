"""Weights that a run leaves open: chosen from the data, said once, recorded, compared on resume."""

from pathlib import Path

import pytest
import torch

from geometry import InputError
from models.nerf.samplers import SAMPLERS
from tests.training.commands import tiny_arguments
from tests.training.inprocess import outcome_of_finetune, outcome_of_general
from training.cli import parse_options
from training.nerf.checkpoint import read_nerf_checkpoint
from training.nerf.loss_weights import with_loss_weights
from training.nerf.options import GeneralOptions

GUIDED = ("--vggt_ckpt", "none", "--sampler", "guided", "--sweep_planes", "12", "--N_guided", "2", "--n_views", "2")


def weights_of(
    sampler: str,
    *,
    has_depth: bool = True,
    is_per_scene: bool = False,
    is_depth_partial: bool = False,
    **given: float,
) -> tuple:
    options = GeneralOptions(sampler=sampler, vggt_ckpt="none", **given)
    data = {"has_depth": has_depth, "is_per_scene": is_per_scene, "is_depth_partial": is_depth_partial}
    decided = with_loss_weights(options, SAMPLERS[sampler], **data)
    return decided.depth_loss, decided.color_loss


@pytest.mark.parametrize(
    ("data", "given", "expected"),
    [
        ({"has_depth": True}, {}, (0.1, 0.0)),
        ({"has_depth": False}, {}, (0.0, 0.1)),
        ({"has_depth": True, "is_per_scene": True}, {}, (0.0, 0.1)),
        ({"has_depth": True, "is_per_scene": True}, {"color_loss": 0.0}, (0.1, 0.0)),
        ({"has_depth": True}, {"depth_loss": 0.0}, (0.0, 0.1)),
        ({"has_depth": True}, {"color_loss": 0.0}, (0.1, 0.0)),
        ({"has_depth": True}, {"color_loss": 0.5}, (0.0, 0.5)),
        ({"has_depth": False}, {"depth_loss": 0.5}, (0.5, 0.0)),
        ({"has_depth": True}, {"depth_loss": 0.5, "color_loss": 0.2}, (0.5, 0.2)),
    ],
)
def test_the_guided_sampler_always_has_one(data: dict, given: dict, expected: tuple) -> None:
    assert weights_of("guided", **data, **given) == expected


def test_where_one_of_several_data_sets_has_no_depth_each_teaches_on_its_own_steps() -> None:
    partial = {"has_depth": True, "is_depth_partial": True}
    assert weights_of("guided", **partial) == (0.1, 0.1)
    assert weights_of("guided", **partial, color_loss=0.0) == (0.1, 0.0)
    assert weights_of("guided", **partial, color_loss=0.3) == (0.0, 0.3)


@pytest.mark.parametrize(
    ("has_depth", "given"),
    [(True, {"depth_loss": 0.0, "color_loss": 0.0}), (False, {"color_loss": 0.0})],
)
def test_none_at_all_stops_by_name(has_depth: bool, given: dict) -> None:
    with pytest.raises(InputError, match=r"one of --depth_loss, --color_loss, .*--color_loss 0 for data with"):
        weights_of("guided", has_depth=has_depth, **given)


def test_others_need_none(capsys: pytest.CaptureFixture) -> None:
    assert weights_of("hierarchical") == (0.0, 0.0)
    assert weights_of("hierarchical", depth_loss=0.3) == (0.3, 0.0)
    assert weights_of("hierarchical", color_loss=0.0) == (0.0, 0.0)  # as written in the config.txt of older runs
    assert capsys.readouterr().err == ""


def test_chosen_weights_are_said_recorded_and_compared(small_dtu: Path, tmp_path: Path) -> None:
    base = tmp_path / "runs"
    command = tiny_arguments("train_general.py", small_dtu, base, *GUIDED, "--max_steps", "3", "--expname", "g")
    status, errors = outcome_of_general(command)
    assert status == 0, errors
    said = [line for line in errors.splitlines() if line.startswith("--")]
    assert said == [
        "--depth_loss 0.1: chosen for training targets with depth maps, as no --depth_loss or --color_loss is given"
    ]
    last = base / "g" / "checkpoints" / "last.ckpt"
    recorded = read_nerf_checkpoint(last).record.options
    assert (recorded["depth_loss"], recorded["color_loss"]) == (0.1, 0.0)
    written = parse_options(GeneralOptions, "", ["--config", str(base / "g" / "config.txt")])
    assert (written.depth_loss, written.color_loss) == (0.1, 0.0)
    contents = torch.load(last, weights_only=True)
    del contents["vggt_nerf"]["options"]["color_loss"]  # by a version that had no such loss
    torch.save(contents, last)
    longer = [*command, "--ckpt", str(last), "--max_steps", "4"]
    assert outcome_of_general([*longer, "--depth_loss", "0.1"])[0] == 0
    status, errors = outcome_of_general([*longer, "--color_loss", "0.1"])
    assert status == 2
    assert "_loss: the run to resume was started with" in errors


def test_finetuning_learns_from_photographs(small_dtu: Path, tmp_path: Path) -> None:
    base = tmp_path / "runs"
    general = tiny_arguments("train_general.py", small_dtu, base, *GUIDED, "--max_steps", "3", "--expname", "g")
    assert outcome_of_general(general)[0] == 0
    more = ("--scans", "scan2", "--N_guided", "2", "--n_views", "2", "--max_steps", "3", "--expname", "f")
    more += ("--init_from", str(base / "g" / "checkpoints" / "last.ckpt"))
    status, errors = outcome_of_finetune(tiny_arguments("train_finetune.py", small_dtu, base, *more))
    assert status == 0, errors
    recorded = read_nerf_checkpoint(base / "f" / "checkpoints" / "last.ckpt").record.options
    assert (recorded["depth_loss"], recorded["color_loss"]) == (0.0, 0.1)
