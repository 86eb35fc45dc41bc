import itertools

import cv2
import imageio.v2 as imageio
import numpy as np
import pi_heif
import pytest
from PIL import Image, ImageCms, ImageOps

from geometry import InputError
from render.reconstruct.image_motion import ContentPath
from render.reconstruct.photo_files import focal_pixels, read_photo
from render.reconstruct.photo_quality import blurred, look_at, repeated
from render.reconstruct.sources import file_names, natural_order, prepare
from render.reconstruct.video_frames import choose

RAMP = np.indices((6, 8)).sum(0).astype(np.uint8)[..., None] * np.array([8, 12, 16], np.uint8)
EXIF = 0x8769


def texture(shift, size=(96, 128), seed=0):
    """A window of one wall, `shift` pixels along it."""
    random = np.random.default_rng(seed)
    octaves = [random.integers(0, 256, (size[0] // scale, 1200 // scale, 3), dtype=np.uint8) for scale in (1, 2, 4, 8)]
    grown = [cv2.resize(octave, (1200, size[0]), interpolation=cv2.INTER_CUBIC) for octave in octaves]
    wall = np.mean(grown, axis=0).astype(np.uint8)
    return wall[:, shift : shift + size[1]]


def write(folder, images, suffix=".png"):
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"IMG_{number + 8}{suffix}")
    return folder


def film(path, images, **options):
    imageio.mimwrite(path, list(images), fps=25, macro_block_size=2, quality=9, **options)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_of_exif_comes_out_upright(tmp_path, orientation):
    undo = {6: 8, 8: 6}.get(orientation, orientation)
    exif = Image.Exif()
    exif[0x0112] = undo
    image = Image.fromarray(RAMP)
    image.info["exif"] = exif.tobytes()
    stored = ImageOps.exif_transpose(image)
    tag = Image.Exif()
    tag[0x0112] = orientation
    for name in ("a.png", "a.tif"):
        stored.save(tmp_path / name, exif=tag)
        photo = read_photo(tmp_path / name, 64)
        assert np.array_equal(photo.image, RAMP)
        assert photo.turned == (orientation != 1)


def test_pixels_of_all_kinds_become_rgb(tmp_path):
    gray = RAMP[..., 0]
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "deep.tif")
    Image.fromarray(gray).save(tmp_path / "gray.bmp")
    for name in ("deep.png", "deep.tif", "gray.bmp"):
        assert np.array_equal(read_photo(tmp_path / name, 64).image, np.repeat(gray[..., None], 3, -1)), name
    clear = np.dstack([RAMP, np.zeros((6, 8), np.uint8)])
    Image.fromarray(clear).save(tmp_path / "clear.png")
    Image.fromarray(clear).save(tmp_path / "clear.webp", lossless=True)
    for name in ("clear.png", "clear.webp"):
        assert (read_photo(tmp_path / name, 64).image == 255).all()
    red = np.full((16, 16, 3), (255, 0, 0), np.uint8)
    Image.fromarray(red).convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    Image.fromarray(red).convert("P").save(tmp_path / "palette.png")
    for name in ("print.jpg", "palette.png"):
        assert np.abs(read_photo(tmp_path / name, 64).image.astype(int) - red).max() <= 3, name


def test_colors_of_a_profile_become_srgb(tmp_path):
    lab_like = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(RAMP).save(tmp_path / "a.png", icc_profile=lab_like)
    assert np.abs(read_photo(tmp_path / "a.png", 64).image.astype(int) - RAMP).max() <= 1
    Image.fromarray(RAMP).save(tmp_path / "b.png", icc_profile=b"damaged")
    assert np.array_equal(read_photo(tmp_path / "b.png", 64).image, RAMP)


def test_reduction_is_by_area_and_never_enlarges(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (128, 256, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    mean = image.reshape(16, 8, 32, 8, 3).mean((1, 3))
    assert np.abs(read_photo(tmp_path / "a.png", 32).image - mean).max() <= 1
    assert np.array_equal(read_photo(tmp_path / "a.png", 1000).image, image)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({41989: 26}, 26 * 5000 / 43.2666),
        ({37386: 5.0, 41486: 600.0, 41488: 4, 40962: 2000, 40963: 1500}, 5 * 600 * 2),
        ({37386: 5.0, 41486: 600.0, 41488: 1}, None),
        ({41989: 0, 37386: 5.0}, None),
        ({41989: 60000}, None),
        ({}, None),
    ],
)
def test_focal_length_in_pixels(tags, expected):
    exif = Image.Exif()
    exif.get_ifd(EXIF).update(tags)
    assert focal_pixels(exif, (4000, 3000)) == (expected if expected is None else pytest.approx(expected))


def test_names_sort_in_the_given_order():
    assert sorted(["IMG_10.jpg", "img_9 b.jpg", "img_9.jpg", "b.jpg"], key=natural_order) == [
        *("b.jpg", "img_9.jpg", "img_9 b.jpg", "IMG_10.jpg")
    ]
    assert file_names(["a", "b c/../ü"]) == ["a.jpg", "b_c_.._ü.jpg"]
    assert file_names(["IMG_9", "IMG_10"]) == ["0_IMG_9.jpg", "1_IMG_10.jpg"]
    assert file_names(["a", "a", "A"]) == ["0_a.jpg", "1_a.jpg", "2_A.jpg"]
    assert file_names(["..", ".x"]) == ["_.jpg", "x.jpg"]


def test_a_folder_of_photographs(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(EXIF)[41989] = 43.2666
    (tmp_path / "my photos").mkdir()
    source = write(tmp_path / "my photos" / "images", [texture(20 * number) for number in range(5)])
    Image.fromarray(texture(200, (96, 192))).save(source / "IMG_20 ü.jpg", exif=exif, quality=95)
    Image.fromarray(np.zeros((96, 128, 3), np.uint8)).save(source / "black.png")
    Image.fromarray(texture(20)).save(source / "IMG_9 copy.png")
    whole = (source / "IMG_8.png").read_bytes()
    (source / "cut.png").write_bytes(whole[: len(whole) // 2])
    (source / "text.jpg").write_text("no image")
    for name in ("notes.txt", "Thumbs.db", ".DS_Store"):
        (source / name).write_text("x")
    photos = prepare(source.parent, tmp_path / "out" / "prepared", max_side=96)
    assert [photo.source for photo in photos.photos] == [f"IMG_{n}.png" for n in range(8, 13)] + ["IMG_20 ü.jpg"]
    assert [(photo.height, photo.width) for photo in photos.photos] == [(72, 96)] * 5 + [(96, 48)]
    assert photos.photos[-1].focal == pytest.approx(np.hypot(96, 192) / 2)
    assert photos.photos[-1].name == "5_IMG_20_ü.jpg"
    names = [photo.name for photo in photos.photos]
    assert sorted(path.name for path in (tmp_path / "out" / "prepared").iterdir()) == sorted(names) == names
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["prepared"]
    said = "\n".join(photos.warnings)
    assert "ignored, because they are no photographs: 1 .db file, 1 .txt file" in said
    assert "2 of 10 photographs cannot be read: cut.png: expected a complete image" in said
    assert "1 of 8 images are black or of one color: black.png" in said
    assert "1 of 7 images are the same as another: IMG_9 copy.png = IMG_9.png" in said
    assert "1 of 6 images were turned" in said
    assert "5 of 96 x 72; 1 of 48 x 96" in said
    assert not photos.is_video
    with pytest.raises(InputError, match="expected an empty folder or a new name"):
        prepare(source, tmp_path / "out" / "prepared")


def test_order_by_time_and_the_same_files_again(tmp_path):
    source = tmp_path / "s"
    source.mkdir()
    for number, second in enumerate((30, 10, 20)):
        exif = Image.Exif()
        exif.get_ifd(EXIF)[36867] = f"2024:05:01 10:00:{second}"
        Image.fromarray(texture(20 * number)).save(source / f"{number}.jpg", exif=exif)
    first, second = (prepare(source, tmp_path / name) for name in ("a", "b"))
    assert [photo.source for photo in first.photos] == ["1.jpg", "2.jpg", "0.jpg"]
    for one, other in zip(first.photos, second.photos, strict=True):
        assert (first.folder / one.name).read_bytes() == (second.folder / other.name).read_bytes()


def test_of_too_many_evenly_spaced_ones_are_used(tmp_path):
    shifts = [0, 1, 2, 3, 4, 16, 28, 40, 52, 64]
    source = write(tmp_path / "s", [texture(shift) for shift in shifts])
    photos = prepare(source, tmp_path / "out", max_images=5)
    used = [shifts[int(photo.source[4:-4]) - 8] for photo in photos.photos]
    assert len(used) == 5
    assert max(b - a for a, b in itertools.pairwise(used)) <= 28
    assert "5 of 10 images are used, evenly spaced in what they show" in photos.warnings


def test_blurred_images_are_left_out_if_enough_remain(tmp_path):
    images = [texture(20 * number) for number in range(14)]
    images[5] = cv2.GaussianBlur(images[5], (0, 0), 2.5)
    images[9] = cv2.filter2D(images[9], -1, np.full((1, 13), 1 / 13, np.float32))
    looks = [look_at(image) for image in images]
    assert sorted(blurred(looks)) == [5, 9]
    photos = prepare(write(tmp_path / "many", images), tmp_path / "a")
    assert len(photos.photos) == 12
    assert any("2 of 14 images are blurred" in line for line in photos.warnings)
    few = prepare(write(tmp_path / "few", images[2:8]), tmp_path / "b")
    assert len(few.photos) == 6
    assert any("are blurred and used, because few others remain: IMG_11.png" in line for line in few.warnings)


@pytest.mark.parametrize("sigma", [2.0, 8.0])
def test_blur_of_small_photographs_is_said_however_wide(sigma, tmp_path):
    """At 8 pixels the finest details are noise of JPEG, as sharp as any."""
    images = [texture(20 * number, (240, 320)) for number in range(4)]
    source = tmp_path / "s"
    source.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(cv2.GaussianBlur(image, (0, 0), sigma)).save(source / f"{number}.jpg", quality=95)
    said = []
    try:
        said += prepare(source, tmp_path / "out").warnings
    except InputError as error:
        said.append(str(error))
    assert any("soft" in line or "badly blurred" in line for line in said)
    assert prepare(write(tmp_path / "sharp", images), tmp_path / "b").warnings == ()


def test_too_few_for_what_they_are_for_are_refused_before_any_is_read(tmp_path):
    source = write(tmp_path / "s", [texture(20 * number) for number in range(3)])
    (source / "IMG_8.png").write_text("not read")
    with pytest.raises(InputError, match=r"s: expected at least 4 photographs, got 3$"):
        prepare(source, tmp_path / "out", min_images=4)
    assert not (tmp_path / "out").exists()


def test_the_sharpest_of_repeated_images_is_kept():
    plain = texture(0)
    soft = cv2.GaussianBlur(plain, (0, 0), 0.7)
    assert repeated([look_at(image) for image in (soft, plain, texture(10))]) == {0: 1}


def test_an_iphone_photograph(tmp_path, monkeypatch):
    """pi-heif decodes only, so that no file can be made here; this is what it hands to Pillow."""
    assert {".heic", ".heif"} <= {name for name, kind in Image.registered_extensions().items() if kind == "HEIF"}
    assert pi_heif.set_orientation({"exif": None}) is None
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 32)
    with pytest.raises(InputError, match=r"a.heic: expected a complete image"):
        read_photo(tmp_path / "a.heic", 64)


def bad_sources(folder):
    write(folder / "two", [texture(0), texture(20)])
    write(folder / "same", [texture(0)] * 4)
    write(folder / "blurred", [cv2.GaussianBlur(texture(40 * n), (0, 0), 4) for n in range(4)])
    (folder / "empty").mkdir()
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("x")
    (folder / "renamed").mkdir()
    for name in "abc":
        (folder / "renamed" / f"{name}.jpg").write_text("x")
    (folder / "texts" / "inside").mkdir()
    write(folder / "one", [texture(0)])
    (folder / "corrupt.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(4000))
    (folder / "a.pdf").write_text("x")
    film(folder / "single.mp4", [texture(0)])
    film(folder / "black.mp4", [np.zeros((64, 64, 3), np.uint8)] * 8)
    film(folder / "still.mp4", [texture(0)] * 8)


def test_bad_sources_get_one_sentence_and_leave_nothing(tmp_path):
    bad_sources(tmp_path)
    expected = {
        "none": "expected a folder of photographs or a video, got none",
        "empty": "got an empty folder",
        "texts": "got 1 .txt file, 1 folder",
        "renamed": "expected photographs, but 3 of 3 photographs cannot be read: a.jpg: expected a complete image",
        "two": "expected at least 3 photographs, got 2",
        "one": "expected at least 3 photographs, got 1",
        "same": "expected images from different places, but all 4 show the same",
        "blurred": "expected sharp images, but most of the 4 are badly blurred",
        "corrupt.mp4": "expected a video, got a file ",
        "a.pdf": "expected a folder of photographs or a video (",
        "one/IMG_8.png": "got one photograph",
        "single.mp4": "expected a video of at least 3 frames, got one of 1",
        "black.mp4": "expected a video whose camera moves past things with texture",
        "still.mp4": "by 0.0% of its long side",
    }
    for name, sentence in expected.items():
        with pytest.raises(InputError) as error:
            prepare(tmp_path / name, tmp_path / "out" / "prepared")
        assert str(error.value).startswith(str(tmp_path / name)), name
        assert sentence in str(error.value)
        assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_a_file_that_is_no_video_is_refused_without_a_word_of_opencv(tmp_path, capfd):
    (tmp_path / "fake.mp4").write_text("no video")
    with pytest.raises(InputError, match="expected a video, got a file that cannot be read as one"):
        prepare(tmp_path / "fake.mp4", tmp_path / "out")
    assert capfd.readouterr().err == ""


def test_content_grows_with_motion_and_not_with_time_or_trembling():
    gray = [cv2.cvtColor(texture(shift), cv2.COLOR_RGB2GRAY) for shift in [0, 1, 0, 1, 0, *range(0, 64, 2), *[62] * 9]]
    way = ContentPath()
    lengths = [way.add(image) for image in gray]
    assert lengths[4] <= 0.02
    assert lengths[36] == pytest.approx(62 / 128, rel=0.1)
    assert lengths[-1] == pytest.approx(lengths[36], abs=0.002)
    assert all(b >= a for a, b in itertools.pairwise(lengths))


def test_frames_are_even_in_content_and_the_sharpest_of_their_window():
    content = np.concatenate([np.zeros(50), np.linspace(0, 3.0, 301)])
    sharp = np.ones(351)
    sharp[20], sharp[60] = 2, 0.1
    chosen = choose(content, sharp, most=100)
    assert len(chosen) == 51
    assert chosen[0] == 20
    assert sharp[chosen].min() == 1
    assert np.diff(content[chosen]).max() < 0.12
    assert len(choose(content, sharp, most=10)) == 10
    assert len(choose(content * 0.1, sharp, most=100)) == 20


def test_a_video(tmp_path):
    path = film(tmp_path / "walk.mp4", [texture(shift, (64, 96)) for shift in [0] * 10 + list(range(0, 200, 4))])
    photos = prepare(path, tmp_path / "out", max_side=64)
    assert photos.is_video
    assert 20 <= len(photos.photos) <= 40
    assert sum(photo.source < "0:00.40" for photo in photos.photos) <= 2
    assert {(photo.height, photo.width) for photo in photos.photos} == {(43, 64)}
    names = [photo.name for photo in photos.photos]
    assert names == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert photos.warnings == ()
    (tmp_path / "folder").mkdir()
    path.rename(tmp_path / "folder" / "walk.mp4")
    assert prepare(tmp_path / "folder", tmp_path / "again", max_side=64).photos == photos.photos
