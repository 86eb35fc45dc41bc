"""The command from options to files, and the numbers of a model that knows the truth."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from data.image_io import image_size, read_pfm, write_image, write_pfm
from data.novel_view.protocols import PROTOCOLS, targets_of
from data.readers.registry import read_scenes
from geometry import InputError
from render import evaluate as command
from render.evaluate import evaluate, evaluate_targets, summary, without_pixels
from render.loading import usable_device
from render.options import EvaluateOptions
from render.table import scores_table
from tests.render.tiny import HEIGHT, SCAN, WIDTH, TruthModel, write_checkpoint
from training.nerf.build import build_data, build_general_task
from training.nerf.checkpoint import read_nerf_checkpoint
from training.nerf.options import GeneralOptions

CPU = torch.device("cpu")


def options(ckpt: Path, data_root: Path, out: Path, **changes: object) -> EvaluateOptions:
    values = {"scans": (SCAN,), "protocol": "dtu-nearest3", "device": "cpu", "imgScale_test": 0.5, **changes}
    return EvaluateOptions(ckpt=str(ckpt), datadir=str(data_root), out=str(out), **values)


def refuse_nan(name: str) -> NoReturn:
    raise AssertionError(f"{name} in JSON")


def only_scene(data_root: Path):
    return read_scenes("dtu", str(data_root), split="all", scans=(SCAN,))[0]


def test_command_writes_metrics_and_pictures(
    general: Path, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "new" / "eval"
    arguments = f"--ckpt {general} --datadir {data_root} --scans {SCAN} --protocol dtu-nearest3 --out {out}"
    command.main([*arguments.split(), "--imgScale_test", "0.5", "--device", "cpu", "--N_importance", "0"])
    metrics = json.loads((out / "metrics.json").read_text(), parse_constant=refuse_nan)
    assert metrics["protocol"] == "dtu-nearest3"
    assert set(metrics) == {
        *("protocol", "mean", "baselines", "scans", "views", "weights", "settings"),
        *("left_out", "seen_in_training"),
    }
    assert metrics["left_out"] == metrics["seen_in_training"] == []
    scores = {"psnr", "ssim", "lpips", "depth_abs", "acc_2mm", "acc_10mm", "acc_20mm"}
    assert scores | {"rays_per_second", "seconds_per_image", "peak_memory_mb"} <= set(metrics["mean"])
    assert set(metrics["baselines"]) == {"nearest_source", "mean_colour"}
    assert [view["target"] for view in metrics["views"]] == [32, 24, 23, 44]
    for view in metrics["views"]:
        assert scores | {"scan", "target", "sources", "mask"} <= set(view)
        assert (view["scan"], view["mask"], len(view["sources"])) == (SCAN, "depth", 3)
        assert (view["near"], view["far"]) == (425.0, 905.0)
    mean_psnr = sum(view["psnr"] for view in metrics["views"]) / 4
    assert metrics["mean"]["psnr"] == pytest.approx(mean_psnr)
    assert isinstance(metrics["mean"]["lpips"], float) or metrics["mean"]["lpips"].startswith("unavailable (")
    checkpoint = metrics["weights"]["checkpoint"]
    assert checkpoint["sha256"] == hashlib.sha256(general.read_bytes()).hexdigest()
    assert len(metrics["weights"]["vggt"]["sha256"]) == 64
    assert metrics["weights"]["vggt"] == metrics["weights"]["vggt_trained_with"]
    settings = metrics["settings"]
    assert (settings["N_samples"], settings["N_importance"], settings["device"]) == (4, 0, "cpu")
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["metrics.json", *(f"{SCAN}_{view}.png" for view in (32, 24, 23, 44))]
    )
    # below the sources: truth, prediction, error, depth, true depth
    assert image_size(out / f"{SCAN}_32.png") == (HEIGHT, 5 * WIDTH // 2)
    printed = capsys.readouterr().out
    assert scores_table(metrics) in printed
    for row in ("model", "nearest source", "mean colour", "PSNR", "<10 mm"):
        assert row in printed
    assert [path for path in out.parent.iterdir() if path != out] == []


@pytest.mark.parametrize("name", ["dtu-nearest3", "dtu-fixed3", "full"])
def test_truth_scores_best(name: str, data_root: Path):
    scene, protocol = only_scene(data_root), PROTOCOLS[name]
    model = TruthModel(scene, depth_error=5.0)
    targets = targets_of(protocol, scene, 3)
    metrics = summary(evaluate_targets(model, targets, protocol, device=CPU, is_millimeter=True), 1.0)
    mean = metrics["mean"]
    assert mean["psnr"] > 100
    assert mean["ssim"] == pytest.approx(1.0)
    assert mean["depth_abs"] == pytest.approx(5.0, abs=1e-3)
    assert (mean["acc_2mm"], mean["acc_10mm"], mean["acc_20mm"]) == (0.0, 1.0, 1.0)
    for baseline in metrics["baselines"].values():
        assert baseline["psnr"] < 25
        assert baseline["depth_abs"] is None
    assert [view["mask"] for view in metrics["views"]] == ["none" if name == "full" else "depth"] * 4
    assert model.encoded == [(target.candidates, (scene.name,)) for target in targets]


def test_without_depth_the_objects_mask_is_used(data_root: Path, tmp_path: Path):
    scene = only_scene(data_root)
    model = TruthModel(scene)
    frames = {}
    for view, frame in scene.frames.items():
        mask = tmp_path / f"{view}.png"
        shutil.copy(frame.image_path, mask)  # any picture serves as a mask
        frames[view] = dataclasses.replace(frame, depth_path=None, mask_path=mask)
    bare = dataclasses.replace(scene, frames=frames, read_depth=None)
    for name, kind in (("dtu-fixed3", "object"), ("full", "none")):
        targets = targets_of(PROTOCOLS[name], bare, 3)[:1]
        metrics = summary(evaluate_targets(model, targets, PROTOCOLS[name], device=CPU, is_millimeter=True), 1.0)
        assert metrics["views"][0]["mask"] == kind
        assert metrics["mean"]["depth_abs"] is None
        assert (metrics["mean"]["psnr_object"] is None) == (name != "full")


def test_a_view_with_an_empty_mask_is_left_out_and_named(data_root: Path, tmp_path: Path):
    scene = only_scene(data_root)
    frames = {}
    for view, frame in scene.frames.items():
        mask = tmp_path / f"{view}.png"
        write_image(mask, np.full((frame.height, frame.width), 0 if view == 24 else 255, dtype=np.uint8))
        frames[view] = dataclasses.replace(frame, depth_path=None, mask_path=mask)
    bare = dataclasses.replace(scene, frames=frames, read_depth=None)
    protocol = PROTOCOLS["dtu-fixed3"]
    views = evaluate_targets(TruthModel(scene), targets_of(protocol, bare, 3)[:2], protocol, device=CPU)
    assert without_pixels(views) == [f"scene {SCAN}, view 24: no pixel counts, its object mask is empty"]
    metrics = summary(views, 1.0)
    assert [view["ssim"] is None for view in metrics["views"]] == [False, True]
    assert metrics["mean"]["ssim"] == metrics["views"][0]["ssim"]
    assert metrics["baselines"]["mean_colour"]["ssim"] == metrics["views"][0]["baselines"]["mean_colour"]["ssim"]


@pytest.mark.parametrize(("val_protocol", "protocol"), [("", "dtu-nearest3"), ("full", "full")])
def test_validation_while_training_scores_as_evaluation_does(
    val_protocol: str, protocol: str, general: Path, data_root: Path, tmp_path: Path
):
    root = shutil.copytree(data_root, tmp_path / "dtu")
    for path in (root / "Depths").rglob("*.pfm"):
        depth = read_pfm(path).copy()
        depth[:, : depth.shape[1] // 3] = 0.0  # unknown: not scored by the protocols of DTU
        write_pfm(path, depth)
    record = read_nerf_checkpoint(general).record
    own = {name: value for name, value in record.options.items() if name in GeneralOptions.__dataclass_fields__}
    own |= {"init_from": str(general), "datadir": str(root), "imgScale_test": 0.5, "num_workers": 0}
    lists = {name: tuple(value) for name, value in own.items() if isinstance(value, list)}
    training = GeneralOptions(**own | lists | {"val_protocol": val_protocol})
    data = build_data(training, is_per_scene=False)
    task = build_general_task(training, data.trained_on)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    (validated,) = trainer.validate(task, data, verbose=False)
    evaluated = evaluate(options(general, root, tmp_path / "out", protocol=protocol))["mean"]
    for name in ("psnr", "ssim", "depth_abs"):
        assert validated[f"val/{name}"] == pytest.approx(evaluated[name], abs=1e-4)


def test_tokens_of_the_same_sources_are_computed_once(general: Path, data_root: Path):
    from training.nerf.checkpoint import load_model

    model, _ = load_model(general)
    scene, protocol = only_scene(data_root), PROTOCOLS["dtu-fixed3"]
    evaluate_targets(model, targets_of(protocol, scene, 3)[:2], protocol, device=CPU, scale=0.25)
    assert (model.cache.misses, model.cache.hits) == (1, 1)


def test_finetuned_model_is_evaluated_on_its_scene_only(finetuned: Path, data_root: Path, tmp_path: Path):
    metrics = evaluate(options(finetuned, data_root, tmp_path / "own", scans=(), imgScale_test=0.25))
    assert {view["scan"] for view in metrics["views"]} == {SCAN}
    assert metrics["weights"]["checkpoint"]["task"] == "finetune"
    with pytest.raises(InputError, match="--scans: expected only scan7"):
        evaluate(options(finetuned, data_root, tmp_path / "other", scans=("scan8",)))
    with pytest.raises(InputError, match="--dataset_name: expected dtu"):
        evaluate(options(finetuned, data_root, tmp_path / "other", dataset_name="llff", protocol="full"))
    assert not (tmp_path / "other").exists()


def test_finetuned_on_the_only_scene_of_a_folder(data_root: Path, tmp_path: Path):
    recorded = {"dataset_name": "dtu", "datadir": str(data_root), "scans": []}
    ckpt = write_checkpoint(tmp_path / "last.ckpt", task="finetune", options=recorded)
    metrics = evaluate(options(ckpt, data_root, tmp_path / "out", scans=(), imgScale_test=0.25))
    assert metrics["settings"]["scans"] == [SCAN]


def test_nothing_is_left_behind_by_a_failure(general: Path, data_root: Path, tmp_path: Path):
    broken = shutil.copytree(data_root, tmp_path / "broken")
    last = only_scene(broken).frames[44].image_path
    last.write_bytes(last.read_bytes()[:500])
    with pytest.raises(InputError, match="expected a complete image"):
        evaluate(options(general, broken, tmp_path / "out", imgScale_test=0.25))
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ckpt": "nowhere.ckpt"}, "--ckpt: expected a checkpoint file, got 'nowhere.ckpt'"),
        ({"out": ""}, "--out: expected a folder"),
        ({"protocol": "dtu"}, "--protocol: expected one of dtu-nearest3"),
        ({"n_views": 1}, "--n_views"),
        ({"imgScale_test": 0.0}, "--imgScale_test"),
        ({"N_samples": -1}, "--N_samples"),
        ({"N_importance": -2}, "--N_importance"),
        ({"N_guided": 3}, "--N_guided 3: belongs to --sampler guided; the model of .*last.ckpt has"),
        ({"chunk": 0}, "--chunk"),
        ({"device": "abacus"}, "--device: expected auto or a device"),
        ({"scans": ("scan1",)}, "expected scans that are there"),
        ({"datadir": "nowhere"}, "--datadir"),
        ({"protocol": "llff-nearest3"}, "expected --dataset_name llff"),
    ],
)
def test_wrong_options(changes: dict, message: str, general: Path, data_root: Path, tmp_path: Path):
    values = dataclasses.asdict(options(general, data_root, tmp_path / "out")) | changes
    with pytest.raises(InputError, match=message):
        evaluate(EvaluateOptions(**values))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["meta", "nonsense", "cuda:99"])
def test_devices_that_cannot_compute_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"--device: expected auto or a device of this machine, got '{name}'"):
        usable_device(name)
