"""The Lightning module that trains a network to reconstruct many views at once.

The objective is that of the whole batch of a process, as upstream: groups with many valid pixels count more.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from data.multi_view.datamodule import PROCEDURAL, sampling_of
from geometry import FrameBatch, require
from models.mapanything.adapters import VGGTReconstructor
from models.mapanything.inputs import GeometricInputs
from models.mapanything.objective.losses import geometry_losses
from models.mapanything.objective.truth import GeometryTruth
from models.mapanything.output import Reconstruction
from models.vggt import WeightIdentity
from training.frame_batches import identity_of
from training.learning import module_groups, shard
from training.mapanything.checkpoint import (
    MAPANYTHING_TRAINING,
    MapAnythingRecord,
    as_reconstructor,
    plain_sizes,
)
from training.mapanything.inputs import PRESETS, InputProbabilities, drawn_inputs
from training.mapanything.metrics import METRICS, set_metrics
from training.mapanything.options import MapAnythingOptions
from training.mapanything.pictures import set_picture
from training.mapanything.truth import inputs_of_truth, truth_of_batch
from training.optimizers import rate_groups
from training.run_task import RunTask, plain_options
from training.schedules import WarmupHalfCosine
from training.scores import MeanScores

_PICTURES_PER_VALIDATION = 4
"""Of the first batches; scores do not depend on it."""
_VALIDATED = ("objective", *METRICS)
_BETAS = (0.9, 0.95)
"""Of AdamW, as upstream."""


class MapAnythingTask(RunTask):
    """Training of a `Reconstructor` on `FrameBatch`es."""

    kind = MAPANYTHING_TRAINING
    options: MapAnythingOptions
    may_change_on_resume = frozenset(
        {
            *("model_config", "model_ckpt", "dinov2_ckpt", "checkpointing", "export", "export_dtype", "max_objective"),
            *("frame_sampling", "expand_ratio"),  # compared by what they say together
            *(
                "eval_only",
                "eval_ckpt",
                "eval_views",
                "eval_protocol",
                "annotation_dir",
                "max_groups",
                "out",
                "eval_inputs",
            ),
        }
    )

    def __init__(self, options: MapAnythingOptions, model: nn.Module, start: WeightIdentity) -> None:
        """`start` says where the weights of `model` come from."""
        super().__init__(options)
        self.model = model
        self.start = start
        self.network = [as_reconstructor(model)]
        """In a list, so that torch does not count it twice."""
        self._made_groups()  # freezes parts, before the strategy sees the parameters
        self.groups = module_groups(model)
        self.network[0].set_checkpointing(options.checkpointing)
        self.scores = {name: MeanScores(_VALIDATED) for name in options.evaluated_inputs}
        first = f"val/{options.evaluated_inputs[0]}"
        self.shown = ("train/objective", f"{first}/pointmaps_abs_rel", f"{first}/pose_rotation_deg")

    @property
    def monitor(self) -> tuple[str, str]:
        """best.ckpt has the least objective, averaged over the presets it is validated with."""
        return "val/objective", "min"

    @property
    def before_options(self) -> dict[str, Any]:
        """Scenes were drawn anew for every step before there was a choice."""
        return {"in_turn": False}

    def require_same_run(self, theirs: MapAnythingRecord) -> None:
        """See `RunTask`; besides, frames have to be drawn as before.

        Raises:
            InputError: naming the option that differs.
        """
        super().require_same_run(theirs)
        ratios = tuple(theirs.options.get("expand_ratio", ()))
        before = sampling_of(self.options.dataset_name, tuple(theirs.options.get("frame_sampling", ())), ratios)
        mine = sampling_of(self.options.dataset_name, self.options.frame_sampling, self.options.expand_ratio)
        for name, one, other in zip(self.options.dataset_name, before, mine, strict=True):
            require(
                one == other or name == PROCEDURAL,
                f"--frame_sampling: the run to resume drew frames of {name} {one}, got {other}; "
                f"--init_from starts a new run from its weights",
            )

    def training_step(self, batch: FrameBatch, batch_idx: int) -> Tensor:
        """Objective of a batch with geometry drawn for each group from its seed."""
        prediction, truth = self.predicted(batch, self.options.input_chances)
        losses = geometry_losses(prediction, truth, self.options.recipe)
        objective = losses.objective
        self.watch_loss(objective, identity_of(batch))
        self.watch_loss(torch.where(objective > self.options.max_objective, math.nan, 0.0), self._unstable(objective))
        scalars = {f"train/{name}": value for name, value in losses.named().items()}
        self.log_dict(scalars | {"train/objective": objective.detach()}, batch_size=len(batch.names))
        return objective

    def _unstable(self, objective: Tensor) -> Any:
        """What is said of an objective that is too large."""
        return lambda: f"an objective of {objective.item():.4g} above --max_objective {self.options.max_objective:g}"

    def predicted(self, batch: FrameBatch, chances: InputProbabilities) -> tuple[Reconstruction, GeometryTruth]:
        """What the network makes of a batch, and the truth."""
        truth = truth_of_batch(batch)
        if not (chances.gives_geometry and self.network[0].takes_geometry):
            return self.model(GeometricInputs.of_images(batch.views.images)), truth
        inputs = drawn_inputs(inputs_of_truth(batch.views.images, truth), truth.is_metric, chances, batch.seeds)
        return self.model(inputs), truth

    def clipping_groups(self) -> dict[str, list[nn.Parameter]]:
        """Everything together, as upstream."""
        return {"network": [parameter for group in self.groups.values() for parameter in group]}

    def validation_step(self, batch: FrameBatch, batch_idx: int) -> None:
        """Scores of every group with each of the presets, and pictures of the first few."""
        for name, scores in self.scores.items():
            prediction, truth = self.predicted(batch, PRESETS[name])
            for index in range(len(batch.names)):
                one = slice(index, index + 1)
                ours, theirs = prediction[one], truth[one]
                losses = geometry_losses(ours, theirs, self.options.recipe, is_training=False)
                if not self.is_repeated(batch_idx):
                    scores.add({"objective": losses.objective.item(), **set_metrics(ours, theirs)})
            is_shown = name == self.options.evaluated_inputs[0] and batch_idx < _PICTURES_PER_VALIDATION
            if is_shown and self.trainer.is_global_zero:
                self.save_picture(set_picture(prediction[:1], batch.views.images[0], truth[:1]), batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Means over all groups of all processes."""
        values = {}
        for name, scores in self.scores.items():
            sums = scores.sums.to(self.device, torch.float32)
            scores.sums = self.trainer.strategy.reduce(sums, reduce_op="sum").cpu().double()
            values |= {f"val/{name}/{metric}": value for metric, value in scores.means().items()}
        objectives = [values[f"val/{name}/objective"] for name in self.scores]
        self.log_dict(values | {"val/objective": sum(objectives) / len(objectives)}, sync_dist=True)
        self.scores = {name: MeanScores(_VALIDATED) for name in self.scores}

    def configure_model(self) -> None:
        """Share the weights out where the strategy asks for it."""
        if self.options.is_sharded:
            mesh: Any = self.device_mesh
            if isinstance(self.model, VGGTReconstructor):
                shard(self.model.network, mesh["data_parallel"])
            else:
                shard(self.model, mesh["data_parallel"], ("encoder", "info_sharing"))

    def _made_groups(self) -> list[dict[str, Any]]:
        options = self.options
        return rate_groups(
            self.model,
            options.rates,
            lrate=options.lrate,
            floor=options.lrate_final,
            weight_decay=options.weight_decay,
        )

    def build_optimizer(self) -> Optimizer:
        """AdamW by part of the network; names of parameters stay out of its state."""
        self.groups = module_groups(self.model)  # sharding has made other parameters of them
        groups = [{key: value for key, value in group.items() if key != "names"} for group in self._made_groups()]
        return AdamW(groups, lr=self.options.lrate, betas=_BETAS)

    def build_schedule(self, optimizer: Optimizer, total_steps: int) -> WarmupHalfCosine:
        """See `WarmupHalfCosine`."""
        return WarmupHalfCosine(optimizer, total_steps, self.options.warmup_fraction)

    def record(self) -> MapAnythingRecord:
        """What every checkpoint of this run says about itself."""
        return MapAnythingRecord(
            model=self.options.model,
            config=plain_sizes(self.model),
            start=self.start.name,
            start_sha256=self.start.sha256,
            options=plain_options(self.options),
            commit=self.commit,
        )
