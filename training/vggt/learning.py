"""What of a VGGT learns, and how large its gradients may get."""

from geometry import InputError
from models.lora import add_lora
from models.vggt.vggt import VGGT
from training.learning import frozen_modules, module_groups, shard

__all__ = [
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
