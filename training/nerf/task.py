"""The Lightning module of radiance fields: one training step, one validation."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from data.novel_view.mixture import MixedSet
from data.novel_view.protocols import validation_protocol
from data.novel_view.reference import Reference, reference_of
from geometry import InputError, SceneBatch
from geometry.turned_views import rolled
from models.nerf.rolled import QUARTER_TURNS
from models.nerf.samplers import LOSS_NAMES, RendererSpec
from models.nerf.vggt_nerf import RenderedImage, VGGTNeRF, render_image
from training.backbone import VGGTRecord, require_same_backbone
from training.metrics import SSIM_WINDOW, depth_errors, psnr, ssim
from training.nerf.checkpoint import NERF, NerfRecord
from training.nerf.options import GeneralOptions, TrainOptions
from training.nerf.pictures import comparison
from training.nerf.rays import draw_target_rays, draw_target_windows, jitter_from, scene_generators
from training.nerf.window_losses import WINDOW_LOSS_NAMES, window_losses
from training.nerf.windows import random_window
from training.optimizers import build_optimizer
from training.run_task import RunTask, plain_options
from training.schedules import WarmupCosine
from training.weight_average import WeightAverage

_PICTURES_PER_VALIDATION = 2
_SCORES = ("val/psnr", "val/ssim", "val/depth_abs")
"""Of validation. A mean that Lightning forms is of as many batches in every process, scored or not."""


class SceneTask(RunTask):
    """What all training of radiance fields has in common: the record, the schedule, the clipping."""

    task: str
    """The name in the record."""
    may_change_on_resume = frozenset({"chunk"})
    options: TrainOptions
    model: VGGTNeRF

    def __init__(
        self,
        options: TrainOptions,
        model: VGGTNeRF,
        spec: RendererSpec,
        vggt: VGGTRecord,
        trained_on: dict[str, list[int]],
        vggt_before: tuple[VGGTRecord, ...] = (),
    ) -> None:
        """`spec`: what `model.network` was built from; `vggt`: which backbone; the rest: see `NerfRecord`."""
        super().__init__(options)
        self.model = model
        self.spec = spec
        self.vggt_record = vggt
        self.trained_on = trained_on
        self.vggt_before = vggt_before
        self.validated_on: dict[str, list[int]] = {}
        """Views that only validation sees, by scan."""
        self.centers: dict[int, list[float]] = {}
        """See `NerfRecord`."""

    def clipping_groups(self) -> dict[str, list[nn.Parameter]]:
        """The norm is taken over all parameters that learn."""
        return {"the network": [parameter for parameter in self.parameters() if parameter.requires_grad]}

    def log_norms(self, norms: Mapping[str, Tensor]) -> None:
        """See `RunTask`."""
        self.log("train/grad_norm", norms["the network"])

    def build_schedule(self, optimizer: Optimizer, total_steps: int) -> WarmupCosine:
        """Linear warm-up, cosine decay."""
        return WarmupCosine(
            optimizer,
            warmup_steps=self.options.warmup_steps,
            total_steps=total_steps,
            final_fraction=self.options.lrate_final / self.options.lrate,
        )

    def require_same_run(self, theirs: NerfRecord) -> None:
        """See `RunTask`; besides, both must be of the same kind of training and behind the same backbone."""
        if theirs.task != self.task:
            raise InputError(f"--ckpt: expected a {self.task} checkpoint, got a {theirs.task} one")
        require_same_backbone(theirs.vggt, self.vggt_record, "--ckpt")
        off = {f"{name}_loss": 0.0 for name in LOSS_NAMES}  # as runs had it that did not know the loss
        super().require_same_run(replace(theirs, options=off | theirs.options))

    def record(self) -> NerfRecord:
        """What every checkpoint of this run says about itself."""
        # what an option left open is as good as given
        counts = {name: count for name, count in vars(self.spec.samples).items() if hasattr(self.options, name)}
        return NerfRecord(
            task=self.task,
            renderer=self.spec,
            vggt=self.vggt_record,
            options=plain_options(self.options) | counts,
            commit=self.commit,
            trained_on=self.trained_on,
            vggt_before=self.vggt_before,
            validated_on=self.validated_on,
            centers=self.centers,
        )


def validation_scores(rendered: RenderedImage, truth: Reference) -> tuple[float, float, float]:
    """`_SCORES` of a rendered view; nan for one that it does not have, as SSIM of an image smaller than its window."""
    color, similarity, error = math.nan, math.nan, math.nan
    if truth.has_pixels:
        shown = truth.shown(rendered.rgb)
        color = psnr(shown, truth.image, truth.mask)
        if min(truth.image.shape[:2]) >= SSIM_WINDOW:
            similarity = ssim(shown, truth.image)
    if truth.depth is not None and bool((truth.depth > 0).any()):  # else all unknown
        error = depth_errors(truth.cut(rendered.depth), truth.depth, truth.depth > 0).mean_abs
    return color, similarity, error


class NerfTask(SceneTask):
    """Photometric (and optional depth) training of a `VGGTNeRF` on `SceneBatch`es."""

    kind = NERF
    monitor = ("val/psnr", "max")
    shown = ("train/psnr", "val/psnr")
    backbone_dropout = 0.0
    """Share of steps without what VGGT sees."""
    is_same_scene = False
    """Whether the same source views come back, so that their VGGT tokens are worth keeping."""

    def training_step(self, batch: SceneBatch, batch_idx: int) -> Tensor:
        """Render random rays of the target views and compare."""
        generators = scene_generators(batch)
        window = self.model.network.training_window(*batch.target.images.shape[-2:])
        if window is not None:
            batch = random_window(batch, *window, generators[0])
        share = self.backbone_dropout
        is_dropped = share > 0 and float(torch.rand((), generator=generators[0])) < share
        names = batch.names if self.is_same_scene else None
        turns = self._quarter_turns(generators[0])
        maps = self.model.encode(batch.source, names, drops_backbone=is_dropped, quarter_turns=turns)
        target = rolled(batch.target[:, 0], turns)
        view = self.model.view(maps, target.cameras, target.near, target.far)
        count, side = self.options.rays_per_step, min(self.options.window_rays, *target.images.shape[-2:])
        truth = (
            draw_target_windows(target, count // self.options.window_rays**2, side, generators, view.bounds)
            if side
            else draw_target_rays(target, count, generators, view.bounds)
        )
        output = view.render(truth.rays, jitter_from(generators, truth.rgb.shape[1], self.device))
        weights = self.loss_weights
        losses = view.losses(output, truth, weights.keys() - set(WINDOW_LOSS_NAMES))
        losses |= window_losses(output.rgb, truth.rgb, side, weights.keys() & set(WINDOW_LOSS_NAMES))
        loss = losses["photometric"] + sum(weight * losses[name] for name, weight in weights.items())
        self.watch_loss(loss, identity_of(batch))
        with torch.no_grad():
            mse = (output.rgb - truth.rgb).square().mean().clamp_min(1e-10)
            scalars = {"train/loss": loss, "train/psnr": -10 * mse.log10(), "train/opacity": output.opacity.mean()}
            scalars |= {f"train/{name}_loss": losses[name] for name in weights}
            if self.options.near_far == "auto":
                scalars["train/auto_bounds"] = view.bounds.is_auto.float().mean()
        self.log_dict(scalars)
        return loss

    def _quarter_turns(self, generator: torch.Generator) -> int:
        """By which the cameras of a step are rolled."""
        is_rolled = self.options.rolls > 0 and float(torch.rand((), generator=generator)) < self.options.rolls
        return int(torch.randint(1, len(QUARTER_TURNS), (), generator=generator)) if is_rolled else 0

    @property
    def loss_weights(self) -> dict[str, float]:
        """Of the terms besides the photometric one that have a weight."""
        names = (*self.model.network.loss_names, *WINDOW_LOSS_NAMES)
        weights = {name: getattr(self.options, f"{name}_loss") for name in names}
        return {name: weight for name, weight in weights.items() if weight}

    def on_validation_epoch_start(self) -> None:
        """No scores yet."""
        self._scores = torch.zeros(len(_SCORES), 2, device=self.device)

    def on_validation_epoch_end(self) -> None:
        """Means over the targets of all processes that have a finite score.

        Where no target has one, PSNR is logged all the same, as NaN, because checkpoints are chosen by it.
        """
        sums = self.trainer.strategy.reduce(self._scores, reduce_op="sum")
        for name, (total, count) in zip(_SCORES, sums, strict=True):
            if count > 0 or name == "val/psnr":
                self.log(name, total / count, sync_dist=True)  # the same everywhere

    def validation_step(self, batch: SceneBatch, batch_idx: int) -> None:
        """Render a whole view; log metrics and, for the first few, a picture.

        Scores count the pixels that `--val_protocol` counts, as `render.evaluate` does; a view without any has no score
        of its colors.
        """
        maps = self.model.encode(batch.source, batch.names if self.is_same_scene else None)
        target = batch.target[:, 0]
        view = self.model.view(maps, target.cameras, target.near, target.far)
        rendered = render_image(view, self.options.chunk)
        truth = reference_of(validation_protocol(self.options.val_protocol, self.options.dataset_name), target)
        for row, score in enumerate(validation_scores(rendered, truth)):
            if math.isfinite(score) and not self.is_repeated(batch_idx):
                self._scores[row] += self._scores.new_tensor([score, 1.0])
        if batch_idx < _PICTURES_PER_VALIDATION and self.trainer.is_global_zero and not self.trainer.sanity_checking:
            near, far = view.bounds.near[0].item(), view.bounds.far[0].item()
            depth = None if target.depth is None else target.depth[0].cpu()
            picture = comparison(batch.source.images[0], target.images[0], rendered, near, far, depth)
            self.save_picture(picture, batch_idx)


class GeneralTask(NerfTask):
    """Across scenes."""

    task = "general"
    options: GeneralOptions

    @property
    def backbone_dropout(self) -> float:
        """See `--backbone_dropout`."""
        return self.options.backbone_dropout

    def __init__(self, options: GeneralOptions, model: VGGTNeRF, *record: Any) -> None:
        """`record`: see `SceneTask`."""
        super().__init__(options, model, *record)
        self.average = WeightAverage(model, options.ema, forgets_start=False) if options.ema else None

    def on_validation_epoch_start(self) -> None:
        """See `NerfTask`; the average is validated."""
        super().on_validation_epoch_start()
        if self.average is not None:
            self.average.swap(self.model)

    def on_validation_epoch_end(self) -> None:
        """See `NerfTask`; training goes on with its own weights."""
        super().on_validation_epoch_end()
        if self.average is not None:
            self.average.swap(self.model)

    def require_same_run(self, theirs: NerfRecord) -> None:
        """See `SceneTask`; the folders of `--mix` may have moved, as that of `--datadir` may."""
        before = [MixedSet.parse(text) for text in theirs.options.get("mix", ())]
        kept = [(one.dataset_name, one.share) for one in before]
        if kept == [(one.dataset_name, one.share) for one in self.options.mixed_sets]:
            theirs = replace(theirs, options=theirs.options | {"mix": list(self.options.mix)})
        super().require_same_run(theirs)

    def build_optimizer(self) -> Optimizer:
        """Adam over everything that learns, or Muon beside it."""
        return build_optimizer(
            self.model, lrate=self.options.lrate, muon_lrate=self.options.muon_lrate, weight_decay=0.0
        )


def identity_of(batch: SceneBatch) -> Callable[[], str]:
    """The samples of a step, for error messages."""
    return lambda: (
        f"scenes {list(batch.names)}, target views {batch.target.ids.flatten().tolist()}, "
        f"source views {batch.source.ids.tolist()}, seeds {batch.seeds.tolist()}"
    )
