"""Low-rank adaptation (Hu et al. 2021): fine-tune large linear layers through a product of two thin matrices.

The layers keep their names, so that the state dict of an adapted network is the plain one plus two tensors for each
layer, and merging gives back the plain one.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

_A, _B = ".lora_a", ".lora_b"


class LoRALinear(nn.Linear):
    """W x + bias + alpha / rank * B A x; W and the bias are those of the layer it replaces and are frozen."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        """B starts at zero, so nothing changes at first. A is drawn as torch draws a layer's weights."""
        super().__init__(base.in_features, base.out_features, bias=False, device="meta")
        self.weight = base.weight.requires_grad_(False)
        self.bias = None if base.bias is None else base.bias.requires_grad_(False)
        self.lora_a = nn.Parameter(self.weight.new_empty(rank, base.in_features))
        self.lora_b = nn.Parameter(self.weight.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
        self.scale = alpha / rank

    def forward(self, values: Float[Tensor, "*batch dim_in"]) -> Float[Tensor, "*batch dim_out"]:
        """Apply to the last axis."""
        change = F.linear(F.linear(values, self.lora_a), self.lora_b)
        return super().forward(values) + self.scale * change


def add_lora(module: nn.Module, rank: int, alpha: float) -> int:
    """Put a `LoRALinear` in the place of every linear layer below `module` and freeze all its other parameters.

    Returns how many there are.
    """
    module.requires_grad_(False)
    found = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear)
    ]
    for parent, name, child in found:
        setattr(parent, name, LoRALinear(child, rank, alpha))
    return len(found)


@torch.no_grad()
def merged_state(state: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """A state dict with the low-rank changes added to the weights: that of the plain network, which does the same."""
    merged = {key: value for key, value in state.items() if not key.endswith((_A, _B))}
    for key, thin_a in state.items():
        if key.endswith(_A):
            layer = key.removesuffix(_A)
            change = state[layer + _B].double() @ thin_a.double() * (alpha / len(thin_a))
            merged[f"{layer}.weight"] = (state[f"{layer}.weight"].double() + change).to(thin_a.dtype)
    return merged
