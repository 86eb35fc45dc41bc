"""The feature benchmark at toy size: every arm runs, finished runs are kept, budgets do not mix."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks import features, vggt_memory
from models.vggt import VGGTConfig, load_vggt
from tests.render.tiny import write_backbone
from tests.training.tiny_vggt import write_sizes

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


def test_a_frozen_aggregator_keeps_no_gradients(tmp_path: Path) -> None:
    config = VGGTConfig.read(write_sizes(tmp_path)).with_heads(vggt_memory.HEADS)
    model = vggt_memory.prepared(config, "frozen", torch.device("cpu"))
    assert {name.split(".")[0] for name, one in model.named_parameters() if one.requires_grad} == {
        "camera_head",
        "depth_head",
    }
    assert not model.aggregator.training


def test_arms_differ_in_the_vggt_only(weights: Path) -> None:
    options = features.FeatureOptions(vggt=str(weights))
    runs = {arm: features.train_options(options, arm, 3) for arm in features.ARMS}
    plain = {arm: {**vars(run), "vggt_ckpt": "", "depth_prior": False, "expname": ""} for arm, run in runs.items()}
    assert all(one == plain["stem"] for one in plain.values())
    assert json.dumps([run.vggt_ckpt for run in runs.values()]).count("random:") == 1
    assert runs["random"].vggt_ckpt.endswith(":3")  # other weights for every seed
