"""Muon beside AdamW: each does what torch's own does, kernels count as matrices, resuming changes nothing."""

import copy

import pytest
import torch
from torch import nn

from geometry import InputError
from training.optimizers import MuonAdamW, build_optimizer, matrices_of

RATES = {"lrate": 1e-2, "muon_lrate": 3e-2, "weight_decay": 0.1}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(1, 8), nn.Flatten(), nn.Linear(8 * 16, 8), nn.Linear(8, 2))


def walk(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[torch.Tensor]:
    for step in steps:
        optimizer.zero_grad()
        images = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        model(images).square().sum().backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_matrices_and_kernels_but_no_narrow_outputs() -> None:
    model = network()
    assert [id(weight) for weight in matrices_of(model)] == [id(model[0].weight), id(model[3].weight)]
    model[3].weight.requires_grad_(False)
    assert [id(weight) for weight in matrices_of(model)] == [id(model[0].weight)]


def test_every_weight_moves_as_torchs_own_optimizers_move_it() -> None:
    model, twin = network(), network()
    optimizer = build_optimizer(model, **RATES)
    assert isinstance(optimizer, MuonAdamW)
    kernel = nn.Parameter(twin[0].weight.detach().reshape(8, 27))
    muon = torch.optim.Muon([kernel, twin[3].weight], lr=3e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    others = [parameter for index in (0, 1, 3, 4) for parameter in twin[index].parameters()]
    others = [parameter for parameter in others if parameter is not twin[0].weight and parameter is not twin[3].weight]
    adamw = torch.optim.AdamW(others, lr=1e-2, weight_decay=0.1)
    for step in range(3):
        moved = walk(model, optimizer, range(step, step + 1))
        twin[0].weight.data = kernel.detach().view(8, 3, 3, 3)
        twin.zero_grad()
        twin(torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(step))).square().sum().backward()
        kernel.grad = twin[0].weight.grad.flatten(1)
        muon.step()
        adamw.step()
        twin[0].weight.data = kernel.detach().view(8, 3, 3, 3)
        for mine, theirs in zip(moved, twin.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs.detach(), atol=0, rtol=0)


def test_resuming_equals_going_on() -> None:
    model, broken = network(), network()
    expected = walk(model, build_optimizer(model, **RATES), range(6))
    first = build_optimizer(broken, **RATES)
    walk(broken, first, range(3))
    state, resumed = copy.deepcopy(first.state_dict()), network()
    resumed.load_state_dict(broken.state_dict())
    second = build_optimizer(resumed, **RATES)
    second.load_state_dict(state)
    for mine, theirs in zip(walk(resumed, second, range(3, 6)), expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=0, rtol=0)


def test_rates_are_those_of_the_groups() -> None:
    model = network()
    optimizer = build_optimizer(model, **RATES)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for mine, theirs in zip(walk(model, optimizer, range(1)), before, strict=True):
        torch.testing.assert_close(mine, theirs, atol=0, rtol=0)


def test_no_rate_means_adamw_and_no_matrix_is_refused() -> None:
    assert type(build_optimizer(network(), **RATES | {"muon_lrate": 0.0})) is torch.optim.AdamW
    with pytest.raises(InputError, match="--muon_lrate"):
        build_optimizer(nn.LayerNorm(8), **RATES)
