"""A training step reads one thing from the device, and tracks as many as are found."""

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException

from models.vggt.objective.track_targets import tracks_of_batch
from tests.training.commands import command_line
from tests.training.host_reads import FakeGPU, count_second_step
from tests.training.inprocess import outcome_of_vggt
from tests.training.vggt.tiny import frame_batch, tiny_options
from training.vggt.build import build_vggt_task
from training.vggt.task import VGGTTask, group_losses

ONE = {"training/run_task.py:on_before_optimizer_step": 1}
TRACKS = "models/vggt/objective/track_targets.py:"


@pytest.mark.parametrize("has_all", [False, True])
def test_training(has_all: bool, small_dtu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"point_weight": 1.0, "track_weight": 0.05, "num_tracks": 16} if has_all else {}
    options = tiny_options(small_dtu, tmp_path, max_steps=3, log_every=100, ema=0.9, **changes)
    counted = count_second_step(monkeypatch, VGGTTask, "training_step")
    status, errors = outcome_of_vggt(["python", "train_vggt.py", *command_line(options)])
    assert status == 0, errors
    (reads,) = counted
    found = reads.of_device
    # how many pixels have depth, and how many points are seen twice, give sizes and the range of random numbers
    tracks = [found.pop(f"{TRACKS}{name}", 0) for name in ("_candidates", "_best")]
    assert found == ONE
    assert tracks[0] == tracks[1]
    assert tracks[0] in ((2, 3) if has_all else (0,))  # groups of a batch


def test_network_and_objective_on_a_gpu_that_nothing_is_read_of(tmp_path: Path) -> None:
    """All heads, the tracks given."""
    task = build_vggt_task(tiny_options(tmp_path, tmp_path, point_weight=1.0, track_weight=0.05, num_tracks=16)).train()
    batch = frame_batch(2)
    tracks = tracks_of_batch(batch, 16)
    with FakeGPU() as gpu, torch.backends.cudnn.flags(enabled=False):  # its lookup has no fake version
        gpu.move(task.model)
        on_gpu, tracks = batch.to("cuda"), tracks.to("cuda")
        output = task.model(on_gpu.views.images, tracks.queries)
        objective = group_losses(output, on_gpu, task.loss_weights, tracks)["objective"]
        assert (objective.device.type, objective.shape) == ("cuda", ())
        with pytest.raises(DataDependentOutputException):
            objective.item()
