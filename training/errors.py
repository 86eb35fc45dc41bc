"""Errors of training."""

from geometry import InputError


class NonFiniteError(InputError):
    """A loss or gradient is not finite. The last checkpoint is from before that step."""
