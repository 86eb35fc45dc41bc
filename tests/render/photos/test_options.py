"""Options that are refused by name."""

from pathlib import Path

import pytest

from geometry import InputError
from render.photos.options import PhotosOptions
from training.cli import parse_options

ROOT = Path(__file__).parents[3]


def parsed(source: Path, *words: str) -> PhotosOptions:
    return parse_options(PhotosOptions, "test", [str(source), "--out", str(source / "out"), *words])


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the shipped checkpoint and config lie."""
    monkeypatch.chdir(ROOT)


def test_defaults(tmp_path: Path) -> None:
    options = parsed(tmp_path)
    assert (options.source, options.poses, options.minutes, options.max_side) == (str(tmp_path), "auto", 5.0, 640)
    assert options.is_finetuned
    assert not parsed(tmp_path, "--minutes", "0").is_finetuned
    assert parsed(tmp_path, "--poses", "vggt", "--no_refine", "--vggt_ckpt", "x").no_refine


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--poses", "slam"], "--poses: expected one of auto, colmap, vggt, model, got 'slam'"),
        (["--trajectory", "loop"], "--trajectory"),
        (["--minutes", "-1"], "--minutes"),
        (["--minutes", "inf"], "--minutes"),
        (["--max_side", "8"], "--max_side: expected 64 or more, got 8"),
        (["--max_images", "3"], "--max_images"),
        (["--n_views", "1"], "--n_views"),
        (["--frames", "0"], "--frames"),
        (["--fps", "0"], "--fps"),
        (["--seed", "-1"], "--seed"),
        (["--steps", "1"], "--steps: expected 2 or more, got 1"),
        (["--ckpt", "nowhere.ckpt"], "--ckpt"),
        (["--finetune", "nowhere.txt"], "--finetune"),
        (["--poses", "colmap", "--no_refine"], "--no_refine: has no effect with --poses colmap"),
        (["--poses", "colmap", "--camera_matches"], "--camera_matches: has no effect with --poses colmap"),
        (["--poses", "model", "--vggt_ckpt", "x"], "--vggt_ckpt: has no effect with --poses model"),
        (["--poses", "model", "--max_images", "9"], "--max_images: has no effect with --poses model"),
        (["--steps", "9", "--minutes", "0"], "--steps 9: has no effect with --minutes 0"),
        (["--speed", "1"], "--speed"),
    ],
)
def test_what_cannot_work_or_has_no_effect(words: list[str], named: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=named):
        parsed(tmp_path, *words)


def test_source_and_out_are_needed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="SOURCE: expected a folder of photographs or a video file, got none"):
        parse_options(PhotosOptions, "test", ["--out", "x"])
    with pytest.raises(InputError, match="no such file"):
        parse_options(PhotosOptions, "test", [str(tmp_path / "nothing"), "--out", "x"])
    with pytest.raises(InputError, match="--out: expected a folder for the results, got none"):
        parse_options(PhotosOptions, "test", [str(tmp_path)])
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--out: expected a folder, got the file"):
        parse_options(PhotosOptions, "test", [str(tmp_path), "--out", str(tmp_path / "file")])
