"""The demonstration with an untrained network: everything is written, what is given is what is named."""

import json
from pathlib import Path

import pytest
import torch
import trimesh

from models.mapanything import MapAnything, MapAnythingConfig
from render import reconstruction_demo as demo
from training.mapanything.checkpoint import export_weights

SIZES = "models/mapanything/configs/rooms.json"


def test_every_choice_of_inputs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.manual_seed(0)
    weights, out = tmp_path / "untrained.safetensors", tmp_path / "demo"
    network = MapAnything(MapAnythingConfig.read(SIZES))
    network.dpt_regressor_head.conv2[-1].bias.data[5] = 9.0  # surfaces everywhere
    export_weights(network, weights, dtype="float32")
    demo.main(["--out", str(out), "--weights", str(weights), "--families", "coordinate", "--views", "2"])
    scores = json.loads((out / "scores.json").read_text())
    assert list(scores) == [f"coordinate: {name}" for name in demo.CHOICES]
    assert len({one["pointmaps_abs_rel"] for one in scores.values()}) == len(demo.CHOICES)  # all inputs act
    for name in demo.CHOICES:
        folder = out / "coordinate" / name
        assert (folder / "views.png").stat().st_size > 0
        assert len(trimesh.load(folder / "points.ply").vertices) > 100
    printed = capsys.readouterr().out
    assert "python -m data.wai.convert" in printed
    assert "coordinate: poses_and_a_tenth_of_the_depth" in printed
    batch = demo.photographs(out / "rooms", "coordinate", 2, 0)  # made already
    depth = [demo.views_of(batch, given)[1].depth for given in demo.CHOICES.values()]
    assert [one is None for one in depth] == [True, True, True, False, False, False]
    assert torch.equal(depth[3], batch.views.depth[0, 1])
    assert (depth[5] > 0).sum() == (depth[3] > 0).sum() - int(0.9 * (depth[3] > 0).sum())


def test_what_cannot_be(capsys: pytest.CaptureFixture) -> None:
    for arguments in (["--families", "cave"], ["--views", "1"]):
        with pytest.raises(SystemExit):
            demo.main(arguments)
        assert arguments[0] in capsys.readouterr().err
