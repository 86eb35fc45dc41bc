"""The Lightning module that trains forecasts of occupancy."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from data.occupancy.datamodule import OccupancyDataModule
from data.occupancy.types import OccupancyBatch
from data.seeds import derived_seed
from geometry import require
from models.occupancy.networks import OCCWORLD, NetworkPlan
from models.occupancy.occworld.tokenizer import VectorQuantizer, restart_codes
from models.vggt import WeightIdentity
from training.learning import frozen_modules
from training.occupancy.checkpoint import OCCUPANCY_TRAINING, OccupancyRecord, plain_sessions
from training.occupancy.inputs import moving_region
from training.occupancy.learners import OccWorldLearner, Predicted, learner_of
from training.occupancy.options import TOKENIZER, OccupancyOptions
from training.occupancy.pictures import forecast_picture
from training.occupancy.schedules import OccupancySchedule
from training.occupancy.scoring import Scores
from training.run_task import RunTask, plain_options

_PICTURES = 2
"""Windows of a validation that are shown."""
_RESTART_STREAM = 62
"""Keeps the choice of restarted codes apart from other random numbers; the number itself is arbitrary."""
_COUNTERS = "unused_steps"
_VALIDATION_FREE = frozenset({"baselines", "eval_only", "eval_ckpt", "eval_split", "out", "num_val_worlds"})


class OccupancyTask(RunTask):
    """Training of a network on `OccupancyBatch`es."""

    kind = OCCUPANCY_TRAINING
    options: OccupancyOptions
    may_change_on_resume = _VALIDATION_FREE | {"resume", "from_scratch", "keep", "keep_every", "model_config"}

    def __init__(
        self,
        options: OccupancyOptions,
        network: nn.Module,
        plan: NetworkPlan,
        data: OccupancyDataModule,
        start: WeightIdentity,
    ) -> None:
        """`start` says where the weights come from."""
        super().__init__(options)
        self.model = network
        self.plan = plan
        self.start = start
        self.sessions = plain_sessions(data.names)
        self.has_validation = data.has_validation
        self.source = data.any_source
        self.learner = learner_of(network, plan, options)
        self.frozen = frozen_modules(network, self._frozen_patterns())
        self.scores = self._new_scores()
        self.unused: Tensor | None = None
        """Steps since each code of the tokenizer was last used."""
        self.shown = ("train/objective", f"val/{self._main_metric}")

    @property
    def _main_metric(self) -> str:
        return "iou" if self.plan.num_classes == 2 else "miou"

    @property
    def monitor(self) -> tuple[str, str] | None:  # type: ignore[override]
        """best.ckpt has the greatest IoU of what is not ground (mIoU of classes); without validation it is the last."""
        return ("val/score", "max") if self.has_validation else None

    @property
    def _is_tokenizer(self) -> bool:
        return self.plan.model == OCCWORLD and self.options.stage == TOKENIZER

    def _frozen_patterns(self) -> Sequence[str]:
        patterns = list(self.options.freeze)
        if self.plan.model == OCCWORLD:
            parts = ["transformer", "pose_encoder", "pose_decoder"] if self._is_tokenizer else ["vae"]
            patterns += [part for part in parts if part not in patterns]
        return patterns

    def _new_scores(self) -> Scores:
        return Scores.of(self.plan, self.options.future, self.source.ground_classes)

    def on_train_epoch_start(self) -> None:
        """Frozen parts stay in evaluation mode."""
        for module in self.frozen:
            module.eval()

    def training_step(self, batch: OccupancyBatch, batch_idx: int) -> Tensor:
        """Sum of the weighted losses."""
        losses = self.learner.losses(batch)
        require(len(losses) > 0, "--..._weight: expected a weight above 0 of what this model learns, got 0 for all")
        objective = torch.stack([loss.float() for loss in losses.values()]).sum()
        self.watch_loss(objective, identity_of(batch))
        scalars = {f"train/{name}": value.detach() for name, value in losses.items()}
        scalars |= {f"train/{name}": torch.tensor(value) for name, value in self.learner.scalars().items()}
        self.log_dict(scalars | {"train/objective": objective.detach()}, batch_size=len(batch.sessions))
        return objective

    def on_train_batch_end(self, outputs: Any, batch: OccupancyBatch, batch_idx: int) -> None:
        """Codes that nobody has used for long restart."""
        learner = self.learner
        if self.options.restart_after and isinstance(learner, OccWorldLearner) and learner.last is not None:
            self._restart(learner.network.vae.vqvae, learner.last.codes, learner.last.projected)

    def _restart(self, quantizer: VectorQuantizer, codes: Tensor, projected: Tensor) -> None:
        """The same on all processes: counts are summed up, and the first one's encoder output is taken."""
        number = quantizer.embedding.num_embeddings
        strategy = self.trainer.strategy
        counts = torch.bincount(codes.flatten().long(), minlength=number).float()
        counts = strategy.reduce(counts, reduce_op="sum")
        unused = torch.zeros(number, dtype=torch.long) if self.unused is None else self.unused
        unused = torch.where(counts.cpu() > 0, 0, unused + 1)
        is_stale = unused > self.options.restart_after
        if bool(is_stale.any()):
            projected = strategy.broadcast(projected.detach())
            seed = derived_seed(self.options.seed, _RESTART_STREAM, self.global_step)
            restart_codes(quantizer, projected, is_stale.to(projected.device), torch.Generator().manual_seed(seed))
            unused = torch.where(is_stale, 0, unused)
        self.unused = unused

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See `RunTask`; besides, since when codes are unused."""
        super().on_save_checkpoint(checkpoint)
        if self.unused is not None:
            checkpoint[_COUNTERS] = self.unused.tolist()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting."""
        super().on_load_checkpoint(checkpoint)
        if _COUNTERS in checkpoint:
            self.unused = torch.tensor(checkpoint[_COUNTERS])

    def validation_step(self, batch: OccupancyBatch, batch_idx: int) -> None:
        """Counts with the plan, and pictures of the first few windows."""
        found: Predicted = self.learner.predicted(batch, has_plan=True)
        counted = self.num_counted(batch_idx, len(batch.sessions), batch_size=self.options.batch_size)
        if counted:
            ours, theirs = found[:counted], batch[:counted]
            self.scores.add(ours, theirs, self.plan.space, moving_region(theirs, self.plan.space))
        if batch_idx < _PICTURES and self.trainer.is_global_zero:
            self.save_picture(forecast_picture(batch, found, self.plan.free_class), batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Quotients of the counts of all processes."""
        first, *others = self.gathered(self.scores)
        for other in others:
            first.join(other)
        values = {name: value for name, value in first.summary().items() if value is not None}
        score = first.main
        values["score"] = 0.0 if score is None else score
        self.log_dict({f"val/{name}": torch.tensor(float(value)) for name, value in values.items()}, sync_dist=True)
        self.scores = self._new_scores()

    def clipping_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Everything that learns together."""
        return {"network": [parameter for parameter in self.model.parameters() if parameter.requires_grad]}

    def build_optimizer(self) -> Optimizer:
        """AdamW on everything that learns."""
        options = self.options
        return AdamW(self.clipping_groups()["network"], lr=options.lrate, weight_decay=options.weight_decay)

    def build_schedule(self, optimizer: Optimizer, total_steps: int) -> OccupancySchedule:
        """See `OccupancySchedule`."""
        options = self.options
        return OccupancySchedule(
            optimizer,
            total_steps,
            name=options.schedule,
            floor=options.lrate_final,
            warmup=options.warmup_steps,
            warmup_ratio=options.warmup_ratio,
        )

    def record(self) -> OccupancyRecord:
        """What every checkpoint of this run says about itself."""
        return OccupancyRecord(
            network=self.plan.plain(),
            sessions=self.sessions,
            start=self.start.name,
            start_sha256=self.start.sha256,
            options=plain_options(self.options),
            commit=self.commit,
        )


def identity_of(batch: OccupancyBatch) -> Callable[[], str]:
    """The windows of a step, for error messages."""
    return lambda: f"{list(batch.sessions)}, frames {batch.frames.tolist()}, seeds {batch.seeds.tolist()}"
