"""Learning rates over steps, and after a resume; VGGT's reference rates are compared in `tests.goldens`."""

import math

import pytest
import torch
from torch.optim.lr_scheduler import LRScheduler

from training.schedules import LinearCosine, WarmupCosine, linear_cosine


def two_rates() -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (1.0, 0.5)]
    return torch.optim.SGD(groups)


def linear(optimizer: torch.optim.Optimizer) -> LinearCosine:
    return LinearCosine(optimizer, total_steps=20, warmup_fraction=0.1, floor=0.01)


def run(optimizer: torch.optim.Optimizer, scheduler: LRScheduler, steps: int) -> list[list[float]]:
    curve = []
    for _ in range(steps):
        curve.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return curve


def test_linear_cosine_closed_form() -> None:
    optimizer = two_rates()
    curve = run(optimizer, linear(optimizer), 23)
    decay = [0.01 + 0.99 * (1 + math.cos(math.pi * step / 18)) / 2 for step in range(19)]
    assert [rates[0] for rates in curve] == pytest.approx([0.01, 0.505, *decay, 0.01, 0.01])
    assert curve[2][1] == pytest.approx(0.5)
    assert curve[-1][1] == pytest.approx(0.01)


def test_no_warmup_starts_at_the_peak() -> None:
    assert linear_cosine(0.0, 3.0, warmup_fraction=0.0) == pytest.approx(3.0)


@pytest.mark.parametrize("stop", [1, 2, 11])
def test_resumed_linear_cosine_equals_the_unbroken_one(stop: int) -> None:
    optimizer, first, second = two_rates(), two_rates(), two_rates()
    unbroken = run(optimizer, linear(optimizer), 22)
    scheduler = linear(first)
    head = run(first, scheduler, stop)
    assert scheduler.state_dict() == {"last_epoch": stop}
    resumed = linear(second)
    resumed.load_state_dict(scheduler.state_dict())
    assert head + run(second, resumed, 22 - stop) == unbroken


def warmup_cosine(optimizer: torch.optim.Optimizer) -> WarmupCosine:
    return WarmupCosine(optimizer, warmup_steps=4, total_steps=14, final_fraction=0.1)


def test_warmup_cosine_closed_form() -> None:
    optimizer = two_rates()
    curve = run(optimizer, warmup_cosine(optimizer), 16)
    warmup = [0.2, 0.4, 0.6, 0.8]
    decay = [0.1 + 0.9 * (1 + math.cos(math.pi * step / 10)) / 2 for step in range(11)]
    expected = [*warmup, *decay, 0.1]
    assert [rates[0] for rates in curve] == pytest.approx(expected)
    assert [rates[1] for rates in curve] == pytest.approx([rate / 2 for rate in expected])
    assert max(rates[0] for rates in curve) == 1.0


@pytest.mark.parametrize("stop", [1, 4, 5, 9])
def test_resumed_warmup_cosine_equals_the_unbroken_one(stop: int) -> None:
    optimizer = two_rates()
    unbroken = run(optimizer, warmup_cosine(optimizer), 14)
    first = two_rates()
    scheduler = warmup_cosine(first)
    head = run(first, scheduler, stop)
    state = scheduler.state_dict()
    assert state == {"last_epoch": stop}
    second = two_rates()
    resumed = warmup_cosine(second)
    resumed.load_state_dict(state)
    assert head + run(second, resumed, 14 - stop) == unbroken
