"""Every parameter that learns has a gradient before the first step, or one line names those that have none."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from geometry import InputError
from models.lora import add_lora
from models.nerf.guided.network import GuidedNeRF
from tests.training.commands import tiny_arguments
from tests.training.inprocess import outcome_of_general
from training.gradient_check import GradientCheck, require_gradients


class TwoParts(pl.LightningModule):
    """`used` learns; `idle` has no part in the loss unless asked for. `scale` is a parameter of its own."""

    def __init__(self, *, is_manual: bool = False, steps_with_idle: frozenset[int] = frozenset()) -> None:
        super().__init__()
        self.automatic_optimization = not is_manual
        self.used = nn.Linear(2, 1)
        self.idle = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        self.scale = nn.Parameter(torch.ones(3))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.steps_with_idle = steps_with_idle
        self.seen = 0

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor | None:
        loss = self.used(batch).sum()
        if self.seen in self.steps_with_idle:
            loss = loss + 0 * self.idle(batch).sum() + self.scale.sum()
        self.seen += 1
        if self.automatic_optimization:
            return loss
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module: TwoParts, folder: Path, **settings: object) -> None:
    trainer = pl.Trainer(
        max_steps=2,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[GradientCheck()],
        **settings,
    )
    trainer.fit(module, DataLoader(torch.ones(8, 2), batch_size=1))


@pytest.mark.parametrize("is_manual", [False, True])
def test_parts_without_gradient_stop_the_first_step_by_name(is_manual: bool, tmp_path: Path) -> None:
    """2 * 2 + 2 and 2 + 1 numbers of `idle`, 3 of `scale`; `used` has 3 more that learn."""
    module = TwoParts(is_manual=is_manual)
    before = module.used.weight.clone()
    with pytest.raises(InputError, match=r"each of the 15 .* none for 12 of them.*: scale \(3\), idle \(9\);"):
        fit(module, tmp_path)
    assert torch.equal(module.used.weight, before)


def test_a_gradient_in_any_part_of_the_first_step_will_do(tmp_path: Path) -> None:
    """One of zeros too; what comes later is not looked at."""
    module = TwoParts(steps_with_idle=frozenset({1}))
    fit(module, tmp_path, accumulate_grad_batches=2)
    assert module.seen == 4
    fit(TwoParts(steps_with_idle=frozenset({0})), tmp_path)


def test_low_rank_changes_that_start_at_zero_have_gradients() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    container = nn.ModuleDict({"block": nn.ModuleDict({"qkv": nn.Linear(3, 3), "proj": nn.Linear(3, 3)})})
    add_lora(container, 2, 1.0)
    container["block"]["proj"](container["block"]["qkv"](network(torch.ones(1, 3)).detach())).sum().backward()
    require_gradients(container)


def test_a_run_stops_in_one_line(small_dtu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guided sampler without any loss of its sweep, which the options would not allow."""
    monkeypatch.setattr(GuidedNeRF, "needs_one_of", ())
    more = ("--vggt_ckpt", "none", "--sampler", "guided", "--N_guided", "2", "--max_steps", "3")
    status, errors = outcome_of_general(tiny_arguments("train_general.py", small_dtu, tmp_path / "runs", *more))
    (line,) = [line for line in errors.split("\n") if line.startswith("error: gradients")]
    assert status == 2
    assert "model.network.coarse (" in line
    assert "Traceback" not in errors
