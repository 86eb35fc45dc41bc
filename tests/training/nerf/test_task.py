"""Validation scores of a view, and their means over several processes."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from data.novel_view.protocols import PROTOCOLS
from data.novel_view.reference import reference_of
from geometry import Cameras, Views
from geometry.turned_views import rolled
from models.nerf.renderer import SourceMaps, TargetView
from models.nerf.vggt_nerf import RenderedImage
from tests.scenes import random_batch, random_views
from training.nerf.build import build_general_task
from training.nerf.options import GeneralOptions
from training.nerf.task import NerfTask, validation_scores


def means(mine: list[list[float]], others: list[list[float]]) -> dict[str, float]:
    """What is logged; a row (sum, number of targets with the score) each for PSNR, SSIM and the depth error."""
    logged: dict[str, float] = {}

    def log(name: str, mean: Tensor, *, sync_dist: bool) -> None:
        assert sync_dist  # else Lightning takes it for the mean of one process, and says so in every run
        logged[name] = float(mean)

    def reduce(sums: Tensor, reduce_op: str) -> Tensor:
        assert reduce_op == "sum"
        return sums + torch.tensor(others)

    task = SimpleNamespace(
        _scores=torch.tensor(mine),
        trainer=SimpleNamespace(strategy=SimpleNamespace(reduce=reduce)),
        log=log,
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


def test_a_view_of_whose_pixels_none_counts_has_no_score() -> None:
    target = replace(random_views(1), depth=None, mask=torch.zeros(1, 24, 32, dtype=torch.bool))
    rendered = RenderedImage(target.images[0].permute(1, 2, 0), torch.ones(24, 32), torch.ones(24, 32))
    masked, full = (validation_scores(rendered, reference_of(PROTOCOLS[one], target)) for one in ("dtu-fixed3", "full"))
    assert [math.isnan(score) for score in masked[:2]] == [True, True]
    assert full[:2] == pytest.approx((120.0, 1.0))


def test_an_image_smaller_than_the_window_of_ssim_has_a_psnr() -> None:
    small = random_views(1, height=6, width=9)
    rendered = RenderedImage(small.images[0].permute(1, 2, 0), torch.ones(6, 9), torch.ones(6, 9))
    color, similarity, _ = validation_scores(rendered, reference_of(PROTOCOLS["full"], small))
    assert color == pytest.approx(120.0)
    assert math.isnan(similarity)


def test_a_step_may_roll_sources_and_target_by_the_same_quarter_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = random_batch()
    seen = []

    def watched(task: NerfTask) -> NerfTask:
        view = task.model.view

        def note(maps: SourceMaps, camera: Cameras, near: Tensor, far: Tensor) -> TargetView:
            seen.append((maps, camera))
            return view(maps, camera, near, far)

        monkeypatch.setattr(task.model, "view", note)
        monkeypatch.setattr(task, "log_dict", lambda scalars: None)
        return task

    sizes = {"feature_channels": 4, "hidden": 8, "fused": 8, "sweep_planes": 12, "N_guided": 2, "rays_per_step": 16}
    for share in (0.0, 1.0):
        options = GeneralOptions(vggt_ckpt="none", sampler="guided", color_loss=0.1, rolls=share, **sizes)
        task = watched(build_general_task(options, {}))
        for seed in range(12):
            task.training_step(replace(batch, seeds=torch.tensor([seed])), 0).backward()

    def turns_of(before: Views, cameras: Cameras) -> list[int]:
        return [turns for turns in range(4) if torch.equal(rolled(before, turns).cameras.w2c, cameras.w2c)]

    turns = [(turns_of(batch.source, maps.cameras), turns_of(batch.target[:, 0], camera)) for maps, camera in seen]
    assert turns[:12] == [([0], [0])] * 12
    assert all(sources == target for sources, target in turns)
    assert sorted({sources[0] for sources, _ in turns[12:]}) == [1, 2, 3]
