"""The moving average of weights, in closed form."""

import pytest
import torch

from training.weight_average import WeightAverage


def test_average_of_weights() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 1.0)
    average = WeightAverage(model, 0.5)
    torch.nn.init.constant_(model.weight, 2.0)
    average.update(model, 1)  # (1 + 1) / (10 + 1) of the old, as that is below 0.5
    assert average.weights["weight"].item() == pytest.approx(2 - 2 / 11)
    average.update(model, 1000)
    assert average.weights["weight"].item() == pytest.approx(2 - 1 / 11)
    average.swap(model)
    assert (model.weight.item(), average.weights["weight"].item()) == (pytest.approx(2 - 1 / 11), 2.0)


def test_trained_weights_of_the_start_are_kept() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 1.0)
    average = WeightAverage(model, 0.5, forgets_start=False)
    torch.nn.init.constant_(model.weight, 2.0)
    for step in (1, 2):
        average.update(model, step)
    assert average.weights["weight"].item() == 2 - 0.5**2
