"""Options of the training scripts: one frozen dataclass per script, one line of help per field."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geometry import require

_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def option(default: Any, description: str, **argument: Any) -> Any:
    """A dataclass field that the command line knows about; `argument` goes to `add_argument`."""
    return field(default=default, metadata={"help": description, **argument})


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What every training script understands: the run, its length, its optimizer, its machine."""

    expname: str = option("experiment", "name of the run; its folder is <basedir>/<expname>")
    basedir: str = option("runs", "folder of all runs")
    num_epochs: int = option(1, "epochs; an epoch sees every training target once")
    max_steps: int = option(-1, "stop after this many optimizer steps; -1: --num_epochs decides")
    lrate: float = option(5e-4, "peak learning rate of Adam")
    lrate_final: float = option(5e-5, "learning rate at the end of the cosine decay")
    grad_clip: float = option(1.0, "largest norm of the gradient; larger ones are scaled down")
    save_every: int = option(500, "optimizer steps between writes of last.ckpt")
    val_every: int = option(500, "optimizer steps between validations")
    num_val: int = option(8, "validation images, spread evenly over the validation views")
    log_every: int = option(20, "optimizer steps between logged scalars")
    ckpt: str = option("", "checkpoint to resume exactly: weights, optimizer, schedule, position in the data")
    init_from: str = option("", "checkpoint to take only the weights from")
    seed: int = option(0, "all randomness derives from it")
    num_workers: int = option(4, "processes that load images")
    devices: int = option(1, "number of processes / GPUs")
    accelerator: str = option("auto", "Lightning accelerator: auto, cpu, gpu, ...")
    strategy: str = option("auto", "Lightning strategy: auto, ddp, ...")
    precision: str = option("32-true", "Lightning precision: 32-true, bf16-mixed, 16-mixed")

    def __post_init__(self) -> None:
        """Refuse what cannot work or contradicts itself, by name.

        Raises:
            InputError: naming the option or both options.
        """
        self._require_at_least(1, "num_epochs", "save_every", "val_every", "num_val", "log_every", "devices")
        self._require_at_least(0, "lrate_final", "num_workers")
        self._require_positive("lrate", "grad_clip")
        require(
            self.max_steps == -1 or self.max_steps >= 1,
            f"--max_steps: expected -1 or more than 0, got {self.max_steps}",
        )
        require(
            not (self.ckpt and self.init_from), "--ckpt resumes a run and --init_from starts one: give only one of them"
        )
        require(
            self.lrate_final <= self.lrate, f"--lrate_final {self.lrate_final}: expected at most --lrate {self.lrate}"
        )
        require(0 <= self.seed < 2**63, f"--seed: expected 0 to 2^63 - 1, got {self.seed}")
        require(
            self.precision in _PRECISIONS,
            f"--precision: expected one of {', '.join(_PRECISIONS)}, got {self.precision!r}",
        )
        require(
            bool(self.expname) and "/" not in self.expname and self.expname not in (".", ".."),
            f"--expname: expected a plain folder name, got {self.expname!r}",
        )

    def _require_at_least(self, least: int, *names: str) -> None:
        for name in names:
            wanted = "0 or more" if least == 0 else f"at least {least}"
            value = getattr(self, name)
            require(least <= value < math.inf, f"--{name}: expected {wanted}, got {value}")

    def _require_positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            require(0 < value < math.inf, f"--{name}: expected a positive number, got {value}")

    def _require_range(self, name: str, least: float | int, what: str) -> None:
        """One number, or a low and a high one."""
        values = getattr(self, name)
        require(
            len(values) in (1, 2) and values[0] >= least and values[-1] >= values[0],
            f"--{name}: expected one number or a range low high, {what}, got {list(values)}",
        )

    @property
    def lightning_strategy(self) -> Any:
        """What Lightning is told."""
        return self.strategy

    @property
    def run_dir(self) -> Path:
        """Everything the run writes is below it."""
        return Path(self.basedir) / self.expname


@dataclass(frozen=True, kw_only=True)
class TrainOptions(RunOptions):
    """What both scripts for radiance fields understand."""

    dataset_name: str = option("dtu", "data set format: dtu, blendedmvs, llff, blender, co3d, vkitti")
    datadir: str = option("./data/dtu", "root folder of the data set")
    scans: tuple[str, ...] = option(
        (),
        "scans to use; none given: the data set's own lists. Scans that also validate train on training views only",
        nargs="+",
    )
    imgScale_train: tuple[float, ...] = option(
        (1.0,), "resize factor of training images, or several: one of them is drawn for every step", nargs="+"
    )
    imgScale_test: float = option(1.0, "resize factor of validation images")
    n_views: tuple[int, ...] = option(
        (3,), "number of source views, or two numbers: drawn anew for every step", nargs="+"
    )
    rays_per_step: int = option(1024, "rays per scene and step")
    scenes_per_step: int = option(1, "target images per step and process")
    N_samples: int = option(64, "samples per ray of the coarse pass")
    N_importance: int = option(
        64, "further samples per ray where the coarse pass found something; 0 = coarse pass only"
    )
    N_guided: int = option(8, "samples per ray of the guided sampler, all in the interval that its sweep found")
    near_far: str = option(
        "data", "where rays start and end: data (bounds of the data set) or auto (where VGGT's depth says)"
    )
    white_bkgd: bool = option(False, "what a ray does not hit is white instead of black")
    chunk: int = option(4096, "rays rendered at a time in validation")
    warmup_steps: int = option(100, "optimizer steps of linear warm-up")
    depth_loss: float = option(0.0, "weight of the depth loss; needs depth maps")
    color_loss: float = option(
        0.0, "weight of the error of the colours on the guided sampler's planes, which teaches depth without depth maps"
    )

    def __post_init__(self) -> None:
        """See `RunOptions`; besides, rays and views must make a step."""
        super().__post_init__()
        self._require_at_least(1, "rays_per_step", "scenes_per_step", "N_samples", "N_guided", "chunk")
        self._require_at_least(0, "N_importance", "warmup_steps", "depth_loss", "color_loss")
        self._require_positive("imgScale_test")
        require(
            bool(self.imgScale_train) and all(0 < one < math.inf for one in self.imgScale_train),
            f"--imgScale_train: expected positive numbers, got {list(self.imgScale_train)}",
        )
        self._require_range("n_views", 2, "at least 2 views")
        require(self.near_far in ("data", "auto"), f"--near_far: expected data or auto, got {self.near_far!r}")
        require(
            self.max_steps == -1 or self.warmup_steps < self.max_steps,
            f"--warmup_steps {self.warmup_steps}: expected fewer than --max_steps {self.max_steps}",
        )

    @property
    def view_range(self) -> tuple[int, int]:
        """Fewest and most source views."""
        return self.n_views[0], self.n_views[-1]


@dataclass(frozen=True, kw_only=True)
class GeneralOptions(TrainOptions):
    """Training across scenes."""

    vggt_ckpt: str = option(
        "facebook/VGGT-1B",
        "VGGT weights: a .safetensors or .pt file, a folder, a hub id, random:CONFIG.json[:seed], or none",
    )
    vggt_image_size: int = option(518, "longest image side VGGT sees; 0 = the image's own size")
    depth_prior: bool = option(
        False, "tell the field how far points are from VGGT's depth, aligned to the given cameras"
    )
    distrust: float = option(
        0.0, "share of steps without what VGGT sees (needs its depth), for scenes where its cameras turn out wrong"
    )
    muon_lrate: float = option(0.0, "peak rate of Muon on weight matrices and kernels; 0: Adam learns them too")
    sampler: str = option(
        "hierarchical", "hierarchical (coarse and fine samples) or guided (a plane sweep, then few samples around it)"
    )
    sweep_planes: int = option(48, "planes of the guided sampler's coarse sweep between near and far")
    extra_views: int = option(2, "sources are drawn from so many more views than needed, of those listed as the best")
    feature_channels: int = option(24, "channels of the feature maps")
    hidden: int = option(32, "width of the layers that see single views")
    fused: int = option(64, "width of the layers behind the fusion of views")

    def __post_init__(self) -> None:
        """See `TrainOptions`; besides, widths must make a network."""
        super().__post_init__()
        for name in ("feature_channels", "hidden", "fused"):
            require(getattr(self, name) >= 1, f"--{name}: expected at least 1, got {getattr(self, name)}")
        require(self.hidden % 2 == 0, f"--hidden: expected an even number (two attention heads), got {self.hidden}")
        self._require_at_least(0, "vggt_image_size", "extra_views", "muon_lrate")
        self._require_at_least(8, "sweep_planes")
        require(0 <= self.distrust < 1, f"--distrust: expected 0 to below 1, got {self.distrust}")
        require(
            not self.distrust or self.depth_prior,
            "--distrust needs the depth of a VGGT: expected --depth_prior beside it",
        )
        require(
            self.sampler in ("hierarchical", "guided"),
            f"--sampler: expected hierarchical or guided, got {self.sampler!r}",
        )
        require(
            self.sampler == "hierarchical" or self.vggt_ckpt == "none" or self.depth_prior or self.near_far == "auto",
            "--sampler guided uses only the depth of a VGGT: expected --depth_prior, --near_far auto or "
            f"--vggt_ckpt none, got {self.vggt_ckpt}",
        )


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(TrainOptions):
    """Fine-tuning on one scene; the architecture and VGGT are those of the general checkpoint."""

    vggt_ckpt: str = option("", "where the VGGT weights lie now, if not where the general checkpoint found them")
    residual_channels: int = option(16, "channels of the per-scene residual, per plane")
    residual_resolution: int = option(128, "cells of the per-scene residual along each side of the scene's box")
    residual_lrate: float = option(5e-3, "peak learning rate of the per-scene residual")
    scene_field: int = option(
        0, "cells along each side of a per-scene field that shows the guided sampler where surfaces are; 0 = none"
    )
    scene_field_steps: int = option(
        200, "first optimizer steps, in which the per-scene field learns, alone; then it stands still"
    )
    scene_field_lrate: float = option(0.1, "peak learning rate of the per-scene field")
    surface_loss: float = option(0.5, "weight of the per-scene field's loss against surfaces the general model sees")

    def __post_init__(self) -> None:
        """See `TrainOptions`; besides, fine-tuning needs something to start from."""
        super().__post_init__()
        require(bool(self.ckpt or self.init_from), "--init_from: expected a general checkpoint to fine-tune, got none")
        self._require_positive("residual_channels", "residual_resolution", "residual_lrate", "scene_field_lrate")
        self._require_at_least(0, "scene_field", "surface_loss")
        if not self.scene_field:
            return
        self._require_at_least(8, "scene_field")
        require(
            self.near_far == "data",
            f"--scene_field marches between the data's bounds: expected --near_far data, got {self.near_far}",
        )
        require(
            not self.white_bkgd,
            "--scene_field looks for a surface on every ray: expected photographs, got --white_bkgd",
        )
        require(
            self.scene_field_steps > self.warmup_steps,
            f"--scene_field_steps {self.scene_field_steps}: expected more than --warmup_steps {self.warmup_steps}",
        )
        require(
            self.max_steps == -1 or self.scene_field_steps + self.warmup_steps < self.max_steps,
            f"--scene_field_steps {self.scene_field_steps} and as many --warmup_steps {self.warmup_steps} behind them: "
            f"expected fewer than --max_steps {self.max_steps}",
        )
