"""The Lightning modules of both scripts: one training step, one validation, and what makes fine-tuning different."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from tqdm import tqdm

from data.base import PosedScene
from data.datamodule import SceneDataModule
from data.image_io import write_image
from data.sampling import evenly_spread, pool_targets
from geometry import InputError, SceneBatch, Views
from models.nerf.guided_network import AimedMaps, random_window
from models.nerf.losses import render_losses
from models.nerf.nerf_config import Marching, NerfConfig
from models.nerf.plane_sweep import DisparityRange
from models.nerf.scene_box import SceneBox, common_box
from models.nerf.scene_field import Surfaces, surface_loss
from models.nerf.vggt_nerf import VGGTNeRF, draw_target_rays, jitter_from, scene_generators
from training.backbone import VGGTRecord, load_backbone, load_recorded_backbone, require_same_backbone
from training.checkpoint import (
    CheckpointRecord,
    add_record,
    current_commit,
    load_network_weights,
    read_checkpoint,
    record_of,
)
from training.errors import NonFiniteError
from training.metrics import depth_errors, psnr, ssim
from training.optimizers import build_optimizer
from training.options import FinetuneOptions, GeneralOptions, TrainOptions
from training.pictures import as_bytes, comparison
from training.schedules import WarmupCosine

_PICTURES_PER_VALIDATION = 2
_TOKEN_CACHE_BYTES = 4 << 30
_VIEWS_OF_BOX = 8
_WINDOW = (128, 160)
"""Rows and columns of the part of a target view that a step of the guided sampler sweeps."""
_MAY_CHANGE_ON_RESUME = frozenset(
    {
        *("expname", "basedir", "datadir", "ckpt", "init_from", "vggt_ckpt"),
        *("num_epochs", "max_steps", "save_every", "val_every", "num_val", "log_every"),
        *("chunk", "num_workers", "accelerator", "strategy"),
    }
)


class NerfTask(pl.LightningModule):
    """Photometric (and optional depth) training of a `VGGTNeRF` on `SceneBatch`es."""

    task = "general"
    monitor = ("val/psnr", "max")
    shown = ("train/psnr", "val/psnr")
    is_same_scene = False
    """Whether the same source views come back, so that their VGGT tokens are worth keeping."""

    def __init__(
        self, options: TrainOptions, model: VGGTNeRF, vggt: VGGTRecord, trained_on: dict[str, list[int]]
    ) -> None:
        super().__init__()
        sampler = model.network.config.sampler
        if options.color_loss and sampler != "guided":
            raise InputError(f"--color_loss: expected a model with --sampler guided, got {sampler}")
        self.options = options
        self.model = model
        self.vggt_record = vggt
        self.trained_on = trained_on
        self.commit = current_commit()
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
        self._require_finite(loss, "loss", batch)
        self._last_names = batch.names
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

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm over all parameters and stop on a gradient that is not finite (fp16's scaler skips those)."""
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.grad_clip)
        if self.trainer.precision != "16-mixed":
            self._require_finite(norm, "gradient", None)
        self.log("train/grad_norm", norm)

    def _require_depth(self, batch: SceneBatch) -> None:
        if self.options.depth_loss and batch.target.depth is None:
            raise InputError(f"--depth_loss: expected depth maps, got none for scene {batch.names[0]}")

    def _require_finite(self, value: Tensor, what: str, batch: SceneBatch | None) -> None:
        if bool(torch.isfinite(value).all()):
            return
        where = f"scenes {self._last_names}" if batch is None else _identity(batch)
        raise NonFiniteError(f"step {self.global_step}: expected a finite {what}, got {value.item()} for {where}")

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
            self._save_picture(picture, batch_idx)

    def _save_picture(self, picture: Tensor, index: int) -> None:
        folder = self.options.run_dir / "validation"
        folder.mkdir(parents=True, exist_ok=True)
        write_image(folder / f"step_{self.global_step:07d}_{index}.png", as_bytes(picture))
        if self.logger is not None:
            self.logger.experiment.add_image(f"val/{index}", picture, self.global_step, dataformats="HWC")

    def build_optimizer(self) -> Optimizer:
        """Over everything that learns."""
        return build_optimizer(
            self.model, lrate=self.options.lrate, muon_lrate=self.options.muon_lrate, weight_decay=0.0
        )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam (or Muon beside it), linear warm-up, cosine decay, all counted in optimizer steps."""
        optimizer = self.build_optimizer()
        schedule = WarmupCosine(
            optimizer,
            warmup_steps=self.options.warmup_steps,
            total_steps=int(self.trainer.estimated_stepping_batches),
            final_fraction=self.options.lrate_final / self.options.lrate,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record architecture, backbone identity, options and commit."""
        add_record(checkpoint, self.record())

    def require_same_run(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to resume what is not the same run: it would end as no unbroken run does.

        Raises:
            InputError: naming what differs.
        """
        theirs, ours = record_of(checkpoint), self.record()
        if theirs.task != ours.task:
            raise InputError(f"--ckpt: expected a {ours.task} checkpoint, got a {theirs.task} one")
        require_same_backbone(theirs.vggt, ours.vggt, "--ckpt")
        defaults = {name: _plain(one.default) for name, one in self.options.__dataclass_fields__.items()}
        for name, mine in ours.options.items():
            # an option that came later: the run did what is its default
            before = theirs.options.get(name, defaults[name])
            if isinstance(mine, list) and not isinstance(before, list):
                before = [before]  # took one value before it took several
            if name not in _MAY_CHANGE_ON_RESUME | self.without_effect and before != mine:
                raise InputError(
                    f"--{name}: the run to resume was started with {before!r}, got {mine!r}; "
                    f"--init_from starts a new run from its weights"
                )

    @property
    def without_effect(self) -> frozenset[str]:
        """Options that do nothing in this run, given the others."""
        return frozenset()

    def record(self) -> CheckpointRecord:
        """What every checkpoint of this run says about itself."""
        options = {name: _plain(value) for name, value in asdict(self.options).items()}
        network, marching = self.model.network.config, self.model.marching
        return CheckpointRecord(self.task, network, marching, self.vggt_record, options, self.commit, self.trained_on)


class FinetuneTask(NerfTask):
    """One scene: field, stem and the residual are optimised; VGGT tokens are computed once per set of views.

    With `--scene_field` a field of the scene learns first and alone. Then it stands still and the rest learns to use
    it: a field that went on would know the training views ever better than others, and be believed too much.
    """

    task = "finetune"
    shown = ("train/psnr", "train/scene_field_psnr", "val/psnr")
    is_same_scene = True

    def __init__(
        self,
        options: FinetuneOptions,
        model: VGGTNeRF,
        vggt: VGGTRecord,
        trained_on: dict[str, list[int]],
        scene: PosedScene,
    ) -> None:
        super().__init__(options, model, vggt, trained_on)
        self._scene = scene
        self._surfaces: Surfaces | None = None

    def on_train_start(self) -> None:
        """The general model looks at every training view, for the scene's field to learn from."""
        if self._field_learns:
            self._surfaces = self._see_surfaces()

    def training_step(self, batch: SceneBatch, batch_idx: int) -> Tensor:
        """As in general training; at first the scene's own field alone."""
        if not self.options.scene_field:
            return super().training_step(batch, batch_idx)
        loss = self._scene_field_loss(batch) if self._field_learns else super().training_step(batch, batch_idx)
        # the others take part with nothing: several processes wait for a gradient of every parameter
        return loss + 0 * sum(parameter.sum() for parameter in self.model.parameters() if parameter.requires_grad)

    def configure_gradient_clipping(self, *arguments: Any, **keywords: Any) -> None:
        """As in general training; Adam hears of the scene's field as long as that learns, then of the rest."""
        if self.options.scene_field:
            own = {id(parameter) for parameter in self.model.network.scene_field.parameters()}
            for parameter in self.model.parameters():
                if (id(parameter) in own) != self._field_learns:
                    parameter.grad = None
        super().configure_gradient_clipping(*arguments, **keywords)

    @property
    def without_effect(self) -> frozenset[str]:
        """Those of the scene's field where there is none."""
        of_field = frozenset({"scene_field_steps", "scene_field_lrate", "surface_loss"})
        return frozenset() if self.options.scene_field else of_field

    @property
    def _steps_alone(self) -> int:
        return self.options.scene_field_steps if self.options.scene_field else 0

    @property
    def _field_learns(self) -> bool:
        return self.global_step < self._steps_alone

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """As in general training.

        Raises:
            InputError: when the run ends before anything but the scene's field has learned.
        """
        steps, alone = int(self.trainer.estimated_stepping_batches), self._steps_alone
        if alone and alone + self.options.warmup_steps >= steps:
            raise InputError(
                f"--scene_field_steps {alone} and as many --warmup_steps {self.options.warmup_steps} behind them: "
                f"expected fewer than the run's {steps} steps"
            )
        return super().configure_optimizers()

    @torch.no_grad()
    def _see_surfaces(self) -> Surfaces:
        """Of all training views, at the finest scale of the run, from as many of the others as a step has at most."""
        scale, count = max(self.options.imgScale_train), self.options.view_range[1]
        targets = pool_targets(self._scene, self._scene.train_views)
        maps = []
        bar = tqdm(targets, desc="surfaces", unit="view", leave=False, disable=not self.trainer.is_global_zero)
        for target in bar:
            source = Views.stack([self._scene.views(target.candidates[:count], scale, wants_depth=False)])
            view = self._scene.views([target.view_id], scale, wants_depth=False).to(self.device)
            seen = self.model.encode(source.to(self.device))
            bounds = self.model.depth_range(seen, view.cameras, view.near, view.far)
            maps.append(self.model.aim(seen, view.cameras, bounds).surface)
        ids = torch.tensor([target.view_id for target in targets], device=self.device)
        return Surfaces(ids, torch.cat(maps))

    def _scene_field_loss(self, batch: SceneBatch) -> Tensor:
        """Rays of all source views, which are training views as well: more places than one target view has."""
        self._require_depth(batch)
        count = -(-self.options.rays_per_step // batch.source.images.shape[1])
        views = batch.source.map(lambda values: values.flatten(0, 1))
        streams = [one for one in scene_generators(batch) for _ in range(len(views.images) // len(batch.seeds))]
        drawn = draw_target_rays(views, count, streams)
        field = self.model.network.scene_field
        output = field.render(drawn.rays, jitter_from(streams, count, self.device))
        color = F.mse_loss(output.rgb, drawn.rgb)
        known = self._surfaces.of(views, drawn.pixels)
        away = surface_loss(output, drawn.rays, DisparityRange(views.near, views.far), known)
        loss = color + self.options.surface_loss * away
        self._last_names = batch.names
        self._require_finite(loss, "loss of the scene's field", batch)
        if self.global_step + 1 == self._steps_alone:  # before this step's checkpoint and validation
            field.is_learned.fill_(True)
            self._surfaces = None
        self.log_dict({"train/scene_field_psnr": -10 * color.detach().clamp_min(1e-10).log10(), "train/surface": away})
        return loss

    def build_optimizer(self) -> Optimizer:
        """Adam; what is of this scene alone starts from nothing and gets rates of its own."""
        network, alone = self.model.network, self._steps_alone
        parts = [(network.residual, {"lr": self.options.residual_lrate, "begin": alone})]
        if self.options.scene_field:
            # a cell that few rays meet has tiny gradients; surfaces come to rest only at a low rate
            rates = {"lr": self.options.scene_field_lrate, "eps": 1e-15}
            parts.append((network.scene_field, {**rates, "end": alone}))
        groups = [{"params": list(part.parameters()), **rates} for part, rates in parts]
        own = {id(parameter) for group in groups for parameter in group["params"]}
        rest = [parameter for parameter in self.model.parameters() if id(parameter) not in own]
        return torch.optim.Adam([{"params": rest, "lr": self.options.lrate, "begin": alone}, *groups])


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _identity(batch: SceneBatch) -> str:
    return (
        f"scenes {list(batch.names)}, target views {batch.target.ids.flatten().tolist()}, "
        f"source views {batch.source.ids.tolist()}, seeds {batch.seeds.tolist()}"
    )


def _marching(options: TrainOptions) -> Marching:
    background = 1.0 if options.white_bkgd else 0.0
    return Marching(options.N_samples, options.N_importance, background, options.near_far, options.N_guided)


def build_data(options: TrainOptions, *, is_per_scene: bool) -> SceneDataModule:
    """The data module that a run's options describe."""
    data = SceneDataModule(
        dataset_name=options.dataset_name,
        datadir=options.datadir,
        scans=options.scans or None,
        is_per_scene=is_per_scene,
        n_views=options.view_range,
        scenes_per_step=options.scenes_per_step,
        scales_train=options.imgScale_train,
        scale_val=options.imgScale_test,
        num_val=options.num_val,
        seed=options.seed,
        num_workers=options.num_workers,
        **({"extra_views": options.extra_views} if isinstance(options, GeneralOptions) else {}),
    )
    for scene in data.train_scenes.values():
        if scene.white_background != options.white_bkgd:
            background = "white" if scene.white_background else "black"
            raise InputError(f"--white_bkgd {options.white_bkgd}: scene {scene.name} is composited over {background}")
    data.try_loading()
    return data


def build_general_task(options: GeneralOptions, trained_on: dict[str, list[int]]) -> NerfTask:
    """Model and task for training across scenes; takes weights from `--init_from` when given.

    `trained_on`: the training targets, for the record. A checkpoint to resume is read and compared first.
    """
    start = options.ckpt or options.init_from
    contents = read_checkpoint(Path(start)) if start else None
    wants_depth = options.depth_prior or options.near_far == "auto"
    vggt, record = load_backbone(options.vggt_ckpt, options.vggt_image_size, wants_depth=wants_depth)
    torch.manual_seed(options.seed)
    is_guided = options.sampler == "guided"
    config = NerfConfig(
        token_layers=0 if is_guided else len(record.layers),
        token_channels=0 if is_guided or vggt is None else vggt.channels,
        feature_channels=options.feature_channels,
        hidden=options.hidden,
        fused=options.fused,
        depth_prior=options.depth_prior,
        sampler=options.sampler,
        sweep_planes=options.sweep_planes,
    )
    model = VGGTNeRF(vggt, config, _marching(options))
    if options.init_from:
        before = record_of(contents)
        require_same_backbone(before.vggt, record, f"--init_from {options.init_from}")
        load_network_weights(model, contents)
        trained_on = merged_views(before.trained_on, trained_on)
    task = NerfTask(options, model, record, trained_on)
    if options.ckpt:
        task.require_same_run(contents)
    return task


def build_finetune_task(options: FinetuneOptions, scene: PosedScene) -> FinetuneTask:
    """Model and task for one scene, whose training cameras give the box of its grids."""
    contents = read_checkpoint(Path(options.ckpt or options.init_from))
    start = record_of(contents)
    vggt = load_recorded_backbone(start.vggt, options.vggt_ckpt, wants_depth=options.near_far == "auto")
    torch.manual_seed(options.seed)
    config = NerfConfig(
        **{
            **asdict(start.network),
            "residual_channels": options.residual_channels,
            "residual_resolution": options.residual_resolution,
            "scene_field": options.scene_field,
        }
    )
    if options.scene_field and not (config.sampler == "guided" and config.depth_prior):
        raise InputError(
            "--scene_field joins the sweep of the guided sampler in the place of VGGT's depth: expected a checkpoint "
            f"trained with --sampler guided --depth_prior, got {config.sampler}, depth prior {config.depth_prior}"
        )
    model = VGGTNeRF(vggt, config, _marching(options), cache_bytes=_TOKEN_CACHE_BYTES)
    if options.init_from:
        if start.task != "general":
            raise InputError(f"--init_from {options.init_from}: expected a general checkpoint, got a {start.task} one")
        load_network_weights(model, contents, may_lack_scene_parts=True)
    else:
        load_network_weights(model, contents)
    box = box_of(model, scene)
    for part in model.modules():
        if isinstance(part, SceneBox):
            part.place(*box)
    trained_on = merged_views(start.trained_on, {scene.scan: sorted(scene.train_views)})
    task = FinetuneTask(options, model, start.vggt, trained_on, scene)
    if options.ckpt:
        task.require_same_run(contents)
    return task


def box_of(model: VGGTNeRF, scene: PosedScene) -> tuple[Tensor, Tensor]:
    """The box of the per-scene grids, around what the training views see between their near and far."""
    cameras, (near, far) = scene.cameras(scene.train_views), scene.near_far(scene.train_views)
    if model.marching.near_far == "auto":
        several = evenly_spread(scene.train_views, _VIEWS_OF_BOX)
        maps = model.encode(Views.stack([scene.views(several, wants_depth=False)]), (scene.name,))
        parts = [slice(view, view + 1) for view in range(len(near))]
        bounds = [model.depth_range(maps, cameras[part], near[part], far[part]) for part in parts]
        near, far = (torch.cat([getattr(one, name) for one in bounds]) for name in ("near", "far"))
    return common_box(cameras, near, far)


def merged_views(one: dict[str, list[int]], other: dict[str, list[int]]) -> dict[str, list[int]]:
    """Union of view numbers by scan."""
    return {scan: sorted({*one.get(scan, ()), *other.get(scan, ())}) for scan in sorted({*one, *other})}
