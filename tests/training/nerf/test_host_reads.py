"""A training step reads one thing from the device: whether its numbers are finite."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from models.nerf.depth_range import DepthRange
from models.nerf.guided.scene_field import SceneField, Surfaces
from models.nerf.vggt_nerf import render_image
from tests.render.tiny import write_backbone
from tests.scenes import random_batch
from tests.training.commands import tiny_arguments
from tests.training.host_reads import FakeGPU, HostReads, count_second_step
from tests.training.inprocess import outcome_of_finetune, outcome_of_general
from training.nerf.build import build_general_task
from training.nerf.finetune import SceneFieldTask
from training.nerf.options import FinetuneOptions, GeneralOptions
from training.nerf.task import NerfTask, SceneTask

ONE = {"training/run_task.py:on_before_optimizer_step": 1}
STEPS = ("--max_steps", "3", "--log_every", "100", "--save_every", "100", "--warmup_steps", "1")


TOKENS = ("--vggt_layers", "0", "1", "--fine_depth", "--sample_volume", "--rolls", "1.0")


@pytest.mark.parametrize(("sampler", "own"), [("hierarchical", ()), ("guided", ()), ("guided", TOKENS)])
def test_general_and_finetuning(
    sampler: str, own: tuple[str, ...], small_dtu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the depth of VGGT, and every loss; fine-tuning behind a scene field where there is one."""
    base, backbone = tmp_path / "runs", write_backbone(tmp_path / "heads.json", with_depth=True)
    is_guided = sampler == "guided"
    more = ("--sampler", sampler, "--vggt_ckpt", f"random:{backbone}", "--depth_prior", "--depth_loss", "0.1")
    more += ("--sweep_planes", "12", "--N_guided", "3", "--n_views", "2", "--color_loss", "0.1") if is_guided else ()
    more += own
    counted = count_second_step(monkeypatch, SceneTask, "optimizer_step")
    status, errors = outcome_of_general(
        tiny_arguments("train_general.py", small_dtu, base, *more, *STEPS, "--expname", "g")
    )
    assert status == 0, errors
    more = ("--scans", "scan2", "--init_from", str(base / "g" / "checkpoints" / "last.ckpt"), "--expname", "f")
    more += ("--N_guided", "3", "--scene_field", "8", "--scene_field_steps", "3", "--rolls", "1.0") if is_guided else ()
    steps = ("--max_steps", "6", *STEPS[2:])
    status, errors = outcome_of_finetune(tiny_arguments("train_finetune.py", small_dtu, base, *more, *steps))
    assert status == 0, errors
    assert [reads.of_device for reads in counted] == [ONE] * (3 if is_guided else 2)


def test_reads_are_found_where_they_are(tmp_path: Path) -> None:
    """Also in a backward pass, and behind lists."""
    values = torch.arange(4.0, requires_grad=True)
    chosen = values.detach() > 1
    with HostReads() as reads:
        total = values[chosen].sum()
        total.backward()
        total.item(), values.tolist(), bool(chosen.any())
        SceneField(4).hits_nothing(values[None, :3].detach())
    assert reads.of_device == {"tests/training/nerf/test_host_reads.py:test_reads_are_found_where_they_are": 5}


def _general(sampler: str, tmp_path: Path) -> NerfTask:
    """`tokens`: the guided sampler with all that it can be told of VGGT and read, its cameras rolled."""
    counts = {"N_samples": 3} if sampler == "hierarchical" else {"N_guided": 3, "sweep_planes": 12, "color_loss": 0.1}
    if sampler == "tokens":
        sampler, counts = "guided", counts | {"vggt_layers": (0, 1), "fine_depth": True}
        counts |= {"sample_volume": True, "rolls": 1.0}
    backbone = write_backbone(tmp_path / "heads.json", with_depth=True)
    sizes = {"feature_channels": 8, "hidden": 8, "fused": 8, "vggt_image_size": 0, "rays_per_step": 16}
    options = GeneralOptions(
        **sizes, **counts, sampler=sampler, vggt_ckpt=f"random:{backbone}", depth_prior=True, depth_loss=0.1
    )
    return build_general_task(options, {})


@pytest.fixture
def _gpu_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    for task in (NerfTask, SceneFieldTask):
        monkeypatch.setattr(task, "device", torch.device("cuda"))


@pytest.mark.usefixtures("_gpu_without_a_driver")
@pytest.mark.parametrize("sampler", ["hierarchical", "guided", "tokens"])
def test_step_and_image_on_a_gpu_that_nothing_is_read_of(sampler: str, tmp_path: Path) -> None:
    task, batch = _general(sampler, tmp_path), random_batch(1)
    task.log_dict = lambda scalars: None
    model = task.model
    model.encode(batch.source)  # whose first call looks at the range of the images
    with FakeGPU() as gpu:
        gpu.move(task)
        gpu.move(model.vggt._vggt[0])
        on_gpu = batch.to("cuda")
        loss = task.training_step(on_gpu, 0)
        assert (loss.device.type, loss.shape) == ("cuda", ())
        with torch.no_grad():
            target = on_gpu.target[:, 0]
            view = model.view(model.encode(on_gpu.source), target.cameras, target.near, target.far)
            assert render_image(view, 512).rgb.shape == (24, 32, 3)
            model.quality = "full"
            view = model.view(model.encode(on_gpu.source), target.cameras, target.near, target.far)
            assert render_image(view, 512).rgb.shape == (24, 32, 3)


@pytest.mark.usefixtures("_gpu_without_a_driver")
def test_scene_field_on_a_gpu_that_nothing_is_read_of() -> None:
    batch, field = random_batch(1), SceneField(8)
    field.set_bounds(torch.full((3,), -2.0), torch.full((3,), 2.0))
    with FakeGPU() as gpu:
        gpu.move(field)
        task = SimpleNamespace(
            options=FinetuneOptions(init_from="none", scene_field=8, rays_per_step=32),
            device=torch.device("cuda"),
            field=field,
            model=SimpleNamespace(network=SimpleNamespace(bounds_without_sources=DepthRange.of_data)),
            surfaces=Surfaces(batch.source.ids[0], torch.ones(3, 2, 3, 4).to("cuda")),
            watch_loss=lambda *_: None,
            log_dict=lambda *_: None,
        )
        on_gpu = batch.to("cuda")
        loss = SceneFieldTask.training_step(task, on_gpu, 0)
        assert (loss.device.type, loss.shape) == ("cuda", ())
        target = on_gpu.target[:, 0]
        assert field.view(target.cameras, target.near, target.far, 6, 8).rgb.shape == (1, 3, 6, 8)
