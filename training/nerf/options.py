"""Options of train_general.py and train_finetune.py."""

import math
from dataclasses import dataclass, replace

from data.novel_view.datamodule import NovelViewSpec
from data.novel_view.mixture import MixedSet, shares_of
from data.novel_view.protocols import PROTOCOLS, validation_protocol
from data.scene import MIN_SIDE
from geometry import require
from models.nerf.renderer import NEAR_FAR
from models.nerf.samplers import SAMPLERS, require_own_options
from training.nerf.data_options import DataOptions
from training.nerf.window_losses import MIN_WINDOW, WINDOW_LOSS_NAMES, perceptual_network
from training.options import RunOptions, option

OF_SCENE_FIELD = (
    "scene_field_steps",
    "scene_field_steps_per_view",
    "scene_field_lrate",
    "surface_loss",
    "surfaces",
    "surface_views",
)
"""Options of the per-scene field."""
_SURFACES = ("model", "points")


@dataclass(frozen=True, kw_only=True)
class TrainOptions(RunOptions, DataOptions):
    """What both scripts for radiance fields understand."""

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
    window_rays: int = option(
        0,
        "rays are those of square windows of so many pixels a side, as many windows as --rays_per_step holds; 0 = they "
        "are scattered",
    )
    scenes_per_step: int = option(1, "target images per step and process")
    N_samples: int | None = option(None, "hierarchical: samples per ray of the coarse pass (64)")
    N_importance: int | None = option(
        None, "hierarchical: further samples per ray where the coarse pass found something; 0 = coarse pass only (64)"
    )
    N_guided: int | None = option(None, "guided: samples per ray, all in the interval that the sweep found (8)")
    feature_pixels: int | None = option(
        None,
        "guided: most pixels of a feature map; larger images are halved, and again (131072; fine-tuning: as before)",
    )
    near_far: str = option(
        "data",
        "where rays start and end: data (bounds of the data set), auto (where VGGT's depth says) or open (well before "
        "and behind the data's bounds: photographs with surroundings)",
    )
    white_bkgd: bool = option(False, "what a ray does not hit is white instead of black")
    chunk: int = option(4096, "rays rendered at a time in validation")
    rolls: float = option(
        0.0,
        "share of the steps in which all cameras are rolled by one to three quarter turns, so that --quality full of "
        "render.* has four renderings as good as the first",
    )
    val_protocol: str = option(
        "",
        f"validation scores the pixels that this protocol counts: {', '.join(PROTOCOLS)}; not given: MVSNeRF's of the "
        "data set (dtu, llff, blender), else full",
    )
    warmup_steps: int = option(100, "optimizer steps of linear warm-up")
    depth_loss: float | None = option(
        None, "weight of the depth loss; needs depth maps. Not given: 0.1 for guided where there are some, else 0"
    )
    color_loss: float | None = option(
        None,
        "guided: weight of the error of the colors on the sweep's planes, which teaches depth without depth maps. "
        "Not given: 0.1 without depth maps and in fine-tuning, unless --depth_loss is given, else 0",
    )
    coarse_loss: float = option(
        0.0, "guided: weight of the error of the colors as the sweep itself renders them, coarsely, at both levels"
    )
    ssim_loss: float = option(0.0, "weight of 1 - SSIM of rendered windows; needs --window_rays")
    gradient_loss: float = option(
        0.0, "weight of the error of the gradients of rendered windows at three scales; needs --window_rays"
    )
    perceptual_loss: float = option(
        0.0, "weight of LPIPS-VGG of rendered windows, where its weights are; needs --window_rays"
    )

    def __post_init__(self) -> None:
        """See `RunOptions`; besides, rays and views must make a step."""
        super().__post_init__()
        DataOptions.__post_init__(self)
        validation_protocol(self.val_protocol, self.dataset_name)
        self._require_at_least(1, "rays_per_step", "scenes_per_step", "chunk")
        require(0 <= self.rolls <= 1, f"--rolls: expected 0 to 1, got {self.rolls}")
        windows = [f"{name}_loss" for name in WINDOW_LOSS_NAMES]
        self._require_at_least(0, "warmup_steps", "window_rays", "coarse_loss", *windows)
        side = self.window_rays
        require(
            not side or (side >= MIN_WINDOW and side**2 <= self.rays_per_step),
            f"--window_rays {side}: expected at least {MIN_WINDOW} pixels and a window within --rays_per_step "
            f"{self.rays_per_step}",
        )
        for name in windows:
            require(not getattr(self, name) or side > 0, f"--{name}: expected --window_rays beside it, got none")
        if self.perceptual_loss:
            perceptual_network()
        self._require_at_least(0, *(name for name in ("depth_loss", "color_loss") if getattr(self, name) is not None))
        self._require_positive("imgScale_test")
        require(
            bool(self.imgScale_train) and all(0 < one < math.inf for one in self.imgScale_train),
            f"--imgScale_train: expected positive numbers, got {list(self.imgScale_train)}",
        )
        self._require_range("n_views", 2, "at least 2 views")
        require(self.near_far in NEAR_FAR, f"--near_far: expected one of {', '.join(NEAR_FAR)}, got {self.near_far!r}")
        require(
            self.max_steps == -1 or self.warmup_steps < self.max_steps,
            f"--warmup_steps {self.warmup_steps}: expected fewer than --max_steps {self.max_steps}",
        )

    def data_spec(self, *, is_per_scene: bool) -> NovelViewSpec:
        """What the data module is built from."""
        return NovelViewSpec(
            dataset_name=self.dataset_name,
            datadir=self.datadir,
            scans=self.scans,
            is_per_scene=is_per_scene,
            n_views=self.view_range,
            scenes_per_step=self.scenes_per_step,
            scales_train=self.imgScale_train,
            scale_val=self.imgScale_test,
            num_val=self.num_val,
            seed=self.seed,
            num_workers=self.num_workers,
            reader=self.reader_options(),
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
    vggt_layers: tuple[int, ...] = option(
        (),
        "VGGT layers, counted from 0, whose tokens join the feature maps; none given: four that are spread evenly "
        "(hierarchical), none (guided)",
        nargs="+",
    )
    depth_prior: bool = option(
        False, "tell the field how far points are from VGGT's depth, aligned to the given cameras"
    )
    backbone_dropout: float = option(
        0.0,
        "share of steps without what VGGT sees (needs its depth), for scenes where its cameras turn out wrong",
        aliases=("distrust",),
    )
    muon_lrate: float = option(0.0, "peak rate of Muon on weight matrices and kernels; 0: Adam learns them too")
    ema: float = option(
        0.0,
        "decay per step of an average of the weights that starts from those of the start; it is validated, and whoever "
        "reads a checkpoint gets it. 0: none",
    )
    sampler: str = option(
        "hierarchical", "hierarchical (coarse and fine samples) or guided (a plane sweep, then few samples around it)"
    )
    fine_depth: bool = option(
        False, "guided: VGGT's depth, with a scale and a shift for each view, joins both levels of the sweep, not one"
    )
    sample_volume: bool = option(
        False, "guided: the fine sweep's volume is read at every sample of a ray, not only where its surface is"
    )
    sweep_planes: int | None = option(None, "guided: planes of the coarse sweep between near and far (48)")
    mix: tuple[str, ...] = option(
        (),
        "further data sets as <dataset_name>:<datadir>:<share of the steps>; --datadir has the other steps",
        nargs="+",
    )
    mix_side: int = option(
        0, "longest side in pixels, before --imgScale_train, of images of --mix; larger ones are resized. 0 = no limit"
    )
    extra_views: int = option(2, "sources are drawn from so many more views than needed, of those listed as the best")
    far_sources: float = option(
        0.0, "share of samples of which some sources, at least one and never all, are any other views, however far"
    )
    color_jitter: float = option(
        0.0,
        "one random exposure for all views of a sample, up to so much in natural logarithm, and a quarter of it per "
        "channel",
    )
    mirrors: float = option(0.0, "share of samples that are mirrored left to right, cameras included")
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
        self._require_at_least(0, "color_jitter", "mix_side")
        require(0 <= self.ema < 1, f"--ema: expected 0 to below 1, got {self.ema}")
        for name in ("far_sources", "mirrors"):
            require(0 <= getattr(self, name) <= 1, f"--{name}: expected 0 to 1, got {getattr(self, name)}")
        require(
            not (self.color_jitter and self.white_bkgd),
            "--color_jitter: expected no --white_bkgd beside it, because the background would not stay white",
        )
        require(
            not self.mix_side or self.mix_side >= MIN_SIDE,
            f"--mix_side: expected at least {MIN_SIDE} pixels, got {self.mix_side}",
        )
        require(not self.mix_side or bool(self.mix), f"--mix_side {self.mix_side}: expected --mix beside it, got none")
        shares_of(self.mixed_sets)
        dropout = self.backbone_dropout
        require(0 <= dropout < 1, f"--backbone_dropout: expected 0 to below 1, got {dropout}")
        known = ", ".join(SAMPLERS)
        require(self.sampler in SAMPLERS, f"--sampler: expected one of {known}, got {self.sampler!r}")
        require_own_options(self.sampler, self, "this run")
        has_tokens = SAMPLERS[self.sampler].has_default_layers or bool(self.vggt_layers)
        require(
            not self.vggt_layers or self.vggt_ckpt != "none",
            f"--vggt_layers {' '.join(map(str, self.vggt_layers))}: expected a VGGT, got --vggt_ckpt none",
        )
        require(
            not dropout or self.wants_depth,
            "--backbone_dropout needs the depth of a VGGT: expected --depth_prior beside it",
        )
        reads = has_tokens or self.depth_prior or self.near_far == "auto"
        require(
            reads or self.vggt_ckpt == "none",
            f"--sampler {self.sampler} uses only the depth of a VGGT unless --vggt_layers are given: expected "
            f"--depth_prior, --near_far auto, --vggt_layers or --vggt_ckpt none, got {self.vggt_ckpt}",
        )

    def data_spec(self, *, is_per_scene: bool) -> NovelViewSpec:
        """See `TrainOptions`."""
        return replace(
            super().data_spec(is_per_scene=is_per_scene),
            extra_views=self.extra_views,
            far_sources=self.far_sources,
            color_jitter=self.color_jitter,
            mirrors=self.mirrors,
            mix=self.mixed_sets,
            mix_side=self.mix_side,
        )

    @property
    def mixed_sets(self) -> tuple[MixedSet, ...]:
        """See `--mix`."""
        return tuple(MixedSet.parse(text) for text in self.mix)

    @property
    def wants_depth(self) -> bool:
        """Whether VGGT's depth and cameras are read, be it to know how much its tokens are to be trusted."""
        trusts_tokens = bool(self.vggt_layers) and SAMPLERS[self.sampler].trusts_tokens_by_depth
        return self.depth_prior or trusts_tokens


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(TrainOptions):
    """Fine-tuning on one scene; the architecture and VGGT are those of the general checkpoint."""

    vggt_ckpt: str = option("", "where the VGGT weights lie now, if not where the general checkpoint found them")
    vggt_image_size: int | None = option(
        None, "longest image side VGGT sees, 0 = the image's own; not given: as the general checkpoint's"
    )
    val_views: int = option(
        0,
        "so many of the training views, evenly spread, are held out of training, targets and sources alike, and "
        "validation uses them instead of training views: best.ckpt is then an early stop",
    )
    residual_channels: int = option(16, "channels of the per-scene residual, per plane")
    residual_resolution: int = option(128, "cells of the per-scene residual along each side of the scene's box")
    residual_lrate: float = option(5e-3, "peak learning rate of the per-scene residual")
    scene_field: int = option(
        0, "guided: cells along each side of a per-scene field that shows where surfaces are; 0 = none"
    )
    scene_field_steps: int = option(
        200, "the first of the optimizer steps, in which the per-scene field learns, alone; then it stands still"
    )
    scene_field_steps_per_view: int = option(
        0,
        "most of these steps per training view, because a field of few views that learns for long fits noise; what is "
        "above is left out of --max_steps too; 0 = no limit",
    )
    scene_field_lrate: float = option(0.1, "peak learning rate of the per-scene field")
    surface_loss: float = option(0.5, "weight of the per-scene field's loss against surfaces that are known")
    surfaces: str = option(
        "model", "where they are known from: model = what the general model sees, points = the data's sparse points"
    )
    minutes: float = option(
        0.0,
        "take only as many of the steps as fit into so many minutes here, by a short measurement; one process; "
        "0 = all. A resumed run has as many as it had",
    )
    surface_views: int = option(
        0, "training views, evenly spread, in which the general model looks for surfaces; 0 = all"
    )

    def __post_init__(self) -> None:
        """See `TrainOptions`; besides, fine-tuning needs something to start from."""
        super().__post_init__()
        require(bool(self.ckpt or self.init_from), "--init_from: expected a general checkpoint to fine-tune, got none")
        self._require_positive("residual_channels", "residual_resolution", "residual_lrate", "scene_field_lrate")
        require(
            not self.minutes or self.max_steps > 0,
            f"--minutes {self.minutes:g}: expected --max_steps beside it, the most that are of use",
        )
        self._require_at_least(
            0, "minutes", "scene_field", "scene_field_steps_per_view", "surface_loss", "surface_views", "val_views"
        )
        if not self.scene_field:
            for name in OF_SCENE_FIELD:
                value, default = getattr(self, name), type(self).__dataclass_fields__[name].default
                require(value == default, f"--{name} {value}: has no effect without --scene_field")
            return
        self._require_at_least(8, "scene_field")
        require(
            self.surfaces in _SURFACES, f"--surfaces: expected one of {', '.join(_SURFACES)}, got {self.surfaces!r}"
        )
        require(
            self.surfaces == "model" or not self.surface_views,
            f"--surface_views {self.surface_views}: looks for surfaces, has no effect with --surfaces {self.surfaces}",
        )
        require(
            self.near_far != "auto",
            f"--scene_field marches between the data's bounds: expected --near_far data or open, got {self.near_far}",
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

    def data_spec(self, *, is_per_scene: bool) -> NovelViewSpec:
        """See `TrainOptions`."""
        return replace(super().data_spec(is_per_scene=is_per_scene), val_views=self.val_views)

    @property
    def steps_of_field(self) -> int:
        """Steps in which the per-scene field learns."""
        return self.scene_field_steps if self.scene_field else 0
