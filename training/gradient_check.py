"""A stop before the first step when something that is meant to learn has no part in the loss."""

from collections.abc import Iterator

import pytorch_lightning as pl
from torch import nn
from torch.optim import Optimizer

from geometry import InputError


class GradientCheck(pl.Callback):
    """Looks once, before the first optimizer step of a process, whether every parameter that learns has a gradient.

    A gradient of zeros is one; None means that no loss depends on the parameter, which would keep its random start or,
    in distributed training, stop the second step (`DistributedDataParallel` waits for every gradient). Works alike for
    automatic and manual optimization, accumulation, and sharded parameters.
    """

    def __init__(self) -> None:
        self.is_done = False

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """All backward passes of the step are over.

        Raises:
            InputError: naming the modules without gradients and how many numbers they hold.
        """
        if self.is_done:
            return
        self.is_done = True
        require_gradients(pl_module)


def require_gradients(module: nn.Module) -> None:
    """Refuse a module with a parameter that learns, but has no gradient after a backward pass.

    Raises:
        InputError: naming the largest parts none of whose parameters has one, and how many numbers they hold.
    """
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    missing = sum(parameter.numel() for parameter in learning if parameter.grad is None)
    if not missing:
        return
    parts = ", ".join(f"{name} ({count})" for name, count in _without_gradients(module, ""))
    total = sum(parameter.numel() for parameter in learning)
    raise InputError(
        f"gradients: expected one for each of the {total} numbers that learn, got none for {missing} of them, which "
        f"no loss depends on: {parts}; give the loss that they learn from a weight, or freeze them"
    )


def _without_gradients(module: nn.Module, name: str) -> Iterator[tuple[str, int]]:
    """Names of the largest parts without any gradient and how many numbers of them learn."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    missing = [parameter for parameter in learning if parameter.grad is None]
    if not missing:
        return
    if name and len(missing) == len(learning):
        yield name, sum(parameter.numel() for parameter in missing)
        return
    prefix = f"{name}." if name else ""
    for own, parameter in module.named_parameters(recurse=False):
        if parameter.requires_grad and parameter.grad is None:
            yield f"{prefix}{own}", parameter.numel()
    for child_name, child in module.named_children():
        yield from _without_gradients(child, f"{prefix}{child_name}")
