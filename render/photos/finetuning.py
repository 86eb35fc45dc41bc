"""Fine-tuning on the photographs: `train_finetune.py` in this process, with its config and what is known here."""

from dataclasses import replace
from pathlib import Path

from data.scene import PosedScene
from geometry import InputError, require
from render.loading import usable_device
from render.photos.options import PhotosOptions
from training.cli import parse_options
from training.nerf.checkpoint import read_nerf_checkpoint
from training.nerf.options import FinetuneOptions
from training.nerf.runs import finetune_run

_LAST = Path("checkpoints") / "last.ckpt"


def finetuned_checkpoint(folder: Path) -> Path:
    """Of the run in a folder."""
    return folder / _LAST


def require_usable(options: PhotosOptions) -> None:
    """Device, general model and config, before minutes are spent on cameras.

    Raises:
        InputError: naming the option.
    """
    device = usable_device(options.device)
    record = read_nerf_checkpoint(Path(options.ckpt)).record
    require(record.task == "general", f"--ckpt {options.ckpt}: expected a general model, got one fine-tuned on a scene")
    if not options.is_finetuned:
        return
    require(
        device.type == "cpu" or not device.index,
        f"--device {options.device}: fine-tuning runs on the first GPU; choose another one by CUDA_VISIBLE_DEVICES",
    )
    parse_options(FinetuneOptions, "", ["--config", options.finetune, "--init_from", options.ckpt])


def finetune(options: PhotosOptions, scene: PosedScene, scene_folder: Path, folder: Path) -> int:
    """Fine-tune in `folder`, on from where an interrupted attempt was; the optimizer steps of the whole run.

    Raises:
        InputError: for a config that does not fit, or a run that cannot go on.
    """
    begun = folder / "config.txt"  # has the number of steps that was measured
    config = begun if begun.is_file() else Path(options.finetune)
    given = [
        *("--config", config, "--dataset_name", "colmap", "--datadir", scene_folder, "--scans"),
        *("--basedir", folder.parent, "--expname", folder.name, "--init_from", options.ckpt, "--seed", options.seed),
        *(("--accelerator", "cpu") if usable_device(options.device).type == "cpu" else ()),
    ]
    if finetuned_checkpoint(folder).is_file():
        given += ["--ckpt", finetuned_checkpoint(folder)]
    run = parse_options(FinetuneOptions, "", [str(word) for word in given])
    if not begun.is_file():
        run = sized(run, options, len(scene.train_views))
    finetune_run(run)
    return read_nerf_checkpoint(finetuned_checkpoint(folder)).record.options["max_steps"]


def sized(run: FinetuneOptions, options: PhotosOptions, num_train: int) -> FinetuneOptions:
    """A run of `--minutes` or `--steps`, with as many source views as there are beside a target.

    Raises:
        InputError: for a config without a largest number of steps.
    """
    sources = tuple(dict.fromkeys(min(count, num_train - 1) for count in run.n_views))
    run = replace(run, n_views=sources)
    if options.steps is None:
        return replace(run, minutes=options.minutes)
    if run.max_steps < 1:
        raise InputError(f"--steps {options.steps}: expected --max_steps in {options.finetune}, got none")
    share = options.steps / run.max_steps
    of_field = max(1, int(run.scene_field_steps * share)) if run.scene_field else run.scene_field_steps
    rest = options.steps - (of_field if run.scene_field else 0)
    warmup = max(0, min(int(run.warmup_steps * share), rest - 1, of_field - 1))
    return replace(run, max_steps=options.steps, scene_field_steps=of_field, warmup_steps=warmup)
