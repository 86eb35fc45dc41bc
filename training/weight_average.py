"""Exponential moving average of weights, which wander less than they do from one small batch to the next."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of the parameters that learn.

    Random weights at the start are better forgotten, for which the decay is (1 + step) / (10 + step) early on (as
    TensorFlow's is). Trained ones are worth keeping: their share after n steps is decay^n.
    """

    def __init__(self, model: nn.Module, decay: float, *, forgets_start: bool = True) -> None:
        """The average of one moment: the parameters as they are."""
        self.decay = decay
        self.forgets_start = forgets_start
        self.weights = {
            name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad
        }

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the parameters after optimizer step number `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.forgets_start else self.decay
        for name, parameter in model.named_parameters():
            if name in self.weights:
                self.weights[name].lerp_(parameter, 1 - decay)

    def map(self, function: Callable[[Tensor], Tensor]) -> None:
        """Apply to all tensors, to move them to a device."""
        self.weights = {name: function(value) for name, value in self.weights.items()}

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the average and the parameters, for a validation and after it."""
        for name, parameter in model.named_parameters():
            if name in self.weights:
                own = parameter.detach().clone()
                parameter.copy_(self.weights[name])
                self.weights[name] = own
