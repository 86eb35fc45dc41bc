"""Solved photo sets that several tests look at."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from jaxtyping import Float
from torch import Tensor

from render.reconstruct.structure_from_motion import solve
from render.reconstruct.types import PhotoSet, Solution
from tests.render.reconstruct.photo_sets import Lens, ring, take_photos

K1 = -0.15


@dataclass(frozen=True)
class Solved:
    """Photographs, the truth and what was found."""

    photos: PhotoSet
    lenses: list[Lens]
    w2c: Float[Tensor, "view 4 4"]
    work: Path
    solution: Solution


@pytest.fixture(scope="session")
def solved(tmp_path_factory: pytest.TempPathFactory) -> Solved:
    """Eight views of one distorting lens, held upright and sideways by turns."""
    folder = tmp_path_factory.mktemp("solved")
    lenses = [Lens(k1=K1), Lens(k1=K1).upright] * 4
    photos = take_photos(folder / "images", ring(8), lenses)
    return Solved(photos, lenses, ring(8), folder / "work", solve(photos, folder / "work", num_threads=1))
