"""AdamW, or Muon for matrices and kernels and AdamW for the rest: fewer steps to the same objective."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class PartRate:
    """Learning rates of all parameters whose names begin with a prefix."""

    prefix: str
    """Of whole names: `encoder` is `encoder.blocks.0.weight` but not `encoder_norm.weight`; "" is everything."""
    peak: float
    """0: frozen."""
    floor: float = 0.0
    """At the end of the run."""

    @classmethod
    def parse(cls, text: str) -> "PartRate":
        """`encoder=5e-6:5e-8`, or `encoder=0` for a part that does not learn.

        Raises:
            InputError: naming --part_lrates.
        """
        prefix, _, rates = text.partition("=")
        peak, _, floor = rates.partition(":")
        try:
            found = cls(prefix, float(peak), float(floor or 0))
        except ValueError:
            found = cls("", -1.0)
        if not found.prefix or not 0 <= found.floor <= found.peak:
            raise InputError(f"--part_lrates: expected part=peak:final or part=0, got {text!r}")
        return found

    def holds(self, name: str) -> bool:
        """Whether a parameter is one of them."""
        return not self.prefix or name == self.prefix or name.startswith(f"{self.prefix}.")


def rate_groups(
    model: nn.Module, parts: Sequence[PartRate], *, lrate: float, floor: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Parameter groups of AdamW by part and decay: vectors, numbers and biases do not decay.

    The first part that holds a name decides; of a part with rate 0 nothing learns any more. Groups have `floor`,
    `part` and `names` beside the usual entries and stand in the order of their first parameters.

    Raises:
        InputError: for a part that holds no parameter, or when nothing is left to learn.
    """
    groups: dict[tuple[str, float], dict[str, Any]] = {}
    unused = {part.prefix for part in parts}
    everything = PartRate("", lrate, floor)
    for name, parameter in model.named_parameters():
        part = next((one for one in (*parts, everything) if one.holds(name)), everything)
        unused.discard(part.prefix)
        if part.peak == 0:
            parameter.requires_grad_(False)
        if not parameter.requires_grad:
            continue
        decay = 0.0 if parameter.ndim <= 1 or name.endswith(".bias") else weight_decay
        group = groups.setdefault(
            (part.prefix, decay),
            {
                "params": [],
                "names": [],
                "lr": part.peak,
                "floor": part.floor,
                "weight_decay": decay,
                "part": part.prefix,
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    if unused:
        known = ", ".join(child for child, _ in model.named_children())
        raise InputError(f"--part_lrates {sorted(unused)[0]}: expected the name of a part ({known}), got none of them")
    if not groups:
        raise InputError("--part_lrates: expected something that learns, got every part with rate 0")
    return list(groups.values())


def _as_matrix(weight: nn.Parameter) -> torch.Tensor:
    return weight.detach().view(len(weight), -1)
