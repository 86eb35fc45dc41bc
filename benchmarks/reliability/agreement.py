"""The same models on other machines: levels of a CPU's instructions, and a GPU beside the CPU."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.reliability.forwards import MODELS, Outputs, forwards
from geometry import require

ROOT = Path(__file__).parents[2]
LEVELS = {
    "default": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "avx512": {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
}
"""Of torch's own kernels and of oneDNN's; the last one is what the others are compared with."""
BOUNDS = {
    "general_guided: color": 5e-3,
    "general_guided: depth": 2e-2,
    "vggt_nano: depth": 1e-3,
    "vggt_nano: pose": 1e-3,
    "occupancy_world: probability": 1e-3,
    "occupancy_world: label": 1e-4,
    "vqa_rooms: embeddings": 1e-3,
    "vqa_rooms: attention": 1e-3,
    "vqa_rooms: answer": 0.0,
}
"""Largest difference in float32, see `compared`; with TensorFloat-32 `_TF32` times as much."""
_TF32 = 10.0
"""Its numbers have 10 bits where float32 has 23; activations that add up and are normalized keep most of the rest."""
_QUANTILE = 0.999
"""Of the differences: a ray beside a depth edge may find another surface after any rounding."""


@dataclass(frozen=True)
class Difference:
    """Of one output between two machines."""

    machine: str
    output: str
    typical: float
    """Mean."""
    largest: float
    """The 99.9 % quantile; of decisions the share that is another."""
    bound: float
    seconds: float

    @property
    def agrees(self) -> bool:
        """Whether it is within the bound."""
        return self.largest <= self.bound


Results = Mapping[str, tuple[Outputs, float]]


def compared(machine: str, theirs: Results, ours: Results, factor: float = 1.0) -> list[Difference]:
    """Every output of `ours` with the one of the reference; bounds are multiplied by `factor`.

    Differences are absolute for what lies in [0, 1], else relative to the root mean square of the reference.
    """
    rows = []
    for name, (outputs, seconds) in ours.items():
        for key, value in outputs.items():
            typical, largest = _difference(theirs[name][0][key], value)
            bound = BOUNDS[f"{name}: {key}"] * factor
            rows.append(Difference(machine, f"{name}: {key}", typical, largest, bound, seconds))
    return rows


def _difference(theirs: Tensor, ours: Tensor) -> tuple[float, float]:
    if theirs.shape != ours.shape:  # answers of other lengths
        return 1.0, 1.0
    if not theirs.is_floating_point():
        share = float((theirs != ours).double().mean())
        return share, share
    error = (theirs.double() - ours.double()).abs().flatten()
    scale = max(1.0, float(theirs.double().square().mean().sqrt()))
    position = min(len(error) - 1, int(_QUANTILE * len(error)))
    return float(error.mean()) / scale, float(error.sort().values[position]) / scale


def cpu_levels(height: int) -> list[Difference]:
    """Every level in a process of its own, one thread each.

    Raises:
        InputError: for a process that fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = {name: _at_level(name, Path(folder) / f"{name}.pt", height) for name in LEVELS}
    *others, best = LEVELS
    return [row for name in others for row in compared(f"{name} against {best}", found[best], found[name])]


def _at_level(name: str, file: Path, height: int) -> Results:
    command = [sys.executable, "-m", "benchmarks.reliability.forwards", str(file), "--height", str(height)]
    environment = {**os.environ, **LEVELS[name], "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    require(result.returncode == 0, f"CPU level {name}: {(result.stderr.strip() or 'no output').splitlines()[-1]}")
    return torch.load(file, weights_only=True)


def other_device(device: torch.device, height: int, names: Sequence[str] = MODELS) -> list[Difference]:
    """The device against this CPU: in float32, as torch is set up, with TensorFloat-32 everywhere.

    torch lets convolutions use TensorFloat-32 unless told otherwise, products not.
    """
    theirs = _plain(forwards(torch.device("cpu"), height, names))
    rows = []
    for name, products, convolutions in (
        ("float32", False, False),
        ("as torch is set up", False, True),
        ("TensorFloat-32", True, True),
    ):
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = products, convolutions
        factor = _TF32 if convolutions else 1.0
        rows += compared(
            f"{device.type}, {name}, against the CPU", theirs, _plain(forwards(device, height, names)), factor
        )
    return rows


def _plain(found: Mapping[str, Any]) -> Results:
    return {name: (one.outputs, one.seconds) for name, one in found.items()}


def table_of(rows: list[Difference]) -> str:
    """One line per output."""
    lines = ["| machine | output | mean difference | 99.9 % of all below | bound | seconds |", "|---" * 6 + "|"]
    for row in rows:
        verdict = f"{row.bound:.2g}" if row.agrees else f"**{row.bound:.2g} exceeded**"
        numbers = f"{row.typical:.2g} | {row.largest:.2g} | {verdict} | {row.seconds:.3f}"
        lines.append(f"| {row.machine} | {row.output} | {numbers} |")
    return "\n".join(lines)


def plain_rows(rows: list[Difference]) -> list[dict[str, Any]]:
    """For JSON."""
    return [{**asdict(row), "agrees": row.agrees} for row in rows]
