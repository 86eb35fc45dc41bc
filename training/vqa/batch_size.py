"""How many samples are in memory at once. What a step learns does not depend on it: see `SceneQA.forward`."""

import torch

from geometry import InputError

AUTO = "auto"
_BY_FREE_MEMORY = ((25.0, 1), (40.0, 2), (80.0, 4))
"""Free GiB of an accelerator below which so many samples fit, for Qwen3-4B with the published guide's Perceiver."""
_MOST = 6


def samples_at_once(batch: str, free_bytes: int | None) -> int:
    """Of `--batch`; 0: all samples of a process.

    `free_bytes` of the accelerator decide with `auto`; None: there is none, so that nothing has to be divided.

    Raises:
        InputError: for anything but a number and `auto`.
    """
    if batch == AUTO:
        if free_bytes is None:
            return 0
        free = free_bytes / 2**30
        return next((samples for limit, samples in _BY_FREE_MEMORY if free < limit), _MOST)
    if not (batch.isascii() and batch.isdigit()):
        raise InputError(f"--batch: expected a number or {AUTO}, got {batch!r}")
    return int(batch)


def free_memory(device: torch.device) -> int | None:
    """Bytes that an accelerator has left; None on a CPU."""
    if device.type == "cpu":
        return None
    return int(torch.accelerator.get_memory_info(device)[0])
