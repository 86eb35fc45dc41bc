"""What of a VGGT learns, and how large its gradients may get."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from geometry import InputError
from models.lora import add_lora
from models.vggt.vggt import VGGT
from training.learning import frozen_modules, module_groups, shard

__all__ = [
    "WeightAverage",
    "frozen_modules",
    "module_groups",
    "require_learning_biases",
    "restrict_aggregator",
    "shard",
]


def require_learning_biases(model: VGGT) -> None:
    """Refuse `--bias_only` beside a `--freeze` that leaves no bias of the aggregator to learn.

    Raises:
        InputError: naming both options.
    """
    if not any(parameter.requires_grad for parameter in model.aggregator.parameters()):
        raise InputError("--freeze and --bias_only contradict each other: no bias of the aggregator is left to learn")


def restrict_aggregator(model: VGGT, *, lora_rank: int = 0, lora_alpha: float = 1.0, bias_only: bool = False) -> None:
    """Low-rank changes or biases are all that learns of the aggregator; heads are not touched."""
    if lora_rank:
        add_lora(model.aggregator, lora_rank, lora_alpha)
    if bias_only:
        for name, parameter in model.aggregator.named_parameters():
            parameter.requires_grad_(name.endswith("bias"))


class WeightAverage:
    """Exponential moving average of the parameters that learn.

    Early on the decay is (1 + step) / (10 + step), so that the average forgets the start (as TensorFlow's does).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """The average of one moment: the parameters as they are."""
        self.decay = decay
        self.weights = {
            name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad
        }

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the parameters after optimizer step number `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in model.named_parameters():
            if name in self.weights:
                self.weights[name].lerp_(parameter, 1 - decay)

    def map(self, function: Callable[[Tensor], Tensor]) -> None:
        """Apply to all tensors, to move them to a device."""
        self.weights = {name: function(value) for name, value in self.weights.items()}
