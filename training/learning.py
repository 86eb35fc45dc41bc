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


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Share the weights out over the processes of a mesh.

    Each transformer block is gathered when it is needed, and each part of the network without such blocks.
    """
    units = [module for module in model.modules() if isinstance(module, Block)]
    units += [part for part in model.children() if not _has_blocks(part)]
    for module in [*units, model]:
        fully_shard(module, mesh=mesh)


def _has_blocks(part: nn.Module) -> bool:
    return any(isinstance(module, Block) for module in part.modules())
