"""The Lightning module that trains a VGGT: one step in parts, gradients clipped by part of the network, validation.

The objective of a batch is the mean over its groups of frames of `vggt_objective` of each. (The reference takes its
means over all pixels of a batch.) So it does not matter how groups are spread over batches, parts of a batch and
processes: accumulation and distributed training equal the big batch.
"""

import contextlib
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ParallelStrategy
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from data.image_io import write_image
from geometry import FrameBatch, InputError
from models.vggt import VGGT, VGGTOutput, WeightIdentity
from models.vggt.ground_truth import ground_truth
from models.vggt.losses import LossWeights, vggt_objective
from models.vggt.match_loss import match_loss
from models.vggt.track_targets import TrackTargets, tracks_of_batch
from training.checkpoint import VGGT_KEY, current_commit
from training.errors import NonFiniteError
from training.learning import (
    WeightAverage,
    clip_by_group,
    frozen_modules,
    module_groups,
    require_learning_biases,
    restrict_aggregator,
    shard,
)
from training.optimizers import build_optimizer
from training.pictures import as_bytes
from training.schedules import LinearCosine
from training.vggt_checkpoint import EMA_KEY, VGGTTrainingRecord, plain_config, plain_options
from training.vggt_metrics import METRICS, MeanScores, group_scores
from training.vggt_options import VGGTOptions
from training.vggt_pictures import group_picture

NUM_TRACKS = 512
_PICTURES_PER_VALIDATION = 4
_VALIDATED = ("objective", *METRICS)
_MAY_CHANGE_ON_RESUME = frozenset(
    {
        *("expname", "basedir", "datadir", "ckpt", "init_from", "vggt_ckpt", "vggt_config"),
        *("num_epochs", "max_steps", "save_every", "val_every", "num_val", "log_every"),
        *("num_workers", "accelerator", "strategy", "accumulate", "checkpointing"),
        *("export", "export_dtype", "eval_only", "eval_ckpt", "eval_views", "max_groups", "out"),
    }
)


class VGGTTask(pl.LightningModule):
    """Multi-task training of a `VGGT` on `FrameBatch`es."""

    shown = ("train/objective", "val/depth_absrel", "val/auc30")

    def __init__(self, options: VGGTOptions, model: VGGT, start: WeightIdentity) -> None:
        """`model` has the heads that are trained; `start` says where its weights come from."""
        super().__init__()
        self.automatic_optimization = False  # several backward passes make one step
        self.options = options
        self.model = model
        self.start = start
        self.commit = current_commit()
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
    def monitor(self) -> tuple[str, str]:
        """best.ckpt has the least depth error, without a depth head the largest camera AUC."""
        return ("val/depth_absrel", "min") if self.model.depth_head is not None else ("val/auc30", "max")

    def train(self, mode: bool = True) -> "VGGTTask":
        """Frozen modules stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def on_train_start(self) -> None:
        """The average follows the weights to their device."""
        if self.average is not None:
            self.average.map(lambda tensor: tensor.to(self.device))

    def training_step(self, batch: FrameBatch, batch_idx: int) -> None:
        """Work through the batch in parts, then make one step."""
        optimizer = self.optimizers()
        optimizer.zero_grad()
        sums: dict[str, Tensor] = {}
        parts = parts_of(batch, self.options.accumulate)
        for part in parts:
            with contextlib.nullcontext() if part is parts[-1] else self._without_sync():
                output, tracks = self._run(part)
                losses = group_losses(output, part, self.loss_weights, tracks)
                objective = losses["objective"] / len(batch.names)
                self._require_finite(objective, "loss", part)
                self.manual_backward(objective)
            sums = {name: sums.get(name, 0) + value.detach() for name, value in losses.items()}
        norms = self._clip(optimizer, batch)
        optimizer.step()
        self.lr_schedulers().step()
        if self.average is not None:
            self.average.update(self.model, self.global_step)
        scalars = {f"train/{name}": total / len(batch.names) for name, total in sums.items()}
        scalars |= {f"grad_norm/{name}": norm for name, norm in norms.items()}
        self.log_dict(scalars, batch_size=len(batch.names))

    def _run(
        self, batch: FrameBatch, weights: dict[str, Tensor] | None = None
    ) -> tuple[VGGTOutput, TrackTargets | None]:
        """Predictions (by given instead of the own weights where there are some), and the tracks asked for."""
        tracks = tracks_of_batch(batch, NUM_TRACKS) if self.model.track_head is not None else None
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

    def _clip(self, optimizer: Any, batch: FrameBatch) -> dict[str, Tensor]:
        """Norms by part of the network; stops on one that is not finite (float16's scaler skips those steps)."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            scaler.unscale_(optimizer.optimizer)
        norms = clip_by_group(self.groups, self.options.grad_clip)
        if scaler is None:
            for name, norm in norms.items():
                self._require_finite(norm, f"gradient of {name}", batch)
        return norms

    def _require_finite(self, value: Tensor, what: str, batch: FrameBatch) -> None:
        if not bool(torch.isfinite(value).all()):
            raise NonFiniteError(
                f"step {self.global_step}: expected a finite {what}, got {value.item()} for {list(batch.names)}, "
                f"views {batch.views.ids.tolist()}, seeds {batch.seeds.tolist()}"
            )

    def validation_step(self, batch: FrameBatch, batch_idx: int) -> None:
        """Scores of every group (of the averaged weights if there are any), and pictures of the first few."""
        output, tracks = self._run(batch, None if self.average is None else self.average.weights)
        for index in range(len(batch.names)):
            group, predicted = batch[index : index + 1], output_of_group(output, index)
            targets = None if tracks is None else tracks[index : index + 1]
            objective = vggt_objective(predicted, ground_truth(group.views), self.loss_weights, targets).objective
            self.scores.add({"objective": objective.item(), **group_scores(predicted, group.views)})
            if index == 0 and batch_idx < _PICTURES_PER_VALIDATION and self.trainer.is_global_zero:
                self._save_picture(group_picture(predicted, group.views), batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Means over all groups of all processes."""
        sums = self.scores.sums.to(self.device, torch.float32)
        self.scores.sums = self.trainer.strategy.reduce(sums, reduce_op="sum").cpu().double()
        self.log_dict({f"val/{name}": value for name, value in self.scores.means().items()}, sync_dist=True)
        self.scores = MeanScores(_VALIDATED)

    def _save_picture(self, picture: Tensor, index: int) -> None:
        folder = self.options.run_dir / "validation"
        folder.mkdir(parents=True, exist_ok=True)
        write_image(folder / f"step_{self.global_step:07d}_{index}.png", as_bytes(picture))
        if self.logger is not None:
            self.logger.experiment.add_image(f"val/{index}", picture, self.global_step, dataformats="HWC")

    def configure_model(self) -> None:
        """Share the weights out where the strategy asks for it."""
        if self.options.is_sharded:
            shard(self.model, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """See `build_optimizer`; the rate is counted in optimizer steps."""
        options = self.options
        self.groups = module_groups(self.model)  # sharding has made other parameters of them
        optimizer = build_optimizer(
            self.model, lrate=options.lrate, muon_lrate=options.muon_lrate, weight_decay=options.weight_decay
        )
        total_steps = int(self.trainer.estimated_stepping_batches)
        schedule = LinearCosine(optimizer, total_steps, options.warmup_fraction, options.lrate_final)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record sizes, options, start and commit; keep the average."""
        checkpoint[VGGT_KEY] = vars(self.record())
        if self.average is not None:
            checkpoint[EMA_KEY] = dict(self.average.weights)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the average where it was."""
        if self.average is not None:
            self.average.weights = dict(checkpoint[EMA_KEY])

    def record(self) -> VGGTTrainingRecord:
        """What every checkpoint of this run says about itself."""
        config = plain_config(self.model.config)
        return VGGTTrainingRecord(config, *self.start, plain_options(self.options), self.commit)

    def require_same_run(self, theirs: VGGTTrainingRecord) -> None:
        """Refuse to resume what is not the same run: it would end as no unbroken run does.

        Raises:
            InputError: naming the option that differs.
        """
        for name, mine in plain_options(self.options).items():
            if name not in _MAY_CHANGE_ON_RESUME and theirs.options.get(name) != mine:
                raise InputError(
                    f"--{name}: the run to resume was started with {theirs.options.get(name)!r}, got {mine!r}; "
                    f"--init_from starts a new run from its weights"
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
