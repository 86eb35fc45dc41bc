"""The data sets by the name that `--dataset_name` takes. All readers have one signature."""

from collections.abc import Callable

from data.base import PosedScene
from data.blendedmvs import read_blendedmvs
from data.blender import read_blender
from data.dtu import read_dtu
from data.llff import read_llff

READERS: dict[str, Callable[..., list[PosedScene]]] = {
    "dtu": read_dtu,
    "blendedmvs": read_blendedmvs,
    "llff": read_llff,
    "blender": read_blender,
}
"""read(datadir, *, split, scans=None, lights=None, report=raise_problem) -> scenes."""
