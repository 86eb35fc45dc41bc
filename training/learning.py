"""What of a network learns, by part, and how its weights are shared out among processes."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from geometry import InputError
from models.lora import LoRALinear
from models.vggt.layers import Block


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


def shard(model: nn.Module, mesh: DeviceMesh, trunks: Sequence[str] = ("aggregator",)) -> None:
    """Share the weights out over the processes of a mesh.

    Each block of the `trunks`, and each other part of the network, is gathered when it is needed.
    """
    units = [module for name in trunks for module in model.get_submodule(name).modules() if isinstance(module, Block)]
    units += [part for name, part in model.named_children() if name not in trunks]
    for module in [*units, model]:
        fully_shard(module, mesh=mesh)
