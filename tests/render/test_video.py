"""Videos: frames, sizes, sources, memory, and what a failure leaves behind."""

from pathlib import Path
from unittest import mock

import imageio.v2 as imageio
import numpy as np
import pytest
import torch

from data.readers.registry import read_scenes
from geometry import InputError
from models.nerf.hierarchical.network import HierarchicalView
from models.nerf.vggt_nerf import render_image
from render import video as command
from render.options import VideoOptions
from render.paths import PathFile, write_path
from render.source_pool import SourcePool
from render.trajectories import camera_path
from render.video import central_views, filmed, make_video, nearest_views, pool_of, render_path, video_file
from tests.render.tiny import HEIGHT, SCAN, WIDTH, TruthModel, scene_on_a_line
from training.nerf.checkpoint import load_model

CPU = torch.device("cpu")


def options(ckpt: Path, data_root: Path, out: Path, **changes: object) -> VideoOptions:
    values = {"scan": SCAN, "frames": 3, "device": "cpu", "imgScale_test": 0.5, "N_importance": 0, **changes}
    return VideoOptions(ckpt=str(ckpt), datadir=str(data_root), out=str(out), **values)


def only_scene(data_root: Path):
    return read_scenes("dtu", str(data_root), split="all", scans=(SCAN,))[0]


def test_command_writes_video_and_gif(
    general: Path, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "new" / "v.mp4"
    arguments = f"--ckpt {general} --datadir {data_root} --scan {SCAN} --frames 4 --fps 12 --gif --out {out}"
    command.main([*arguments.split(), "--imgScale_test", "0.5", "--device", "cpu"])
    assert f"{out}" in capsys.readouterr().out
    assert sorted(path.name for path in out.parent.iterdir()) == ["v.gif", "v.mp4"]
    for path in (out, out.with_suffix(".gif")):
        frames = imageio.mimread(path)
        assert len(frames) == 4
        assert frames[0].shape[:2] == (HEIGHT // 2, WIDTH)
    assert imageio.get_reader(out).get_meta_data()["fps"] == 12


def test_odd_sizes_are_padded_and_not_rescaled(tmp_path: Path):
    picture = np.zeros((21, 35, 3), np.uint8)
    picture[:, 18:] = 255
    with video_file(tmp_path / "odd.mp4", 5) as write:
        for _ in range(3):
            write(picture)
    frames = imageio.mimread(tmp_path / "odd.mp4")
    assert [frame.shape for frame in frames] == [(22, 36, 3)] * 3
    assert frames[1][:, :16].max() < 30
    assert frames[1][:, 20:].min() > 225


def test_a_video_that_the_encoder_does_not_write_is_an_error(tmp_path: Path):
    with (
        pytest.raises(InputError, match=r"--out .*none\.mp4: expected a video by ffmpeg, got none"),
        video_file(tmp_path / "none.mp4", 1e-9) as write,
    ):
        write(np.zeros((20, 20, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("trajectory", ["spiral", "orbit", "auto"])
@pytest.mark.parametrize("kind", ["general", "finetuned"])
def test_other_paths_as_gif(
    kind: str, trajectory: str, data_root: Path, tmp_path: Path, request: pytest.FixtureRequest
):
    out = tmp_path / "v.gif"
    ckpt = request.getfixturevalue(kind)
    changes = {"trajectory": trajectory, "imgScale_test": 0.25, "gif": True, "frames": 4}
    assert make_video(options(ckpt, data_root, out, **changes)) == [out]
    assert len(imageio.mimread(out)) == 4


def test_along_a_path_file(general: Path, data_root: Path, tmp_path: Path):
    """Its size, number of frames and speed, unless options say otherwise; sources change with the camera."""
    scene = only_scene(data_root)
    cameras = scene.cameras(scene.train_views[:4]).resized(48, 60)
    write_path(tmp_path / "p.json", PathFile(cameras, frames=6, fps=7.0))
    changes = {"path": str(tmp_path / "p.json"), "frames": None}
    out = tmp_path / "v.mp4"
    chosen = []
    with mock.patch.object(command, "render_path", wraps=command.render_path) as render:
        make_video(options(general, data_root, out, **changes))
        chosen = render.call_args.args[3]
    assert len(set(chosen)) > 1
    assert all(len(ids) == 3 and set(ids) <= set(scene.train_views) for ids in chosen)
    assert [frame.shape for frame in imageio.mimread(out)] == [(24, 60, 3)] * 6  # half the size, color beside depth
    assert imageio.get_reader(out).get_meta_data()["fps"] == 7
    make_video(options(general, data_root, out, **{**changes, "frames": 3, "fps": 5}))
    assert len(imageio.mimread(out)) == 3
    assert imageio.get_reader(out).get_meta_data()["fps"] == 5


def test_bounds_along_a_path_are_the_files_or_those_of_the_sources(data_root: Path):
    scene = only_scene(data_root)
    pool = SourcePool.of(scene, scene.train_views)
    cameras = scene.cameras(scene.train_views[:2])
    path, sources = filmed(PathFile(cameras), pool, 3)
    assert (path.near[0].item(), path.far[0].item()) == pytest.approx(pool.bounds(cameras[:1], sources[0]))
    near = torch.tensor([7.0, 8.0])
    path, _ = filmed(PathFile(cameras, near, near * 2), pool, 3, frames=3)
    assert path.near.tolist() == pytest.approx([7, 7.5, 8])
    assert path.far.tolist() == pytest.approx([14, 15, 16])
    with pytest.raises(InputError, match="expected images of at least 8 pixels a side after scaling, got 4x3"):
        filmed(PathFile(cameras), pool, 3, scale=0.1)


def test_first_frame_is_the_first_source(data_root: Path):
    scene = only_scene(data_root)
    ids = central_views(scene, scene.train_views, 3)
    source = scene.views(ids)
    path = camera_path("interpolate", source, 5)
    frames = list(render_path(TruthModel(scene), scene, path, [ids] * 5, CPU))
    assert torch.equal(frames[0].rgb, source.images[0].permute(1, 2, 0))
    assert torch.equal(frames[0].depth, source.depth[0])


def test_sources_are_encoded_only_when_they_change(data_root: Path):
    scene = only_scene(data_root)
    model = TruthModel(scene)
    path = camera_path("interpolate", scene.views((25, 21)), 4)
    list(render_path(model, scene, path, [(25, 21), (25, 21), (21, 33), (25, 21)], CPU))
    assert [ids for ids, _ in model.encoded] == [(25, 21), (21, 33), (25, 21)]
    assert {names for _, names in model.encoded} == {(scene.name,)}


def test_which_views_are_sources():
    scene = scene_on_a_line(list(range(10)), train=(0, 1, 2, 3, 4, 5, 6, 9), held_out=(7, 8))
    assert pool_of(scene, (), 3) == scene.train_views
    assert pool_of(scene, (9, 7, 9), 2) == (9, 7)
    assert central_views(scene, scene.train_views, 3) == (4, 3, 5)  # the mean is 3.75
    path = camera_path("interpolate", only_cameras(scene, [0, 9]), 3)
    assert nearest_views(scene, scene.train_views, path, 2) == [(0, 1), (6, 9), (0, 1)]
    with pytest.raises(InputError, match=r"--source_views: expected views of line .* got \[12\]"):
        pool_of(scene, (1, 12), 2)
    with pytest.raises(InputError, match="expected 3 source views"):
        pool_of(scene, (1, 2), 3)


def only_cameras(scene, ids: list[int]):
    """Views of the scene without images."""
    from geometry import Cameras, Views

    frames = [scene.frames[view] for view in ids]
    w2c = torch.stack([frame.w2c for frame in frames])
    return Views(
        images=torch.zeros(len(ids), 3, HEIGHT, WIDTH),
        cameras=Cameras(w2c, torch.eye(3).repeat(len(ids), 1, 1), HEIGHT, WIDTH),
        near=torch.ones(len(ids)),
        far=torch.ones(len(ids)) * 2,
        ids=torch.tensor(ids),
    )


def test_chunks_shrink_until_they_fit(general: Path, data_root: Path, tmp_path: Path):
    model, _ = load_model(general)
    scene = only_scene(data_root)
    ids = central_views(scene, scene.train_views, 3)
    path = camera_path("interpolate", scene.views(ids, 0.5), 1)
    (plain,) = render_path(model, scene, path, [ids], CPU, scale=0.5)
    sizes, render = [], HierarchicalView.render

    def little_memory(self, rays, jitter=None):
        sizes.append(rays.t_near.shape[1])
        if sizes[-1] > 100:
            raise torch.OutOfMemoryError("out of memory")
        return render(self, rays, jitter)

    with mock.patch.object(HierarchicalView, "render", little_memory):
        (small,) = render_path(model, scene, path, [ids], CPU, scale=0.5)
    assert sizes[:3] == [320, 160, 80]
    assert sizes[-3:] == [80] * 3
    assert torch.allclose(small.rgb, plain.rgb, atol=1e-5)
    assert torch.allclose(small.depth, plain.depth, rtol=1e-5)


@pytest.mark.parametrize("whole_frames", [0, 1])
def test_a_failure_leaves_no_file(whole_frames: int, general: Path, data_root: Path, tmp_path: Path):
    out = tmp_path / "new" / "v.mp4"
    calls = []

    def fail_late(*args, **kwargs):
        calls.append(1)
        if len(calls) > whole_frames:
            raise RuntimeError("lamp broke")
        return render_image(*args, **kwargs)

    with mock.patch.object(command, "render_image", fail_late), pytest.raises(RuntimeError, match="lamp"):
        make_video(options(general, data_root, out, gif=True, imgScale_test=0.25))
    assert len(calls) == whole_frames + 1
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scan": "scan1"}, "expected scans that are there"),
        ({"trajectory": "zigzag"}, "--trajectory: expected one of interpolate, spiral, orbit"),
        ({"frames": 0}, "--frames"),
        ({"fps": 0}, "--fps"),
        ({"path": "none.json"}, "--path: expected a file, got 'none.json'"),
        ({"path": __file__, "trajectory": "orbit"}, "--path: expected no --trajectory beside it, got orbit"),
        ({"path": __file__}, "--path .*: expected JSON"),
        ({"out": "v.avi"}, "--out: expected a file name ending in .mp4 or .gif"),
        ({"source_views": (25, 99, 14)}, "--source_views"),
        ({"n_views": 17}, "expected 17 source views"),
    ],
)
def test_wrong_options(changes: dict, message: str, general: Path, data_root: Path, tmp_path: Path):
    with pytest.raises(InputError, match=message):
        make_video(options(general, data_root, **{"out": tmp_path / "v.mp4", **changes}))
    assert list(tmp_path.iterdir()) == []
