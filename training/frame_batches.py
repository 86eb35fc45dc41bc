"""Batches of groups of views, for error messages."""

from collections.abc import Callable

from geometry import FrameBatch


def identity_of(batch: FrameBatch) -> Callable[[], str]:
    """The samples of a step, for error messages."""
    return lambda: f"{list(batch.names)}, views {batch.views.ids.tolist()}, seeds {batch.seeds.tolist()}"
