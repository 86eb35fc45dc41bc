"""Sources kept, layers, the page's world, the path editor and runs in progress."""

import dataclasses
import math
import shutil
from pathlib import Path

import pytest
import torch

from data.readers.registry import read_scenes
from geometry import InputError, RayBundle, RaySamples
from models.nerf.compositing import FieldOutput, composite
from models.nerf.renderer import SourceMaps
from models.nerf.vggt_nerf import render_image
from render.paths import read_path, write_path
from render.source_pool import SourcePool
from render.viewer import watch
from render.viewer.editor import PathEditor, vertical_fov
from render.viewer.gauge import Gauge
from render.viewer.layers import MAX_ERROR, fitted, picture
from render.viewer.looks import Look, full_size, rendered
from render.viewer.scene_renderer import Frame, KeptMaps, SceneRenderer, measured
from render.viewer.schedule import Task
from render.viewer.watch import WatchedRun
from tests.render.tiny import HEIGHT, SCAN, WIDTH
from tests.scenes import ring_cameras
from training.nerf.checkpoint import load_model

NOTHING = SourceMaps(torch.zeros(1, 2, 3, 24, 32), ring_cameras(2).map(lambda one: one[None]), None)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def renderer(general: Path, data_root: Path) -> SceneRenderer:
    scene = read_scenes("dtu", str(data_root), split="all", scans=(SCAN,))[0]
    return SceneRenderer(load_model(general)[0], scene, SourcePool.of(scene, scene.train_views), CPU, chunk=300)


def test_the_maps_used_last_are_kept():
    kept, made = KeptMaps(2), []

    def get(*sources: int) -> None:
        def encode() -> SourceMaps:
            made.append(sources)
            return NOTHING

        kept.get(sources, encode)

    for sources in ((1, 2), (3, 4), (1, 2), (5, 6), (1, 2), (3, 4)):
        get(*sources)
    assert made == [(1, 2), (3, 4), (5, 6), (3, 4)]
    assert list(kept) == [(1, 2), (3, 4)]
    kept.clear()
    assert list(kept) == []


def test_a_picture_is_what_a_video_shows(renderer: SceneRenderer):
    view = renderer.pool.ids[0]
    camera = renderer.scene.cameras([view])
    near, far = renderer.scene.near_far([view])
    frame = renderer.render(camera, 3, bounds=(near.item(), far.item()))
    maps = renderer.kept.get(frame.sources, lambda: pytest.fail("they were just encoded"))
    with torch.no_grad():
        expected = render_image(renderer.model.view(maps, camera, near, far), 4096)
    assert torch.allclose(frame.rgb, expected.rgb, atol=1e-5)
    assert torch.allclose(frame.depth, expected.depth, rtol=1e-4)
    assert torch.allclose(frame.opacity, expected.opacity, atol=1e-5)
    assert (frame.spread >= 0).all()
    assert frame.spread.max() > 0


def test_a_picture_is_abandoned_between_chunks(renderer: SceneRenderer):
    looks = []

    def is_outdated() -> bool:
        looks.append(1)
        return len(looks) > 2

    assert renderer.render(renderer.scene.cameras([renderer.pool.ids[0]]), 3, is_outdated=is_outdated) is None
    assert len(looks) == 3  # before the view, and before two of the five chunks


def test_sources_change_when_still_or_clearly_worse(renderer: SceneRenderer):
    renderer.kept.clear()
    first, *_, last = sorted(renderer.pool.ids, key=lambda view: renderer.scene.frames[view].center[0].item())
    here, there = (renderer.scene.frames[view].w2c for view in (first, last))
    best = renderer.sources_for(here, 2, moving=True)
    assert best == renderer.pool.nearest(here, 2)  # nothing is known yet
    renderer.kept.get(best, lambda: NOTHING)
    ranked = renderer.pool.ranked(here)
    near = renderer.scene.frames[ranked[1]].w2c
    others = renderer.pool.nearest(near, 3)
    renderer.kept.get(others, lambda: NOTHING)
    assert renderer.sources_for(here, 3, moving=True) == others
    assert renderer.sources_for(here, 3, moving=False) == renderer.pool.nearest(here, 3)
    assert renderer.sources_for(there, 2, moving=True) == renderer.pool.nearest(there, 2)
    renderer.kept.clear()


def test_more_samples_are_taken_when_asked_for(renderer: SceneRenderer):
    before = renderer.samples
    assert before == {"N_samples": 4, "N_importance": 2}
    camera = renderer.scene.cameras([renderer.pool.ids[0]]).resized(8, 10)
    few = renderer.render(camera, 2)
    many = renderer.render(camera, 2, samples={"N_samples": 9, "N_importance": 2})
    assert renderer.samples == before  # what the controls of the next visitor begin with
    assert not torch.allclose(few.depth, many.depth)
    renderer.render(camera, 2, samples=before)


def test_spread_by_hand():
    """Two equal weights at z = 1 and 3 (the ray along the axis): mean 2, standard deviation 1, so 0.5 of the depth."""
    one = torch.ones(1, 1)
    rays = RayBundle(torch.zeros(1, 1, 3), torch.tensor([[[0.0, 0.0, 1.0]]]), 0 * one, 4 * one, one)
    samples = RaySamples(torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[0.0, 2.0]]]), torch.tensor([[[2.0, 4.0]]]))
    # opacity 1/2, then all of the rest
    density = torch.tensor([[[math.log(2) / 2, 50.0]]])
    output = composite(FieldOutput(density, torch.ones(1, 1, 2, 3)), samples, rays, 0.0)
    assert measured(output, rays.cos_optical)[0, 0].tolist() == pytest.approx([1, 1, 1, 2, 1, 0.5])
    empty = composite(FieldOutput(0 * density, torch.ones(1, 1, 2, 3)), samples, rays, 0.0)
    assert measured(empty, rays.cos_optical)[0, 0].tolist() == [0] * 6


def test_layers_by_hand():
    depth = torch.tensor([[1.0, 3.0, 0.0]])
    rgb = torch.full((1, 3, 3), 0.5)
    frame = Frame(rgb, depth, torch.tensor([[0.0, 0.5, 1.0]]), torch.tensor([[0.0, 0.05, 9.0]]), 1.0, 3.0, (1,), False)
    assert torch.equal(picture(frame, "RGB"), rgb)
    assert picture(frame, "opacity")[0, :, 1].tolist() == [0, 0.5, 1]
    shown = picture(frame, "depth")[0]
    assert shown[0, 0] > shown[0, 2]  # near is red
    assert shown[1, 2] > shown[1, 0]
    assert shown[2].tolist() == [0, 0, 0]
    brightness = picture(frame, "uncertainty").sum(-1)[0]
    assert brightness[0] < brightness[1] < brightness[2]
    error = picture(frame, "error", rgb + torch.tensor([0.0, MAX_ERROR / 2, 0.5])[None, :, None]).sum(-1)[0]
    assert error[0] < error[1] < error[2]


def test_an_image_is_fitted_without_stretching():
    image = torch.ones(4, 8, 3)
    assert fitted(image, 4, 8).shape == (4, 8, 3)
    tall = fitted(image, 300, 300)
    assert tall.shape == (8, 8, 3)
    assert (tall[2:6] == 1).all()
    assert (tall[:2] < 1).all()
    assert (tall[6:] < 1).all()


def test_the_pages_world(renderer: SceneRenderer):
    gauge = Gauge.of(renderer.pool)
    cameras = renderer.pool.cameras
    centers = gauge.to_page(cameras.centers)
    assert 0.3 < centers.norm(dim=-1).median() < 3  # about one unit from what is looked at
    for index in range(3):
        w2c = gauge.w2c(cameras.w2c[index, :3, :3].double().T, centers[index])
        assert torch.allclose(w2c, cameras.w2c[index], rtol=1e-5, atol=1e-2)  # units of 1 mm, at 600 of them


def look_at(renderer: SceneRenderer, gauge: Gauge, view: int, **changes: object) -> Look:
    frame = renderer.scene.frames[view]
    rotation, position = frame.w2c[:3, :3].T.double(), gauge.to_page(frame.center)
    samples = tuple(renderer.samples.items())
    look = Look(tuple(rotation.flatten().tolist()), tuple(position.tolist()), 0.5, "RGB", 3, samples)
    return dataclasses.replace(look, **changes)


def test_a_look_becomes_a_picture_of_the_canvas(renderer: SceneRenderer):
    gauge, view = Gauge.of(renderer.pool), renderer.pool.ids[0]
    look = look_at(renderer, gauge, view)
    size = full_size(look, (300, 600), 40, renderer)
    assert size == (20, 40)
    done = rendered(Task("a", look, size, 0, True, 1), renderer, gauge, lambda: False)
    assert done.image.shape == (20, 40, 3)
    assert done.psnr is None
    assert view in done.frame.sources


def test_the_error_is_that_of_the_held_out_view(renderer: SceneRenderer):
    gauge, view = Gauge.of(renderer.pool), renderer.scene.held_out_views[0]
    look = look_at(renderer, gauge, renderer.pool.ids[0], layer="error", held_out=view)
    size = full_size(look, (300, 600), WIDTH, renderer)
    assert size == (HEIGHT, WIDTH)  # the photograph's proportions, not the canvas's
    done = rendered(Task("a", look, size, 0, True, 1), renderer, gauge, lambda: False)
    truth = renderer.scene.views([view]).images[0].permute(1, 2, 0)
    assert done.psnr == pytest.approx(-10 * math.log10((done.frame.rgb - truth).square().mean().item()), abs=1e-3)
    assert view not in done.frame.sources


def test_the_editors_path_is_one_that_videos_take(renderer: SceneRenderer, tmp_path: Path):
    editor = PathEditor((HEIGHT, WIDTH))
    assert editor.path is None
    cameras = renderer.pool.cameras
    for index in (0, 1, 2, 1, 1):
        editor.add(cameras.w2c[index], vertical_fov(cameras, index))
    editor.delete()
    editor.delete(1)
    editor.delete(7)  # there is none
    editor.closed, editor.frames, editor.fps = True, 33, 12
    write_path(tmp_path / "p.json", editor.path)
    read = read_path(tmp_path / "p.json", (1, 1))
    assert torch.allclose(read.cameras.w2c, cameras.w2c[torch.tensor([0, 2, 1])], rtol=1e-4, atol=1e-3)
    assert torch.allclose(read.cameras.intrinsics[:, 1, 1], cameras.intrinsics[torch.tensor([0, 2, 1]), 1, 1])
    assert (read.closed, read.frames, read.fps, read.near) == (True, 33, 12, None)
    again = PathEditor((90, 90))
    again.take(read)
    assert torch.allclose(again.path.cameras.intrinsics, editor.path.cameras.intrinsics)
    assert (again.closed, again.frames, again.fps, len(again)) == (True, 33, 12, 3)
    again.width = 2 * WIDTH  # a wider picture of the same height
    wide = again.path.cameras
    assert (wide.height, wide.width, wide.intrinsics[0, 0, 2]) == (HEIGHT, 2 * WIDTH, WIDTH)
    assert torch.equal(wide.intrinsics[:, 1, 1], editor.path.cameras.intrinsics[:, 1, 1])
    again.clear()
    again.delete()
    assert again.path is None


def test_a_checkpoint_written_while_another_is_read_is_read_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run, read = WatchedRun(tmp_path), []

    def reading(file: Path) -> None:
        read.append(file.read_text())
        file.write_text("the next one")
        raise InputError("half-written")

    monkeypatch.setattr(watch, "read_nerf_checkpoint", reading)
    run.file.parent.mkdir()
    run.file.write_text("one")
    assert [run.newest(), run.newest()] == [None, None]
    assert read == ["one", "the next one"]


def test_a_run_in_progress(general: Path, tmp_path: Path):
    run = WatchedRun(tmp_path)
    assert run.newest() is None
    assert run.status.startswith("waiting for")
    run.file.parent.mkdir()
    run.file.write_bytes(general.read_bytes()[:1000])  # half-written
    assert run.newest() is None
    assert "last.ckpt" in run.status
    run.status = "not read again while it stays as it is"
    assert run.newest() is None
    assert run.status.startswith("not read again")
    contents = torch.load(general, weights_only=True)
    torch.save({**contents, "global_step": 7}, run.file)
    assert run.newest() is not None
    assert run.status == f"step 7 of {tmp_path}"
    assert run.newest() is None  # the same one
    torch.save({**contents, "global_step": 8}, tmp_path / "new")
    shutil.move(tmp_path / "new", run.file)
    assert run.newest().contents["global_step"] == 8
