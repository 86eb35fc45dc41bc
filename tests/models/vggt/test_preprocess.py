"""Image files to network input against pixels recorded from the reference."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from geometry.errors import InputError
from models.vggt.preprocess import load_images, load_images_square

FOLDER = Path(__file__).parents[2] / "golden" / "preprocess"
CASES = json.loads((FOLDER / "cases.json").read_text())


def pixels(name: str) -> torch.Tensor:
    with np.load(FOLDER / "expected.npz") as file:
        return torch.from_numpy(file[name])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:images differ in shape")
def test_recorded_cases(case: str) -> None:
    paths = [FOLDER / f"{name}.png" for name in CASES[case]["files"]]
    images = load_images(paths, mode=CASES[case]["mode"])
    assert list(images.shape) == CASES[case]["shape"]
    assert images.dtype == torch.float32
    assert torch.equal((images * 255).round().to(torch.uint8), pixels(f"{case}_x255"))


def test_squares() -> None:
    images, boxes = load_images_square([FOLDER / "odd.png", FOLDER / "alpha.png"], size=112)
    assert torch.equal((images * 255).round().to(torch.uint8), pixels("square112_odd_alpha_x255"))
    torch.testing.assert_close(boxes, pixels("square112_coords"))


def test_different_shapes_warn() -> None:
    with pytest.warns(UserWarning, match="differ in shape, padding all to 420x518"):
        load_images([FOLDER / "odd.png", FOLDER / "alpha.png"])


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one image"):
        load_images([])
    with pytest.raises(InputError, match="crop or pad, got 'fit'"):
        load_images([FOLDER / "odd.png"], mode="fit")
    (tmp_path / "text.png").write_text("no image")
    for path in (tmp_path / "text.png", tmp_path / "absent.png"):
        with pytest.raises(InputError, match=str(path)):
            load_images([path])
