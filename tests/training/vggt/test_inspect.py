"""`python -m training.vggt.inspect` on a tiny folder: what it writes is read back."""

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import trimesh

from data.image_io import read_image
from data.multi_view.sources import SceneFrames
from data.multi_view.windows import ZoomRange
from data.point_cloud import ColoredPoints, colored_points, depth_agreement_of, write_ply
from geometry import InputError, Views, pixel_centers
from tests.data import tiny_scenes as tiny
from tests.scenes import random_views
from training.vggt.inspect import InspectOptions, contact_sheet, inspect_group, main

CONFIG = """dataset_name = [dtu]
datadir = [{folder}]
vggt_config = models/vggt/configs/nano.json
image_size = 40
aspect = [0.8]
n_views = [3]
max_img_per_gpu = 6
num_workers = 0
eval_views = 3
"""


@pytest.fixture
def config(small_dtu: Path, tmp_path: Path) -> Path:
    path = tmp_path / "config.txt"
    path.write_text(CONFIG.format(folder=small_dtu))
    return path


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    status = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_writes_the_points_and_pictures_of_a_training_group(config: Path, small_dtu: Path, tmp_path: Path, capsys):
    out = tmp_path / "deep" / "scene.ply"
    status, text, _ = run(capsys, "--config", config, "--out", out, "--index", 2, "--group", 1)
    assert status == 0
    options = InspectOptions(
        dataset_name=("dtu",),
        datadir=(str(small_dtu),),
        vggt_config="models/vggt/configs/nano.json",
        image_size=40,
        aspect=(0.8,),
        n_views=(3,),
        max_img_per_gpu=6,
        num_workers=0,
        eval_views=3,
        index=2,
        group=1,
        out=str(tmp_path / "again.ply"),
    )
    group, cloud = inspect_group(options)
    written = trimesh.load(out)
    np.testing.assert_allclose(written.vertices, cloud.points_world.numpy(), rtol=1e-6)
    assert np.array_equal(written.colors[:, :3], cloud.colors.numpy())
    assert len(written.vertices) == (group.views.depth > 0).sum()
    # the points lie where the views see them
    first = int((group.views.depth[0] > 0).sum())
    seen = group.views.cameras[0].project(torch.from_numpy(np.array(written.vertices[:first])).float())
    known = (group.views.depth[0] > 0).flatten()
    assert (seen.pixels - pixel_centers(32, 40, seen.pixels)[known]).abs().max() < 0.01
    sheet = read_image(out.with_suffix(".png"))
    assert sheet.shape == (64, 120, 3)
    assert np.abs(sheet[:32, :40] / 255 - group.views.images[0].permute(1, 2, 0).numpy()).max() < 0.003
    lines = text.splitlines()
    assert lines[0] == f"batch 2 of 2 groups, group 1: {group.names[0]}"
    assert lines[1] == "3 frames of 40x32 (width x height)"
    assert [int(line.split()[0]) for line in lines[3:6]] == group.views.ids.tolist()
    assert lines[6] == f"wrote {out} ({len(written.vertices)} points) and {out.with_suffix('.png')}"
    assert float(lines[3].split()[-1]) < 1e-3  # the first frame agrees with itself
    assert float(lines[4].split()[-1]) < 0.5


def test_mistakes_are_one_line(config: Path, tmp_path: Path, capsys):
    out = tmp_path / "scene.ply"
    for arguments, message in (
        (("--out", "scene.obj"), "error: --out: expected a file name that ends in .ply, got 'scene.obj'"),
        (("--group", 9), "error: --group: expected 0 to 1 in batch 0"),
        (("--index", -1), "error: --index: expected 0 or more, got -1"),
        (("--image_size", 44), "error: --image_size: expected a multiple of the patch size 8, got 44"),
    ):
        status, _, error = run(capsys, "--config", config, "--out", out, *arguments)
        assert status == 2
        assert error == f"{message}\n"


def test_the_viewer_serves_points_and_cameras(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    server = mock.MagicMock()
    monkeypatch.setattr("data.private_server.PrivateServer", server)  # of this machine only, as its tests say
    status, *_ = run(capsys, "--config", config, "--out", tmp_path / "scene.ply", "--viewer")
    assert status == 0
    assert server.call_args == mock.call()
    assert server().scene.add_point_cloud.call_count == 1
    assert server().scene.add_camera_frustum.call_count >= 2
    assert server().sleep_forever.call_count == 1


def test_agreement_of_a_wall_and_of_a_shifted_camera(tmp_path: Path) -> None:
    from data.readers.dtu import read_dtu

    (scene,) = read_dtu(tiny.write_dtu(tmp_path), split="all")
    (group,) = SceneFrames("dtu", [scene], zoom=ZoomRange.none()).sample_many([_key(64, 80)])
    agreement = depth_agreement_of(group.views, 1, 0)
    assert agreement.overlap > 0.85
    assert agreement.confirmed == 1
    assert agreement.pixels < 1e-3
    wrong = group.views.depth.clone()
    wrong[0] *= 1.1
    views = Views(**{**vars(group.views), "depth": wrong})
    assert depth_agreement_of(views, 1, 0).confirmed == 0
    nothing = Views(**{**vars(group.views), "depth": torch.zeros_like(wrong)})
    assert depth_agreement_of(nothing, 1, 0)[:2] == (0, 0)
    assert contact_sheet(nothing).shape == (128, 240, 3)


def _key(height: int, width: int):
    from data.multi_view.sources import GroupKey

    return GroupKey(0, 0, 3, height, width, 1)


def test_a_config_that_starts_from_weights_of_the_command_line(config: Path, tmp_path: Path, capsys) -> None:
    """As configs/vggt_nano.txt: `eval_ckpt` tells the patch size."""
    sizes = tmp_path / "weights.json"
    sizes.write_text(Path("models/vggt/configs/nano.json").read_text())
    text = config.read_text().replace("vggt_config = models/vggt/configs/nano.json", "")
    config.write_text(text + f"eval_ckpt = {sizes.with_suffix('.safetensors')}\n")
    assert run(capsys, "--config", config, "--out", tmp_path / "scene.ply")[0] == 0
    (tmp_path / "taken.ply").mkdir()
    status, _, errors = run(capsys, "--config", config, "--out", tmp_path / "taken.ply")
    assert (status, errors.count("\n")) == (2, 1)
    assert "taken.ply: expected a file that can be written, got: Is a directory" in errors


def test_clouds_without_points_are_refused(tmp_path: Path) -> None:
    views = random_views(2)
    empty = colored_points(Views(**{**vars(views), "depth": torch.zeros_like(views.depth)}))
    with pytest.raises(InputError, match="expected points to write, got none: no pixel has known depth"):
        write_ply(tmp_path / "a.ply", empty)
    with pytest.raises(InputError, match=r"expected a file name that ends in \.ply"):
        write_ply(tmp_path / "a.obj", ColoredPoints(*colored_points(views)))


def test_contact_sheets_wrap() -> None:
    assert contact_sheet(random_views(8)).shape == (96, 192, 3)
