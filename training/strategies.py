"""How processes share a model: names that `--strategy` takes beside Lightning's own."""

import importlib.util
from typing import Any

from pytorch_lightning.strategies import ModelParallelStrategy

from geometry import InputError

FSDP, DEEPSPEED = "fsdp", "deepspeed"


def strategy_of(name: str, num_processes: int) -> Any:
    """What Lightning's trainer is given.

    `fsdp` is torch's second version of it (FSDP 2), which also runs on CPUs and with several backward passes a step;
    the task shares its weights out in `configure_model`. `deepspeed` is ZeRO stage 3, of the extra [deepspeed].

    Raises:
        InputError: for DeepSpeed where it is not installed.
    """
    if name == FSDP:
        return ModelParallelStrategy(num_processes, 1, save_distributed_checkpoint=False)
    if name == DEEPSPEED:
        if importlib.util.find_spec("deepspeed") is None:
            raise InputError("--strategy deepspeed: expected the package (pip install -e .[deepspeed]), got none")
        from pytorch_lightning.strategies import DeepSpeedStrategy

        return DeepSpeedStrategy(stage=3, exclude_frozen_parameters=True)
    return name
