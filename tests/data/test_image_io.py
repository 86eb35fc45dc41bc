import numpy as np
import pytest
from PIL import Image

from data.image_io import image_size, read_depth_pfm, read_image, read_pfm, write_image, write_pfm
from geometry import InputError

RAMP = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


def test_png_round_trip_and_size(tmp_path):
    write_image(tmp_path / "sub" / "a.png", RAMP)
    assert np.array_equal(read_image(tmp_path / "sub" / "a.png"), RAMP)
    assert image_size(tmp_path / "sub" / "a.png") == (5, 7)
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["a.png"]


def test_decoded_images_are_read_only_and_follow_the_file(tmp_path):
    write_image(tmp_path / "a.png", RAMP)
    first = read_image(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png") is first
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0, 0] = 1
    write_image(tmp_path / "a.png", RAMP[:3])
    assert read_image(tmp_path / "a.png").shape == (3, 7, 3)


def test_alpha_is_composited_over_the_background(tmp_path):
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 0] = 200
    rgba[0, :, 3] = [0, 51, 255]
    write_image(tmp_path / "a.png", rgba)
    assert read_image(tmp_path / "a.png", background=255)[0].tolist() == [[255] * 3, [244, 204, 204], [200, 0, 0]]
    assert read_image(tmp_path / "a.png")[0].tolist() == [[0] * 3, [40, 0, 0], [200, 0, 0]]


def test_gray_16_bit_and_palette(tmp_path):
    write_image(tmp_path / "gray.png", RAMP[..., 0])
    assert np.array_equal(read_image(tmp_path / "gray.png"), np.repeat(RAMP[..., :1], 3, axis=-1))
    Image.fromarray(RAMP[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert np.array_equal(read_image(tmp_path / "deep.png"), np.repeat(RAMP[..., :1], 3, axis=-1))
    Image.fromarray(np.full((2, 2, 3), 128, np.uint8)).convert("P").save(tmp_path / "palette.png")
    assert read_image(tmp_path / "palette.png").shape == (2, 2, 3)


@pytest.mark.parametrize("extension", ["png", "jpg"])
def test_truncated_image_is_refused(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    write_image(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError) as error:
        read_image(path)
    assert str(error.value).startswith(f"{path}: expected a complete image, got one that cannot be decoded (")
    assert "\n" not in str(error.value)


def test_missing_image_and_text_file(tmp_path):
    with pytest.raises(InputError, match=r"a.png: expected an image file, got none$"):
        read_image(tmp_path / "a.png")
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(InputError, match=r"a.png: expected a complete image, got one that cannot be decoded"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("big_endian", [False, True])
def test_pfm_round_trip(tmp_path, big_endian):
    depth = np.random.default_rng(0).random((4, 6), dtype=np.float32)
    write_pfm(tmp_path / "a.pfm", depth, big_endian=big_endian)
    assert np.array_equal(read_pfm(tmp_path / "a.pfm"), depth)


def test_pfm_is_bottom_up_and_scale_tells_byte_order(tmp_path):
    values = np.array([[1, 2], [3, 4]], dtype=np.float32)
    (tmp_path / "little.pfm").write_bytes(b"Pf\n2 2\n-1.0\n" + values.astype("<f4").tobytes())
    (tmp_path / "big.pfm").write_bytes(b"Pf\n2 2\n1.0\n" + values.astype(">f4").tobytes())
    for name in ("little.pfm", "big.pfm"):
        assert read_pfm(tmp_path / name).tolist() == [[3, 4], [1, 2]]


def test_unknown_depth_is_zero(tmp_path):
    write_pfm(tmp_path / "a.pfm", np.array([[np.inf, 0, 5]], dtype=np.float32))
    assert read_depth_pfm(tmp_path / "a.pfm").tolist() == [[0, 0, 5]]


@pytest.mark.parametrize(
    ("values", "cut", "message"),
    [
        ([[1, 2]], 3, "expected 8 bytes for 2x1 PFM values, got 5"),
        ([[np.nan, 2]], 0, "expected numbers, got NaN in 1 of 2 pixels"),
        ([[-3, 2]], 0, "expected depth >= 0, got 1 negative pixels down to -3"),
    ],
)
def test_bad_pfm(tmp_path, values, cut, message):
    path = tmp_path / "a.pfm"
    write_pfm(path, np.array(values, dtype=np.float32))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - cut])
    with pytest.raises(InputError) as error:
        read_depth_pfm(path)
    assert str(error.value) == f"{path}: {message}"


def test_color_pfm_is_refused(tmp_path):
    (tmp_path / "a.pfm").write_bytes(b"PF\n1 1\n-1.0\n" + bytes(12))
    with pytest.raises(InputError, match="expected a one-channel PFM header"):
        read_pfm(tmp_path / "a.pfm")


@pytest.mark.parametrize("values", [np.float32, np.int32])
def test_values_without_a_black_and_a_white_are_refused(tmp_path, values):
    """A TIFF of floats in [0, 1] would be a black photograph."""
    Image.fromarray(RAMP[..., 0].astype(values)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match="floats or 32 bits, where 8 or 16 bits per value can be read"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("header", [b"Pf\n" + b"9" * 5000 + b" 2\n-1\n", b"Pf\n2 2\nnan\n", b"Pf\n2 2\n0\n"])
def test_pfm_headers_of_no_numbers(tmp_path, header):
    (tmp_path / "a.pfm").write_bytes(header + bytes(16))
    with pytest.raises(InputError, match="PFM"):
        read_pfm(tmp_path / "a.pfm")
