"""What fine-tuning on one scene adds to general training: a task of its own, and grids placed around the scene."""

from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from tqdm import tqdm

from data.novel_view.dataset import pool_targets
from data.scene import PosedScene
from data.seeds import evenly_spread
from geometry import InputError, SceneBatch, Views
from models.nerf.plane_sweep import DisparityRange
from models.nerf.scene_box import common_box
from models.nerf.scene_field import Surfaces, surface_loss
from models.nerf.vggt_nerf import VGGTNeRF
from training.backbone import VGGTRecord
from training.nerf.options import FinetuneOptions
from training.nerf.rays import draw_target_rays, jitter_from, scene_generators
from training.nerf.task import NerfTask, identity_of

_VIEWS_OF_BOX = 8


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
    def may_change_on_resume(self) -> frozenset[str]:
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
        self._step_samples = identity_of(batch)
        self.require_finite(loss, "loss of the scene's field", self._step_samples)
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
