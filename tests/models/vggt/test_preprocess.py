"""Image files to network input against pixels recorded from the reference."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.image_io import image_size
from geometry.errors import InputError
from models.vggt.preprocess import intrinsics_in_files, load_images, load_images_square, load_images_whole

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
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "floats.tif")
    for path in (tmp_path / name for name in ("text.png", "absent.png", "floats.tif")):
        with pytest.raises(InputError, match=str(path)):
            load_images([path])


def test_a_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(InputError, match="cannot be read: Image size"):
        load_images([FOLDER / "odd.png"])


def test_of_16_bits_the_high_byte_is_taken(tmp_path: Path) -> None:
    ramp = np.arange(28 * 28, dtype=np.uint16).reshape(28, 28) // 4
    for name, values in (("deep", ramp * 256), ("flat", ramp.astype(np.uint8))):
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    deep, flat = (load_images([tmp_path / f"{name}.png"]) for name in ("deep", "flat"))
    assert torch.equal(deep, flat)


def test_whole_landscape_images_are_those_of_pad_without_its_padding() -> None:
    images, boxes = load_images_whole([FOLDER / "odd.png"])
    (height, width), (rows, cols) = image_size(FOLDER / "odd.png"), images.shape[-2:]
    padded = load_images([FOLDER / "odd.png"], mode="pad")
    top = (518 - rows) // 2
    assert cols == 518
    assert rows < 518
    assert torch.equal(images, padded[:, :, top : top + rows])
    assert boxes.tolist() == [[0, 0, cols, rows, width, height]]


def test_nothing_is_cut_off_high_images_and_the_canvas_is_not_higher_than_wide(tmp_path: Path) -> None:
    Image.new("RGB", (60, 120)).save(tmp_path / "high.png")
    Image.new("RGB", (120, 60)).save(tmp_path / "wide.png")
    alone = load_images_whole([tmp_path / "high.png"], size=56)
    assert alone.images.shape == (1, 3, 56, 56)
    assert alone.boxes.tolist() == [[14, 0, 42, 56, 60, 120]]
    assert alone.images[0, :, :, 14:42].max() == 0
    assert alone.images[0, :, :, :14].min() == 1
    mixed = load_images_whole([tmp_path / "high.png", tmp_path / "wide.png"], size=56)
    assert mixed.boxes.tolist() == [[14, 0, 42, 56, 60, 120], [0, 14, 56, 42, 120, 60]]


@pytest.mark.parametrize("size", [(203, 100), (100, 203), (97, 97)])
def test_a_point_found_in_the_canvas_is_on_the_same_ray_as_in_the_file(tmp_path: Path, size: tuple[int, int]) -> None:
    """A white spot in the file, where the network sees it, and both intrinsics: one ray."""
    width, height = size
    x, y = torch.arange(width) + 0.5, torch.arange(height)[:, None] + 0.5
    spot = torch.tensor([0.3 * width, 0.6 * height])
    intensity = 255 * torch.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / 2 / 6**2)
    Image.fromarray(intensity.byte().numpy()).convert("RGB").save(tmp_path / "spot.png")
    images, boxes = load_images_whole([tmp_path / "spot.png"], size=112)
    left, top, right, bottom = boxes[0, :4].long().tolist()
    seen = torch.zeros_like(images[0, 0])
    seen[top:bottom, left:right] = images[0, 0, top:bottom, left:right]
    rows, cols = seen.shape
    centers = torch.stack([seen.sum(0) @ (torch.arange(cols) + 0.5), seen.sum(1) @ (torch.arange(rows) + 0.5)])
    centers = torch.cat([centers / seen.sum(), torch.ones(1)])
    in_canvas = torch.tensor([[130.0, 0, cols / 2], [0, 120, rows / 2], [0, 0, 1]])
    in_file = intrinsics_in_files(in_canvas[None], boxes)[0]
    projected = in_file @ torch.linalg.inv(in_canvas) @ centers
    torch.testing.assert_close(projected[:2], spot, atol=0.15, rtol=0)
    torch.testing.assert_close(in_file[:2, 2], torch.tensor([width / 2, height / 2]))
