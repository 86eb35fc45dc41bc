"""Training across data sets, end to end: mixed photographs, windows, augmentation, an exact resume."""

from pathlib import Path

import pytest

from tests.data.tiny_scenes import write_colmap
from tests.training.commands import tiny_arguments
from tests.training.inprocess import outcome_of_general
from tests.training.nerf.test_guided_run import require_equal, stopped_at_save
from training.nerf.checkpoint import read_nerf_checkpoint

GUIDED = ("--vggt_ckpt", "none", "--sampler", "guided", "--sweep_planes", "12", "--N_guided", "2", "--n_views", "2")
MORE = (
    *("--window_rays", "8", "--rays_per_step", "64", "--ssim_loss", "0.1", "--gradient_loss", "0.1"),
    *("--far_sources", "0.5", "--color_jitter", "0.2", "--scenes_per_step", "2"),
    *("--mirrors", "0.5", "--rolls", "0.5", "--sample_volume"),
)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    write_colmap(folder / "house")
    return folder


def command(small_dtu: Path, base: Path, *more: str) -> list[str]:
    return tiny_arguments("train_general.py", small_dtu, base, *GUIDED, *MORE, "--save_every", "2", *more)


def test_a_mixed_run_resumes_exactly_although_its_folders_have_moved(
    small_dtu: Path, photographs: Path, tmp_path: Path
) -> None:
    base = tmp_path / "runs"
    mix = ("--mix", f"colmap:{photographs}:0.5", "--mix_side", "64", "--max_steps", "4", "--num_val", "2")
    whole, broken = (command(small_dtu, base, *mix, "--expname", name) for name in ("whole", "broken"))
    status, errors = outcome_of_general(whole)
    assert status == 0, errors
    assert "--depth_loss 0.1, --color_loss 0.1: chosen for training targets with depth maps" in errors
    assert f"steps: 50% {small_dtu}" in errors
    with stopped_at_save(1):
        outcome_of_general(broken)
    last = {name: base / name / "checkpoints" / "last.ckpt" for name in ("whole", "broken")}
    moved = tmp_path / "moved"
    moved.symlink_to(photographs)
    resumed = [*broken, "--ckpt", str(last["broken"]), "--mix"]
    _, errors = outcome_of_general([*resumed, f"colmap:{moved}:0.4"])
    assert f"--mix: the run to resume was started with ['colmap:{photographs}:0.5']" in errors
    status, errors = outcome_of_general([*resumed, f"colmap:{moved}:0.5"])
    assert status == 0, errors
    one, other = (read_nerf_checkpoint(path) for path in last.values())
    require_equal(one.contents, other.contents)
    assert "house" in one.record.trained_on
    assert one.record.options["ssim_loss"] == 0.1
