"""Photographs in, video out, at toy size: real structure from motion, a few steps of fine-tuning, one frame."""

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data.colmap_library import pycolmap
from render.photos import pipeline
from render.photos.__main__ import main
from render.photos.options import PhotosOptions
from render.reconstruct import structure_from_motion
from tests.render.photos.pages import Seen
from tests.render.reconstruct.photo_sets import ring, take_photos
from tests.render.tiny import write_smaller_field
from training.cli import parse_options
from training.nerf.checkpoint import read_nerf_checkpoint
from training.nerf.finetune import FinetuneTask

ROOT = Path(__file__).parents[3]
CONFIG = """
rays_per_step = 64
n_views = [2, 3]
N_guided = 2
max_steps = 40
warmup_steps = 10
residual_channels = 2
residual_resolution = 8
scene_field = 8
scene_field_steps = 20
surface_views = 2
save_every = 1
val_every = 100
num_val = 1
num_workers = 0
near_far = data
"""
FIELD = "field.ckpt"
KEYS = ["poses", "images", "registered", "reprojection_px", "near", "far", "held_out", "seconds", "warnings", "video"]


def arguments(source: Path, out: Path, config: Path, *more: str) -> list[str]:
    sizes = ["--max_side", "96", "--n_views", "3", "--frames", "1", "--steps", "4", "--device", "cpu", "--ckpt"]
    return [str(source), "--out", str(out), "--finetune", str(config), *sizes, str(config.with_name(FIELD)), *more]


@pytest.fixture(scope="module", autouse=True)
def _few_views() -> Iterator[None]:
    """Depth is fused from three views; other attempts at structure from motion have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_POINT_VIEWS", 3)
        patch.setattr(structure_from_motion, "ATTEMPTS", structure_from_motion.ATTEMPTS[:1])
        yield


def summary_of(out: Path) -> dict[str, Any]:
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary)[: len(KEYS)] == KEYS
    return summary


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight photographs of one place and one of another, a config, and the shipped field on small images."""
    folder = tmp_path_factory.mktemp("end_to_end")
    take_photos(folder / "photos", ring(8))
    take_photos(folder / "photos", ring(1), world=1, prefix="another")
    (folder / "photos" / "another_000.png").rename(folder / "photos" / "<script>.png")
    (folder / "config.txt").write_text(CONFIG)
    write_smaller_field(ROOT / "ckpts" / "general_guided.ckpt", folder / FIELD)
    return folder


@pytest.fixture(scope="module")
def out(folder: Path) -> Path:
    """A run whose fine-tuning is interrupted before the last of its four steps, and which is resumed."""
    out, step = folder / "out", FinetuneTask.training_step
    taken: list[int] = []
    stopped: list[bool] = []

    def watched(task: FinetuneTask, *given: Any) -> Any:
        if task.global_step == 1 and not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
        taken.append(task.global_step)
        return step(task, *given)

    words = arguments(folder / "photos", out, folder / "config.txt", "--max_side", "240")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FinetuneTask, "training_step", watched)
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 130
        assert not (out / "summary.json").exists()
        main([*words, "--resume"])
    assert taken == [0, 1]
    return out


def test_the_summary_says_what_happened(out: Path) -> None:
    summary = summary_of(out)
    assert (summary["poses"], summary["images"], summary["registered"]) == ("colmap", 9, 8)
    assert summary["reprojection_px"] < 1
    assert 0 < summary["near"] < 1 < summary["far"]  # the median distance of a point is 1
    assert [set(scores) for scores in summary["held_out"].values()] == [{"psnr", "ssim"}] * 3
    assert summary["steps"] == 4
    assert summary["trajectory"] == "interpolate"
    assert "video: 1 frame, auto: interpolate" in Seen((out / "report.html").read_text()).text
    assert any("no camera" in line and "<script>.png" in line for line in summary["warnings"])
    assert summary["seconds"]["total"] == pytest.approx(sum(summary["seconds"].values()) / 2, abs=0.2)


def test_every_product_is_there(out: Path) -> None:
    summary = summary_of(out)
    assert Path(summary["video"]).stat().st_size > 1000
    assert Path(summary["points"]).read_bytes()[:3] == b"ply"
    assert read_nerf_checkpoint(Path(summary["checkpoint"])).record.task == "finetune"
    model = pycolmap.Reconstruction(out / "scene" / "sparse" / "0")
    assert model.num_reg_images() == len(list((out / "scene" / "images").iterdir())) == 8


def test_the_page_is_whole(out: Path) -> None:
    seen = Seen((out / "report.html").read_text())
    assert seen.outside == []
    assert seen.tags["script"] == 0
    assert "<script>.png (no camera)" in seen.text
    held_out = math.ceil(8 / 8)
    assert seen.tags["img"] == 9 + 5 * held_out
    assert seen.tags["svg"] == 2
    assert "python -m render.viewer --ckpt" in seen.text


def test_the_pages_commands_render_and_go_on_as_the_run_did(folder: Path, out: Path) -> None:
    text = " ".join(Seen((out / "report.html").read_text()).text.split())
    assert text.count("--n_views 3") == 5
    longer = parse_options(PhotosOptions, "", text.split("python -m render.photos ")[-1].split())
    given = parse_options(PhotosOptions, "", arguments(folder / "photos", out, folder / "config.txt"))
    assert longer == replace(given, resume=True, steps=None, minutes=10.0, max_side=240)


def test_again_with_another_path_only_the_video_is_new(folder: Path, out: Path, capsys: pytest.CaptureFixture) -> None:
    before = summary_of(out)
    words = arguments(folder / "photos", out, folder / "config.txt", "--max_side", "240")
    main([*words, "--resume", "--trajectory", "interpolate"])
    printed = capsys.readouterr().out
    assert printed.count("(kept)") == 8
    assert "trajectory interpolate instead of auto" in printed
    after = summary_of(out)
    assert {**after, "seconds": 0} == {**before, "seconds": 0}


def test_cameras_that_come_with_the_photographs(folder: Path, out: Path) -> None:
    """The scene of the run before, without its points: no structure from motion, the same cameras."""
    given = folder / "given"
    shutil.copytree(out / "scene" / "images", given / "images")
    model = pycolmap.Reconstruction(out / "scene" / "sparse" / "0")
    (given / "sparse" / "0").mkdir(parents=True)
    model.write_text(given / "sparse" / "0")
    words = arguments(given, folder / "again", folder / "config.txt", "--poses", "model", "--minutes", "0")
    words.remove("--steps")
    words.remove("4")
    main(words)
    summary = summary_of(folder / "again")
    assert (summary["poses"], summary["registered"], summary["held_out"]["finetuned"]) == ("model", 8, None)
    again = pycolmap.Reconstruction(folder / "again" / "scene" / "sparse" / "0")
    assert {camera.width for camera in again.cameras.values()} <= {95, 96, 97}

    def turns(one: pycolmap.Reconstruction) -> torch.Tensor:
        images = sorted(one.images.values(), key=lambda image: image.name)
        rotations = torch.stack([torch.from_numpy(image.cam_from_world().rotation.matrix()) for image in images])
        return rotations @ rotations[0].T

    torch.testing.assert_close(turns(again), turns(model), atol=1e-6, rtol=0)


def test_three_photographs_are_refused_at_once(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    take_photos(tmp_path / "three", ring(3))
    with pytest.raises(SystemExit) as stopped:
        main(arguments(tmp_path / "three", tmp_path / "out", folder / "config.txt"))
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'three'}: expected at least 4 photographs, got 3\n"
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_reconstructed_ends_with_one_sentence_and_leaves_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for world in range(4):
        take_photos(tmp_path / "apart", ring(1, start=70.0 * world), world=world, prefix=f"place{world}")
    with pytest.raises(SystemExit) as stopped:
        main(arguments(tmp_path / "apart", tmp_path / "out", folder / "config.txt", "--max_side", "240"))
    assert stopped.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert not (tmp_path / "out").exists()
