"""AdamW, or Muon for matrices and kernels and AdamW for the rest: fewer steps to the same objective."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from geometry import InputError

_MIN_SIDE = 8
"""Rows and columns of a matrix that Muon takes: a smaller one has few directions to make orthogonal. Chosen by hand."""


def build_optimizer(model: nn.Module, *, lrate: float, muon_lrate: float, weight_decay: float) -> Optimizer:
    """Over every parameter that learns, biases and norms included; `muon_lrate` 0: AdamW on all of them.

    Raises:
        InputError: `muon_lrate` is given and nothing of what learns is a matrix or a kernel.
    """
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not muon_lrate:
        return AdamW(learning, lr=lrate, weight_decay=weight_decay)
    matrices = matrices_of(model)
    if not matrices:
        raise InputError("--muon_lrate: expected matrices or kernels that learn, got none")
    chosen = {id(matrix) for matrix in matrices}
    others = [parameter for parameter in learning if id(parameter) not in chosen]
    return MuonAdamW(matrices, others, lrate=lrate, muon_lrate=muon_lrate, weight_decay=weight_decay)


def matrices_of(model: nn.Module) -> list[nn.Parameter]:
    """Weights of linear layers and kernels of convolutions that learn and are at least 8 on either side."""
    kinds = nn.Linear | nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d
    weights = [module.weight for module in model.modules() if isinstance(module, kinds)]
    weights = [weight for weight in weights if isinstance(weight, nn.Parameter) and weight.requires_grad]
    return [weight for weight in weights if min(weight.flatten(1).shape) >= _MIN_SIDE]


class MuonAdamW(Optimizer):
    """Muon (Jordan et al. 2024; steps as large as AdamW's after Liu et al. 2025, eq. 4) beside AdamW.

    torch's Muon takes matrices only, so kernels reach it as matrices (first axis, rest) that share their memory: a
    row per output, or per input where a convolution is transposed. Group 0 holds the matrices, group 1 everything else;
    schedules set the rates of both.
    """

    def __init__(
        self,
        matrices: list[nn.Parameter],
        others: list[nn.Parameter],
        *,
        lrate: float,
        muon_lrate: float,
        weight_decay: float,
    ) -> None:
        groups = [{"params": matrices, "lr": muon_lrate}]
        if others:
            groups.append({"params": others, "lr": lrate})
        super().__init__(groups, {})
        self._flat = [nn.Parameter(_as_matrix(weight)) for weight in matrices]
        muon = Muon(self._flat, lr=muon_lrate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self._inner: list[Optimizer] = [muon]
        if others:
            self._inner.append(AdamW(others, lr=lrate, weight_decay=weight_decay))

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of both."""
        result = None if closure is None else closure()
        for flat, weight in zip(self._flat, self.param_groups[0]["params"], strict=True):
            flat.data = _as_matrix(weight)
            flat.grad = None if weight.grad is None else weight.grad.flatten(1)
        for inner, group in zip(self._inner, self.param_groups, strict=True):
            inner.param_groups[0]["lr"] = group["lr"]
            inner.step()
        return result

    def state_dict(self) -> dict[str, Any]:
        """Rates and the states of both."""
        return {
            "rates": [group["lr"] for group in self.param_groups],
            "inner": [inner.state_dict() for inner in self._inner],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        for group, rate in zip(self.param_groups, state_dict["rates"], strict=True):
            group["lr"] = rate
        for inner, state in zip(self._inner, state_dict["inner"], strict=True):
            inner.load_state_dict(state)


def _as_matrix(weight: nn.Parameter) -> torch.Tensor:
    return weight.detach().view(len(weight), -1)
