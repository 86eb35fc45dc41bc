"""The Lightning module that trains a network to answer questions about scenes.

A step is one optimizer step on all its samples, however few of them are in memory at once; the loss is the mean over
all answer tokens of all processes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.optim import AdamW, Optimizer

from data.scene_qa.datamodule import SceneQADataModule
from data.scene_qa.types import QABatch
from data.seeds import derived_seed
from models.vggt.frozen import FrozenVGGT
from models.vqa.network import SceneInputs, SceneQA, TokenLosses
from models.vqa.visual import scene_features
from training.backbone import VGGTRecord
from training.run_task import RunTask, plain_options
from training.schedules import WarmupHalfCosine
from training.scores import MeanScores
from training.vqa.batch_size import free_memory, samples_at_once
from training.vqa.checkpoint import VQA_TRAINING, VQARecord
from training.vqa.inputs import scene_inputs, spelled_captions, training_rows
from training.vqa.options import VQAOptions

_BETAS = (0.9, 0.95)
"""Of AdamW, as language models are usually tuned. Chosen by hand."""
_NO_DECAY = ("perceiver.latents", "visual.view_code", "geometry.none")
"""Matrices that are tables of vectors."""
_ADAPTERS, _PROJECTOR = "adapters", "projector"
_DROPOUT_STREAM = 91


class VQATask(RunTask):
    """Training of a `SceneQA` on `QABatch`es."""

    kind = VQA_TRAINING
    options: VQAOptions
    monitor = ("val/loss", "min")
    shown = ("train/loss", "val/loss", "val/exact")
    may_change_on_resume = frozenset(
        {
            *("language_model", "perceiver_ckpt", "scannet_dir", "token_cache", "batch", "checkpointing", "val_rooms"),
            *("eval_only", "ablations", "max_new_tokens", "constrained", "eval_batch", "out"),
            *("export", "export_dtype", "merge"),
        }
    )

    def __init__(self, options: VQAOptions, model: SceneQA, vggt: FrozenVGGT | None, vggt_record: VGGTRecord) -> None:
        """`vggt` None: batches hold tokens."""
        super().__init__(options)
        self.model = model
        self.vggt = vggt
        self.vggt_record = vggt_record
        self.language_identity = model.language.identity
        self.sums: dict[str, MeanScores] = {}
        if options.is_sharded:  # Lightning would look for the base in a checkpoint; `build_task` is strict instead
            self.strict_loading = False

    @property
    def network(self) -> SceneQA:
        """For type checkers."""
        return self.model  # pyright: ignore[reportReturnType]

    def setup(self, stage: str) -> None:
        """Tokens of the frozen VGGT that nobody has computed yet; every process does its share."""
        data = getattr(self.trainer, "datamodule", None) if stage == "fit" else None
        if isinstance(data, SceneQADataModule) and data.cache is not None and self.vggt is not None:
            self.vggt.to(self.device)
            data.fill_cache(self.extract, self.trainer.global_rank, self.trainer.world_size)
            self.trainer.strategy.barrier()
        if self.options.checkpointing and self.device.type != "cpu":
            self.network.language.set_checkpointing(True)

    def extract(self, images: Tensor) -> Tensor:
        """For the token cache."""
        assert self.vggt is not None
        return scene_features(self.vggt, self.network.config.visual, images.to(self.device))

    def inputs(self, batch: QABatch) -> SceneInputs:
        """What the network is shown."""
        return scene_inputs(batch, self.network.config, self.vggt)

    def losses(self, batch: QABatch) -> TokenLosses:
        """Of every answer of a batch."""
        at_once = samples_at_once(self.options.batch, free_memory(self.device))
        spelled = spelled_captions(batch, self.network) if self.options.spelling_weight else None
        rows = training_rows(batch, self.network.prompts)
        return self.model(self.inputs(batch), rows, spelled, micro_batch=at_once)

    def training_step(self, batch: QABatch, batch_idx: int) -> Tensor:
        """Mean negative log-likelihood of answer tokens, nats, whose gradient is that of all processes together."""
        with self.seeded_dropout():
            losses = self.losses(batch)
        answers = self._mean_over_all(losses.sums.sum(), losses.counts.sum())
        loss = answers
        scalars = {"train/loss": self._everyones(answers)}
        if self.options.spelling_weight:
            spelling = self._mean_over_all(losses.spelling.sum(), (losses.spelling > 0).sum())
            scalars["train/spelling"] = self._everyones(spelling)
            loss = loss + self.options.spelling_weight * spelling
        self.watch_loss(loss, lambda: f"records {', '.join(batch.ids)}")
        self.log_dict(scalars, batch_size=batch.num_samples)
        return loss

    def _mean_over_all(self, total: Tensor, count: Tensor) -> Tensor:
        """A share of a mean over all processes: the mean of these shares, and of their gradients, is that mean."""
        mean_count = self.trainer.strategy.reduce(count.float(), reduce_op="mean")
        return total / mean_count.clamp(min=1e-9)

    def _everyones(self, value: Tensor) -> Tensor:
        """Mean over processes."""
        return self.trainer.strategy.reduce(value.detach().clone(), reduce_op="mean")

    @contextmanager
    def seeded_dropout(self) -> Iterator[None]:
        """Dropout of a step depends on the run's seed, the step and the process only, so that resume is exact."""
        apart: dict[str, Any] = {"devices": []}
        if self.device.type != "cpu":
            apart = {"devices": [self.device], "device_type": self.device.type}
        with torch.random.fork_rng(**apart):
            torch.manual_seed(derived_seed(self.options.seed, _DROPOUT_STREAM, self.global_step, self.global_rank))
            yield

    def clipping_groups(self) -> dict[str, list[nn.Parameter]]:
        """Adapters and everything else, whose gradients are of different sizes."""
        groups: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                groups.setdefault(_group_of(name), []).append(parameter)
        return groups

    def validation_step(self, batch: QABatch, batch_idx: int) -> None:
        """Loss per token, and how many answers greedy decoding would give exactly, by task."""
        loader: Any = self.trainer.val_dataloaders
        counted = self.num_counted(batch_idx, batch.num_samples, batch_size=loader.batch_size)
        at_once = samples_at_once(self.options.batch, free_memory(self.device)) or batch.num_samples
        for first in range(0, batch.num_samples, at_once):
            part = batch[first : first + at_once]
            losses = self.model(self.inputs(part), training_rows(part, self.network.prompts))
            self._count(part.tasks[: max(counted - first, 0)], losses)

    def _count(self, tasks: Sequence[str], losses: TokenLosses) -> None:
        """The first so many samples."""
        rows = zip(tasks, losses.sums.tolist(), losses.counts.tolist(), losses.is_exact.tolist(), strict=False)
        for task, total, count, is_exact in rows:
            scores = self.sums.setdefault(task, MeanScores(("exact",)))
            scores.add({"exact": float(is_exact)})
            self.sums.setdefault("", MeanScores(("loss",))).sums += torch.tensor([[total], [count]])

    def on_validation_epoch_end(self) -> None:
        """Means over all records of all processes; tasks in an order that does not depend on who saw which."""
        tasks = sorted({task for part in self.gathered(sorted(self.sums)) for task in part})
        values: dict[str, float] = {}
        for task in tasks:
            own = self.sums.get(task, MeanScores(("exact",) if task else ("loss",)))
            sums = own.sums.to(self.device, torch.float32)
            own.sums = self.trainer.strategy.reduce(sums, reduce_op="sum").cpu().double()
            values |= {f"val/{name}{'_' + task if task else ''}": value for name, value in own.means().items()}
        exact = [value for name, value in values.items() if name.startswith("val/exact_")]
        self.log_dict(values | {"val/exact": sum(exact) / len(exact)})
        self.sums = {}

    def configure_model(self) -> None:
        """Share the weights out where the strategy asks for it: layers of both transformers, then all the rest.

        All of them come from the first process, the only one that has loaded the base of the language model.
        """
        if not self.options.is_sharded:
            return
        mesh: Any = self.device_mesh
        network = self.network
        parts = dict(network.named_children())
        whole = {name: part.state_dict() if self.global_rank == 0 else {} for name, part in parts.items()}
        for layer in [*network.language.inner.model.layers, *network.perceiver.layers]:
            fully_shard(layer, mesh=mesh["data_parallel"])
        fully_shard(network, mesh=mesh["data_parallel"])
        if network.language.is_hollow:
            network.language.get_memory(self.device)
        how = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        for name, part in parts.items():
            set_model_state_dict(part, whole.pop(name), options=how)

    def build_optimizer(self) -> Optimizer:
        """AdamW with one rate for the adapters and one for the rest."""
        options = self.options
        rates = {_ADAPTERS: options.lrate, _PROJECTOR: options.projector_lrate}
        groups: dict[tuple[str, float], dict[str, Any]] = {}
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                continue
            decays = parameter.ndim > 1 and name not in _NO_DECAY
            key = (_group_of(name), options.weight_decay if decays else 0.0)
            floor = min(options.lrate_final, rates[key[0]])
            group = {"params": [], "lr": rates[key[0]], "weight_decay": key[1], "floor": floor}
            groups.setdefault(key, group)["params"].append(parameter)
        return AdamW(list(groups.values()), lr=options.lrate, betas=_BETAS)

    def build_schedule(self, optimizer: Optimizer, total_steps: int) -> WarmupHalfCosine:
        """See `WarmupHalfCosine`."""
        return WarmupHalfCosine(optimizer, total_steps, self.options.warmup_fraction)

    def record(self) -> VQARecord:
        """What every checkpoint of this run says about itself."""
        return VQARecord(
            config=self.network.config.to_plain(),
            language=self.language_identity.name,
            language_sha256=self.language_identity.sha256,
            vggt=self.vggt_record,
            options=plain_options(self.options),
            commit=self.commit,
        )


def _group_of(name: str) -> str:
    return _ADAPTERS if name.startswith("language.") else _PROJECTOR
