"""Fine-tuning on one scene: two tasks one after the other, each plain.

`SceneFieldTask` learns voxel grids of the scene from its photographs and from where surfaces are known to be.
`FinetuneTask` then learns the rest, with that field standing still; without `--scene_field` it is all there is.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from data.scene import PosedScene
from data.seeds import evenly_spread
from geometry import InputError, SceneBatch, Views
from models.nerf.guided.plane_sweep import DisparityRange
from models.nerf.guided.scene_field import SceneField, Surfaces, surface_loss
from models.nerf.scene_box import common_box
from models.nerf.vggt_nerf import RenderedImage, VGGTNeRF
from training.nerf.checkpoint import SCENE_FIELD
from training.nerf.options import OF_SCENE_FIELD, FinetuneOptions
from training.nerf.pictures import comparison
from training.nerf.rays import draw_target_rays, jitter_from, scene_generators
from training.nerf.surfaces import no_surfaces, surfaces_of_model, surfaces_of_points
from training.nerf.task import NerfTask, SceneTask, identity_of

_VIEWS_OF_BOX = 8
"""Source views whose VGGT depth bounds the scene with `--near_far auto`."""
_COARSER = 4
"""Validation pictures of the field are so many times smaller than the photographs: it knows no finer detail."""


class SceneFieldTask(SceneTask):
    """The scene's own field learns, alone; the general model only looks.

    Rays of all source views of a step are used, which are training views as well.
    """

    kind = SCENE_FIELD
    task = "scene_field"
    part = "scene_field"
    monitor = None
    shown = ("train/scene_field_psnr", "val/scene_field_psnr")
    options: FinetuneOptions

    def __init__(
        self, options: FinetuneOptions, model: VGGTNeRF, *arguments: Any, scene: PosedScene, field: SceneField
    ) -> None:
        """`model`: the general one; `field`: placed in the scene; see `SceneTask` for the rest."""
        super().__init__(options, model.requires_grad_(False).eval(), *arguments)
        self.scene = scene
        self.field = field

    def train(self, mode: bool = True) -> "SceneFieldTask":
        """The general model stays in evaluation mode."""
        super().train(mode)
        self.model.eval()
        return self

    def total_steps(self, steps_per_epoch: int) -> int:
        """The first `--scene_field_steps` of the run, of which something must be left."""
        steps_after_field(self.options, super().total_steps(steps_per_epoch))
        return self.options.scene_field_steps

    def on_train_start(self) -> None:
        """Where surfaces are, for the field to learn from."""
        self.surfaces = self.see_surfaces()

    def see_surfaces(self) -> Surfaces:
        """Of the training views, at the finest scale of the run; where the options say, see `training.nerf.surfaces`.

        The general model sees them from as many of the other views as a step has at most.
        """
        options, scale = self.options, max(self.options.imgScale_train)
        if not options.surface_loss:
            surfaces = no_surfaces(self.scene)
        elif options.surfaces == "points":
            bounds = self.model.network.bounds_without_sources(*self.scene.near_far(self.scene.train_views))
            surfaces = surfaces_of_points(self.scene, bounds, scale)
        else:
            surfaces = surfaces_of_model(
                self.model,
                self.scene,
                scale,
                options.view_range[1],
                options.surface_views,
                shows_progress=self.trainer.is_global_zero,
            )
        return replace(surfaces, maps=surfaces.maps.to(self.device))

    def training_step(self, batch: SceneBatch, batch_idx: int) -> Tensor:
        """Colors of random rays, and how far their weights lie from the surfaces that are known.

        Before a white background the sweep sees white surfaces where nothing is; there rays should hit nothing.
        """
        count = -(-self.options.rays_per_step // batch.source.images.shape[1])
        views = batch.source.map(lambda values: values.flatten(0, 1))
        streams = [one for one in scene_generators(batch) for _ in range(len(views.images) // len(batch.seeds))]
        bounds = self.model.network.bounds_without_sources(views.near, views.far)
        drawn = draw_target_rays(views, count, streams, bounds)
        output = self.field.render(drawn.rays, jitter_from(streams, count, self.device))
        color = F.mse_loss(output.rgb, drawn.rgb)
        known = self.surfaces.of(views, drawn.pixels)
        planes, is_background = DisparityRange(bounds.near, bounds.far), self.field.hits_nothing(drawn.rgb)
        away = surface_loss(output, drawn.rays, planes, known, is_background)
        loss = color + self.options.surface_loss * away
        self.watch_loss(loss, identity_of(batch))
        self.log_dict({"train/scene_field_psnr": -10 * color.detach().clamp_min(1e-10).log10(), "train/surface": away})
        return loss

    @torch.no_grad()
    def validation_step(self, batch: SceneBatch, batch_idx: int) -> None:
        """What the field shows of a view, coarsely."""
        target = batch.target[:, 0]
        rows, cols = (-(-side // _COARSER) for side in target.images.shape[-2:])
        bounds = self.model.network.bounds_without_sources(target.near, target.far)
        shown = self.field.view(target.cameras, bounds.near, bounds.far, rows, cols)
        truth = F.interpolate(target.images, (rows, cols), mode="area")
        score = -10 * F.mse_loss(shown.rgb, truth).clamp_min(1e-10).log10()
        self.log("val/scene_field_psnr", score, batch_size=1, sync_dist=True, on_epoch=True, on_step=False)
        if batch_idx == 0 and self.trainer.is_global_zero:
            inverse, opacity = shown.depth.inverse_depth[0].cpu(), shown.depth.confidence[0].cpu()
            depth = torch.where(inverse > 0, 1 / inverse.clamp_min(1e-12), 0.0)
            rendered = RenderedImage(shown.rgb[0].movedim(0, -1).cpu(), depth, opacity)
            sources = F.interpolate(batch.source.images[0], (rows, cols), mode="area")
            near, far = bounds.near[0].item(), bounds.far[0].item()
            self.save_picture(comparison(sources, truth[0], rendered, near, far), batch_idx)

    def build_optimizer(self) -> Optimizer:
        """Adam. A cell that few rays meet has tiny gradients, hence the small epsilon."""
        return torch.optim.Adam(self.field.parameters(), lr=self.options.scene_field_lrate, eps=1e-15)


class FinetuneTask(NerfTask):
    """One scene: field, stem and the residual are optimized; VGGT tokens are computed once per set of views."""

    task = "finetune"
    is_same_scene = True
    options: FinetuneOptions

    @property
    def may_change_on_resume(self) -> frozenset[str]:
        """Besides, options of the scene's field where there is none: their defaults may have been others."""
        return super().may_change_on_resume | (frozenset() if self.options.scene_field else frozenset(OF_SCENE_FIELD))

    def total_steps(self, steps_per_epoch: int) -> int:
        """What the scene's field leaves of the run."""
        return steps_after_field(self.options, super().total_steps(steps_per_epoch))

    def build_optimizer(self) -> Optimizer:
        """Adam; the residual of this scene starts from nothing and gets a rate of its own."""
        residual = list(self.model.network.get_submodule("residual").parameters())
        own = {id(parameter) for parameter in residual}
        learning = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        rest = [parameter for parameter in learning if id(parameter) not in own]
        groups = [{"params": rest, "lr": self.options.lrate}, {"params": residual, "lr": self.options.residual_lrate}]
        return torch.optim.Adam(groups)


def steps_after_field(options: FinetuneOptions, steps: int) -> int:
    """What the scene's field leaves of a run.

    Raises:
        InputError: when that is not more than the warm-up.
    """
    before, warmup = options.steps_of_field, options.warmup_steps
    if before and before + warmup >= steps:
        raise InputError(
            f"--scene_field_steps {before} and as many --warmup_steps {warmup} behind them: "
            f"expected fewer than the run's {steps} steps"
        )
    return steps - before


def box_of(model: VGGTNeRF, scene: PosedScene) -> tuple[Tensor, Tensor]:
    """The box of the per-scene grids, around what the training views see between their near and far."""
    cameras, (near, far) = scene.cameras(scene.train_views), scene.near_far(scene.train_views)
    if model.network.near_far == "auto":
        several = evenly_spread(scene.train_views, _VIEWS_OF_BOX)
        maps = model.encode(Views.stack([scene.views(several, wants_depth=False)]), (scene.name,))
        parts = [slice(view, view + 1) for view in range(len(near))]
        bounds = [model.network.bounds(maps, cameras[part], near[part], far[part]) for part in parts]
        near, far = (torch.cat([getattr(one, name) for one in bounds]) for name in ("near", "far"))
    return common_box(cameras, near, far)
