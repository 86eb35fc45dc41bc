"""The Lightning module of radiance fields: one training step, one validation."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from geometry import InputError, SceneBatch
from models.nerf.guided_network import AimedMaps
from models.nerf.losses import render_losses
from models.nerf.vggt_nerf import VGGTNeRF
from training.backbone import VGGTRecord, require_same_backbone
from training.metrics import depth_errors, psnr, ssim
from training.nerf.checkpoint import NERF, NerfRecord
from training.nerf.options import GeneralOptions, TrainOptions
from training.nerf.pictures import comparison
from training.nerf.rays import draw_target_rays, jitter_from, scene_generators
from training.nerf.windows import random_window
from training.optimizers import build_optimizer
from training.run_task import RunTask, plain_options
from training.schedules import WarmupCosine

_PICTURES_PER_VALIDATION = 2
_WINDOW = (128, 160)
"""Rows and columns of the part of a target view that a step of the guided sampler sweeps."""


class NerfTask(RunTask):
    """Photometric (and optional depth) training of a `VGGTNeRF` on `SceneBatch`es."""

    kind = NERF
    task = "general"
    monitor = ("val/psnr", "max")
    shown = ("train/psnr", "val/psnr")
    may_change_on_resume = frozenset({"chunk"})
    is_same_scene = False
    """Whether the same source views come back, so that their VGGT tokens are worth keeping."""

    def __init__(
        self, options: TrainOptions, model: VGGTNeRF, vggt: VGGTRecord, trained_on: dict[str, list[int]]
    ) -> None:
        super().__init__(options)
        sampler = model.network.config.sampler
        if options.color_loss and sampler != "guided":
            raise InputError(f"--color_loss: expected a model with --sampler guided, got {sampler}")
        self.model = model
        self.vggt_record = vggt
        self.trained_on = trained_on
        self.distrust = options.distrust if isinstance(options, GeneralOptions) else 0.0

    def training_step(self, batch: SceneBatch, batch_idx: int) -> Tensor:
        """Render random rays of the target views and compare."""
        count = self.options.rays_per_step
        self._require_depth(batch)
        generators = scene_generators(batch)
        if self.model.network.config.sampler == "guided":
            batch = random_window(batch, *_WINDOW, generators)
        trusts_vggt = not self.distrust or float(torch.rand((), generator=generators[0])) >= self.distrust
        names = batch.names if self.is_same_scene else None
        maps = self.model.encode(batch.source, names, trusts_vggt=trusts_vggt)
        view = batch.target[:, 0]
        bounds = self.model.depth_range(maps, view.cameras, view.near, view.far)
        target = draw_target_rays(view, count, generators, bounds)
        aimed = self.model.aim(maps, view.cameras, bounds)
        output = self.model.render_rays(aimed, target.rays, jitter_from(generators, count, self.device))
        is_guided = isinstance(aimed, AimedMaps)
        depth = target.depth if self.options.depth_loss and not is_guided else None
        losses = render_losses(output, target.rays, target.rgb, depth)
        if is_guided and self.options.depth_loss:
            losses = losses._replace(depth=aimed.depth_loss(view.depth))
        loss = losses.photometric + self.options.depth_loss * losses.depth
        if self.options.color_loss:
            color = aimed.color_loss(view.images)
            loss = loss + self.options.color_loss * color
        self._step_samples = identity_of(batch)
        self.require_finite(loss, "loss", self._step_samples)
        with torch.no_grad():
            mse = (output.rgb - target.rgb).square().mean().clamp_min(1e-10)
            scalars = {"train/loss": loss, "train/psnr": -10 * mse.log10(), "train/opacity": output.opacity.mean()}
            if self.options.depth_loss:
                scalars["train/depth_loss"] = losses.depth
            if self.options.color_loss:
                scalars["train/color_loss"] = color
            if self.options.near_far == "auto":
                scalars["train/auto_bounds"] = bounds.is_auto.float().mean()
        self.log_dict(scalars)
        return loss

    def configure_gradient_clipping(self, *arguments: Any, **keywords: Any) -> None:
        """Clip the norm over all parameters."""
        norms = self.clip_gradients_of({"the network": list(self.model.parameters())}, self._step_samples)
        self.log("train/grad_norm", norms["the network"])

    def _require_depth(self, batch: SceneBatch) -> None:
        if self.options.depth_loss and batch.target.depth is None:
            raise InputError(f"--depth_loss: expected depth maps, got none for scene {batch.names[0]}")

    def validation_step(self, batch: SceneBatch, batch_idx: int) -> None:
        """Render a whole view; log metrics and, for the first few, a picture."""
        maps = self.model.encode(batch.source, batch.names if self.is_same_scene else None)
        target = batch.target[:, 0]
        bounds = self.model.depth_range(maps, target.cameras, target.near, target.far)
        rendered = self.model.render_image(maps, target.cameras[0], bounds.near[0], bounds.far[0], self.options.chunk)
        truth = target.images[0].permute(1, 2, 0).cpu()
        scores = {"val/psnr": psnr(rendered.rgb, truth), "val/ssim": ssim(rendered.rgb, truth)}
        depth = None if target.depth is None else target.depth[0].cpu()
        if depth is not None:
            scores["val/depth_abs"] = depth_errors(rendered.depth, depth, depth > 0).mean_abs
        self.log_dict(scores, batch_size=1, sync_dist=True, on_epoch=True, on_step=False)
        if batch_idx < _PICTURES_PER_VALIDATION and self.trainer.is_global_zero and not self.trainer.sanity_checking:
            near, far = bounds.near[0].item(), bounds.far[0].item()
            picture = comparison(batch.source.images[0], target.images[0], rendered, near, far, depth)
            self.save_picture(picture, batch_idx)

    def build_optimizer(self) -> Optimizer:
        """Over everything that learns."""
        return build_optimizer(
            self.model, lrate=self.options.lrate, muon_lrate=self.options.muon_lrate, weight_decay=0.0
        )

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
        super().require_same_run(theirs)

    def record(self) -> NerfRecord:
        """What every checkpoint of this run says about itself."""
        return NerfRecord(
            task=self.task,
            network=self.model.network.config,
            marching=self.model.marching,
            vggt=self.vggt_record,
            options=plain_options(self.options),
            commit=self.commit,
            trained_on=self.trained_on,
        )


def identity_of(batch: SceneBatch) -> Callable[[], str]:
    """The samples of a step, for error messages."""
    return lambda: (
        f"scenes {list(batch.names)}, target views {batch.target.ids.flatten().tolist()}, "
        f"source views {batch.source.ids.tolist()}, seeds {batch.seeds.tolist()}"
    )
