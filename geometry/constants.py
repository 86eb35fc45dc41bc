"""Small constants on a device, without making the host wait for it."""

from typing import Any

import torch
from torch import Tensor


def constant(values: Any, like: Tensor) -> Tensor:
    """Numbers (nested lists) as a tensor in the dtype and on the device of `like`.

    `torch.tensor(values, device=...)` and `.to(device)` synchronize with a GPU: they wait for all work before the copy.
    """
    return torch.tensor(values, dtype=like.dtype).to(like.device, non_blocking=True)
