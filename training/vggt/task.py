"""The Lightning module that trains a VGGT: one step in parts, gradients clipped by part of the network, validation.

The objective of a batch is the mean over its groups of frames of `vggt_objective` of each. (The reference takes its
means over all pixels of a batch.) So it does not matter how groups are spread over batches, parts of a batch and
processes: accumulation and distributed training equal the big batch.
"""

import contextlib
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import torch
from pytorch_lightning.strategies import ParallelStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from data.multi_view.datamodule import PROCEDURAL, sampling_of
from geometry import FrameBatch, require
from models.vggt import VGGT, VGGTOutput, WeightIdentity
from models.vggt.objective.ground_truth import ground_truth
from models.vggt.objective.losses import LossWeights, vggt_objective
from models.vggt.objective.match_loss import match_loss
from models.vggt.objective.track_targets import TrackTargets, tracks_of_batch
from training.frame_batches import identity_of
from training.optimizers import build_optimizer
from training.run_task import RunTask, plain_options
from training.schedules import LinearCosine
from training.vggt.checkpoint import VGGT_TRAINING, VGGTTrainingRecord, plain_config
from training.vggt.learning import (
    frozen_modules,
    module_groups,
    require_learning_biases,
    restrict_aggregator,
    shard,
)
from training.vggt.metrics import METRICS, MeanScores, group_scores
from training.vggt.options import VGGTOptions
from training.vggt.pictures import group_picture
from training.weight_average import WeightAverage

_PICTURES_PER_VALIDATION = 4
"""Of the first batches; scores do not depend on it."""
_VALIDATED = ("objective", *METRICS)


class VGGTTask(RunTask):
    """Multi-task training of a `VGGT` on `FrameBatch`es."""

    kind = VGGT_TRAINING
    options: VGGTOptions
    model: VGGT
    shown = ("train/objective", "val/depth_absrel", "val/auc30")
    may_change_on_resume = frozenset(
        {
            *("vggt_config", "accumulate", "checkpointing", "export", "export_dtype"),
            *("frame_sampling", "expand_ratio"),  # compared by what they say together
            *("eval_only", "eval_ckpt", "eval_views", "eval_protocol", "annotation_dir", "max_groups", "out"),
        }
    )

    def __init__(self, options: VGGTOptions, model: VGGT, start: WeightIdentity) -> None:
        """`model` has the heads that are trained; `start` says where its weights come from."""
        super().__init__(options)
        self.automatic_optimization = False  # several backward passes make one step
        self.model = model
        self.start = start
        restrict_aggregator(
            model, lora_rank=options.lora_rank, lora_alpha=options.lora_alpha, bias_only=options.bias_only
        )
        self._frozen = tuple(frozen_modules(model, options.freeze))
        if options.bias_only:
            require_learning_biases(model)
        self.groups = module_groups(model)
        model.set_checkpointing(options.checkpointing)
        self.average = WeightAverage(model, options.ema) if options.ema else None
        self.loss_weights = LossWeights(
            camera=options.camera_weight,
            depth=options.depth_weight,
            point=options.point_weight,
            track=options.track_weight,
            match=options.match_weight,
        )
        self.scores = MeanScores(_VALIDATED)

    @property
    def before_options(self) -> dict[str, Any]:
        """Runs were blurred, turned portraits and took 512 tracks, as far as they had colors, images or tracks to."""
        options = self.options
        return {
            "blur": options.augment,
            "turn_portraits": options.augment_geometry and options.reads_images,
            "num_tracks": 512 if options.track_weight else options.num_tracks,
        }

    def require_same_run(self, theirs: VGGTTrainingRecord) -> None:
        """See `RunTask`; besides, frames have to be drawn as before.

        Raises:
            InputError: naming the option that differs.
        """
        super().require_same_run(theirs)
        options, ratio = theirs.options, theirs.options.get("expand_ratio", ())
        ratios = tuple(ratio) if isinstance(ratio, list | tuple) else (ratio,)  # it took a single value
        before = sampling_of(self.options.dataset_name, tuple(options.get("frame_sampling", ())), ratios)
        mine = sampling_of(self.options.dataset_name, self.options.frame_sampling, self.options.expand_ratio)
        for name, one, other in zip(self.options.dataset_name, before, mine, strict=True):
            require(
                one == other or name == PROCEDURAL,
                f"--frame_sampling: the run to resume drew frames of {name} {one}, got {other}; "
                f"--init_from starts a new run from its weights",
            )

    @property
    def monitor(self) -> tuple[str, str]:
        """best.ckpt has the least depth error, without a depth head the largest camera AUC."""
        return ("val/depth_absrel", "min") if self.model.depth_head is not None else ("val/auc30", "max")

    def train(self, mode: bool = True) -> "VGGTTask":
        """Frozen modules stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def training_step(self, batch: FrameBatch, batch_idx: int) -> None:
        """Work through the batch in parts, then make one step."""
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        sums: dict[str, Tensor] = {}
        parts = parts_of(batch, self.options.accumulate)
        for part in parts:
            with contextlib.nullcontext() if part is parts[-1] else self._without_sync():
                output, tracks = self._run(part)
                losses = group_losses(output, part, self.loss_weights, tracks)
                objective = losses["objective"] / len(batch.names)
                self.watch_loss(objective, identity_of(part))
                self.manual_backward(objective)
            sums = {name: sums.get(name, 0) + value.detach() for name, value in losses.items()}
        optimizer.step()  # or none, see `on_before_optimizer_step`
        self.lr_scheduler_step(self.lr_schedulers(), None)
        scalars = {f"train/{name}": total / len(batch.names) for name, total in sums.items()}
        self.log_dict(scalars, batch_size=len(batch.names))

    def _run(
        self, batch: FrameBatch, weights: dict[str, Tensor] | None = None
    ) -> tuple[VGGTOutput, TrackTargets | None]:
        """Predictions (by given instead of the own weights where there are some), and the tracks asked for."""
        tracks = tracks_of_batch(batch, self.options.num_tracks) if self.model.track_head is not None else None
        arguments = (batch.views.images, None if tracks is None else tracks.queries)
        if weights is None:
            return self.model(*arguments), tracks
        return torch.func.functional_call(self.model, weights, arguments), tracks

    def _without_sync(self) -> contextlib.AbstractContextManager:
        """Gradients stay in the process until the last part of the batch."""
        strategy = self.trainer.strategy
        if isinstance(strategy, ParallelStrategy):
            return strategy.block_backward_sync()
        return contextlib.nullcontext()

    def clipping_groups(self) -> dict[str, list[nn.Parameter]]:
        """By part of the network."""
        return self.groups

    def validation_step(self, batch: FrameBatch, batch_idx: int) -> None:
        """Scores of every group (of the averaged weights if there are any), and pictures of the first few."""
        output, tracks = self._run(batch, None if self.average is None else self.average.weights)
        for index in range(len(batch.names)):
            group, predicted = batch[index : index + 1], output_of_group(output, index)
            targets = None if tracks is None else tracks[index : index + 1]
            objective = vggt_objective(predicted, ground_truth(group.views), self.loss_weights, targets).objective
            if not self.is_repeated(batch_idx):
                self.scores.add({"objective": objective.item(), **group_scores(predicted, group.views)})
            if index == 0 and batch_idx < _PICTURES_PER_VALIDATION and self.trainer.is_global_zero:
                self.save_picture(group_picture(predicted, group.views), batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Means over all groups of all processes."""
        sums = self.scores.sums.to(self.device, torch.float32)
        self.scores.sums = self.trainer.strategy.reduce(sums, reduce_op="sum").cpu().double()
        self.log_dict({f"val/{name}": value for name, value in self.scores.means().items()}, sync_dist=True)
        self.scores = MeanScores(_VALIDATED)

    def configure_model(self) -> None:
        """Share the weights out where the strategy asks for it."""
        if self.options.is_sharded:
            mesh: Any = self.device_mesh
            shard(self.model, mesh["data_parallel"])

    def build_optimizer(self) -> Optimizer:
        """See `training/optimizers.py`."""
        options = self.options
        self.groups = module_groups(self.model)  # sharding has made other parameters of them
        return build_optimizer(
            self.model, lrate=options.lrate, muon_lrate=options.muon_lrate, weight_decay=options.weight_decay
        )

    def build_schedule(self, optimizer: Optimizer, total_steps: int) -> LinearCosine:
        """See `LinearCosine`."""
        return LinearCosine(optimizer, total_steps, self.options.warmup_fraction, self.options.lrate_final)

    def record(self) -> VGGTTrainingRecord:
        """What every checkpoint of this run says about itself."""
        return VGGTTrainingRecord(
            config=plain_config(self.model.config),
            start=self.start.name,
            start_sha256=self.start.sha256,
            options=plain_options(self.options),
            commit=self.commit,
        )


def parts_of(batch: FrameBatch, count: int) -> list[FrameBatch]:
    """At most `count` parts of nearly equal size that hold all groups of a batch; none is empty."""
    bounds = [len(batch.names) * part // count for part in range(count + 1)]
    return [batch[first:last] for first, last in pairwise(bounds) if last > first]


def group_losses(
    output: VGGTOutput, batch: FrameBatch, weights: LossWeights, tracks: TrackTargets | None
) -> dict[str, Tensor]:
    """Objective and parts, summed over the groups of a batch; only the objective carries gradients."""
    truth = ground_truth(batch.views)
    sums: dict[str, Tensor] = {}
    for index in range(len(batch.names)):
        one = slice(index, index + 1)
        losses = vggt_objective(
            output_of_group(output, index), truth[one], weights, None if tracks is None else tracks[one]
        )
        values = losses.named() | {"objective": losses.objective}
        if weights.match and output.match_logits is not None:
            values["match"] = match_loss(output.match_logits[one], batch[one].views)
            values["objective"] = values["objective"] + weights.match * values["match"]
        sums = {name: sums.get(name, 0) + value for name, value in values.items()}
    return sums


def output_of_group(output: VGGTOutput, index: int) -> VGGTOutput:
    """Predictions for one group, with a batch axis of length 1; tokens are left out."""
    one = slice(index, index + 1)
    changes: dict[str, Any] = {"tokens": {}}
    for item in fields(output):
        value = getattr(output, item.name)
        if isinstance(value, Tensor):
            changes[item.name] = value[one]
        elif isinstance(value, list):
            changes[item.name] = [entry[one] for entry in value]
    return replace(output, **changes)
