"""Every config of radiance fields runs two steps, at toy size, on a tiny scene of its data set's layout."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data import tiny_scenes
from tests.render.tiny import write_backbone
from tests.training.inprocess import outcome_of_finetune, outcome_of_general
from training.cli import parse_options
from training.nerf.checkpoint import read_nerf_checkpoint
from training.nerf.options import FinetuneOptions, GeneralOptions

ROOT = Path(__file__).parents[3]
CONFIGS = sorted((ROOT / "configs" / "nerf").glob("*.txt"))
FINETUNED = [config for config in CONFIGS if config.stem.endswith("_finetune")]
GENERAL = [config for config in CONFIGS if config not in FINETUNED]
SCAN = {"dtu": "scan2", "blendedmvs": "scene", "llff": "scene", "blender": "scene", "colmap": "scene"}
WRITERS = {
    "blendedmvs": tiny_scenes.write_blendedmvs,
    "llff": tiny_scenes.write_llff,
    "blender": tiny_scenes.write_blender,
    "colmap": tiny_scenes.write_colmap,
}
SMALL = "--rays_per_step 16 --chunk 4096 --n_views 2 --imgScale_train 1 --num_workers 0 --num_val 1 --val_every 100"
STEPS = "--accelerator cpu --precision 32-true --warmup_steps 1"
BY_SAMPLER = {"hierarchical": "--N_samples 4 --N_importance 2", "guided": "--N_guided 2"}

DataOf = Callable[[str], Path]
CheckpointOf = Callable[[Path], Path]


@pytest.fixture(scope="module")
def data_of(small_dtu: Path, tmp_path_factory: pytest.TempPathFactory) -> DataOf:
    """The root of a data set by its name."""
    folder = tmp_path_factory.mktemp("layouts")
    for name, write in WRITERS.items():
        write(folder / name / SCAN[name])
    return lambda name: small_dtu if name == "dtu" else folder / name


@pytest.fixture(scope="module")
def general_checkpoint(data_of: DataOf, tmp_path_factory: pytest.TempPathFactory) -> CheckpointOf:
    """What two steps with a general config leave; run once per config."""
    base = tmp_path_factory.mktemp("general")
    vggt = f"random:{write_backbone(base / 'backbone.json', with_depth=True)}"
    made: dict[Path, Path] = {}

    def run(config: Path) -> Path:
        if config not in made:
            options = parse_options(GeneralOptions, "test", ["--config", str(config)])
            more = f"--vggt_ckpt {vggt} --vggt_image_size 0 --feature_channels 8 --hidden 8 --fused 8 --max_steps 2"
            more += " --sweep_planes 12" if options.sampler == "guided" else ""
            command = _command("train_general.py", config, options.dataset_name, data_of, base / "runs")
            status, errors = outcome_of_general([*command, *BY_SAMPLER[options.sampler].split(), *more.split()])
            assert status == 0, errors
            made[config] = base / "runs" / options.expname / "checkpoints" / "last.ckpt"
        return made[config]

    return run


def _command(script: str, config: Path, dataset: str, data_of: DataOf, base: Path) -> list[str]:
    where = ["--datadir", str(data_of(dataset)), "--scans", SCAN[dataset], "--basedir", str(base)]
    return ["python", script, "--config", str(config), *where, *SMALL.split(), *STEPS.split()]


@pytest.mark.parametrize("config", GENERAL, ids=lambda path: path.stem)
def test_general(config: Path, general_checkpoint: CheckpointOf) -> None:
    checkpoint = read_nerf_checkpoint(general_checkpoint(config))
    expected = "guided" if "guided" in config.stem else "hierarchical"
    assert checkpoint.contents["global_step"] == 2
    assert (checkpoint.record.task, checkpoint.record.renderer.sampler) == ("general", expected)


@pytest.mark.parametrize("config", FINETUNED, ids=lambda path: path.stem)
def test_finetune(
    config: Path, data_of: DataOf, general_checkpoint: CheckpointOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the checkpoint that the config names: a shipped one, or what another config leaves."""
    monkeypatch.chdir(ROOT)
    options = parse_options(FinetuneOptions, "test", ["--config", str(config)])
    start = Path(options.init_from)
    if not start.is_file():
        by_name = {parse_options(GeneralOptions, "test", ["--config", str(one)]).expname: one for one in GENERAL}
        assert (start.parts[0], *start.parts[2:]) == ("runs", "checkpoints", "last.ckpt")
        start = general_checkpoint(by_name[start.parts[1]])
    sampler = read_nerf_checkpoint(start).record.renderer.sampler
    more = f"--residual_channels 2 --residual_resolution 8 --init_from {start} --expname tiny {BY_SAMPLER[sampler]}"
    more += " --scene_field 8 --scene_field_steps 2 --max_steps 4" if options.scene_field else " --max_steps 2"
    more += " --surface_views 2" if options.scene_field and options.surfaces == "model" else ""
    command = _command("train_finetune.py", config, options.dataset_name, data_of, tmp_path)
    status, errors = outcome_of_finetune([*command, *more.split()])
    assert status == 0, errors
    record = read_nerf_checkpoint(tmp_path / "tiny" / "checkpoints" / "last.ckpt").record
    assert (record.task, record.renderer.background) == ("finetune", float(options.dataset_name == "blender"))
    assert sampler == ("guided" if "guided" in options.init_from else "hierarchical")
