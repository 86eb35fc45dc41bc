"""The examples of docs/extending.md, executed as they stand there."""

import json
import re
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from data.image_io import write_image
from data.readers.registry import READERS, read_scenes
from geometry import InputError
from tests.test_docs import ROOT
from training.checkpoint import read_checkpoint

_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def defined_by(title: str) -> dict[str, Any]:
    """Names that the blocks of a section define, one after the other."""
    page = (ROOT / "docs" / "extending.md").read_text()
    section = page.split(f"\n## {title}\n")[1].split("\n## ")[0]
    names: dict[str, Any] = {"__name__": "extending"}
    for block in _BLOCK.findall(section):
        exec(compile(block, f"docs/extending.md, {title}", "exec", dont_inherit=True), names)
    return names


def test_a_reader(tmp_path: Path) -> None:
    entries = []
    for number in range(5):
        write_image(tmp_path / "room" / f"{number}.png", np.full((24, 32, 3), 50 * number, np.uint8))
        w2c = np.eye(4)
        w2c[0, 3] = -number
        intrinsics = [[30.0, 0, 16], [0, 30.0, 12], [0, 0, 1]]
        one = {"image": f"{number}.png", "w2c": w2c.tolist(), "intrinsics": intrinsics, "near": 1.0, "far": 9.0}
        entries.append(one)
    (tmp_path / "room" / "cameras.json").write_text(json.dumps(entries))
    with mock.patch.dict(READERS):
        names = defined_by("A reader")
        scene = read_scenes("listed", str(tmp_path), split="all", scans=("room",))[0]
        assert sorted([*scene.train_views, *scene.held_out_views]) == list(range(5))
        assert scene.neighbors[4][:2] == (3, 2)
        views = scene.views([1, 4])
        assert views.images.shape == (2, 3, 24, 32)
        assert torch.allclose(views.cameras.centers[:, 0], torch.tensor([1.0, 4.0]))
        assert torch.allclose(views.images[1], torch.tensor(200 / 255))
        del entries[2]["near"]
        (tmp_path / "room" / "cameras.json").write_text(json.dumps(entries))
        with pytest.raises(InputError, match="entry 2: expected a camera, got KeyError"):
            names["read_listed"](tmp_path, split="all")
    assert "listed" not in READERS


def test_a_backbone() -> None:
    names = defined_by("A backbone")
    frozen, network = names["frozen"], names["network"]
    images = torch.rand(1, 2, 3, 64, 48)
    features = frozen(images)
    assert features.tokens.shape == (1, 2, 2, 16, 8, 6)
    assert features.depth is None
    assert features.w2c is None
    cell = torch.nn.functional.conv2d(images[0, 1, :, 16:24, 8:16][None], network.maps[1].weight, network.maps[1].bias)
    assert torch.allclose(features.tokens[0, 1, 1, :, 2, 1], cell.flatten(), atol=1e-5)
    assert not list(frozen.parameters())


def test_a_task(tmp_path: Path) -> None:
    names = defined_by("A task")
    common = {"basedir": str(tmp_path), "save_every": 2, "lrate": 1e-2, "accelerator": "cpu", "devices": 1}

    def run(**settings: Any) -> torch.nn.Module:
        return names["train"](names["ColorOptions"](**common, **settings))

    last = tmp_path / "first" / "checkpoints" / "last.ckpt"
    first = run(expname="first", max_steps=2)
    assert read_checkpoint(last, names["COLOR"]).contents["global_step"] == 2
    more = run(expname="more", max_steps=4, ckpt=str(last))
    contents = read_checkpoint(tmp_path / "more" / "checkpoints" / "last.ckpt", names["COLOR"]).contents
    assert contents["global_step"] == 4
    before, after = (network.state_dict() for network in (first, more))
    assert before.keys() == after.keys()
    assert not torch.equal(before["4.bias"], after["4.bias"])
    with pytest.raises(InputError, match="--width: the run to resume was started with 8, got 4"):
        run(expname="other", max_steps=4, width=4, ckpt=str(last))
