"""The benchmarks at toy size: they run to the end, and what they print is right where the answer is known."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks import (
    camera_refinement,
    co3d_index,
    covisibility_memory,
    features,
    finetune,
    guided_memory,
    occupancy,
    occupancy_memory,
    peer_scene,
    samplers,
    scaling,
    speed,
    vggt_memory,
    video_stability,
)
from data.wai.covisibility import Settings
from data.wai.scene import WaiScene
from geometry import Cameras, pixel_centers
from geometry.pose_metrics import rotation_angle
from models.nerf.guided.network import GuidedSamples
from models.nerf.vggt_nerf import RenderedImage
from models.vggt import VGGTConfig, load_vggt
from tests.data.tiny_scenes import write_colmap
from tests.render.tiny import write_backbone
from tests.training.commands import tiny_arguments
from tests.training.inprocess import outcome_of_general
from tests.training.vggt.tiny import write_sizes
from training.cli import parse_options

TOY = ["--steps", "2", "--rays", "8", "--N_samples", "3", "--N_importance", "2", "--views_per_scan", "1"]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    config = write_backbone(tmp_path / "toy.json", with_depth=True)
    path = config.with_suffix(".safetensors")
    save_file(load_vggt(f"random:{config}:7").model.state_dict(), path)
    return path


def test_every_arm_once(small_dtu: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    command = ["--vggt", str(weights), "--datadir", str(small_dtu), "--out", str(out), "--seeds", "0", *TOY]
    command += ["--real_datadir", str(small_dtu), "--real_scan", "scan3", "--real_scale", "1"]
    features.main(command)
    printed = capsys.readouterr().out
    rows = _rows(printed)
    assert [row.split("|")[1].strip() for row in rows] == [
        *("(a) VGGT features and depth", "(a') VGGT features", "(b) random weights, features and depth"),
        *("(c) image stem alone", "(a) - (a')", "(a) - (b)", "(a) - (c)"),
    ]
    assert "unseen, wide: PSNR" in printed
    assert "scan3, near: PSNR" in printed
    result = out / "vggt_depth_seed0.json"
    before = result.stat().st_mtime_ns
    features.main(command)
    assert _rows(capsys.readouterr().out) == rows
    assert result.stat().st_mtime_ns == before
    with pytest.raises(SystemExit):
        features.main([*command, "--rays", "9"])
    assert "--rays" in capsys.readouterr().err


def test_every_arm_of_the_guided_sampler_once(
    small_dtu: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    photos = write_colmap(tmp_path / "photos" / "door" / "scene")
    command = ["--sampler", "guided", "--vggt", str(weights), "--datadir", str(small_dtu), "--seeds", "0"]
    command += ["--steps", "2", "--rays", "8", "--views_per_scan", "1"]
    features.main([*command, "--out", str(tmp_path / "out"), "--photos", str(photos), "--photos_scale", "1"])
    printed = capsys.readouterr().out
    assert [row.split("|")[1].strip() for row in _rows(printed)] == [
        *("(g) tokens and depth", "(g1) tokens", "(g2) depth in both levels", "(g3) depth in the coarse level"),
        *("(g4) no VGGT", "(g) - (g1)", "(g) - (g2)", "(g) - (g3)", "(g) - (g4)"),
    ]
    assert "unseen, wide: PSNR" in printed
    assert "door: PSNR" in printed
    with pytest.raises(SystemExit):
        features.main([*command, "--out", str(tmp_path / "other"), "--arms", "stem"])
    assert "--arms: expected some of both, tokens, depth, coarse_depth, none, got stem" in capsys.readouterr().err
    start = tmp_path / "out" / "runs" / "coarse_depth_seed0" / "checkpoints" / "last.ckpt"
    features.main([*command, "--out", str(tmp_path / "more"), "--arms", "both", "depth", "--init_from", str(start)])
    assert len(_rows(capsys.readouterr().out)) == 3
    for wrong, named in (
        (["--init_from", str(start)], "expected --sampler guided and --arms out of both, depth, coarse_depth"),
        (["--N_samples", "3"], "--N_samples 3: has no effect with --sampler guided"),
        (["--sampler", "hierarchical", "--vggt_layers", "1"], "has no effect with --sampler hierarchical"),
    ):
        with pytest.raises(SystemExit):
            features.main([*command, "--out", str(tmp_path / "other"), *wrong])
        assert named in capsys.readouterr().err


def _rows(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if line.startswith("| (")]


def test_table_by_hand() -> None:
    results = {
        "vggt_depth": [{"unseen, near": {"psnr": 20.0}}, {"unseen, near": {"psnr": 22.0}}],
        "stem": [{"unseen, near": {"psnr": 18.0}}, {"unseen, near": {"psnr": 21.0}}],
    }
    assert features.table(results).splitlines() == [
        "| | unseen, near: PSNR |",
        "|---|---|",
        "| (a) VGGT features and depth | 21.00 ± 1.41 |",
        "| (c) image stem alone | 19.50 ± 2.12 |",
        "| (a) - (c) | +1.50 ± 0.71 |",
    ]


def test_memory_of_every_way_to_train(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    sizes = str(write_sizes(tmp_path))
    for mode in vggt_memory.MODES:
        vggt_memory.main(["--config", sizes, "--size", "32", "40", "--modes", mode, "--frames", "2", "--measure"])
        assert json.loads(capsys.readouterr().out)["bytes"] > 1e7
    for more, named in ((["--size", "33", "40"], "--size: "), (["--device", "hope"], "--device hope: ")):
        with pytest.raises(SystemExit):
            vggt_memory.main(["--config", sizes, "--size", "32", "40", *more])
        errors = capsys.readouterr().err
        assert errors.startswith(f"error: {named}")
        assert errors.count("\n") == 1


def test_live_bytes_are_those_of_tensors_that_are_still_there() -> None:
    """Two blocks of 4000 bytes, of which one goes; views and what is smaller than a block of 512 bytes."""
    held = torch.zeros(1000)
    with guided_memory.LiveBytes(held) as live:
        other = held + 1
        assert live.now == 2 * 4096
        part = other[:3]
        del other
        assert live.now == 2 * 4096
        del part
        assert live.now == 4096
        small = held[:3] * 2
        assert (live.now, live.peak) == (4096 + 512, 2 * 4096)
        del small


def test_memory_of_the_recommended_recipe(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Weights as VGGT's sizes have them, and more scenes take more."""
    sizes = write_backbone(tmp_path / "sizes.json", with_depth=True)
    command = ["--config", "configs/nerf/dtu_guided.txt", "--vggt_config", str(sizes), "--vggt_image_size", "0"]
    command += [
        "--width",
        "64",
        "--height",
        "48",
        "--rays_per_step",
        "16",
        "--sweep_planes",
        "12",
        "--scenes",
        "1",
        "2",
    ]
    options = parse_options(guided_memory.MemoryOptions, "test", command)
    one, two = (guided_memory.count(options, scenes) for scenes in options.scenes)
    model = load_vggt(f"random:{sizes}").model
    assert one.weights == two.weights
    least = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    count = sum(1 for _ in (*model.parameters(), *model.buffers()))
    assert least <= one.weights < least + 512 * count
    assert one.weights < one.backbone < two.backbone
    assert 1.5 * one.step < two.step < 2.1 * one.step
    assert two.whole == max(two.backbone, two.weights + two.step)
    told = guided_memory.count(replace(options, vggt_layers=(0, 1), fine_depth=True), 1)
    assert (told.weights, told.backbone) == (one.weights, one.backbone)
    assert one.step < told.step < 1.5 * one.step
    guided_memory.main(command)
    assert len(capsys.readouterr().out.splitlines()) == 6
    with pytest.raises(SystemExit):
        guided_memory.main([*command, "--scenes", "0"])
    assert capsys.readouterr().err.startswith("error: --scenes: ")


def test_a_frozen_aggregator_keeps_no_gradients(tmp_path: Path) -> None:
    config = VGGTConfig.read(write_sizes(tmp_path)).with_heads(vggt_memory.DEFAULT_HEADS)
    model = vggt_memory.prepared(config, "frozen", torch.device("cpu"))
    assert {name.split(".")[0] for name, one in model.named_parameters() if one.requires_grad} == {
        "camera_head",
        "depth_head",
    }
    assert not model.aggregator.training


def test_guided_arms_differ_in_what_they_are_told_only(weights: Path) -> None:
    options = features.FeatureOptions(vggt=str(weights), sampler="guided")
    runs = {arm: features.train_options(options, arm, 3) for arm in features.GUIDED_ARMS}
    own = {
        name: None for name in ("vggt_ckpt", "depth_prior", "fine_depth", "vggt_layers", "backbone_dropout", "expname")
    }
    plain = [{**vars(run), **own} for run in runs.values()]
    assert all(one == plain[0] for one in plain)
    told = {arm: (run.vggt_layers, run.depth_prior, run.fine_depth) for arm, run in runs.items()}
    assert told == {
        "both": ((0, 1), True, True),
        "tokens": ((0, 1), False, False),
        "depth": ((), True, True),
        "coarse_depth": ((), True, False),
        "none": ((), False, False),
    }
    assert runs["none"].vggt_ckpt == "none"


def test_arms_differ_in_the_vggt_only(weights: Path) -> None:
    options = features.FeatureOptions(vggt=str(weights))
    runs = {arm: features.train_options(options, arm, 3) for arm in features.ARMS}
    own = {"vggt_ckpt": "", "depth_prior": False, "backbone_dropout": 0.0, "expname": ""}
    plain = {arm: {**vars(run), **own} for arm, run in runs.items()}
    assert all(one == plain["stem"] for one in plain.values())
    assert json.dumps([run.vggt_ckpt for run in runs.values()]).count("random:") == 1
    assert runs["random"].vggt_ckpt.endswith(":3")  # other weights for every seed


@pytest.fixture(scope="module")
def fields(small_dtu: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checkpoints of three steps without VGGT, by sampler."""
    base = tmp_path_factory.mktemp("fields") / "runs"
    common = ("--vggt_ckpt", "none", "--n_views", "3", "--max_steps", "3")
    own = {"hierarchical": (), "guided": ("--sweep_planes", "12", "--N_guided", "8")}
    found = {}
    for sampler, more in own.items():
        command = tiny_arguments("train_general.py", small_dtu, base, *common, "--sampler", sampler, *more)
        status, errors = outcome_of_general([*command, "--expname", sampler])
        assert status == 0, errors
        found[sampler] = str(base / sampler / "checkpoints" / "last.ckpt")
    return found


# a wall at z = 600 mm seen by five cameras beside each other, with the arguments of the peer's script
FAKE_SCRIPT = """
import argparse
import numpy as np
parser = argparse.ArgumentParser()
for name in ("width", "height", "seed", "threads"):
    parser.add_argument("--" + name, type=int)
parser.add_argument("--out")
a = parser.parse_args()
w2c = np.eye(4)[None].repeat(5, 0)
w2c[:, 0, 3] = np.arange(5) * 10.0
intrinsics = np.array([[40.0, 0, a.width / 2 - 0.5], [0, 40.0, a.height / 2 - 0.5], [0, 0, 1]])[None].repeat(5, 0)
images = np.random.RandomState(a.seed).rand(5, a.height, a.width, 3).astype(np.float32)
depths = np.full((5, a.height, a.width), 600.0, np.float32)
depths[:, 0] = 0
np.savez(a.out, images=images, depths=depths, intrinsics=intrinsics, w2c=w2c, near=425.0, far=905.0,
    source_ids=[0, 2, 4], target_ids=[1, 3], dtu_ids=[10, 11, 12, 13, 14])
"""


@pytest.fixture
def peer(tmp_path: Path) -> Path:
    folder = tmp_path / "peer"
    folder.mkdir()
    (folder / "make_scene.py").write_text(FAKE_SCRIPT)
    return folder


def test_peer_scene_has_our_pixel_centers(fields: dict[str, str], peer: Path, tmp_path: Path) -> None:
    """What the peer sees at integer (i, j) is in the middle of our pixel, at (i + 0.5, j + 0.5)."""
    options = peer_scene.PeerOptions(ckpt=tuple(fields.values()), peer_dir=str(peer), out=str(tmp_path / "out"))
    path = peer_scene.scene_file(options, "64x32", 0)
    source, target = peer_scene.read_scene(path)
    assert (source.images.shape, target.images.shape) == ((1, 3, 3, 32, 64), (2, 3, 32, 64))
    assert (source.ids.tolist(), target.ids.tolist()) == ([[10, 12, 14]], [11, 13])
    assert (target.near.tolist(), target.far.tolist()) == ([425.0] * 2, [905.0] * 2)
    with np.load(path) as scene:
        intrinsics, w2c = (torch.from_numpy(scene[name][1]).float() for name in ("intrinsics", "w2c"))
        assert torch.equal(target.images[0, :, 7, 20], torch.from_numpy(scene["images"][1, 7, 20]))
    point = intrinsics.inverse() @ torch.tensor([20.0, 7.0, 1.0]) * 600 - w2c[:3, 3]
    seen = target.cameras[0].project(point[None])
    torch.testing.assert_close(seen.pixels[0], torch.tensor([20.5, 7.5]))
    torch.testing.assert_close(seen.depth[0], target.depth[0, 7, 20])


def test_peer_scores_of_the_truth(
    fields: dict[str, str], peer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that knows the answer: PSNR at its ceiling, no depth error; 3 mm off where depth is known: 3 mm."""
    options = peer_scene.PeerOptions(ckpt=tuple(fields.values()), peer_dir=str(peer), out=str(tmp_path / "out"))
    source, target = peer_scene.read_scene(peer_scene.scene_file(options, "64x32", 0))
    shown = iter([0, 1, 0, 1, 0])  # five images for the time, the first round counts

    def rendered(*_: object) -> RenderedImage:
        view = next(shown)
        depth = target.depth[view] + 3
        return RenderedImage(target.images[view].permute(1, 2, 0), depth, torch.ones_like(depth))

    monkeypatch.setattr(peer_scene, "render_image", rendered)
    model = SimpleNamespace(encode=lambda source: None, view=lambda maps, cameras, near, far: None)
    row = peer_scene.measured(model, "truth", source, target, 8)
    assert row.psnrs == [120.0, 120.0]
    assert row.ssim == pytest.approx(1)
    assert (row.depth_median, row.depth_mean) == (3, 3)
    assert row.rays_per_second * row.seconds == pytest.approx(64 * 32)


def test_peer_scene_runs(
    fields: dict[str, str], peer: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    command = ["--ckpt", *fields.values(), "--peer_dir", str(peer), "--out", str(tmp_path / "out"), "--threads", "1"]
    peer_scene.main([*command, "--sizes", "64x32", "--N_guided", "2"])
    rows = [line for line in capsys.readouterr().out.splitlines() if ".ckpt, fast, seed 0, 64x32" in line]
    assert [row.count("|") for row in rows] == [9, 9]
    (peer / "make_scene.py").write_text("raise SystemExit('no')")
    peer_scene.main([*command, "--sizes", "64x32"])  # the scene is there already
    capsys.readouterr()
    for more, expected in (
        (["--sizes", "32x32"], "expected make_scene.py to write a scene, got no"),
        (["--sizes", "0x32"], "error: --sizes: "),
        (["--chunk", "0"], "error: --chunk: "),
        (["--seeds", "-1"], "error: --seeds: "),
    ):
        with pytest.raises(SystemExit):
            peer_scene.main([*command, *more])
        assert expected in capsys.readouterr().err


def test_samplers_spend_what_they_say() -> None:
    for count in (2, 5, 8):
        ways = samplers.variants("hierarchical", count)
        assert {name: (one.N_samples + one.N_importance, one.N_samples) for name, one in ways.items()} == {
            "coarse": (count, count),
            "coarse + fine": (count, count // 2),
        }
        assert samplers.variants("guided", count) == {"guided": GuidedSamples(count)}


def test_samplers_plot() -> None:
    points = [samplers.Point(name, count, 20.0 + count, 1.0) for name in ("guided", "coarse") for count in (4, 16)]
    (axes,) = samplers.plot(points).axes
    assert [line.get_label() for line in axes.lines] == ["guided", "coarse"]
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[4, 24], [16, 36]]] * 2
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")


def test_samplers_run(fields: dict[str, str], small_dtu: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "samplers"
    command = ["--datadir", str(small_dtu), "--out", str(out), "--samples", "2", "4", "--ckpt"]
    samplers.main([*command, *fields.values()])
    points = json.loads((out / "samplers.json").read_text())["points"]
    assert [(point["sampler"], point["samples"]) for point in points] == [
        *(("coarse", 2), ("coarse + fine", 2), ("coarse", 4), ("coarse + fine", 4)),
        *(("guided", 2), ("guided", 4)),
    ]
    assert (out / "samplers.png").is_file()
    printed = capsys.readouterr().out
    assert all(line.startswith("|") for line in printed[printed.index("| sampler") :].splitlines())
    assert printed.count("| guided |") == 2
    with pytest.raises(SystemExit):
        samplers.main([*command, fields["guided"], fields["guided"]])
    assert "expected one per sampler, got guided" in capsys.readouterr().err


def test_finetune_measures_the_general_model_and_then_the_scenes_own(
    fields: dict[str, str], small_dtu: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "finetune"
    more = (
        "--init_from",
        fields["guided"],
        "--scans",
        "scan2",
        "--max_steps",
        "3",
        "--held_out_every",
        "2",
        "--N_guided",
        "8",
    )
    command = tiny_arguments("train_finetune.py", small_dtu, tmp_path / "runs", *more, "--n_views", "3")
    finetune.main([*command[2:], "--out", str(out), "--threads", "1", "--n_sources", "3"])
    points = json.loads((out / "finetune.json").read_text())["points"]
    assert [point["step"] for point in points] == [0, 2, 3]
    assert 0 < points[0]["seconds"] < points[1]["seconds"] < points[2]["seconds"]
    assert (out / "finetune.png").is_file()
    assert f"{points[2]['psnr'] - points[0]['psnr']:+.2f} dB in" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        finetune.main(["--ckpt", fields["guided"], "--scans", "scan2"])
    assert "--ckpt: a resumed run" in capsys.readouterr().err


def test_scaling_runs(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measured(setting: speed.SpeedOptions) -> tuple[tuple[float, ...], float]:
        asked.append((setting.n_views, setting.width, setting.height, setting.N_guided))
        return (0.5, 0.25 * setting.n_views, 0.0), 9.0

    monkeypatch.setattr(scaling, "_in_own_process", measured)
    options = ["--views", "2", "4", "8", "--sizes", "64x32", "64x64", "--samples", "2", "3"]
    scaling.main([*options, "--out", str(tmp_path / "out")])
    assert asked[:3] == [(views, 320, 256, 6) for views in (2, 4, 8)]
    assert asked[3:] == [(3, 64, 32, 6), (3, 64, 64, 6), (3, 320, 256, 2), (3, 320, 256, 3)]
    printed = capsys.readouterr().out
    assert "| 4 | 0.500 | 1.000 | 0.000 | 1.500 | 9 |" in printed
    assert "seconds = 0.5 + 0.25 * views" in printed
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("rays.png", "samples.png", "scaling.json", "views.png")
    ]
    with pytest.raises(SystemExit):
        scaling.main(["--views", "3"])
    assert "--views" in capsys.readouterr().err


def test_scaling_measures() -> None:
    seconds, peak = scaling._measured(speed.SpeedOptions(width=32, height=32, n_views=2, repeats=1, threads=1))
    assert len(seconds) == len(scaling.STAGES)
    assert min(seconds) > 0
    assert peak > 10


def test_bytes_and_operations_by_hand() -> None:
    left, right = torch.ones(4, 8), torch.ones(8, 2)
    assert speed._counted(lambda: left @ right) == (2 * 4 * 8 * 2, 4 * (32 + 16 + 8))
    assert speed._counted(lambda: left.view(8, 4)[2:].transpose(0, 1)) == (0, 0)
    assert speed._counted(lambda: left.mul_(1)) == (0, 4 * (32 + 32))  # in place: read and written
    assert speed._counted(lambda: left[:1].expand(100, 8) + 1) == (0, 4 * (8 + 800))


def test_speed_runs(fields: dict[str, str], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(speed, "machine_rates", lambda: (1e9, 1e9))
    size = ["--width", "40", "--height", "32", "--repeats", "1", "--threads", "1", "--chunk", "500"]
    for more in ([], ["--ckpt", fields["guided"], "--n_views", "2"]):
        speed.main([*size, *more])
        lines = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
        assert [cells[0].strip() for cells in lines[2:]] == ["encode", "sweep", "field", "all"]
        numbers = np.array([[float(cell) for cell in cells[1:]] for cells in lines[2:]])
        np.testing.assert_allclose(numbers[:3].sum(0), numbers[3], rtol=0.02)
        np.testing.assert_allclose(numbers[:3, 2:4].max(1), numbers[:3, 4], rtol=0.02)  # rates of 1e9
    with pytest.raises(SystemExit):
        speed.main([*size, "--ckpt", fields["hierarchical"]])
    assert capsys.readouterr().err.strip().endswith("expected --sampler guided, got hierarchical")


def test_start_of_a_run_on_co3d(capsys: pytest.CaptureFixture) -> None:
    co3d_index.main(["--frames", "450", "--repeats", "1"])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("the first time: 2 sequences, 400 frames in ")
    assert second.startswith("from the cache: 2 sequences, 400 frames in ")
    assert "the first time" not in second


def test_cameras_are_disturbed_by_as_much_as_was_asked_for() -> None:
    truth = torch.eye(4).repeat(50, 1, 1)
    truth[:, 0, 3] = torch.arange(50.0)
    wrong = camera_refinement.disturbed(truth, degrees=5, centers=0.0)
    torch.testing.assert_close(rotation_angle(wrong[:, :3, :3]), torch.full((50,), 5.0, dtype=torch.float64))
    centers = -(wrong[:, :3, :3].mT @ wrong[:, :3, 3:])[..., 0]
    torch.testing.assert_close(centers, -truth[:, :3, 3].double())
    moved = camera_refinement.disturbed(truth, degrees=0, centers=0.1)
    offsets = moved[:, :3, 3] - truth[:, :3, 3]
    assert offsets.std().item() == pytest.approx(0.1 * 12.5, rel=0.2)  # 12.5: mean distance from the middle


def _frame_of_a_plane(camera: Cameras, brightness: float = 0.0, z: float = 4.0) -> RenderedImage:
    """A wall at `z` whose color rises linearly along x and y, seen by a camera that looks along z."""
    pixels = pixel_centers(camera.height, camera.width, camera.w2c).view(1, -1, 2)
    x, y, _ = camera.unproject(pixels, torch.full((1, pixels.shape[1]), z))[0].unbind(-1)
    rgb = torch.stack([0.5 + x / 8, 0.5 + y / 8, torch.full_like(x, 0.5)], dim=-1) + brightness
    size = (camera.height, camera.width)
    return RenderedImage(rgb.view(*size, 3), torch.full(size, z), torch.ones(size))


def test_frames_of_a_wall_differ_by_their_brightness_alone() -> None:
    """Linear colors survive bilinear lookups. Moved by 0.5 at z = 4 and focal length 16: 2 of 24 columns are gone."""
    w2c = torch.eye(4).repeat(2, 1, 1)
    w2c[1, 0, 3] = -0.5
    cameras = Cameras(w2c, torch.tensor([[16.0, 0, 12], [0, 16, 8], [0, 0, 1]]).repeat(2, 1, 1), height=16, width=24)
    first, second = _frame_of_a_plane(cameras[:1]), _frame_of_a_plane(cameras[1:])
    steady = video_stability.difference(first, second, cameras)
    inner = 22 / 24
    assert steady.warped < 1e-6
    assert steady[1:] == pytest.approx((0.5 / 8 / 3, inner, 0.0), abs=1e-6)
    brighter = video_stability.difference(first, _frame_of_a_plane(cameras[1:], 0.1), cameras)
    assert brighter.warped == pytest.approx(0.1, abs=1e-6)
    floater = replace(
        first, depth=torch.where(torch.arange(24) < 6, 2.0, first.depth)
    )  # 4 columns to the left at z = 2
    there = video_stability.difference(floater, second, cameras)
    assert (there.shared, there.contradicted) == pytest.approx((18 / 24, 2 / 20), abs=1e-6)


def test_flicker_along_a_path(small_dtu: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    more = ("--vggt_ckpt", "none", "--max_steps", "3", "--expname", "short", "--N_samples", "3", "--N_importance", "2")
    status, errors = outcome_of_general(tiny_arguments("train_general.py", small_dtu, tmp_path, *more))
    assert status == 0, errors
    command = ["--ckpt", str(tmp_path / "short/checkpoints/last.ckpt"), "--datadir", str(small_dtu), "--scan", "scan2"]
    video_stability.main([*command, "--frames", "3", "--n_views", "2", "--device", "cpu", "--apart", "1", "2"])
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[-3:]] == ["apart", "1", "2"]
    with pytest.raises(SystemExit):
        video_stability.main([*command, "--frames", "3", "--apart", "3"])
    assert "--apart: expected numbers from 1 to less than --frames, got [3]" in capsys.readouterr().err


def test_covisibility_of_a_row_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each camera sees of the wall what the next ones see: (reach + 1 - distance) / (reach + 1)."""
    found = []
    add = covisibility_memory.add_covisibility

    def kept(settings: Settings, name: str, folder: Path) -> str:
        said = add(settings, name, folder)
        found.append(np.array(WaiScene.read(folder).load_scene_modality("pairwise_covisibility")))
        return said

    monkeypatch.setattr(covisibility_memory, "add_covisibility", kept)
    measured = covisibility_memory.measure(count=4, reach=3, long_side=64)
    assert measured["bytes"] > 1e8
    np.testing.assert_allclose(found[0][0], [1, 0.75, 0.5, 0.25], atol=0.02)


def test_bars_of_the_occupancy_proof(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Means over seeds decide; a figure that is missing misses its bar."""
    bar = occupancy.Bar("gain", occupancy._difference("a", "b"), 0.3)
    line, passes = bar.line([{"a": 0.6, "b": 0.2}, {"a": 0.5, "b": 0.3}])
    assert passes
    assert "0.300  bar  0.300  pass  (0.400, 0.200)" in line
    assert not bar.line([{"a": 0.6, "b": 0.2}, {"a": None, "b": 0.3}])[1]
    figures = {"persistence_changed": 0.0, "static_oracle": occupancy.static_oracle()}
    results = [{"seed": 0, "figures": figures, "table": "the table", "seconds": {"aligned": 1.0}}]
    assert not occupancy.report(results, tmp_path)
    printed = capsys.readouterr().out
    assert [row.split()[-2] for row in printed.splitlines() if "  bar " in row][:3] == ["pass", "pass", "FAIL"]
    assert sum(bar["passes"] for bar in json.loads((tmp_path / "metrics.json").read_text())["bars"]) == 2


def test_the_occupancy_proof_goes_on_where_it_was_cut(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["--quick", "--seeds", "0", "--processes", "1", "--out", str(tmp_path), "--parts"]
    (tmp_path / "seed0_collapsed.json").write_text('{"figures": {"collapsed_use": 0.03}, "cpu_seconds": 1.5}')
    occupancy.main([*command, "collapsed"])
    printed = capsys.readouterr().out
    assert "CPU: collapsed 2 s" in printed
    assert "-0.030  bar -0.600  pass" in printed
    with pytest.raises(SystemExit):
        occupancy.main([*command, "dreams"])


def test_the_translation_world_moves_by_one_code_cell(tmp_path: Path) -> None:
    """Then the code plane of the next frame is this one's, shifted by a row, but for what comes into sight."""
    budget = occupancy.QUICK
    options = occupancy.tokenizer_options(0, tmp_path, budget, "tokenizer")
    batch = occupancy.translation_data(options, budget).sources["test"][0]
    grids = torch.cat([batch.history, batch.future])
    assert torch.equal(grids[1:, : -occupancy.CELL], grids[:-1, occupancy.CELL :])
    assert not torch.equal(grids[1:], grids[:-1])


def test_memory_of_occupancy_forecasts() -> None:
    found = [occupancy_memory.measure("20x20x12", mode, torch.device("cpu"), 1) for mode in ("stream", "train")]
    assert all(one["bytes"] > 1e7 and one["seconds"] > 0 for one in found)
