"""The plots of the benchmarks: lines over an axis, written as a PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def line_plot(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    across: str,
    up: str,
    *,
    logarithmic: tuple[str, ...] = (),
) -> Figure:
    """A line through the (x, y) points of every name; `logarithmic` names the axes (x, y) that are logarithmic."""
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, (x, y) in lines.items():
        axes.plot(x, y, marker="o", label=name)
    for axis in logarithmic:
        getattr(axes, f"set_{axis}scale")("log", base=2)
        getattr(axes, f"{axis}axis").set_major_formatter("{x:g}")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def save_plot(figure: Figure, path: Path) -> None:
    """As PNG, 640 x 480."""
    figure.savefig(path, dpi=100)
