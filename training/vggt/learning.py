"""What of a VGGT learns, and how large its gradients may get."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from geometry import InputError
from models.lora import LoRALinear, add_lora
from models.vggt.layers import Block
from models.vggt.vggt import VGGT


def require_learning_biases(model: VGGT) -> None:
    """Refuse `--bias_only` beside a `--freeze` that leaves no bias of the aggregator to learn.

    Raises:
        InputError: naming both options.
    """
    if not any(parameter.requires_grad for parameter in model.aggregator.parameters()):
        raise InputError("--freeze and --bias_only contradict each other: no bias of the aggregator is left to learn")


def frozen_modules(model: nn.Module, patterns: Sequence[str]) -> list[nn.Module]:
    """Modules whose full name matches a pattern, with their parameters set not to learn.

    The caller keeps them in evaluation mode.

    Raises:
        InputError: for a pattern without a match, or one that matches low-rank changes, which are there to learn.
    """
    named = {name: module for name, module in model.named_modules() if name}
    frozen = []
    for pattern in patterns:
        matched = [module for name, module in named.items() if fnmatchcase(name, pattern)]
        if not matched:
            known = ", ".join(name for name, _ in model.named_children())
            raise InputError(f"--freeze {pattern}: expected the name of a module (parts of {known}), got no match")
        if any(isinstance(part, LoRALinear) for module in matched for part in module.modules()):
            raise InputError(f"--freeze {pattern} and --lora_rank contradict each other: the low-rank changes learn")
        frozen += matched
    for module in frozen:
        module.requires_grad_(False)
    return frozen


def restrict_aggregator(model: VGGT, *, lora_rank: int = 0, lora_alpha: float = 1.0, bias_only: bool = False) -> None:
    """Low-rank changes or biases are all that learns of the aggregator; heads are not touched."""
    if lora_rank:
        add_lora(model.aggregator, lora_rank, lora_alpha)
    if bias_only:
        for name, parameter in model.aggregator.named_parameters():
            parameter.requires_grad_(name.endswith("bias"))


def module_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Parameters that learn, by the part of the network they belong to: aggregator, camera_head, ...

    Every one is in exactly one group.
    """
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(name.split(".", 1)[0], []).append(parameter)
    if not groups:
        raise InputError("--freeze: expected something that learns, got every parameter frozen")
    return groups


def shard(model: VGGT, mesh: DeviceMesh) -> None:
    """Share the weights out over the processes of a mesh; each block and each head is gathered when it is needed."""
    units = [module for module in model.aggregator.modules() if isinstance(module, Block)]
    units += [head for name, head in model.named_children() if name != "aggregator"]
    for module in [*units, model]:
        fully_shard(module, mesh=mesh)


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
