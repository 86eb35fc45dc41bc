"""The page is whole, needs nothing else, and shows what it is given."""

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.image_io import write_image
from render.photos import report as module
from render.photos.pictures import data_uri, reduced
from render.photos.report import Comparison, Page, ShownPhoto, report
from tests.render.photos.pages import Seen

HOSTILE = '<script>alert("x")</script>&.jpg'


@pytest.fixture
def page(tmp_path: Path) -> Page:
    photo, video = tmp_path / "photo.png", tmp_path / "video.mp4"
    write_image(photo, np.full((30, 40, 3), 128, np.uint8))
    video.write_bytes(b"not quite a video")
    scores = {"psnr": 21.234, "ssim": 0.71}
    return Page(
        title=HOSTILE,
        summary={
            "images": 3,
            "registered": 2,
            "poses": "colmap",
            "trajectory": "orbit",
            "reprojection_px": 0.512,
            "near": 1.0,
            "far": 9.0,
            "seconds": {"total": 61.0},
            "warnings": [f"{HOSTILE} is blurred"],
            "held_out": {"nearest_source": {"psnr": 12.0, "ssim": None}, "general": scores, "finetuned": None},
        },
        photos=[ShownPhoto(photo, HOSTILE, mark) for mark in ("train", "held", "lost")],
        plots=("<svg></svg>", "<svg></svg>"),
        comparisons=[Comparison(HOSTILE, {"truth": photo, "general": photo}, {"general": 20.5, "truth": None})],
        lines=[f"photographs: {HOSTILE}"],
        video=video,
        commands={"Go on:": f"python '{HOSTILE}'"},
    )


def test_names_of_files_are_text_and_nothing_is_fetched(page: Page) -> None:
    seen = Seen(report(page))
    assert seen.tags["script"] == seen.tags["link"] == 0
    assert seen.outside == []
    assert seen.text.count(HOSTILE) >= 7
    assert (seen.tags["img"], seen.tags["svg"], seen.tags["video"]) == (5, 2, 1)
    assert "2 of 3 photographs have a camera (colmap) · 0.51 pixels of reprojection error · 61 seconds" in seen.text


def test_the_table_has_a_row_for_what_there_is(page: Page) -> None:
    seen = Seen(report(page))
    assert seen.tags["tr"] == 3
    assert "general model21.230.710" in seen.text
    assert "copied12.00-" in seen.text
    held_out = {**page.summary["held_out"], "finetuned": {"psnr": 25.0, "ssim": 0.8}}
    more = replace(page, summary={**page.summary, "held_out": held_out})
    assert "fine-tuned model25.000.800" in Seen(report(more)).text


def test_without_warnings_there_is_no_such_section(page: Page) -> None:
    assert "Warnings" in report(page)
    calm = replace(page, summary={**page.summary, "warnings": [], "reprojection_px": None})
    assert "Warnings" not in report(calm)
    assert "reprojection" not in report(calm)


def test_a_large_video_stays_beside_the_page(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_VIDEO_BYTES", 5)
    seen = Seen(report(page))
    assert seen.tags["video"] == 0
    assert "video.mp4, beside this page" in seen.text


def test_pictures_are_reduced_and_never_enlarged() -> None:
    image = np.zeros((30, 40, 3), np.uint8)
    assert reduced(image, 20).shape == (15, 20, 3)
    assert reduced(image, 80) is image
    decoded = Image.open(io.BytesIO(base64.b64decode(data_uri(image).partition(",")[2])))
    assert (decoded.format, decoded.size) == ("JPEG", (40, 30))
