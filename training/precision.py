"""Numbers that a run computes with: one place for what `--precision` means, in training, validation and evaluation."""

import contextlib

import torch

from data.problems import announce
from geometry import InputError

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
AUTO = "auto"
TRAINED = "trained"
"""Of evaluation: as the run that wrote the checkpoint."""
_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def device_of(accelerator: str) -> torch.device:
    """The kind of device that Lightning takes for `--accelerator`; what is not there is Lightning's to refuse."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if accelerator == "cpu" or found is None else found


def is_gpu(device: torch.device) -> bool:
    """Whether it is one of torch's CUDA devices."""
    return torch.empty(0, device=device).is_cuda


def resolved_precision(precision: str, device: torch.device) -> str:
    """`auto`: bf16-mixed on a CUDA GPU that computes bfloat16 natively, 32-true everywhere else.

    Not 16-mixed on older GPUs: float16 ends at 65504, so that results would depend on the scale of a scene and steps
    be skipped by the loss scaler; whoever wants its speed asks for it. On a CPU autocast is slower than float32.
    """
    if precision != AUTO:
        return precision
    has_bfloat16 = is_gpu(device) and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if has_bfloat16 else "32-true"


def autocast_of(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    """What Lightning enters for a step in that precision, for code outside its trainer."""
    if precision not in _AUTOCAST:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=_AUTOCAST[precision], cache_enabled=False)


def announce_slow(precision: str, device: torch.device) -> None:
    """One line for a mixed precision that costs time instead of saving it."""
    if precision in _AUTOCAST and device.type == "cpu":
        announce(f"note: --precision {precision} on a CPU: 32-true is faster there")


def usable_device(accelerator: str) -> torch.device:
    """Where to compute: `auto` takes an accelerator if there is one, a named one has to be there.

    Raises:
        InputError: when it is not.
    """
    available = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator == "cpu" or (accelerator == "auto" and available is None):
        return torch.device("cpu")
    known = {"auto", "gpu", *(() if available is None else (available.type,))}
    if available is None or accelerator not in known:
        found = "none" if available is None else available.type
        raise InputError(
            f"--accelerator {accelerator}: not possible here, expected auto or cpu (accelerators: {found})"
        )
    return available
