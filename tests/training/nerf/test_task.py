"""Means of validation scores over several processes."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from training.nerf.task import NerfTask


def means(mine: list[list[float]], others: list[list[float]]) -> dict[str, float]:
    """What is logged; a row (sum, number of targets with the score) each for PSNR, SSIM and the depth error."""
    logged: dict[str, float] = {}

    def reduce(sums: Tensor, reduce_op: str) -> Tensor:
        assert reduce_op == "sum"
        return sums + torch.tensor(others)

    task = SimpleNamespace(
        _scores=torch.tensor(mine),
        trainer=SimpleNamespace(strategy=SimpleNamespace(reduce=reduce)),
        log=lambda name, mean: logged.update({name: float(mean)}),
    )
    NerfTask.on_validation_epoch_end(task)
    return logged


def test_targets_without_a_score_have_no_weight_in_any_process() -> None:
    """Two targets here and one there have a PSNR; only the other process has known depth."""
    logged = means([[50.0, 2.0], [1.0, 2.0], [0.0, 0.0]], [[10.0, 1.0], [0.5, 1.0], [6.0, 3.0]])
    assert logged == {"val/psnr": 20.0, "val/ssim": 0.5, "val/depth_abs": 2.0}


def test_of_scores_that_no_target_has_only_psnr_is_logged() -> None:
    logged = means([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 2.0], [0.0, 0.0]])
    assert logged == pytest.approx({"val/psnr": float("nan"), "val/ssim": 0.5}, nan_ok=True)
