"""The schedule of VGGT's training; the rates of the reference are compared in `tests.goldens`."""

import math

import pytest
import torch

from training.schedules import LinearCosine, linear_cosine


def two_rates() -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (1.0, 0.5)]
    return torch.optim.SGD(groups)


def schedule(optimizer: torch.optim.Optimizer) -> LinearCosine:
    return LinearCosine(optimizer, total_steps=20, warmup_fraction=0.1, floor=0.01)


def run(optimizer: torch.optim.Optimizer, scheduler: LinearCosine, steps: int) -> list[list[float]]:
    curve = []
    for _ in range(steps):
        curve.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return curve


def test_linear_cosine_closed_form() -> None:
    optimizer = two_rates()
    curve = run(optimizer, schedule(optimizer), 23)
    decay = [0.01 + 0.99 * (1 + math.cos(math.pi * step / 18)) / 2 for step in range(19)]
    assert [rates[0] for rates in curve] == pytest.approx([0.01, 0.505, *decay, 0.01, 0.01])
    assert curve[2][1] == pytest.approx(0.5)
    assert curve[-1][1] == pytest.approx(0.01)


def test_no_warmup_starts_at_the_peak() -> None:
    assert linear_cosine(0.0, 3.0, warmup_fraction=0.0) == pytest.approx(3.0)


@pytest.mark.parametrize("stop", [1, 2, 11])
def test_resumed_rates_equal_the_unbroken_ones(stop: int) -> None:
    optimizer, first, second = two_rates(), two_rates(), two_rates()
    unbroken = run(optimizer, schedule(optimizer), 22)
    scheduler = schedule(first)
    head = run(first, scheduler, stop)
    assert scheduler.state_dict() == {"last_epoch": stop}
    resumed = schedule(second)
    resumed.load_state_dict(scheduler.state_dict())
    assert head + run(second, resumed, 22 - stop) == unbroken
