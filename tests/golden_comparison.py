"""One output beside its record, for `tests.goldens`."""

from typing import NamedTuple

import numpy as np


class Comparison(NamedTuple):
    """One output against its record."""

    name: str
    deviation: float
    """Largest absolute difference; infinite for an unknown output or another shape."""
    tolerance: str
    is_within: bool


def compared(
    name: str, expected: np.ndarray, got: np.ndarray | None, *, absolute: float = 0.0, relative: float = 0.0
) -> Comparison:
    """Deviation of `got`, tolerated up to `absolute` + `relative` * |expected|; nan equals nan, infinity infinity."""
    if got is None or got.shape != expected.shape:
        found = "nothing" if got is None else f"shape {got.shape}"
        return Comparison(name, float("inf"), f"shape {expected.shape}, got {found}", False)
    expected, got = expected.astype(np.float64), got.astype(np.float64)
    with np.errstate(invalid="ignore"):
        same = (expected == got) | (np.isnan(expected) & np.isnan(got))
        difference = np.where(same, 0.0, np.abs(expected - got))
        is_within = bool(np.all(difference <= absolute + relative * np.nan_to_num(np.abs(expected))))
    parts = [f"{absolute:.1e}"] if absolute or not relative else []
    parts += [f"{relative:.0e} relative"] if relative else []
    return Comparison(name, float(np.nan_to_num(difference, nan=np.inf).max(initial=0.0)), " + ".join(parts), is_within)
