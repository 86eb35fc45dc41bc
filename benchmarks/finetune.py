"""Held-out PSNR of a scene against seconds of fine-tuning on it.

python -m benchmarks.finetune --config configs/nerf/guided_finetune.txt --datadir /path/to/dtu --out runs/finetune

Runs `train_finetune.py` as its config says and, every --held_out_every steps, renders the scene's held-out views from
their nearest training views (protocol `full`). Seconds are those of the training, validation included, from the reading
of its data and of the general checkpoint on, without these renderings. Nothing about the held-out views reaches the
training. Writes <out>/finetune.json and finetune.png and prints a line per measurement.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch

from benchmarks.plots import line_plot, save_plot
from data.novel_view.dataset import Target
from data.novel_view.protocols import PROTOCOLS, targets_of
from data.readers.registry import read_scenes
from geometry import one_line_errors, require
from models.vggt.cache import FeatureCache
from render.evaluate import evaluate_targets, summary
from render.loading import peak_memory_mb
from training.cli import parse_options
from training.files import staged_folder, write_json
from training.nerf.finetune import FinetuneTask
from training.nerf.options import FinetuneOptions
from training.nerf.runs import finetune_run
from training.nerf.task import SceneTask
from training.options import option

_PROTOCOL = PROTOCOLS["full"]
_CACHE_BYTES = 1 << 30
"""1 GiB of VGGT tokens while the held-out views are rendered."""


@dataclass(frozen=True, kw_only=True)
class FinetuneBenchmark(FinetuneOptions):
    """The run to measure, and when."""

    held_out_every: int = option(200, "optimizer steps between renderings of the held-out views")
    n_sources: int = option(8, "source views of a held-out view")
    threads: int = option(2, "CPU threads")
    out: str = option("runs/finetune", "folder for the numbers and the plot")

    def __post_init__(self) -> None:
        """See `FinetuneOptions`; besides, no resumed run: the seconds before it are unknown.

        Raises:
            InputError: naming the option.
        """
        super().__post_init__()
        self._require_at_least(1, "held_out_every", "threads")
        self._require_at_least(2, "n_sources")
        require(len(self.scans) == 1, f"--scans: expected one scan to measure on, got {list(self.scans)}")
        require(not self.ckpt, "--ckpt: a resumed run has no seconds of its own; expected --init_from alone")
        require(self.num_processes == 1, f"--devices: expected 1, for one clock, got {self.devices}")
        require(not Path(self.out).is_file(), f"--out: expected a folder, got the file {self.out!r}")


@dataclass(frozen=True)
class Measurement:
    """The held-out views after some time."""

    step: int
    seconds: float
    psnr: float
    """Mean over the held-out views, whole images."""
    psnr_object: float | None
    """On the object's mask, where the data set has one."""
    ssim: float


class HeldOut(pl.Callback):
    """Renders the held-out views now and then, and stops the clock meanwhile."""

    def __init__(self, targets: Sequence[Target], every: int, scale: float, chunk: int, start: float) -> None:
        self.targets, self.every, self.scale, self.chunk = targets, every, scale, chunk
        self._clock_start = start
        self.measurements: list[Measurement] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: SceneTask) -> None:
        """The general model as nothing has learned yet, or with the scene's field."""
        self._measure(_steps_before(pl_module), pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: SceneTask, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """When it is time; while the scene's field learns, the renderings are those of the general model."""
        is_due = trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps
        if is_due and isinstance(pl_module, FinetuneTask):
            self._measure(_steps_before(pl_module) + trainer.global_step, pl_module)

    @torch.no_grad()
    def _measure(self, step: int, task: SceneTask) -> None:
        if task.device.type == "cuda":
            torch.cuda.synchronize(task.device)
        seconds = time.perf_counter() - self._clock_start
        # its own cache: the one of the training must hold neither less nor more for having been measured
        was_training, model, cache = task.model.training, task.model.eval(), task.model.cache
        model.cache = FeatureCache(_CACHE_BYTES)
        sizes = {"scale": self.scale, "chunk": self.chunk, "precision": task.options.precision}
        views = evaluate_targets(model, self.targets, _PROTOCOL, device=task.device, **sizes)
        model.train(was_training).cache = cache
        mean = summary(views, 0.0)["mean"]
        found = Measurement(step, seconds, mean["psnr"], mean["psnr_object"], mean["ssim"])
        self.measurements.append(found)
        on_object = "" if found.psnr_object is None else f"{found.psnr_object:.2f}"
        print(f"| {step} | {seconds:.0f} | {found.psnr:.2f} | {on_object} | {found.ssim:.3f} |")
        sys.stdout.flush()
        self._clock_start = time.perf_counter() - seconds


def _steps_before(task: SceneTask) -> int:
    """Of the run, that another task made."""
    return task.options.steps_of_field if isinstance(task, FinetuneTask) else 0


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Fine-tune, measure, write the plot."""
    options = parse_options(FinetuneBenchmark, __doc__, argv)
    torch.set_num_threads(options.threads)
    (evaluated,) = read_scenes(
        options.dataset_name, options.datadir, split="all", scans=options.scans, evaluated_only=True
    )
    targets = targets_of(_PROTOCOL, evaluated, options.n_sources)
    start = time.perf_counter()
    held_out = HeldOut(targets, options.held_out_every, options.imgScale_test, options.chunk, start)
    print("| step | seconds | PSNR | PSNR on the object | SSIM |\n" + "|---" * 5 + "|")
    trainer = finetune_run(options, callbacks=(held_out,))
    points = held_out.measurements
    print(f"{points[-1].psnr - points[0].psnr:+.2f} dB in {points[-1].seconds / 60:.1f} minutes")
    lines = {"whole image": ([one.seconds for one in points], [one.psnr for one in points])}
    if points[0].psnr_object is not None:
        lines["object"] = ([one.seconds for one in points], [one.psnr_object for one in points])
    with staged_folder(Path(options.out)) as folder:
        scores = {
            "points": [vars(one) for one in points],
            "peak_memory_mb": peak_memory_mb(trainer.strategy.root_device),
        }
        write_json(folder / "finetune.json", scores)
        figure = line_plot(lines, "seconds of fine-tuning", f"PSNR of held-out views of {evaluated.scan} (dB)")
        save_plot(figure, folder / "finetune.png")


if __name__ == "__main__":
    main()
