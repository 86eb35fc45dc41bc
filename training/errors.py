"""Errors of training."""

from geometry import InputError


class NonFiniteError(InputError):
    """Training left the realm of numbers. The last checkpoint is from before."""
